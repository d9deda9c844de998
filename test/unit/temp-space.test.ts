import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import type { Staging } from '../../src/engine/staging.ts'
import { TempSpace } from '../../src/engine/temp-space.ts'
import type { UploadLimits } from '../../src/types.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'] })
})

afterEach(() => {
  vi.useRealTimers()
})

/** A disk that counts how often it is asked. */
function disk(limits: Partial<UploadLimits>) {
  const asked = { used: 0, free: 0 }
  const state = { used: 0, free: 1_000, fails: false }
  const staging = {
    usedBytes: async () => {
      asked.used += 1
      return state.used
    },
    freeBytes: async () => {
      asked.free += 1
      if (state.fails) throw new Error('does not tell')
      return state.free
    },
  } as unknown as Staging
  const all = { maxTempBytes: Number.POSITIVE_INFINITY, minFreeBytes: 0, ...limits } as UploadLimits
  return { space: new TempSpace(staging, all), asked, state }
}

const full = { code: 'INSUFFICIENT_STORAGE', status: 507 }

it('room is given as long as all fits, and again when what was reserved is released and gone', async () => {
  const { space, state } = disk({ maxTempBytes: 100 })
  const first = await space.reserve(60)
  await space.reserve(40)
  await expect(space.reserve(1)).rejects.toMatchObject({ ...full, details: { limit: 100 } })
  first()
  // Its bytes are on the disk by now, as far as anybody knows; the next count tells.
  state.used = 30
  const second = await space.reserve(30)
  await expect(space.reserve(1)).rejects.toMatchObject(full)
  second()
  second()
  state.used = 60
  await expect(space.reserve(1)).rejects.toMatchObject(full)
  state.used = 59
  await space.reserve(1)
})

it('what is on the disk is counted no more often than every two seconds while there is room', async () => {
  const { space, asked, state } = disk({ maxTempBytes: 100 })
  const release = await space.reserve(10)
  release()
  vi.advanceTimersByTime(2_000)
  ;(await space.reserve(10))()
  expect(asked.used).toBe(1)
  vi.advanceTimersByTime(1)
  state.used = 20
  ;(await space.reserve(10))()
  expect(asked.used).toBe(2)
  // What was let in since the count is added to it.
  ;(await space.reserve(70))()
  expect(asked.used).toBe(2)
  await space.reserve(1)
  expect(asked.used).toBe(3)
})

it('those who come at once wait for one count', async () => {
  const { space, asked } = disk({ maxTempBytes: 100 })
  await Promise.all([space.reserve(10), space.reserve(10), space.reserve(10)])
  expect(asked.used).toBe(1)
})

it('without a limit nobody counts', async () => {
  const { space, asked } = disk({})
  ;(await space.reserve(1_000_000))()
  expect(asked).toEqual({ used: 0, free: 0 })
})

it('a disk with less than is to stay free takes nothing; it is asked again after half a second', async () => {
  const { space, asked, state } = disk({ minFreeBytes: 1_000 })
  await space.reserve(1)
  state.free = 999
  await space.reserve(1)
  vi.advanceTimersByTime(500)
  await space.reserve(1)
  expect(asked.free).toBe(1)
  vi.advanceTimersByTime(1)
  await expect(space.reserve(1)).rejects.toMatchObject(full)
  expect(asked).toEqual({ used: 0, free: 2 })
})

it('a disk that does not tell what is free is found out to be full by writing', async () => {
  const { space, state } = disk({ minFreeBytes: 1_000 })
  state.fails = true
  await space.reserve(1)
})
