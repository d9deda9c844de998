/** Journal files stay open between calls: what that saves, that nobody sees a difference, and when they are closed. */
import { mkdirSync, readdirSync, readlinkSync } from 'node:fs'
import { mkdtemp, readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import fs from 'fs-extra'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import { interceptedFs, newRecord, someId } from './session-store-support.ts'

const onDisk = 0xef53
const onNetwork = 0x6969
const unavailable = { name: 'StorageUnavailableError', status: 503 }

let folder: string
let directory: string
let stores: FileSessionStore[]

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'session-open-'))
  directory = join(folder, 'upper', 'sessions')
  mkdirSync(join(folder, 'upper'))
  stores = []
})

afterEach(async () => {
  vi.useRealTimers()
  await Promise.all(stores.map((store) => store.close()))
  await fs.remove(folder)
})

type Options = Partial<ConstructorParameters<typeof FileSessionStore>[0]>

/** Whatever disk the tests run on. */
const local = interceptedFs(async (name, proceed) => (name === 'statfs' ? { type: onDisk } : proceed()))

function open(options: Options = {}): FileSessionStore {
  const store = new FileSessionStore({ directory, fs: local, ...options })
  stores.push(store)
  return store
}

/** A store on this kind of disk, whose calls are listed and can be replaced. */
function watched(type = onDisk, options: Options = {}) {
  const calls: string[] = []
  const looks: string[] = []
  const faults: Record<string, (proceed: () => unknown) => unknown> = {}
  const store = open({
    ...options,
    fs: interceptedFs(
      async (name, proceed) => {
        calls.push(name)
        if (name === 'statfs') return { type }
        const fault = faults[name]
        return fault ? fault(proceed) : proceed()
      },
      (name, proceed) => {
        looks.push(name)
        const fault = faults[name]
        return fault ? fault(proceed) : proceed()
      },
    ),
  })
  const callsOf = async (work: () => Promise<unknown>) => {
    calls.length = 0
    await work()
    return calls.splice(0)
  }
  return { store, calls, looks, faults, callsOf }
}

/** Files below the folder that this process has open, of all stores. */
function openFiles(): string[] {
  const paths = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return ''
    }
  })
  return paths.filter((path) => path.startsWith(folder) && path.includes('.log'))
}

/** Closing goes on behind the call that was its reason. */
async function openFilesSoon(count: number): Promise<void> {
  for (let turn = 0; openFiles().length !== count && turn < 10_000; turn++) await setImmediate()
  expect(openFiles()).toHaveLength(count)
}

const failing = (code: string) => () => {
  throw Object.assign(new Error(`injected ${code}`), { code })
}

const idOf = (n: number) => `${someId}-${n}`

async function change(store: FileSessionStore, version: number, id = someId): Promise<boolean> {
  return store.replace(newRecord({ id, version, key: `key${version}` }), version - 1)
}

describe.skipIf(process.platform !== 'linux')('an open journal file', () => {
  test('makes a look cost no call, and a change one: the write', async () => {
    const { store, looks, callsOf } = watched()
    await store.create(newRecord())
    for (let version = 2; version < 20; version++) {
      expect(await callsOf(() => store.get(someId))).toEqual([])
      looks.length = 0
      expect(await callsOf(async () => expect(await change(store, version)).toBe(true))).toEqual(['handle.write'])
      expect(looks).toEqual(['statSync', 'fstatSync'])
    }
    expect(await open().get(someId)).toMatchObject({ version: 19, key: 'key19' })
  })

  test('makes it two with a flush', async () => {
    const { store, callsOf } = watched(onDisk, { durability: 'power' })
    await store.create(newRecord())
    expect(await callsOf(() => change(store, 2))).toEqual(['handle.write', 'handle.datasync'])
  })

  test('is the one that was made with the record, or opened for its first change', async () => {
    const { store, callsOf } = watched()
    await store.create(newRecord())
    const creation = await callsOf(() => store.create(newRecord({ id: idOf(1) })))
    expect(creation).toEqual(['mkdir', 'open', 'handle.write', 'rename'])
    const other = watched()
    await other.store.get(someId)
    expect(await other.callsOf(() => change(other.store, 2))).toEqual(['open', 'handle.write'])
    expect(await other.callsOf(() => change(other.store, 3))).toEqual(['handle.write'])
    expect(openFiles()).toHaveLength(3)
  })

  test('makes what another process appended cost one call: to read it', async () => {
    const { store, callsOf } = watched()
    await store.create(newRecord())
    expect(await change(open(), 2)).toBe(true)
    const look = await callsOf(async () => expect(await store.get(someId)).toMatchObject({ version: 2 }))
    expect(look).toEqual(['handle.read'])
    expect(await callsOf(() => change(store, 3))).toEqual(['handle.write'])
  })

  test('makes counting cost no look at the records that were changed last', async () => {
    const { store, callsOf } = watched()
    for (let n = 0; n < 20; n++) await store.create(newRecord({ id: idOf(n) }))
    await store.countOpen()
    expect(await callsOf(async () => expect(await store.countOpen()).toBe(20))).toEqual(['readdir', 'lstat'])
  })

  test('is of at most 256 records', async () => {
    const store = open()
    for (let n = 0; n < 270; n++) await store.create(newRecord({ id: idOf(n) }))
    await openFilesSoon(256)
    for (let n = 0; n < 270; n++) expect(await change(store, 2, idOf(n))).toBe(true)
    await openFilesSoon(256)
    await store.close()
    expect(openFiles()).toEqual([])
  })

  test('is closed with the store, which leaves none open from then on', async () => {
    const store = open()
    await store.create(newRecord())
    const [changing, closing] = [change(store, 2), store.close()]
    await Promise.all([changing, closing])
    expect(openFiles()).toEqual([])
    expect(await change(store, 3)).toBe(true)
    expect(await store.get(someId)).toMatchObject({ version: 3 })
    expect(openFiles()).toEqual([])
  })

  test('is closed when it was not used for five to ten seconds', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    const { store, callsOf } = watched()
    await store.create(newRecord({ id: idOf(1) }))
    await store.create(newRecord())
    for (let version = 2; version < 6; version++) {
      vi.advanceTimersByTime(4_000)
      const calls = await callsOf(() => change(store, version))
      expect(calls.filter((call) => call !== 'handle.close')).toEqual(['handle.write'])
    }
    await openFilesSoon(1)
    vi.advanceTimersByTime(4_000)
    await setImmediate()
    expect(openFiles()).toHaveLength(1)
    vi.advanceTimersByTime(6_000)
    await openFilesSoon(0)
    expect(vi.getTimerCount()).toBe(0)
    expect(await change(store, 6)).toBe(true)
    await store.close()
    expect(vi.getTimerCount()).toBe(0)
  })

  test('is not closed while it is in use, by time or by others', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    const { store, faults } = watched()
    await store.create(newRecord())
    let goOn = () => {}
    const held = new Promise<void>((resolve) => {
      goOn = resolve
    })
    const reached = new Promise<void>((resolve) => {
      faults['handle.write'] = async (proceed) => {
        delete faults['handle.write']
        resolve()
        await held
        return proceed()
      }
    })
    const changing = change(store, 2)
    await reached
    for (let n = 0; n < 130; n++) await store.create(newRecord({ id: idOf(n) }))
    vi.advanceTimersByTime(60_000)
    await openFilesSoon(1)
    goOn()
    expect(await changing).toBe(true)
    expect(await open().get(someId)).toMatchObject({ version: 2 })
  })

  test.each([
    ['deleted', (store: FileSessionStore) => store.delete(someId)],
    [
      'deleted by another process',
      async (store: FileSessionStore) => {
        await open().delete(someId)
        await store.get(someId)
      },
    ],
    ['ended', (store: FileSessionStore) => store.replace(newRecord({ version: 2, open: false }), 1)],
    [
      'ended by another process',
      async (store: FileSessionStore) => {
        const other = open()
        await other.replace(newRecord({ version: 2, open: false }), 1)
        await store.get(someId)
      },
    ],
  ])('is closed when the record is %s', async (_, end) => {
    const store = open()
    await store.create(newRecord())
    expect(openFiles()).toHaveLength(1)
    await end(store)
    await openFilesSoon(0)
  })

  test('is none when a record has ended before it began, or there was one', async () => {
    const store = open()
    await store.create(newRecord({ open: false }))
    expect(await open().create(newRecord())).toBe(false)
    expect(openFiles()).toEqual([])
  })

  test('is the newest one when the journal is begun anew', async () => {
    const store = open({ journalLimit: 1 })
    await store.create(newRecord())
    for (let version = 2; version < 12; version++) expect(await change(store, version)).toBe(true)
    const newest = (await readdir(join(directory, someId))).filter((name) => name.split('.').length > 2)
    expect(newest).toHaveLength(1)
    await openFilesSoon(1)
    expect(openFiles()).toEqual([join(directory, someId, String(newest[0]))])
  })

  test.each(['write', 'datasync'])('is closed after a %s that failed', async (op) => {
    const { store, faults } = watched(onDisk, { durability: 'power' })
    await store.create(newRecord())
    faults[`handle.${op}`] = failing('EIO')
    await expect(change(store, 2)).rejects.toMatchObject(unavailable)
    expect(openFiles()).toEqual([])
    delete faults[`handle.${op}`]
    const version = (await store.get(someId))?.version ?? 0
    expect(version).toBe(op === 'write' ? 1 : 2)
    expect(await change(store, version + 1)).toBe(true)
  })

  test('is closed after a look at its length that failed; the change is told as one that may have been stored', async () => {
    const { store, faults } = watched()
    await store.create(newRecord())
    faults.fstatSync = failing('EIO')
    await expect(change(store, 2)).rejects.toMatchObject(unavailable)
    expect(openFiles()).toEqual([])
    expect(await store.create(newRecord({ id: idOf(1) }))).toBe(true)
    expect(openFiles()).toEqual([])
    delete faults.fstatSync
    expect(await store.get(someId)).toMatchObject({ version: 2 })
  })

  test('is closed after a look at its path that failed, and the slow way is gone', async () => {
    const { store, faults, callsOf } = watched()
    await store.create(newRecord())
    faults.statSync = failing('EIO')
    const calls = await callsOf(async () => expect(await store.get(someId)).toEqual(newRecord()))
    expect(calls).toEqual(['handle.close', 'stat'])
    expect(openFiles()).toEqual([])
    expect(await change(store, 2)).toBe(true)
    faults.stat = failing('EIO')
    await expect(store.get(someId)).rejects.toMatchObject(unavailable)
  })

  test('is given back when there are no descriptors left, and the call goes on', async () => {
    const { store, faults } = watched()
    for (let n = 0; n < 5; n++) await store.create(newRecord({ id: idOf(n) }))
    await open().create(newRecord())
    await stores[1]?.close()
    expect(openFiles()).toHaveLength(5)
    const scarce = (proceed: () => unknown) => (openFiles().length > 0 ? failing('EMFILE')() : proceed())
    Object.assign(faults, { open: scarce, readdir: scarce })
    expect(await store.get(someId)).toEqual(newRecord())
    for (let n = 0; n < 5; n++) expect(await change(store, 2, idOf(n))).toBe(true)
    expect(await store.create(newRecord({ id: idOf(5) }))).toBe(true)
    expect(openFiles()).toEqual([])
    Object.assign(faults, { open: failing('EMFILE') })
    await expect(change(store, 3, idOf(0))).rejects.toMatchObject(unavailable)
  })

  test.each([
    ['counted', (store: FileSessionStore) => store.countOpen()],
    [
      'looked through',
      async (store: FileSessionStore) => {
        for await (const id of store.listExpired(0)) expect(id).toBeDefined()
      },
    ],
  ])('is closed when the last descriptors are needed to have the records %s', async (_, look) => {
    const { store, faults } = watched()
    for (let n = 0; n < 5; n++) await store.create(newRecord({ id: idOf(n) }))
    const scarce = (proceed: () => unknown) => (openFiles().length > 0 ? failing('EMFILE')() : proceed())
    Object.assign(faults, { open: scarce, readdir: scarce })
    await look(store)
    expect(openFiles()).toEqual([])
  })

  test.each([
    ['a network', onNetwork, 'linux'],
    ['Windows', onDisk, 'win32'],
  ])('is none on %s, and no call is synchronous', async (_, type, platform) => {
    const { store, looks } = watched(type)
    const spy = vi.spyOn(process, 'platform', 'get').mockReturnValue(platform as 'linux')
    try {
      await store.create(newRecord())
      for (let version = 2; version < 5; version++) expect(await change(store, version)).toBe(true)
      expect(await store.get(someId)).toMatchObject({ version: 4 })
    } finally {
      spy.mockRestore()
    }
    expect(openFiles()).toEqual([])
    expect(looks).toEqual([])
  })
})
