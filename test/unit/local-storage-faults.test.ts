/** Every file-system call of the adapter fails once, with every errno: the state is as before, or the new one, whole. */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { Readable } from 'node:stream'
import { setTimeout } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { LocalStorageError } from '../../src/errors.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { infoOf, makeSandbox, mime, type Sandbox, stageBytes, storeBytes, tree } from '../support/local-sandbox.ts'

type Call = (...args: unknown[]) => Promise<unknown>

/** Sees every call while `armed`; what it returns replaces the call, what it throws is the fault. */
const hook = vi.hoisted(() => ({
  armed: false,
  before: (_name: string, _args: unknown[], _call: Call): Promise<unknown> | undefined => undefined,
}))

vi.mock('node:fs/promises', async (importOriginal) => {
  const real = await importOriginal<Record<string, unknown>>()
  const hooked = (name: string, call: Call): Call => {
    return async (...args) => {
      const replaced = hook.armed ? hook.before(name, args, call) : undefined
      return replaced ?? call(...args)
    }
  }
  const hookedHandle = (handle: Record<string, Call>) =>
    new Proxy(handle, {
      get(target, name: string) {
        const member: unknown = target[name]
        return typeof member === 'function' ? hooked(name, member.bind(target)) : member
      },
    })
  const wrapped = Object.entries(real).map(([name, member]) => {
    if (typeof member !== 'function') return [name, member]
    const call = hooked(name, member as Call)
    return [name, name === 'open' ? async (...args: unknown[]) => hookedHandle((await call(...args)) as never) : call]
  })
  return Object.fromEntries(wrapped)
})

let sandbox: Sandbox
beforeEach(async () => {
  sandbox = await makeSandbox()
})
afterEach(async () => {
  hook.armed = false
  await sandbox.remove()
})

function errnoError(code: string, path = sandbox.folder): Error {
  return Object.assign(new Error(`${code}: broken, '${path}'`), { code, syscall: 'any', path })
}

async function armed<T>(before: typeof hook.before, run: () => Promise<T>): Promise<T> {
  hook.before = before
  hook.armed = true
  try {
    return await run()
  } finally {
    hook.armed = false
  }
}

/** As if the folder `from` was on another disk than the adapter's directory. */
function otherDisk(name: string, args: unknown[]): undefined {
  if (name === 'rename' && basename(String(args[0])).startsWith('staged-')) throw errnoError('EXDEV')
}

const statusOf = { ENOSPC: 507, EDQUOT: 507, EMFILE: 503, ENFILE: 503, EROFS: 503, EACCES: 503, EIO: 503, EBUSY: 503 }

const operations = {
  upload: (adapter: LocalStorageAdapter) => storeBytes(adapter, 'new/folder/x', 'new'),
  'upload over an older file': (adapter: LocalStorageAdapter) => storeBytes(adapter, 'old', 'new'),
  adoptFile: (adapter: LocalStorageAdapter, staged: string) => adapter.adoptFile('new/folder/x', staged, infoOf(3)),
  'adoptFile over an older file': (adapter: LocalStorageAdapter, staged: string) =>
    adapter.adoptFile('old', staged, infoOf(3)),
}

for (const [operation, run] of Object.entries(operations)) {
  for (const place of ['same', 'other'] as const) {
    if (place === 'other' && operation.startsWith('upload')) continue
    test(`${operation} on the ${place} disk survives every fault at every call`, async () => {
      let points = 0
      for (const [errno, status] of Object.entries(statusOf)) {
        for (let failAt = 1; ; failAt++) {
          const reached = await oneFault(run, place === 'other', failAt, errno, status)
          if (!reached) break
          points++
        }
      }
      // Fewer would mean that the hook no longer sees the calls.
      expect(points).toBeGreaterThan(60)
    })
  }
}

async function oneFault(
  run: (adapter: LocalStorageAdapter, staged: string) => Promise<string>,
  otherDisks: boolean,
  failAt: number,
  errno: string,
  status: number,
): Promise<boolean> {
  const directory = join(sandbox.folder, `${errno}-${failAt}`)
  const adapter = new LocalStorageAdapter({ directory, durability: 'power', fileMode: 0o640, directoryMode: 0o750 })
  await mkdir(directory)
  await storeBytes(adapter, 'old', 'old')
  const staged = await stageBytes(join(directory, '..', 'elsewhere'), 'new')
  const before = await openFiles()
  let calls = 0
  const outcome = await armed(
    (name, args, call) => {
      calls++
      if (calls === failAt && name === 'close') return call().then(() => Promise.reject(errnoError(errno)))
      if (calls === failAt) throw errnoError(errno)
      return otherDisks ? otherDisk(name, args) : undefined
    },
    () => run(adapter, staged).catch((error: unknown) => error),
  )
  if (calls < failAt) return false

  if (typeof outcome === 'string') {
    expect(await readFile(directory + outcome, 'utf8')).toBe('new')
  } else {
    expect(outcome).toBeInstanceOf(LocalStorageError)
    expect(outcome).toMatchObject({ status, cause: { code: errno } })
    expect(String(outcome)).not.toContain(sandbox.folder)
  }
  // A failure after the rename leaves the new file: whole.
  const files = (await tree(directory)).filter((path) => !path.endsWith('/'))
  expect(files.filter((path) => path !== '/old' && path !== '/new/folder/x')).toEqual([])
  for (const file of files) expect(['old', 'new']).toContain(await readFile(directory + file, 'utf8'))
  expect(await openFiles()).toBe(before)
  // Nothing was lost: the same call succeeds now.
  const url = await run(adapter, staged)
  expect(await readFile(directory + url, 'utf8')).toBe('new')
  return true
}

/** How many files this process has open, where the system tells. */
async function openFiles(): Promise<number> {
  return process.platform === 'linux' ? (await readdir('/proc/self/fd')).length : 0
}

describe('single faults', () => {
  test('a disk that takes only a part of every write still stores every byte', async () => {
    const adapter = new LocalStorageAdapter({ directory: sandbox.directory })
    const bytes = Buffer.from(Array.from({ length: 5000 }, (_, index) => index % 251))
    let writes = 0
    const partly = (name: string, args: unknown[], call: Call) => {
      if (name !== 'writev') return undefined
      writes++
      const [first] = args[0] as [Buffer]
      return call([first.subarray(0, Math.ceil(first.length / 3))])
    }
    await armed(partly, () => storeBytes(adapter, 'x', bytes, bytes.length))
    expect((await readFile(join(sandbox.directory, 'x'))).equals(bytes)).toBe(true)
    expect(writes).toBeGreaterThan(5)
  })

  test('a stream of tiny buffers is written in few calls of a bounded number of buffers', async () => {
    const adapter = new LocalStorageAdapter({ directory: sandbox.directory })
    const lengths: number[] = []
    const note = (name: string, args: unknown[]) => {
      if (name === 'writev') lengths.push((args[0] as Buffer[]).length)
      return undefined
    }
    const tiny = Readable.from(
      Array.from({ length: 2000 }, () => Buffer.from('x')),
      { objectMode: true },
    )
    await armed(note, () => adapter.upload('x', tiny, mime, infoOf(2000)))
    expect(lengths).toEqual([512, 512, 512, 464])
  })

  test('a disk that takes nothing is an error, not an endless loop', async () => {
    const adapter = new LocalStorageAdapter({ directory: sandbox.directory })
    const nothing = async () => ({ bytesWritten: 0 })
    const store = armed(
      (name) => (name === 'writev' ? nothing() : undefined),
      () => storeBytes(adapter, 'x'),
    )
    await expect(store).rejects.toBeInstanceOf(LocalStorageError)
    expect(await tree(sandbox.directory)).toEqual(['/.nexus-uploader/'])
  })

  test('a file from another disk is adopted, and adopted again after the staged file could not be removed', async () => {
    const adapter = new LocalStorageAdapter({ directory: sandbox.directory })
    const staged = await stageBytes(sandbox.folder, 'bytes')
    const stuck = (name: string, args: unknown[]) => {
      if (name === 'unlink' && args[0] === staged) throw errnoError('EBUSY')
      return otherDisk(name, args)
    }
    expect(await armed(stuck, () => adapter.adoptFile('a/x', staged, infoOf(5)))).toBe('/a/x')
    expect(await armed(otherDisk, () => adapter.adoptFile('a/x', staged, infoOf(5)))).toBe('/a/x')
    expect(await tree(sandbox.folder)).toEqual(['/served/', '/served/a/', '/served/a/x'])
  })

  test('a staged file that vanishes before its copy begins is a rejection, not the end of the process', async () => {
    const adapter = new LocalStorageAdapter({ directory: sandbox.directory })
    const staged = await stageBytes(sandbox.folder, 'bytes')
    let looks = 0
    const vanishing = (name: string, args: unknown[], call: Call) => {
      if (name === 'lstat' && args[0] === staged && ++looks === 2) {
        return call(...args).then((found) => rm(staged).then(() => found))
      }
      // Late enough for the source to have failed before anybody reads it.
      if (name === 'open' && looks === 2) return setTimeout(50).then(() => call(...args))
      return otherDisk(name, args)
    }
    const adopting = armed(vanishing, () => adapter.adoptFile('x', staged, infoOf(5)))
    await expect(adopting).rejects.toMatchObject({ name: 'LocalStorageError', cause: { code: 'ENOENT' } })
    expect(await tree(sandbox.directory)).toEqual([])
  })
})

describe('durability', () => {
  async function journalOf(durability: 'process' | 'power', run: (adapter: LocalStorageAdapter) => Promise<unknown>) {
    const adapter = new LocalStorageAdapter({ directory: sandbox.directory, durability })
    const journal: string[] = []
    const paths: string[] = []
    const note = (name: string, args: unknown[]) => {
      if (name === 'open')
        paths.push(basename(String(args[0])).replace(/-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/, ''))
      if (name === 'sync') journal.push(`sync ${paths.at(-1)}`)
      if (name === 'mkdir' || name === 'rename')
        journal.push(`${name} ${basename(String(args.at(name === 'rename' ? 1 : 0)))}`)
      return name === 'rename' ? otherDisk(name, args) : undefined
    }
    await armed(note, () => run(adapter))
    return journal
  }

  test('power: the file and the names of its folders are flushed before its rename, its own name after', async () => {
    expect(await journalOf('power', (adapter) => storeBytes(adapter, 'a/x'))).toEqual([
      'mkdir a',
      `sync ${basename(sandbox.folder)}`,
      'sync served',
      'mkdir .nexus-uploader',
      'sync store.tmp',
      'rename x',
      'sync a',
    ])
  })

  test('power: an adopted copy is flushed before the staged file is removed', async () => {
    await storeBytes(new LocalStorageAdapter({ directory: sandbox.directory }), 'a/old')
    const staged = await stageBytes(sandbox.folder, 'bytes')
    const journal = await journalOf('power', (adapter) => adapter.adoptFile('a/x', staged, infoOf(5)))
    expect(journal[0]).toBe('sync served')
    expect(journal.slice(2)).toEqual(['rename x', 'sync .nexus-uploader.tmp', 'rename x', 'sync a', 'sync a'])
  })

  test('process: nothing is flushed', async () => {
    const journal = await journalOf('process', (adapter) => storeBytes(adapter, 'a/x'))
    expect(journal.filter((line) => line.startsWith('sync'))).toEqual([])
  })

  test('process: a copy from another disk is flushed before the staged file is removed', async () => {
    const staged = await stageBytes(sandbox.folder, 'bytes')
    const journal = await journalOf('process', (adapter) => adapter.adoptFile('x', staged, infoOf(5)))
    expect(journal).toEqual(['rename x', 'sync .nexus-uploader.tmp', 'rename x'])
  })
})
