import { lstat, lutimes, mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Claims } from '../../src/engine/claims.ts'
import { tempFolder } from '../support/temp-folder.ts'

const range = { start: 0, end: 100 }

async function table() {
  const folder = join(tempFolder(), 'claims')
  await mkdir(folder)
  return { folder, claims: new Claims(() => folder) }
}

describe('the mark of a claim', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'Date'] })
  })

  afterEach(() => {
    vi.useRealTimers()
  })

  it('is touched every half minute for as long as there is one, by one timer', async () => {
    const { folder, claims } = await table()
    expect(vi.getTimerCount()).toBe(0)
    const claim = await claims.claim('x', range)
    const present = await claims.present('x')
    expect(vi.getTimerCount()).toBe(1)
    const names = await readdir(folder)
    expect(names).toHaveLength(2)
    const old = new Date(Date.now() - 3_600_000)
    for (const name of names) await lutimes(join(folder, name), old, old)
    vi.advanceTimersByTime(29_999)
    const ageOf = async (name: string) => Date.now() - (await lstat(join(folder, name))).mtimeMs
    for (const name of names) expect(await ageOf(name)).toBeGreaterThan(3_000_000)
    vi.advanceTimersByTime(1)
    for (const name of names) await expect.poll(() => ageOf(name)).toBeLessThan(60_000)
    await claim?.release()
    expect(vi.getTimerCount()).toBe(1)
    await present.release()
    expect(vi.getTimerCount()).toBe(0)
    const again = await claims.claim('x', range)
    expect(vi.getTimerCount()).toBe(1)
    await again?.release()
    expect(vi.getTimerCount()).toBe(0)
  })

  it('that somebody else has put in its place stays when the claim is released', async () => {
    const { folder, claims } = await table()
    const claim = await claims.claim('x', range)
    const path = join(folder, '0-100')
    await rm(path)
    await symlink('another.1.1.0.1.00', path)
    // Nobody takes a process for dead that was at work a moment ago.
    vi.setSystemTime(Date.now() + 5_000)
    await claim?.release()
    expect(await readdir(folder)).toEqual(['0-100'])
    await claims.present('x').then((present) => present.release())
    expect(await readdir(folder)).toEqual(['0-100'])
  })
})

describe('an upload', () => {
  it('whose folder for claims is missing gets one, but not when its own folder is gone', async () => {
    const { folder, claims } = await table()
    await rm(folder, { recursive: true })
    const claim = await claims.claim('x', range)
    expect(claim).not.toBeNull()
    expect((await lstat(folder)).mode & 0o777).toBe(0o700)
    await claim?.release()
    await rm(join(folder, '..'), { recursive: true })
    await expect(claims.claim('x', range)).rejects.toMatchObject({ code: 'ENOENT' })
    await expect(claims.present('x')).rejects.toMatchObject({ code: 'ENOENT' })
    // What failed holds nothing.
    expect(await claims.isBusy('x')).toBe(false)
  })

  it('is busy while somebody is at work, wherever; other files in the folder say nothing', async () => {
    const { folder, claims } = await table()
    expect(await claims.isBusy('x')).toBe(false)
    await writeFile(join(folder, 'requested'), '')
    await symlink('another.1.1.0.1.00', join(folder, 'stolen-0'))
    await symlink('another.1.1.0.1.00', join(folder, '1-2-3'))
    expect(await claims.isBusy('x')).toBe(false)
    const claim = await claims.claim('x', { start: 200, end: 300 })
    expect(await claims.isBusy('x')).toBe(true)
    await claim?.release()
    for (const name of ['5-9', 'present-00']) {
      await symlink('another.1.1.0.1.00', join(folder, name))
      expect(await claims.isBusy('x')).toBe(true)
      await rm(join(folder, name))
      expect(await claims.isBusy('x')).toBe(false)
    }
  })

  it('is asked for by a word that stays until it is taken back', async () => {
    const { claims } = await table()
    const other = new Claims(() => '')
    expect(await other.isRequested('x')).toBe(false)
    const holder = await claims.claim('x', range)
    expect(await claims.isRequested('x')).toBe(false)
    // A rival in this process is asked directly.
    expect(await claims.insist('x', range, 0, new AbortController().signal)).toBeNull()
    expect(await claims.isRequested('x')).toBe(false)
    await holder?.release()
  })

  it('that another process holds is asked for by a word, and not for longer than one has patience', async () => {
    const { folder, claims } = await table()
    await symlink('another.1.1.0.1.00', join(folder, '50-60'))
    const { signal } = new AbortController()
    expect(await claims.insist('x', range, 0, signal)).toBeNull()
    expect(await claims.isRequested('x')).toBe(false)
    const waiting = claims.insist('x', range, 60_000, signal)
    await expect.poll(() => claims.isRequested('x')).toBe(true)
    await rm(join(folder, '50-60'))
    const claim = await waiting
    expect(claim?.range).toEqual(range)
    await claim?.release()
    await claims.forgetRequest('x')
    await claims.forgetRequest('x')
    expect(await claims.isRequested('x')).toBe(false)
    await expect(claims.insist('x', range, 60_000, AbortSignal.abort(new Error('stop')))).rejects.toThrow('stop')
  })

  it('makes all who are at work on it yield, and is free when they have let go', async () => {
    const { claims } = await table()
    const asked: string[] = []
    const first = await claims.claim('x', range, () => asked.push('first'))
    const second = await claims.present('x', () => asked.push('second'))
    const other = await claims.claim('y', { start: 100, end: 200 }, () => asked.push('other'))
    let free = false
    const yielding = claims.requestYield('x').then(() => {
      free = true
    })
    expect(asked).toEqual(['first', 'second'])
    await first?.release()
    expect(free).toBe(false)
    await second.release()
    await yielding
    expect(await claims.isBusy('x')).toBe(true)
    await other?.release()
    expect(await claims.isBusy('x')).toBe(false)
    await claims.requestYield('x')
  })
})
