/** Each file-system call of each method fails once, in every way: the record is as before or after, never between. */
import { mkdtemp, readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fs from 'fs-extra'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isNexusUploaderError } from '../../src/errors.ts'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import { interceptedFs, keyOf, newRecord, someId } from './session-store-support.ts'

let folder: string
let trials = 0

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'session-errors-'))
})

afterAll(() => fs.remove(folder))

type Fault = (proceed: () => Promise<unknown>, args: unknown[], name: string) => Promise<unknown>

/** The call is not made. */
function refuses(code: string): Fault {
  return async (proceed, _, name) => {
    // What the test does not close nobody does.
    if (name === 'handle.close') await proceed()
    throw Object.assign(new Error(`injected ${code}`), { code })
  }
}

/** The call is made, and says that it was not. */
function fails(code: string): Fault {
  return async (proceed, args, name) => {
    const result = name === 'handle.close' ? null : await proceed()
    if (name === 'open') await (result as { close(): Promise<void> }).close()
    return refuses(code)(proceed, args, name)
  }
}

/** A write takes only this share of what it was given. */
function takes(share: number): Fault {
  return async (proceed, args, name) => {
    const bytes = args[0] as Buffer
    if (name === 'handle.write') args[0] = bytes.subarray(0, Math.floor(bytes.length * share))
    return proceed()
  }
}

/** `code`: of a synchronous call that fails. `cold`: also of a store that has not read the record before. */
const faults: Record<string, { fault: Fault; code?: string; status: number; cold?: true }> = {
  'is refused with ENOSPC': { fault: refuses('ENOSPC'), code: 'ENOSPC', status: 507 },
  'is refused with EIO': { fault: refuses('EIO'), code: 'EIO', status: 503, cold: true },
  'is refused with EMFILE': { fault: refuses('EMFILE'), code: 'EMFILE', status: 503 },
  'is refused with EACCES': { fault: refuses('EACCES'), code: 'EACCES', status: 503 },
  'fails with EIO after it was done': { fault: fails('EIO'), code: 'EIO', status: 503 },
  'takes nothing of a write': { fault: takes(0), status: 507 },
  'takes half of a write': { fault: takes(0.5), status: 507 },
}

interface Method {
  /** How the record is before, as its content. */
  readonly before: string | null
  readonly after: string | null
  prepare?(store: FileSessionStore): Promise<unknown>
  call(store: FileSessionStore): Promise<unknown>
}

async function change(store: FileSessionStore, from: number, to: number): Promise<void> {
  for (let version = from + 1; version <= to; version++) {
    expect(await store.replace(newRecord({ version, key: `key${version}` }), version - 1)).toBe(true)
  }
}

async function createAndChange(store: FileSessionStore, versions: number): Promise<void> {
  await store.create(newRecord())
  await change(store, 1, versions)
}

async function listAll(store: FileSessionStore): Promise<string[]> {
  const ids: string[] = []
  for await (const id of store.listExpired(Number.MAX_SAFE_INTEGER)) ids.push(id)
  return ids
}

// With the smallest journals every fourth version begins a new file: 4 the first one, 8 the second one.
const methods: Record<string, Method> = {
  create: { before: null, after: 'first', call: (store) => store.create(newRecord()) },
  'create after a delete': {
    ...{ before: null, after: 'first' },
    prepare: (store) => createAndChange(store, 9).then(() => store.delete(someId)),
    call: (store) => store.create(newRecord()),
  },
  'get of a journal in two files': {
    ...{ before: 'key6', after: 'key6' },
    prepare: (store) => createAndChange(store, 6),
    call: (store) => store.get(someId),
  },
  replace: {
    ...{ before: 'first', after: 'key2' },
    prepare: (store) => store.create(newRecord()),
    call: (store) => store.replace(newRecord({ version: 2, key: 'key2' }), 1),
  },
  'the replace that begins a second file': {
    ...{ before: 'key3', after: 'key4' },
    prepare: (store) => createAndChange(store, 3),
    call: (store) => store.replace(newRecord({ version: 4, key: 'key4' }), 3),
  },
  'the replace that begins a third file': {
    ...{ before: 'key6', after: 'key7' },
    prepare: (store) => createAndChange(store, 6),
    call: (store) => store.replace(newRecord({ version: 7, key: 'key7' }), 6),
  },
  delete: {
    ...{ before: 'key2', after: null },
    prepare: (store) => createAndChange(store, 2),
    call: (store) => store.delete(someId),
  },
  'delete of a journal in two files': {
    ...{ before: 'key6', after: null },
    prepare: (store) => createAndChange(store, 6),
    call: (store) => store.delete(someId),
  },
  listExpired: {
    ...{ before: 'key6', after: 'key6' },
    prepare: (store) => createAndChange(store, 6),
    call: listAll,
  },
  countOpen: {
    ...{ before: 'key6', after: 'key6' },
    prepare: (store) => createAndChange(store, 6),
    call: (store) => store.countOpen(),
  },
}

/** Lets call number `n` of the method fail. Whether there was such a call. */
async function runTrial(method: Method, { fault, code, status }: (typeof faults)[string], n: number, warm: boolean) {
  const directory = join(folder, `${trials++}`)
  let calls = Number.NEGATIVE_INFINITY
  let failed = ''
  const intercepted = interceptedFs(
    (name, proceed, args) => {
      if (calls++ !== n) return proceed()
      failed = name
      return fault(proceed, args, name)
    },
    (name, proceed) => {
      if (calls++ !== n) return proceed()
      failed = name
      if (code === undefined) return proceed()
      throw Object.assign(new Error(`injected ${code}`), { code })
    },
  )
  const open = (options = {}) => new FileSessionStore({ directory, durability: 'power', journalLimit: 1, ...options })
  const store = open({ fs: intercepted })
  await method.prepare?.(warm ? store : open())
  if (!warm) await store.get('unknown-unknown-unknown')
  calls = 0
  const error: unknown = await method.call(store).then(
    () => null,
    (thrown: unknown) => thrown,
  )
  calls = Number.NEGATIVE_INFINITY
  if (error !== null) {
    expect(isNexusUploaderError(error) && error.status, `${failed}: ${error}`).toBe(status)
  }
  // What another process sees, and this one.
  const seen = keyOf(await open().get(someId))
  expect(keyOf(await store.get(someId)), failed).toBe(seen)
  expect(error === null ? [method.after] : [method.before, method.after], failed).toContain(seen)
  await expectToWorkOn(method, store, open)
  expect(await readdir(directory).then((names) => names.filter((name) => name === 'quarantine'))).toEqual([])
  await fs.remove(directory)
  return failed !== ''
}

/** The same call again, and then the life of a record. */
async function expectToWorkOn(method: Method, store: FileSessionStore, open: () => FileSessionStore): Promise<void> {
  await method.call(store)
  expect(keyOf(await open().get(someId))).toBe(method.after)
  if (method.after === null) expect(await store.create(newRecord())).toBe(true)
  const version = (await store.get(someId))?.version ?? 0
  await change(store, version, version + 3)
  expect(keyOf(await open().get(someId))).toBe(`key${version + 3}`)
  expect([await store.countOpen(), await listAll(store)]).toEqual([1, [someId]])
  await store.delete(someId)
  expect([await open().get(someId), await store.countOpen()]).toEqual([null, 0])
}

describe('FileSessionStore when one file-system call', () => {
  for (const [faultName, fault] of Object.entries(faults)) {
    test(`${faultName}`, async () => {
      for (const [methodName, method] of Object.entries(methods)) {
        for (const warm of fault.cold ? [true, false] : [true]) {
          for (let n = 0; ; n++) {
            try {
              if (!(await runTrial(method, fault, n, warm))) break
            } catch (error) {
              throw new Error(`${methodName}, call ${n}, ${warm ? 'warm' : 'cold'}`, { cause: error })
            }
          }
        }
      }
    })
  }

  test.each(['EACCES', 'EPERM', 'EROFS'])('always fails with %s, a create says so and leaves nothing', async (code) => {
    const directory = join(folder, `always-${code}`)
    const store = new FileSessionStore({
      directory,
      fs: interceptedFs((name, proceed, args) => (name === 'rename' ? refuses(code)(proceed, args, name) : proceed())),
    })
    await expect(store.create(newRecord())).rejects.toMatchObject({ status: 503 })
    expect(await store.get(someId)).toBe(null)
    expect(await readdir(directory)).toEqual([])
  })
})
