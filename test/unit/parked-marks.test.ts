import { lstat, lutimes, mkdir, readdir, readlink, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Claims } from '../../src/engine/claims.ts'
import { dropToken, isDead, takeToken } from '../../src/engine/processes.ts'
import { tempFolder } from '../support/temp-folder.ts'

const range = { start: 0, end: 100 }

async function table() {
  const root = tempFolder()
  const [folder, parking] = [join(root, 'claims'), join(root, 'marks')]
  await mkdir(folder)
  await mkdir(parking)
  const claims = new Claims(() => folder, parking)
  const path = join(folder, '0-100')
  return {
    ...{ folder, parking, claims, path },
    other: new Claims(() => folder, parking),
    parked: () => readdir(parking),
    held: () => readdir(folder),
    inode: async () => (await lstat(path)).ino,
  }
}

/** Parks one mark and gives its name and token. */
async function parkOne({ claims, path, parking }: Awaited<ReturnType<typeof table>>) {
  const claim = await claims.claim('x', range)
  const token = await readlink(path)
  await claim?.release()
  const [name = ''] = await readdir(parking)
  return { token, at: join(parking, name) }
}

describe.runIf(process.platform === 'linux')('a mark whose work is done', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['Date', 'setInterval', 'clearInterval'] })
  })

  afterEach(() => {
    vi.useRealTimers()
  })

  it('is parked and lent out again: no file is made or deleted for a claim', async () => {
    const world = await table()
    const { token, at } = await parkOne(world)
    const { ino } = await lstat(at)
    for (let round = 0; round < 3; round++) {
      const claim = await world.claims.claim('x', range)
      expect(await readlink(world.path)).toBe(token)
      expect(await world.inode()).toBe(ino)
      expect(isDead(token)).toBe(false)
      expect(await world.other.claim('x', { start: 99, end: 101 })).toBeNull()
      await claim?.release()
      expect(await world.held()).toEqual([])
      expect((await world.parked()).map((name) => join(world.parking, name))).toContain(at)
    }
  })

  it('stands for one claim at a time', async () => {
    const { claims, folder } = await table()
    const ranges = [0, 100, 200, 300].map((start) => ({ start, end: start + 100 }))
    for (let round = 0; round < 3; round++) {
      const held = await Promise.all(ranges.map((each) => claims.claim('x', each)))
      const tokens = await Promise.all(ranges.map(({ start, end }) => readlink(join(folder, `${start}-${end}`))))
      expect(new Set(tokens).size).toBe(ranges.length)
      await Promise.all(held.map((claim) => claim?.release()))
    }
  })

  it('is touched before it is lent when it has not been for half a minute: else others take its holder for dead', async () => {
    const world = await table()
    const { at } = await parkOne(world)
    const old = new Date(Date.now() - 10 * 60_000)
    await lutimes(at, old, old)
    await (await world.claims.claim('x', range))?.release()
    expect(Math.round((await lstat(at)).mtimeMs)).toBe(old.getTime())
    vi.setSystemTime(Date.now() + 30_000)
    await world.claims.claim('x', range)
    expect(Date.now() - (await lstat(world.path)).mtimeMs).toBeLessThan(1_000)
  })

  it('is made anew when a cleaner of temporary folders has removed it, or its folder', async () => {
    const world = await table()
    const { at, token } = await parkOne(world)
    await rm(at)
    const claim = await world.claims.claim('x', range)
    expect(await readlink(world.path)).toBe(token)
    await claim?.release()
    await rm(world.parking, { recursive: true })
    const again = await world.claims.claim('x', range)
    expect(await world.other.claim('x', range)).toBeNull()
    await again?.release()
    expect(await world.held()).toEqual([])
    // Nothing was parked, so nothing is taken for alive that is not.
    expect(isDead(token)).toBe(true)
  })

  it('is not parked when the work took long: somebody may have judged it meanwhile', async () => {
    const world = await table()
    const claim = await world.claims.claim('x', range)
    const token = await readlink(world.path)
    vi.setSystemTime(Date.now() + 5_000)
    await claim?.release()
    expect(await world.held()).toEqual([])
    expect(await world.parked()).toEqual([])
    expect(isDead(token)).toBe(true)
  })

  it('is not lent again after it took the place of a dead one', async () => {
    const world = await table()
    const { token } = await parkOne(world)
    const dead = takeToken()
    dropToken(dead)
    await symlink(dead, world.path)
    const claim = await world.claims.claim('x', range)
    expect(claim).not.toBeNull()
    await claim?.release()
    expect((await world.held()).filter((name) => !name.startsWith('stolen-'))).toEqual([])
    expect(isDead(token)).toBe(true)
    expect(await world.parked()).toEqual([])
  })

  it('is not lent again when its name cannot be removed: what is left counts as dead', async () => {
    const world = await table()
    const { token } = await parkOne(world)
    const claim = await world.claims.claim('x', range)
    await rm(world.path)
    await mkdir(world.path)
    await claim?.release()
    expect(isDead(token)).toBe(true)
    expect(await world.parked()).toEqual([])
  })

  it('goes back unused when somebody else has the place', async () => {
    const world = await table()
    const { at } = await parkOne(world)
    const held = await world.other.claim('x', range)
    expect(await world.claims.claim('x', range)).toBeNull()
    expect(await world.claims.claim('x', { start: 50, end: 60 })).toBeNull()
    expect((await world.held()).sort()).toEqual(['0-100'])
    await held?.release()
    const { ino } = await lstat(at)
    await world.claims.claim('x', range)
    expect(await world.inode()).toBe(ino)
  })

  it('is removed when the engine closes; those of killed processes, by a sweep', async () => {
    const world = await table()
    await parkOne(world)
    const dead = takeToken()
    dropToken(dead)
    await symlink(dead, join(world.parking, 'dead'))
    await symlink(takeToken(), join(world.parking, 'living'))
    await world.other.sweep()
    expect(await world.parked()).toHaveLength(2)
    expect(await world.parked()).not.toContain('dead')
    await world.claims.close()
    expect(await world.parked()).toEqual(['living'])
  })

  it('is removed by a sweep when it was not needed for a minute', async () => {
    const world = await table()
    const { token } = await parkOne(world)
    vi.setSystemTime(Date.now() + 59_000)
    await world.claims.sweep()
    expect(await world.parked()).toHaveLength(1)
    vi.setSystemTime(Date.now() + 1_000)
    await world.claims.sweep()
    expect(await world.parked()).toEqual([])
    expect(isDead(token)).toBe(true)
  })
})
