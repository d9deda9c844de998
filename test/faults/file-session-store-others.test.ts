/** What others do to a record and its folders between two calls is seen, whether its journal file is kept open or not. */
import { cp, link, mkdir, mkdtemp, readdir, rename, rm, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fs from 'fs-extra'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import { interceptedFs, newRecord, someId } from './session-store-support.ts'

const unavailable = { name: 'StorageUnavailableError', status: 503 }

let folder: string
let directory: string
let stores: FileSessionStore[]

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'session-others-'))
  directory = join(folder, 'upper', 'sessions')
  stores = []
})

afterEach(async () => {
  await Promise.all(stores.map((store) => store.close()))
  await fs.remove(folder)
})

function open(options: Partial<ConstructorParameters<typeof FileSessionStore>[0]> = {}): FileSessionStore {
  const store = new FileSessionStore({ directory, ...options })
  stores.push(store)
  return store
}

/** What a process sees that was not there before. */
const seenAnew = () => open().get(someId)

async function change(store: FileSessionStore, version: number, key = `key${version}`): Promise<boolean> {
  return store.replace(newRecord({ version, key }), version - 1)
}

async function pathOfRecord(): Promise<string> {
  const names = (await readdir(join(directory, someId))).sort((a, b) => a.length - b.length)
  return join(directory, someId, names.at(-1) ?? '')
}

describe.each([
  ['a record whose file is kept open', 0xef53],
  ['a record on a network, whose file is not', 0x6969],
])('%s', (_, type) => {
  let store: FileSessionStore

  beforeEach(async () => {
    let appending = 0
    store = open({
      journalLimit: 1,
      fs: interceptedFs(async (name, proceed) => {
        if (name === 'open') appending++
        return name === 'statfs' ? { type } : proceed()
      }),
    })
    await store.create(newRecord())
    const opened = appending
    expect(await change(store, 2)).toBe(true)
    expect(appending - opened, 'files opened for a change').toBe(type === 0xef53 ? 0 : 1)
  })

  test('that another process changes is seen as changed, and only the newest version is replaced', async () => {
    const rival = open()
    for (let version = 3; version < 12; version += 3) {
      expect(await change(rival, version, 'rival')).toBe(true)
      expect(await change(store, version)).toBe(false)
      expect(await store.get(someId)).toMatchObject({ version, key: 'rival' })
      expect(await change(store, version + 1)).toBe(true)
      expect(await rival.get(someId)).toMatchObject({ version: version + 1 })
      expect(await change(store, version + 2)).toBe(true)
      expect(await change(rival, version + 1)).toBe(false)
    }
    expect(await seenAnew()).toMatchObject({ version: 11 })
  })

  test('whose journal another process begins anew goes on in the new file', async () => {
    const rival = open({ journalLimit: 1 })
    for (let version = 3; version < 14; version++) expect(await change(rival, version)).toBe(true)
    expect((await pathOfRecord()).split('.').length).toBeGreaterThan(2)
    expect(await change(store, 3)).toBe(false)
    expect(await change(store, 14)).toBe(true)
    for (let version = 15; version < 24; version++) {
      expect(await change(version % 2 ? store : rival, version)).toBe(true)
      expect(await store.get(someId)).toMatchObject({ version })
    }
    expect(await seenAnew()).toMatchObject({ version: 23 })
  })

  test('that another process deletes is gone', async () => {
    await open().delete(someId)
    expect(await change(store, 3)).toBe(false)
    expect(await store.get(someId)).toBe(null)
    expect(await readdir(directory)).toEqual([])
  })

  test('that another process deletes and makes again is the new one', async () => {
    const rival = open()
    await rival.delete(someId)
    expect(await rival.create(newRecord({ key: 'later' }))).toBe(true)
    expect(await change(store, 3)).toBe(false)
    expect(await store.get(someId)).toMatchObject({ version: 1, key: 'later' })
    expect(await change(store, 2, 'changed')).toBe(true)
    expect(await rival.get(someId)).toMatchObject({ version: 2, key: 'changed' })
  })

  test('that another process deletes and makes again up to the same version is the new one', async () => {
    const rival = open()
    await rival.delete(someId)
    await rival.create(newRecord())
    await change(rival, 2, 'later')
    expect(await change(store, 3)).toBe(true)
    expect(await seenAnew()).toMatchObject({ version: 3 })
    expect(await rival.get(someId)).toMatchObject({ version: 3 })
  })

  test('whose file is removed is gone, also when the file has a second name', async () => {
    const path = await pathOfRecord()
    await link(path, join(folder, 'second'))
    await unlink(path)
    expect(await change(store, 3)).toBe(false)
    expect(await store.get(someId)).toBe(null)
    expect(await store.create(newRecord())).toBe(true)
    expect(await seenAnew()).toEqual(newRecord())
  })

  test('that is damaged, set aside and deleted by another process is gone', async () => {
    const path = await pathOfRecord()
    const bytes = await fs.readFile(path)
    await writeFile(path, bytes.fill('x', 20, 30))
    const rival = open()
    await expect(rival.get(someId)).rejects.toMatchObject({ code: 'STATE_UNREADABLE' })
    await rival.delete(someId)
    expect(await change(store, 3)).toBe(false)
    expect(await store.get(someId)).toBe(null)
    expect(await readdir(directory)).toEqual(['quarantine'])
  })

  test('whose file is restored from a copy is changed in the copy', async () => {
    const path = await pathOfRecord()
    await fs.copy(path, `${path}.copy`)
    await rename(`${path}.copy`, path)
    expect(await change(store, 3)).toBe(true)
    expect(await seenAnew()).toMatchObject({ version: 3 })
    expect(await store.get(someId)).toMatchObject({ version: 3 })
  })

  test('in a folder that a cleaner removed is gone, and others can be made', async () => {
    await rm(directory, { recursive: true })
    await expect(change(store, 3)).rejects.toMatchObject(unavailable)
    await expect(store.get(someId)).rejects.toMatchObject(unavailable)
    expect(await store.create(newRecord())).toBe(true)
    expect(await change(store, 2)).toBe(true)
    expect(await seenAnew()).toMatchObject({ version: 2 })
  })

  test('in a folder that a cleaner removed and another process made again is no longer told of', async () => {
    await rm(directory, { recursive: true })
    const rival = open()
    await rival.create(newRecord({ key: 'later' }))
    expect(await store.get(someId)).toMatchObject({ version: 1, key: 'later' })
    expect(await change(store, 2)).toBe(true)
    expect(await rival.get(someId)).toMatchObject({ version: 2 })
  })

  for (const what of ['the folder', 'the one above']) {
    test(`is neither changed nor denied while ${what} has another name, and goes on when it is back`, async () => {
      const moved = what === 'the folder' ? directory : join(directory, '..')
      await rename(moved, join(folder, 'elsewhere'))
      await mkdir(directory, { recursive: true })
      await expect(change(store, 3)).rejects.toMatchObject(unavailable)
      await expect(store.get(someId)).rejects.toMatchObject(unavailable)
      await expect(store.delete(someId)).rejects.toMatchObject(unavailable)
      await rm(moved, { recursive: true })
      await rename(join(folder, 'elsewhere'), moved)
      expect(await store.get(someId)).toMatchObject({ version: 2 })
      expect(await change(store, 3)).toBe(true)
      expect(await seenAnew()).toMatchObject({ version: 3 })
    })
  }

  test('is changed in the copy of its folder that took its place', async () => {
    await rename(directory, join(folder, 'elsewhere'))
    await cp(join(folder, 'elsewhere'), directory, { recursive: true })
    expect(await change(store, 3)).toBe(true)
    expect(await seenAnew()).toMatchObject({ version: 3 })
    const there = open({ directory: join(folder, 'elsewhere') })
    expect(await there.get(someId)).toMatchObject({ version: 2 })
  })
})
