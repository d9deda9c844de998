import {
  chmod,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fs from 'fs-extra'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import { encodeLine, Journal } from '../../src/sessions/session-journal.ts'
import { interceptedFs, keyOf, newRecord, someId } from './session-store-support.ts'

const otherId = '5b1d7a90-1111-4222-8333-444455556666'
const unreadable = { name: 'StorageUnavailableError', code: 'STATE_UNREADABLE', status: 503 }

let folder: string
let directory: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'session-faults-'))
  directory = join(folder, 'sessions')
})

afterEach(() => fs.remove(folder))

function open(options: Partial<ConstructorParameters<typeof FileSessionStore>[0]> = {}): FileSessionStore {
  return new FileSessionStore({ directory, ...options })
}

async function pathsOf(id: string): Promise<string[]> {
  return (await readdir(join(directory, id))).sort().map((name) => join(directory, id, name))
}

/** The only file of a record with versions 1 to `versions` and keys `first`, `key2`, `key3`, … */
async function writeRecord(versions: number, id = someId): Promise<string> {
  const store = open()
  await store.create(newRecord({ id }))
  for (let version = 2; version <= versions; version++) {
    expect(await store.replace(newRecord({ id, version, key: `key${version}` }), version - 1)).toBe(true)
  }
  const [path = '', ...others] = await pathsOf(id)
  expect(others).toEqual([])
  return path
}

async function quarantined(): Promise<string[]> {
  return readdir(join(directory, 'quarantine')).catch(() => [])
}

async function listed(store: FileSessionStore): Promise<string[]> {
  const ids: string[] = []
  for await (const id of store.listExpired(Number.MAX_SAFE_INTEGER)) ids.push(id)
  return ids.sort()
}

describe('a torn last line', () => {
  test('leaves the version before it, wherever it is cut, and the next change works', async () => {
    const path = await writeRecord(3)
    const whole = await readFile(path)
    const start = whole.lastIndexOf(0x1e)
    for (let length = start; length < whole.length; length++) {
      await writeFile(path, whole.subarray(0, length))
      const store = open()
      // Without its last byte, the end of the line, all of the record is there.
      const version = length === whole.length - 1 ? 3 : 2
      expect(await store.get(someId), `cut at ${length}`).toMatchObject({ version, key: `key${version}` })
      expect(await store.replace(newRecord({ version: version + 1, key: 'after' }), version)).toBe(true)
      expect(keyOf(await store.get(someId))).toBe('after')
      expect(keyOf(await open().get(someId)), `cut at ${length}, read again`).toBe('after')
    }
    expect(await quarantined()).toEqual([])
  })

  test('leaves the version before it also when a power cut has left its length but not all of its bytes', async () => {
    const path = await writeRecord(3)
    const whole = await readFile(path)
    const start = whole.lastIndexOf(0x1e)
    const sector = Math.ceil(start / 512) * 512
    expect(sector).toBeLessThan(whole.length)
    for (const [from, to] of [
      [start, whole.length],
      [start, sector],
      [sector, whole.length],
    ]) {
      await writeFile(path, Buffer.from(whole).fill(0, from, to))
      const store = open()
      expect(await store.get(someId), `blank from ${from} to ${to}`).toMatchObject({ version: 2, key: 'key2' })
      expect(await store.replace(newRecord({ version: 3, key: 'after' }), 2)).toBe(true)
      expect(keyOf(await store.get(someId))).toBe('after')
      expect(keyOf(await open().get(someId)), `blank from ${from} to ${to}, read again`).toBe('after')
    }
    expect(await quarantined()).toEqual([])
  })

  test('is not waited for by a store that saw it being written', async () => {
    const path = await writeRecord(3)
    const whole = await readFile(path)
    const start = whole.lastIndexOf(0x1e)
    for (let length = start; length <= whole.length; length++) {
      await writeFile(path, whole.subarray(0, length))
      const store = open()
      await store.get(someId)
      await writeFile(path, whole)
      expect(await store.get(someId), `seen up to ${length}`).toMatchObject({ version: 3, key: 'key3' })
      expect(await store.replace(newRecord({ version: 4 }), 3)).toBe(true)
    }
  })

  test('is never taken for the line of somebody who was acknowledged', async () => {
    const path = await writeRecord(2)
    let short = 5
    const store = open({
      fs: interceptedFs((name, proceed, args) => {
        if (name === 'handle.write' && short > 0) args[0] = (args[0] as Buffer).subarray(0, short--)
        return proceed()
      }),
    })
    for (let n = 0; n < 5; n++) {
      await expect(store.replace(newRecord({ version: 3, key: 'torn' }), 2)).rejects.toMatchObject({ status: 507 })
      expect(await open().get(someId)).toMatchObject({ version: 2, key: 'key2' })
    }
    expect(await store.replace(newRecord({ version: 3, key: 'whole' }), 2)).toBe(true)
    expect(keyOf(await open().get(someId))).toBe('whole')
    expect((await readFile(path)).includes('torn')).toBe(false)
  })
})

describe('a damaged byte', () => {
  /** The newest record of these bytes; `null` when they are refused. */
  function newestOf(bytes: Buffer): string | null {
    const journal = new Journal()
    try {
      journal.fold(bytes)
      return journal.json
    } catch {
      return null
    }
  }

  test('never brings an earlier version back, whichever byte becomes whichever other', async () => {
    const bytes = await readFile(await writeRecord(3))
    const newest = newestOf(bytes)
    expect(newest).toContain('key3')
    let refused = 0
    for (const [at, right] of bytes.entries()) {
      for (let wrong = 0; wrong < 256; wrong++) {
        if (wrong === right) continue
        bytes[at] = wrong
        const seen = newestOf(bytes)
        if (seen === null) refused++
        else if (seen !== newest) expect.fail(`byte ${at} as ${wrong} brings back ${seen}`)
      }
      bytes[at] = right
    }
    // The end of a line read as the beginning of a torn one, in each of the three lines, takes nothing away.
    expect(refused).toBe(bytes.length * 255 - 3)
  })

  test('is a 503 for get and replace, keeps the file, puts it in quarantine once and leaves others alone', async () => {
    const path = await writeRecord(3)
    await writeRecord(2, otherId)
    const bytes = await readFile(path)
    for (let at = 0; at < bytes.length; at += 7) {
      bytes[at] = (bytes[at] ?? 0) ^ 1
      await writeFile(path, bytes)
      const store = open()
      await expect(store.get(someId), `byte ${at}`).rejects.toMatchObject(unreadable)
      await expect(store.replace(newRecord({ version: 4 }), 3)).rejects.toMatchObject(unreadable)
      await expect(store.create(newRecord())).rejects.toMatchObject(unreadable)
      bytes[at] = (bytes[at] ?? 0) ^ 1
    }
    expect(await readFile(path)).toHaveLength(bytes.length)
    expect(await quarantined()).toHaveLength(1)
    expect(await open().get(otherId)).toMatchObject({ version: 2 })
    expect(await listed(open())).toContain(otherId)
  })

  test('is found by a store that has read the file before', async () => {
    const path = await writeRecord(2)
    const store = open()
    expect(await store.get(someId)).toMatchObject({ version: 2 })
    const line = encodeLine({ kind: 'r', number: 3, nonce: 'x', json: JSON.stringify(newRecord({ version: 3 })) })
    line[40] = (line[40] ?? 0) ^ 1
    await fs.appendFile(path, line)
    await expect(store.get(someId)).rejects.toMatchObject(unreadable)
    await expect(store.replace(newRecord({ version: 3 }), 2)).rejects.toMatchObject(unreadable)
  })
})

describe('a record that cannot be read', () => {
  const damages: Record<string, (path: string) => Promise<unknown>> = {
    'an empty file': (path) => writeFile(path, ''),
    'a file cut within its first line': async (path) => writeFile(path, (await readFile(path)).subarray(0, 50)),
    'ten megabytes of something else': (path) => writeFile(path, Buffer.alloc(10_000_000, 'x')),
    'a text of another program': (path) => writeFile(path, '{"version":1}\n'),
    'a record of another id': (path) => writeFile(path, lineOf(newRecord({ id: otherId }))),
    'a line that is no record': (path) => writeFile(path, encodeLine({ kind: 'r', number: 1, nonce: 'x', json: '[' })),
    'a version that is missing': async (path) => fs.appendFile(path, lineOf(newRecord({ version: 5 }))),
    'a folder in place of the file': async (path) => {
      await rm(path)
      await mkdir(join(path, 'inner'), { recursive: true })
    },
    'a symbolic link in place of the file': async (path) => {
      await rename(path, `${folder}/elsewhere`)
      await symlink(`${folder}/elsewhere`, path)
    },
    'a file in place of the folder': async () => {
      await rm(join(directory, someId), { recursive: true })
      await writeFile(join(directory, someId), '')
    },
    'a second first file': async (path) => writeFile(join(directory, someId, 'abc.log'), await readFile(path)),
    'a newest file that is missing': async () => {
      const store = open({ journalLimit: 1 })
      for (let version = 2; version < 6; version++) await store.replace(newRecord({ version }), version - 1)
      for (const path of await pathsOf(someId)) if (path.split('.').length > 3) await rm(path)
    },
  }

  for (const [name, damage] of Object.entries(damages)) {
    test(`is a 503 and stays until it is deleted: ${name}`, async () => {
      await writeRecord(1, otherId)
      await damage(await writeRecord(1))
      const store = open()
      for (let n = 0; n < 2; n++) await expect(store.get(someId)).rejects.toMatchObject(unreadable)
      await expect(store.replace(newRecord({ version: 2 }), 1)).rejects.toMatchObject(unreadable)
      expect(await listed(store)).toEqual([otherId])
      expect(await store.countOpen()).toBe(1)
      expect(await fs.pathExists(join(directory, someId))).toBe(true)
      await store.delete(someId)
      expect(await store.get(someId)).toBe(null)
      expect(await store.create(newRecord())).toBe(true)
      expect(await open().get(someId)).toEqual(newRecord())
    })
  }

  test('is refused and never deleted when a newer release wrote it', async () => {
    const newer = { name: 'StorageUnavailableError', code: 'STATE_NEWER', status: 503 }
    const path = await writeRecord(1)
    const contents = [
      lineOf({ ...newRecord(), format: 2 as 1 }),
      Buffer.concat([lineOf(newRecord()), encodeLine({ kind: 'z' as 'r', number: 2, nonce: 'x', json: '{}' })]),
    ]
    for (const content of contents) {
      await writeFile(path, content)
      await expect(open().get(someId)).rejects.toMatchObject(newer)
      await expect(open().replace(newRecord({ version: 2 }), 1)).rejects.toMatchObject(newer)
      await expect(open().delete(someId)).rejects.toMatchObject(newer)
      expect(await readFile(path)).toEqual(content)
    }
    await rename(path, path.replace('.log', '.journal2'))
    await expect(open().get(someId)).rejects.toMatchObject(newer)
    await expect(open().delete(someId)).rejects.toMatchObject(newer)
    expect(await pathsOf(someId)).toEqual([path.replace('.log', '.journal2')])
  })
})

describe('the folder', () => {
  const refused = { name: 'StorageUnavailableError', code: 'STORAGE_UNAVAILABLE', status: 503 }

  test('is private, with everything in it', async () => {
    const store = open({ journalLimit: 1 })
    await store.create(newRecord())
    for (let version = 2; version < 10; version++) await store.replace(newRecord({ version }), version - 1)
    const [first = '', newest = ''] = await pathsOf(someId)
    await writeFile(first, 'damaged')
    await expect(open().get(someId)).rejects.toMatchObject(unreadable)
    const modes = await Promise.all(
      [directory, join(directory, someId), join(directory, 'quarantine'), first, newest].map(async (path) =>
        ((await stat(path)).mode & 0o777).toString(8),
      ),
    )
    expect(modes).toEqual(['700', '700', '700', '600', '600'])
  })

  test('is refused when it is a symbolic link', async () => {
    await mkdir(join(folder, 'real'))
    await symlink(join(folder, 'real'), directory)
    await expect(open().get(someId)).rejects.toMatchObject({
      ...refused,
      cause: { message: expect.stringContaining('link') },
    })
  })

  test('is refused when everybody can write to it, until that is mended', async () => {
    await mkdir(directory)
    await chmod(directory, 0o777)
    const store = open()
    await expect(store.create(newRecord())).rejects.toMatchObject({
      ...refused,
      cause: { message: expect.stringContaining('everybody') },
    })
    await chmod(directory, 0o750)
    expect(await store.create(newRecord())).toBe(true)
  })

  test.skipIf(process.getuid === undefined)("is refused when it is another user's", async () => {
    const store = open({
      fs: interceptedFs(async (name, proceed) => {
        const result = await proceed()
        return name === 'lstat' ? Object.assign(result as object, { uid: (process.getuid?.() ?? 0) + 1 }) : result
      }),
    })
    const cause = { message: expect.stringContaining('belongs to user') }
    await expect(store.get(someId)).rejects.toMatchObject({ ...refused, cause })
    await expect(store.countOpen()).rejects.toMatchObject({ ...refused, cause })
    await expect(listed(store)).rejects.toMatchObject({ ...refused, cause })
  })

  test('that was swapped for an empty one answers no null', async () => {
    await writeRecord(1)
    const store = open()
    expect(await store.get(someId)).not.toBe(null)
    await rename(directory, join(folder, 'unmounted'))
    await mkdir(directory)
    await expect(store.get(someId)).rejects.toMatchObject(refused)
    await expect(store.get(otherId)).rejects.toMatchObject(refused)
    await expect(store.delete(someId)).rejects.toMatchObject(refused)
    await expect(store.countOpen()).rejects.toMatchObject(refused)
    await rm(directory, { recursive: true })
    await rename(join(folder, 'unmounted'), directory)
    expect(await store.get(someId)).toEqual(newRecord())
  })

  test('is made again when a cleaner of temporary files removed it', async () => {
    const store = open()
    expect(await store.countOpen()).toBe(0)
    await rm(directory, { recursive: true })
    expect(await store.countOpen()).toBe(0)
    await rm(directory, { recursive: true })
    expect(await store.create(newRecord())).toBe(true)
    expect(await store.get(otherId)).toBe(null)
    expect(await listed(store)).toEqual([someId])
  })

  test('loses what killed processes left there more than an hour ago, and nothing else', async () => {
    await writeRecord(1)
    const old = new Date(Date.now() - 3_700_000)
    for (const name of ['.new-old', '.new-young', '.old-other', otherId, 'b'.repeat(30), 'notes']) {
      await mkdir(join(directory, name))
      await writeFile(join(directory, name, name === otherId ? 'abc.1.def.log' : 'x.txt'), 'x')
      if (!name.includes('young')) await utimes(join(directory, name), old, old)
    }
    await utimes(join(directory, someId), old, old)
    expect(await listed(open())).toEqual([someId])
    expect((await readdir(directory)).sort()).toEqual(['.new-young', someId, 'b'.repeat(30), 'notes'].sort())
  })

  test('is only given as a path, and the options are checked', () => {
    expect(() => open({ directory: '' })).toThrow(/directory must be the path of a folder, not ""/)
    expect(() => open({ durability: 'disk' as 'power' })).toThrow(/not "disk"/)
  })
})

function lineOf(record: ReturnType<typeof newRecord>): Buffer {
  return encodeLine({ kind: 'r', number: record.version, nonce: 'x', json: JSON.stringify(record) })
}
