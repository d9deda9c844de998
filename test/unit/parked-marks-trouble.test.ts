/** What may go wrong with a mark while it is lent, given back or parked. */
import { lstat, lutimes, mkdir, readdir, readlink, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Claims } from '../../src/engine/claims.ts'
import { isDead } from '../../src/engine/processes.ts'
import { tempFolder } from '../support/temp-folder.ts'

type Args = [path: string, to: string]
type Call = (...args: Args) => Promise<void>
type Hook = (real: Call, args: Args) => Promise<void>
type Name = 'link' | 'symlink' | 'rename' | 'unlink' | 'lutimes'

const hooks = vi.hoisted(() => new Map<string, (real: never, args: never) => Promise<void>>())

vi.mock('node:fs/promises', async (load) => {
  const fs = await load<Record<string, unknown>>()
  const hooked = (name: string) =>
    [name, (...args: never) => (hooks.get(name) ?? run)(fs[name] as never, args as never)] as const
  const run = (real: (...args: never[]) => Promise<void>, args: never[]) => real(...args)
  return { ...fs, ...Object.fromEntries(['link', 'symlink', 'rename', 'unlink', 'lutimes'].map(hooked)) }
})

/** The next call on this path goes through the hook. */
function once(name: Name, path: string, hook: Hook): void {
  hooks.set(name, async (real: Call, args: Args) => {
    if (!args.includes(path)) return real(...args)
    hooks.delete(name)
    await hook(real, args)
  })
}

const failure = (code: string) => Object.assign(new Error(code), { code })
const range = { start: 0, end: 100 }
const elsewhere = { start: 500, end: 600 }
/** A holder in another container, which is judged by the age of its mark. */
const foreign = 'another.1.1.0.1.00000000'

async function table() {
  const root = tempFolder()
  const [folder, parking] = [join(root, 'claims'), join(root, 'marks')]
  await mkdir(folder)
  await mkdir(parking)
  const make = () => new Claims(() => folder, parking)
  const world = { folder, parking, path: join(folder, '0-100'), a: make(), b: make(), c: make(), d: make() }
  return { ...world, park: async () => (await world.a.claim('x', elsewhere))?.release() }
}

async function age(path: string, by: number): Promise<void> {
  const time = new Date(Date.now() - by)
  await lutimes(path, time, time)
}

describe.runIf(process.platform === 'linux')('a mark', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['Date', 'setInterval', 'clearInterval'] })
  })

  afterEach(() => {
    vi.useRealTimers()
    hooks.clear()
  })

  it('that was made although the call said that there was one blocks nobody', async () => {
    const world = await table()
    await world.park()
    once('link', world.path, async (real, args) => {
      await real(...args)
      throw failure('EEXIST')
    })
    expect(await world.a.claim('x', range)).toBeNull()
    await world.park()
    expect(await world.b.claim('x', range)).not.toBeNull()
  })

  it.each(['rename', 'unlink'] as const)(
    'of somebody who came after a %s that worked and reported an error stays',
    async (name) => {
      const world = await table()
      if (name === 'unlink') await world.park()
      const claim = await world.a.claim('x', range)
      let living = null
      once(name, world.path, async (real, args) => {
        await real(...args)
        living = await world.b.claim('x', range)
        throw failure('EIO')
      })
      await claim?.release()
      expect(living).not.toBeNull()
      expect(await world.c.claim('x', range)).toBeNull()
    },
  )

  it.each([
    ['new', false],
    ['lent', true],
  ])(
    'of somebody who came when the folder had been removed stays, and nobody works under its name: beside a %s one',
    async (_, isLent) => {
      const world = await table()
      if (isLent) await world.park()
      const claim = await world.a.claim('x', range)
      await rm(world.folder, { recursive: true })
      const living = await world.b.claim('x', range)
      const token = await readlink(world.path)
      await claim?.release()
      expect(await world.c.claim('x', range)).toBeNull()
      expect(await world.a.claim('x', elsewhere)).not.toBeNull()
      expect(await readlink(join(world.folder, '500-600'))).not.toBe(token)
      await living?.release()
      expect(await world.d.claim('x', elsewhere)).toBeNull()
    },
  )

  it('of somebody who came between the look and the move is put back', async () => {
    const world = await table()
    const claim = await world.a.claim('x', range)
    const own = await readlink(world.path)
    once('rename', world.path, async (real, args) => {
      await rm(world.path)
      await symlink(foreign, world.path)
      await real(...args)
    })
    await claim?.release()
    expect(await readlink(world.path)).toBe(foreign)
    expect(isDead(own)).toBe(true)
    expect(await readdir(world.parking)).toEqual([])
  })

  it('is not taken for its own by a process that was frozen just after it was made', async () => {
    const world = await table()
    once('symlink', world.path, async (real, args) => {
      await real(...args)
      vi.setSystemTime(Date.now() + 6 * 60_000)
      // Meanwhile another container has rightly taken the place of the one that looked dead.
      await symlink(foreign, `${world.path}.new`)
      await age(`${world.path}.new`, 0)
      await rename(`${world.path}.new`, world.path)
    })
    expect(await world.a.claim('x', range)).toBeNull()
    expect(await readlink(world.path)).toBe(foreign)
    expect(await world.c.claim('x', range)).toBeNull()
    await world.a.claim('x', elsewhere)
    expect(await readlink(join(world.folder, '500-600'))).not.toBe(foreign)
  })

  it('that was lent by a process frozen meanwhile does not count: it may look dead already', async () => {
    const world = await table()
    await world.park()
    once('link', world.path, async (real, args) => {
      vi.setSystemTime(Date.now() + 6 * 60_000)
      await real(...args)
    })
    await expect(world.a.claim('x', range)).rejects.toMatchObject({ code: 'EAGAIN' })
    expect(isDead(await readlink(world.path))).toBe(true)
    expect(await world.a.claim('x', range)).not.toBeNull()
  })

  it('looks hardly older than it is to a clone of the machine that has just booted', async () => {
    const world = await table()
    await world.park()
    const [name = ''] = await readdir(world.parking)
    vi.setSystemTime(Date.now() + 25_000)
    await age(join(world.parking, name), 25_000)
    await world.a.claim('x', range)
    expect(Date.now() - (await lstat(world.path)).mtimeMs).toBeLessThan(1_001)
  })

  it('is given back once, however often its claim is released', async () => {
    const world = await table()
    await world.park()
    const claim = await world.a.claim('x', range)
    await Promise.all([claim?.release(), claim?.release()])
    const ranges = [0, 10, 20].map((start) => ({ start, end: start + 10 }))
    for (const each of ranges) expect(await world.a.claim('x', each)).not.toBeNull()
    const tokens = await Promise.all(ranges.map(({ start, end }) => readlink(join(world.folder, `${start}-${end}`))))
    expect(new Set(tokens).size).toBe(3)
    await claim?.release()
    expect(tokens.map((token) => isDead(token))).toEqual([false, false, false])
    expect(await world.b.claim('x', range)).toBeNull()
  })

  it.each(['EACCES', 'EMLINK', 'EIO', 'ENOTDIR', 'ELOOP', 'EINVAL', 'ESTALE', 'EPERM', 'EXDEV'])(
    'that cannot be lent (%s) is made anew',
    async (code) => {
      for (const [name, wait] of [
        ['link', 0],
        ['lutimes', 31_000],
      ] as const) {
        const world = await table()
        await world.park()
        const [parked = ''] = await readdir(world.parking)
        vi.setSystemTime(Date.now() + wait)
        once(name, join(world.parking, parked), async () => {
          throw failure(code)
        })
        expect(await world.a.claim('x', range), name).not.toBeNull()
        expect(await readdir(world.parking), name).toEqual([])
      }
    },
  )

  it('is one of 256 at most, also when a thousand come back at once', async () => {
    const world = await table()
    const held = await Promise.all(Array.from({ length: 400 }, () => world.a.present('x')))
    await Promise.all(held.map((claim) => claim.release()))
    expect(await readdir(world.folder)).toEqual([])
    expect((await readdir(world.parking)).length).toBeLessThanOrEqual(256)
  })

  it('that comes back after the end is not parked', async () => {
    const world = await table()
    const claim = await world.a.claim('x', range)
    const token = await readlink(world.path)
    await world.a.close()
    await claim?.release()
    expect([await readdir(world.parking), await readdir(world.folder)]).toEqual([[], []])
    expect(isDead(token)).toBe(true)
  })

  it('is all that a sweep removes', async () => {
    const world = await table()
    await writeFile(join(world.parking, '.DS_Store'), '')
    await symlink('/srv/photos/1.jpg', join(world.parking, 'bookmark'))
    await symlink(foreign, join(world.parking, 'old'))
    for (const name of ['bookmark', 'old']) await age(join(world.parking, name), 10 * 60_000)
    await world.a.sweep()
    expect((await readdir(world.parking)).sort()).toEqual(['.DS_Store', 'bookmark'])
  })
})
