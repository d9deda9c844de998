import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import express from 'express'
import fs from 'fs-extra'
import request from 'supertest'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { LocalStorageError } from '../../src/errors.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { infoOf, makeSandbox, mime, modeOf, stageBytes, storeBytes, tree } from '../support/local-sandbox.ts'

let sandbox: string
let directory: string
let adapter: LocalStorageAdapter
let cleanup: () => Promise<void>

beforeEach(async () => {
  const made = await makeSandbox()
  sandbox = made.folder
  directory = made.directory
  cleanup = made.remove
  adapter = new LocalStorageAdapter({ directory })
})
afterEach(() => cleanup())

const store = (key: string, bytes?: string | Buffer, size?: number | null) => storeBytes(adapter, key, bytes, size)
const stage = (bytes: string | Buffer, folder = adapter.stagingDir) => stageBytes(folder, bytes)

describe('upload', () => {
  test('a stream of the wrong length leaves no file and no temporary file', async () => {
    for (const size of [4, 6]) {
      await expect(store('folder/x', 'bytes', size)).rejects.toMatchObject({ name: 'LocalStorageError', status: 502 })
    }
    expect(await tree(directory)).toEqual(['/.nexus-uploader/', '/folder/'])
  })

  test('a long stream is refused before all of it was read', async () => {
    let read = 0
    const endless = new Readable({
      read() {
        read += 65_536
        this.push(Buffer.alloc(65_536))
      },
    })
    await expect(adapter.upload('x', endless, mime, infoOf(100_000))).rejects.toBeInstanceOf(LocalStorageError)
    expect(read).toBeLessThan(1_000_000)
    expect(endless.destroyed).toBe(true)
  })

  test('the file appears only when it is whole', async () => {
    await store('x', 'old')
    const stream = new Readable({ read() {} })
    const upload = adapter.upload('x', stream, mime, infoOf(null))
    stream.push(Buffer.alloc(3_000_000, 'n'))
    while ((await tree(directory)).length < 3) await new Promise((resolve) => setTimeout(resolve, 5))
    expect(await readFile(join(directory, 'x'), 'utf8')).toBe('old')
    stream.push(null)
    await upload
    expect((await stat(join(directory, 'x'))).size).toBe(3_000_000)
    expect(await readdir(adapter.stagingDir)).toEqual([])
  })

  test('an aborted upload rejects with the reason of its signal and leaves nothing', async () => {
    const reason = new Error('the client is gone')
    const stream = new Readable({ read() {} })
    stream.push('half')
    const abort = new AbortController()
    const upload = adapter.upload('x', stream, mime, infoOf(null, { signal: abort.signal }))
    setTimeout(() => abort.abort(reason), 30)
    await expect(upload).rejects.toBe(reason)
    expect(stream.destroyed).toBe(true)
    expect(await tree(directory)).toEqual(['/.nexus-uploader/'])
  })

  test('a stream that failed before the call is a rejection, not the end of the process', async () => {
    const stream = new Readable({ read() {} })
    stream.destroy(new Error('gone'))
    await expect(adapter.upload('x', stream, mime)).rejects.toMatchObject({ cause: expect.anything() })
  })

  test('the source is destroyed when the key is refused', async () => {
    const stream = new Readable({ read() {} })
    await expect(adapter.upload('../x', stream, mime)).rejects.toBeInstanceOf(LocalStorageError)
    expect(stream.destroyed).toBe(true)
  })

  test('an error of this library that the source fails with is not wrapped, other errors become the cause', async () => {
    const ours = new LocalStorageError('ours', { code: 'OURS' })
    const failing = (error: Error) =>
      new Readable({
        read() {
          this.destroy(error)
        },
      })
    await expect(adapter.upload('x', failing(ours), mime)).rejects.toBe(ours)
    const other = new Error('other')
    await expect(adapter.upload('x', failing(other), mime)).rejects.toMatchObject({
      name: 'LocalStorageError',
      cause: other,
    })
  })

  test('temporary files of killed processes are removed after a day, nothing else is', async () => {
    await mkdir(join(adapter.stagingDir, 'staging'), { recursive: true })
    const longAgo = Date.now() / 1000 - 25 * 60 * 60
    for (const name of ['store-old.tmp', 'store-new.tmp', 'engine-old.tmp']) {
      await writeFile(join(adapter.stagingDir, name), '')
      if (name !== 'store-new.tmp') await utimes(join(adapter.stagingDir, name), longAgo, longAgo)
    }
    await store('x')
    expect((await readdir(adapter.stagingDir)).sort()).toEqual(['engine-old.tmp', 'staging', 'store-new.tmp'])
  })
})

describe('adoptFile', () => {
  test('on one file system it renames: the file keeps its inode', async () => {
    const staged = await stage('bytes')
    const { ino } = await stat(staged)
    expect(await adapter.adoptFile('a/b/c', staged, infoOf(5))).toBe('/a/b/c')
    expect((await stat(join(directory, 'a/b/c'))).ino).toBe(ino)
  })

  test('two calls at once answer the same URL', async () => {
    const staged = await stage('bytes')
    const urls = await Promise.all([1, 2, 3].map(() => adapter.adoptFile('a/x', staged, infoOf(5))))
    expect(urls).toEqual(['/a/x', '/a/x', '/a/x'])
  })

  test('a staged file of another size is refused and stays where it is', async () => {
    const staged = await stage('bytes')
    await expect(adapter.adoptFile('x', staged, infoOf(6))).rejects.toBeInstanceOf(LocalStorageError)
    expect(await tree(directory)).toEqual(['/.nexus-uploader/', staged.slice(directory.length)])
  })

  test('a link or a folder is not adopted', async () => {
    const link = join(sandbox, 'link')
    await symlink(await stage('bytes'), link)
    await expect(adapter.adoptFile('x', link, infoOf(null))).rejects.toBeInstanceOf(LocalStorageError)
    await expect(adapter.adoptFile('x', sandbox, infoOf(null))).rejects.toBeInstanceOf(LocalStorageError)
    await expect(stat(join(directory, 'x'))).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('without a size nobody can tell whether it was adopted before', async () => {
    await store('x')
    await expect(adapter.adoptFile('x', join(sandbox, 'gone'), infoOf(null))).rejects.toBeInstanceOf(LocalStorageError)
  })

  test('an aborted call changes nothing', async () => {
    const staged = await stage('bytes')
    await expect(adapter.adoptFile('x', staged, infoOf(5, { signal: AbortSignal.abort() }))).rejects.toThrow(/abort/)
    expect(await readFile(staged, 'utf8')).toBe('bytes')
  })

  const memoryDisk = '/dev/shm'
  const secondDisk = fs.existsSync(memoryDisk) && fs.statSync(memoryDisk).dev !== fs.statSync(tmpdir()).dev
  // Without a second file system the same is tested with an injected EXDEV, in local-storage-faults.test.ts.
  describe.runIf(secondDisk)('from another file system', () => {
    let elsewhere: string
    beforeEach(async () => {
      elsewhere = await mkdtemp(join(memoryDisk, 'staged-'))
    })
    afterEach(() => fs.remove(elsewhere))

    test('the bytes are copied whole, the staged file is gone, nothing temporary stays', async () => {
      const bytes = randomBytes(3_000_001)
      const staged = await stage(bytes, elsewhere)
      expect(await adapter.adoptFile('a/x', staged, infoOf(bytes.length))).toBe('/a/x')
      expect((await readFile(join(directory, 'a/x'))).equals(bytes)).toBe(true)
      expect(await tree(directory)).toEqual(['/a/', '/a/x'])
      expect(await readdir(elsewhere)).toEqual([])
      expect(await adapter.adoptFile('a/x', staged, infoOf(bytes.length))).toBe('/a/x')
      expect(await modeOf(join(directory, 'a/x'))).toBe('600')
    })

    test('an abort in the middle of the copy leaves the staged file and no object', async () => {
      const staged = await stage(Buffer.alloc(200_000_000), elsewhere)
      const abort = new AbortController()
      const adopting = adapter.adoptFile('x', staged, infoOf(200_000_000, { signal: abort.signal }))
      const outcome = expect(adopting).rejects.toThrow(/abort/)
      while ((await tree(sandbox)).length < 2) await new Promise((resolve) => setTimeout(resolve, 1))
      abort.abort()
      await outcome
      expect(await tree(directory)).toEqual([])
      expect(await readdir(elsewhere)).toHaveLength(1)
    })
  })
})

describe('remove', () => {
  test('a key below a missing folder or below a file is no error, a folder is one', async () => {
    await adapter.remove('nothing/here')
    await store('folder/file')
    await adapter.remove('nothing/here')
    await adapter.remove('folder/file/below')
    await expect(adapter.remove('folder')).rejects.toMatchObject({ name: 'LocalStorageError', status: 502 })
    expect(await readFile(join(directory, 'folder/file'), 'utf8')).toBe('bytes')
  })
})

describe('permissions', () => {
  test('files are 0600 and folders 0700 unless asked otherwise', async () => {
    await store('a/b/x')
    expect(await modeOf(join(directory, 'a/b/x'))).toBe('600')
    for (const folder of ['', 'a', 'a/b', '.nexus-uploader']) expect(await modeOf(join(directory, folder))).toBe('700')
  })

  test('fileMode and directoryMode hold for stored and adopted files, whatever the umask; staging stays private', async () => {
    adapter = new LocalStorageAdapter({ directory, fileMode: 0o644, directoryMode: 0o755 })
    await mkdir(directory, { mode: 0o755 })
    const umask = process.umask(0o077)
    try {
      await store('a/x')
      await adapter.adoptFile('b/y', await stage('bytes'), infoOf(5))
    } finally {
      process.umask(umask)
    }
    for (const file of ['a/x', 'b/y']) expect(await modeOf(join(directory, file))).toBe('644')
    for (const folder of ['a', 'b']) expect(await modeOf(join(directory, folder))).toBe('755')
    expect(await modeOf(adapter.stagingDir)).toBe('700')
  })

  test('express.static does not serve the staging folder', async () => {
    await store('a/x')
    await writeFile(join(adapter.stagingDir, 'half'), 'half')
    const app = express().use(express.static(directory))
    await request(app).get('/a/x').expect(200)
    await request(app).get('/.nexus-uploader/half').expect(404)
  })
})

describe('URLs', () => {
  test.each([
    [undefined, '/a%20b/%C3%BC%23%3F%25.txt'],
    ['/', '/a%20b/%C3%BC%23%3F%25.txt'],
    ['/files/', '/files/a%20b/%C3%BC%23%3F%25.txt'],
    ['https://example.com//', 'https://example.com/a%20b/%C3%BC%23%3F%25.txt'],
  ])('with baseUrl %j the URL is %s', async (baseUrl, url) => {
    adapter = new LocalStorageAdapter({ directory, ...(baseUrl !== undefined && { baseUrl }) })
    expect(await store('a b/ü#?%.txt')).toBe(url)
  })
})

describe('errors', () => {
  test('no message, stack or JSON of an error holds a path; the cause does', async () => {
    await store('file')
    await store('folder/x')
    const failures = [
      store('file/x'),
      store('folder'),
      store(`${'long'.repeat(100)}/x`),
      store('wrong-size', 'bytes', 4),
      adapter.adoptFile('x', join(sandbox, 'gone'), infoOf(5)),
      adapter.adoptFile('x', sandbox, infoOf(5)),
      adapter.upload('x', fs.createReadStream(join(sandbox, 'gone')), mime),
      adapter.remove('folder'),
      store('../x'),
    ]
    for (const failure of await Promise.allSettled(failures)) {
      const error = failure.status === 'rejected' ? failure.reason : null
      expect(error).toBeInstanceOf(LocalStorageError)
      expect(`${error.message} ${error.stack} ${JSON.stringify(error)} ${error}`).not.toContain(tmpdir())
    }
    const missing = await adapter.adoptFile('x', join(sandbox, 'gone'), infoOf(5)).catch((error) => error)
    expect(missing.cause).toMatchObject({ code: 'ENOENT' })
    expect((await readdir(adapter.stagingDir)).length).toBe(0)
  })

  // Where nothing can be mounted the same is tested with injected errors, in local-storage-faults.test.ts.
  test.runIf(canMount())('a full disk is 507 and leaves nothing behind', async () => {
    await mkdir(directory)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', directory])
    try {
      await store('old', 'old')
      await expect(store('old', randomBytes(3_000_000))).rejects.toMatchObject({ status: 507, retryAfter: 30 })
      const staged = await stage(randomBytes(3_000_000), sandbox)
      await expect(adapter.adoptFile('new', staged, infoOf(3_000_000))).rejects.toMatchObject({ status: 507 })
      expect(await tree(directory)).toEqual(['/.nexus-uploader/', '/old'])
      expect(await readFile(join(directory, 'old'), 'utf8')).toBe('old')
      expect((await stat(staged)).size).toBe(3_000_000)
      await store('after', Buffer.alloc(500_000))
    } finally {
      execFileSync('umount', [directory])
    }
  })

  test.each([
    [{}, /directory must be.*undefined/],
    [{ directory: '' }, /directory must be.*''/],
    [{ directory: 7 }, /directory must be.*7/],
    [{ directory: 'x', baseUrl: 'https://a/?b' }, /baseUrl must be.*https:\/\/a\/\?b/],
    [{ directory: 'x', baseUrl: null }, /baseUrl must be.*null/],
    [{ directory: 'x', durability: 'fast' }, /durability must be.*'fast'/],
    [{ directory: 'x', fileMode: 0o444 }, /fileMode must.*0o444/],
    [{ directory: 'x', fileMode: '644' }, /fileMode must.*'644'/],
    [{ directory: 'x', directoryMode: 0o600 }, /directoryMode must.*0o600/],
    [{ directory: 'x', directoryMode: 0o1755 }, /directoryMode must.*0o1755/],
  ])('the options %j are refused with the value', (options, message) => {
    expect(() => Reflect.construct(LocalStorageAdapter, [options])).toThrow(TypeError)
    expect(() => Reflect.construct(LocalStorageAdapter, [options])).toThrow(message)
  })
})

function canMount(): boolean {
  const folder = fs.mkdtempSync(join(tmpdir(), 'mount-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder], { stdio: 'ignore' })
    execFileSync('umount', [folder])
    return true
  } catch {
    return false
  } finally {
    fs.rmdirSync(folder)
  }
}
