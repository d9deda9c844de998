import { rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { dropToken, takeToken } from '../../src/engine/processes.ts'
import { ProcessingError } from '../../src/errors.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { MultipartStorage, StorageAdapter, UploadHooks } from '../../src/types.ts'
import { type engineClient, send, testEngine } from '../support/engine.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const parts = { minPartSize: 50_000, maxPartSize: 10_000_000, maxParts: 1000, partSize: 50_000 }

/** A storage whose next calls of one kind fail. */
class Failing extends MemoryStorageAdapter {
  uploads = 0
  failures = 0

  override async upload(fileKey: string, stream: Readable, mimeType: string): Promise<string> {
    this.uploads += 1
    if (this.failures > 0) {
      this.failures -= 1
      stream.resume()
      throw new Error('secret storage text /private/path')
    }
    return super.upload(fileKey, stream, mimeType)
  }
}

function signal() {
  let give = () => {}
  const given = new Promise<void>((resolve) => {
    give = resolve
  })
  return { given, give }
}

async function uploaded(client: ReturnType<typeof engineClient>, file: Buffer, chunkSize = 50_000) {
  const id = await client.create(file.length, { chunkSize })
  await send('in order', cut(file, chunkSize), (index, data) => client.write(id, index, data))
  return id
}

describe('complete', () => {
  it('names the chunks that are missing, and works when they have come', async () => {
    const { client } = testEngine()
    const file = bytes(500_000)
    const chunks = cut(file, 100_000)
    const id = await client.create(file.length)
    await client.write(id, 0, chunks[0] as Buffer)
    await client.write(id, 3, chunks[3] as Buffer)
    await expect(client.complete(id)).rejects.toMatchObject({
      code: 'UPLOAD_INCOMPLETE',
      status: 409,
      missing: [
        [1, 2],
        [4, 4],
      ],
      details: { receivedBytes: 200_000, totalSize: 500_000 },
    })
    for (const index of [1, 2, 4]) await client.write(id, index, chunks[index] as Buffer)
    await client.complete(id)
  })

  it.each([
    ['nothing', []],
    ['only the first chunk', [0]],
    ['all but the last', [0, 1, 2]],
    ['a hole', [0, 1, 3]],
  ])('never succeeds with %s', async (_name, indexes) => {
    for (const chunkSize of [undefined, 100_000]) {
      const { client, storage } = testEngine()
      const file = bytes(400_000)
      const id = await client.create(file.length, chunkSize === undefined ? {} : { chunkSize })
      for (const index of indexes) await client.write(id, index, cut(file, 100_000)[index] as Buffer)
      await expect(client.complete(id)).rejects.toMatchObject({ status: 409 })
      expect((storage as MemoryStorageAdapter).keys()).toEqual([])
    }
  })

  it('does not truncate when the chunks are smaller than maxChunkSize', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { client } = testEngine({ storage, maxChunkSize: 5_000_000 })
    const file = bytes(1_000_000)
    const id = await client.create(file.length)
    await send('in order', cut(file, 10_000), (index, data) => client.write(id, index, data))
    expect(storage.read((await client.complete(id)).key)?.length).toBe(1_000_000)
  })

  it('gives 25 callers at once one object and one URL', async () => {
    const storage = new Failing({ multipart: false })
    const { client } = testEngine({ storage })
    const id = await uploaded(client, bytes(300_000))
    const results = await Promise.all(Array.from({ length: 25 }, () => client.complete(id)))
    expect(new Set(results.map(({ url }) => url)).size).toBe(1)
    expect(storage.keys()).toHaveLength(1)
    expect(storage.uploads).toBe(1)
  })

  it('gives the same URL after a restart', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    const tempDir = tempFolder()
    const first = testEngine({ storage, tempDir })
    const id = await uploaded(first.client, bytes(300_000))
    const { url } = await first.client.complete(id)
    await first.engine.close()
    const second = testEngine({ storage, tempDir })
    expect((await second.client.complete(id)).url).toBe(url)
    expect(storage.keys()).toHaveLength(1)
  })

  it('gives one object to two engines on one tempDir that complete at once [C06]', async () => {
    const storage = new Failing({ multipart: false })
    const tempDir = tempFolder()
    const a = testEngine({ storage, tempDir })
    const b = testEngine({ storage, tempDir })
    for (let round = 0; round < 10; round++) {
      storage.uploads = 0
      const id = await uploaded(round % 2 ? a.client : b.client, bytes(200_000, round))
      const results = await Promise.all([a.client.complete(id), b.client.complete(id), a.client.complete(id)])
      expect(new Set(results.map(({ url }) => url)).size).toBe(1)
      expect(storage.uploads).toBe(1)
    }
  })

  it('loses nothing when the storage fails, tells nothing of why, and can be repeated', async () => {
    const storage = new Failing({ multipart: false })
    const { client, tempDir } = testEngine({ storage })
    const file = bytes(300_000)
    const id = await uploaded(client, file)
    for (let round = 0; round < 3; round++) {
      storage.failures = 1
      const error = await client.complete(id).catch((reason) => reason)
      expect(error.status).toBeGreaterThanOrEqual(500)
      expect(`${error.message}${error.stack}${JSON.stringify(error)}`).not.toContain('secret')
      expect((await client.get(id)).state).toBe('active')
      expect(await filesBelow(`${tempDir}/staging`)).toEqual([`${id}/part-1`])
    }
    const { key } = await client.complete(id)
    expect(sha256(storage.read(key) ?? '')).toBe(sha256(file))
    expect(storage.keys()).toHaveLength(1)
  })

  it('ends with an error when the storage never answers', async () => {
    const hanging: StorageAdapter = { upload: () => new Promise(() => {}) }
    const { client } = testEngine({ storage: hanging, storageTimeout: 100 })
    const id = await uploaded(client, bytes(100_000))
    await expect(client.complete(id)).rejects.toMatchObject({ code: 'STORAGE_TIMEOUT', status: 504 })
    expect((await client.get(id)).state).toBe('active')
  })

  it('takes over from a completer that died, when its lease has run out', async () => {
    const sessions = new MemorySessionStore()
    let ahead = 0
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { client } = testEngine({ sessions, storage, clock: () => Date.now() + ahead, storageTimeout: 300 })
    const file = bytes(200_000)
    const id = await uploaded(client, file)
    const record = await client.get(id)
    const completing = { by: 'somewhere-else.1.1.0.1', until: Date.now() + 30_000 }
    await sessions.replace({ ...record, version: record.version + 1, state: 'completing', completing }, record.version)
    await expect(client.complete(id)).rejects.toMatchObject({ code: 'UPLOAD_LOCKED', status: 423, retryable: true })
    ahead = 31_000
    expect(sha256(storage.read((await client.complete(id)).key) ?? '')).toBe(sha256(file))
  })

  it('takes over at once from a completer of a process that is known to be dead', async () => {
    const sessions = new MemorySessionStore()
    const { client } = testEngine({ sessions })
    const id = await uploaded(client, bytes(200_000))
    const record = await client.get(id)
    const token = takeToken()
    dropToken(token)
    const completing = { by: token, until: Date.now() + 30_000 }
    await sessions.replace({ ...record, version: record.version + 1, state: 'completing', completing }, record.version)
    expect((await client.complete(id)).size).toBe(200_000)
  })

  it('that was asleep leaves the object alone that another has made, also when the upload is forgotten [C07]', async () => {
    const [sessions, tempDir, storage] = [
      new MemorySessionStore(),
      tempFolder(),
      new MemoryStorageAdapter({ multipart: parts }),
    ]
    const { client: sleepy } = testEngine({ sessions, tempDir, storage })
    const { client, engine } = testEngine({ sessions, tempDir, storage, clock: () => Date.now() + 31_000 })
    const id = await uploaded(sleepy, bytes(150_000))
    const multipart = multipartOf(storage)
    const complete = multipart.complete.bind(multipart)
    const [asleep, awake] = [signal(), signal()]
    multipart.complete = async (...args) => {
      multipart.complete = complete
      asleep.give()
      await awake.given
      return complete(...args)
    }
    const late = expect(sleepy.complete(id)).rejects.toMatchObject({ status: 423 })
    await asleep.given
    const { key } = await client.complete(id)
    await engine.abort({ uploadId: id, protocol: 'native', completed: 'forget' })
    awake.give()
    await late
    expect(storage.keys()).toEqual([key])
  })

  it('that was asleep while another completed answers the same URL [C07]', async () => {
    const [sessions, tempDir] = [new MemorySessionStore(), tempFolder()]
    const storage = new MemoryStorageAdapter({ multipart: parts })
    const { client: sleepy } = testEngine({ sessions, tempDir, storage })
    const { client } = testEngine({ sessions, tempDir, storage, clock: () => Date.now() + 31_000 })
    const id = await uploaded(sleepy, bytes(150_000))
    const multipart = multipartOf(storage)
    const complete = multipart.complete.bind(multipart)
    const [asleep, awake] = [signal(), signal()]
    multipart.complete = async (...args) => {
      multipart.complete = complete
      asleep.give()
      await awake.given
      return complete(...args)
    }
    const late = sleepy.complete(id)
    await asleep.given
    const { url } = await client.complete(id)
    awake.give()
    expect((await late).url).toBe(url)
    expect(storage.keys()).toHaveLength(1)
  })

  it('with a checksum that the stored file was not checked for, or does not have, is no success', async () => {
    const { client } = testEngine()
    const file = bytes(100_000)
    const of = (data: Buffer) => `sha256:${Buffer.from(sha256(data), 'hex').toString('base64')}`
    const unchecked = await uploaded(client, file)
    await client.complete(unchecked)
    await expect(client.complete(unchecked, of(bytes(1)))).rejects.toMatchObject({ code: 'CHECKSUM_TOO_LATE' })
    const checked = await uploaded(client, file)
    await client.complete(checked, of(file))
    await expect(client.complete(checked, of(bytes(1)))).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' })
    expect((await client.complete(checked)).checksum).toBe(of(file))
  })

  it('cuts off a chunk that is still coming in behind the end, before the file is given away', async () => {
    const directory = tempFolder()
    const { client } = testEngine({ storage: new LocalStorageAdapter({ directory }) })
    const id = await client.create(null)
    await client.write(id, 0, bytes(1_000_000))
    const slow = new Readable({ read() {} })
    const late = client.write(id, 1, slow)
    slow.push(bytes(530_000))
    await new Promise((resolve) => setTimeout(resolve, 50))
    const refused = expect(late).rejects.toMatchObject({ status: 409 })
    const { key } = await client.complete(id)
    slow.push(bytes(400_000))
    slow.push(null)
    await refused
    expect((await stat(join(directory, key))).size).toBe(1_000_000)
  })

  it('does not take an older object under the same key for a staged file that was lost', async () => {
    const directory = tempFolder()
    const hooks: UploadHooks = {
      onCreate(draft) {
        draft.key = 'avatars/7.bin'
      },
    }
    const { client, tempDir } = testEngine({ storage: new LocalStorageAdapter({ directory }), hooks })
    await client.complete(await uploaded(client, bytes(100_000, 1)))
    const id = await uploaded(client, bytes(100_000, 2))
    await rm(join(tempDir, 'staging', id, 'part-1'))
    await expect(client.complete(id)).rejects.toMatchObject({ code: 'STAGING_LOST', status: 503 })
  })

  it('refuses chunks that leave a hole between declared places, whatever their sum', async () => {
    const { client } = testEngine()
    const id = await client.create(null, { chunkSize: 10 })
    await client.write(id, 0, bytes(5))
    await client.write(id, 1, bytes(10))
    await expect(client.complete(id)).rejects.toMatchObject({ code: 'SIZE_MISMATCH', status: 409 })
  })
})

describe('parts', () => {
  it('are all in the storage before complete is called, and leave the disk as they go', async () => {
    const storage = new MemoryStorageAdapter({ multipart: parts })
    const { client, tempDir } = testEngine({ storage })
    const file = bytes(500_000)
    const id = await client.create(file.length, { chunkSize: 25_000 })
    await send('shuffled', cut(file, 25_000), (index, data) => client.write(id, index, data))
    await until(async () => (await client.get(id)).sentParts.flat().join() === '1,10')
    await until(async () => !(await filesBelow(`${tempDir}/staging`)).some((name) => name.includes('part-')))
    expect(storage.keys()).toEqual([])
    const { key } = await client.complete(id)
    expect(sha256(storage.read(key) ?? '')).toBe(sha256(file))
  })

  it('that failed are sent again, and the upload goes on meanwhile', async () => {
    const storage = new MemoryStorageAdapter({ multipart: parts })
    const { client, engine } = testEngine({ storage })
    let failures = 3
    const multipart = multipartOf(storage)
    const original = multipart.uploadPart.bind(multipart)
    const told: unknown[] = []
    engine.events.on('storageError', (event) => told.push(event))
    multipart.uploadPart = async (...args) => {
      if (failures-- > 0) throw new Error('503')
      return original(...args)
    }
    const file = bytes(500_000)
    const id = await uploaded(client, file)
    let object = await client.complete(id).catch((error) => error)
    for (let retry = 0; retry < 3 && object.retryable; retry++)
      object = await client.complete(id).catch((error) => error)
    expect(sha256(storage.read(object.key) ?? '')).toBe(sha256(file))
    expect(told.length).toBeGreaterThan(0)
  })

  it('that the storage lost together with our copy end the upload with 410, never with a success', async () => {
    const storage = new MemoryStorageAdapter({ multipart: parts })
    const { client } = testEngine({ storage })
    const id = await uploaded(client, bytes(500_000))
    await until(async () => (await client.get(id)).sentParts.flat().join() === '1,10')
    const { key, multipartId } = await client.get(id)
    await multipartOf(storage).abort({ fileKey: key, multipartId })
    await expect(client.complete(id)).rejects.toMatchObject({ status: 410 })
    await expect(client.complete(id)).rejects.toMatchObject({ status: 410 })
    expect(storage.keys()).toEqual([])
  })

  it('begin anew when the storage dropped the upload before it had any', async () => {
    const storage = new MemoryStorageAdapter({ multipart: parts })
    const { client } = testEngine({ storage })
    const multipart = multipartOf(storage)
    const create = multipart.create.bind(multipart)
    let dropped = false
    multipart.create = async (fileKey, info) => {
      const multipartId = await create(fileKey, info)
      if (!dropped) await multipart.abort({ fileKey, multipartId })
      dropped = true
      return multipartId
    }
    const file = bytes(300_000)
    const id = await uploaded(client, file)
    const object = await client.complete(id).catch(() => client.complete(id))
    expect(sha256(storage.read(object.key) ?? '')).toBe(sha256(file))
  })

  it('slow the client down when the storage is slower', async () => {
    const storage = new MemoryStorageAdapter({ multipart: parts })
    const { client, tempDir } = testEngine({ storage, partConcurrency: 2 })
    const multipart = multipartOf(storage)
    const original = multipart.uploadPart.bind(multipart)
    multipart.uploadPart = async (...args) => {
      await new Promise((resolve) => setTimeout(resolve, 60))
      return original(...args)
    }
    const file = bytes(2_000_000)
    const id = await client.create(file.length, { chunkSize: 50_000 })
    let most = 0
    await send('in order', cut(file, 50_000), async (index, data) => {
      await client.write(id, index, data)
      most = Math.max(most, (await filesBelow(`${tempDir}/staging`)).filter((name) => name.includes('part-')).length)
    })
    expect(most).toBeLessThanOrEqual(11)
    expect(sha256(storage.read((await client.complete(id)).key) ?? '')).toBe(sha256(file))
  })
})

describe('hooks', () => {
  it('onComplete is repeated after it failed, and the object is stored once [C05]', async () => {
    let calls = 0
    const ids = new Set<string>()
    const hooks: UploadHooks = {
      onComplete(session) {
        ids.add(session.id)
        calls += 1
        if (calls < 3) throw new Error('database down')
      },
    }
    const storage = new Failing({ multipart: false })
    const { client } = testEngine({ storage, hooks })
    const id = await uploaded(client, bytes(100_000))
    await expect(client.complete(id)).rejects.toMatchObject({ status: 503, code: 'COMPLETION_HOOK_FAILED' })
    await expect(client.complete(id)).rejects.toMatchObject({ status: 503, retryable: true })
    await client.complete(id)
    expect([calls, ids.size, storage.uploads]).toEqual([3, 1, 1])
  })

  it('onComplete can refuse the file: it is removed, the client is told, a retry does not help', async () => {
    const hooks: UploadHooks = {
      onComplete() {
        throw new ProcessingError('The picture is broken.')
      },
    }
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { client } = testEngine({ storage, hooks })
    const id = await uploaded(client, bytes(100_000))
    await expect(client.complete(id)).rejects.toMatchObject({ status: 422, message: 'The picture is broken.' })
    expect(storage.keys()).toEqual([])
    await expect(client.complete(id)).rejects.toMatchObject({ status: 422, message: 'The picture is broken.' })
    await expect(client.write(id, 0, bytes(5))).rejects.toMatchObject({ status: 422 })
    await expect(client.get(id)).rejects.toMatchObject({ status: 410, details: { refusal: { status: 422 } } })
  })

  it('onComplete of a completer that lost its lease cannot remove the file [C05]', async () => {
    const sessions = new MemorySessionStore()
    const storage = new MemoryStorageAdapter({ multipart: false })
    const hooks: UploadHooks = {
      async onComplete(session) {
        const record = await sessions.get(session.id)
        if (record?.kind !== 'upload') return
        const next = {
          ...record,
          version: record.version + 1,
          completing: { by: 'another', until: Date.now() + 60_000 },
        }
        await sessions.replace(next, record.version)
        throw new ProcessingError('already registered')
      },
    }
    const { client } = testEngine({ sessions, storage, hooks })
    const id = await uploaded(client, bytes(100_000))
    await expect(client.complete(id)).rejects.toMatchObject({ code: 'UPLOAD_LOCKED' })
    expect(storage.keys()).toHaveLength(1)
  })

  it('a refused file that cannot be removed at once is removed by the sweeper', async () => {
    let ahead = 0
    const storage = new MemoryStorageAdapter({ multipart: false })
    const remove = storage.remove.bind(storage)
    storage.remove = async () => {
      throw new Error('503')
    }
    const hooks: UploadHooks = {
      onComplete() {
        throw new ProcessingError('No.')
      },
    }
    const { client, engine } = testEngine({ storage, hooks, clock: () => Date.now() + ahead })
    const id = await uploaded(client, bytes(100_000))
    await expect(client.complete(id)).rejects.toMatchObject({ status: 422 })
    await expect(client.get(id)).rejects.toMatchObject({ status: 410 })
    storage.remove = remove
    ahead = 2 * 60 * 60_000
    await engine.sweep()
    expect(storage.keys()).toEqual([])
  })

  it('onCreate can choose the key, and cannot choose one outside', async () => {
    let key = 'people/7/avatar.png'
    const hooks: UploadHooks = {
      onCreate(draft) {
        draft.key = key
      },
    }
    const { client } = testEngine({ hooks })
    const id = await client.create(0)
    expect((await client.complete(id)).key).toBe('people/7/avatar.png')
    for (key of [
      '../x',
      '/x',
      'a//b',
      'a/../b',
      'a\\b',
      'a/./b',
      '',
      'a\0b',
      'c:x',
      '.nexus-uploader/x',
      `a/${'x'.repeat(256)}`,
    ]) {
      await expect(client.create(0)).rejects.toMatchObject({ code: 'INVALID_KEY' })
    }
  })

  it('authorize hides an upload, and what it throws refuses it', async () => {
    let verdict: () => boolean = () => true
    const { client } = testEngine({ hooks: { authorize: () => verdict() } })
    const id = await client.create(5)
    verdict = () => false
    for (const call of [
      () => client.get(id),
      () => client.write(id, 0, bytes(5)),
      () => client.complete(id),
      () => client.abort(id),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND', status: 404 })
    }
    verdict = () => {
      throw new Error('policy service is down')
    }
    await expect(client.write(id, 0, bytes(5))).rejects.toThrow()
    verdict = () => true
    expect((await client.get(id)).chunks).toEqual([])
  })
})

describe('abort', () => {
  it('removes everything, cuts writers, and is repeatable [C04]', async () => {
    const storage = new MemoryStorageAdapter({ multipart: parts })
    const { client, tempDir } = testEngine({ storage })
    const id = await uploaded(client, bytes(300_000))
    await client.abort(id)
    await client.abort(id)
    expect(await filesBelow(`${tempDir}/staging`)).toEqual([])
    expect(storage.openMultipartUploads()).toEqual([])
    await expect(client.write(id, 0, bytes(5))).rejects.toMatchObject({ code: 'UPLOAD_ABORTED', status: 410 })
    await expect(client.complete(id)).rejects.toMatchObject({ code: 'UPLOAD_ABORTED', status: 410 })
  })

  it('of a completed upload is refused and leaves the file alone', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { client } = testEngine({ storage })
    const id = await uploaded(client, bytes(100_000))
    const { key } = await client.complete(id)
    await expect(client.abort(id)).rejects.toMatchObject({ code: 'UPLOAD_CLOSED', status: 409 })
    expect(storage.read(key)).toBeDefined()
  })
})

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 400; i++) {
    if (await condition()) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  throw new Error('it did not happen within 4 s')
}

function multipartOf(storage: MemoryStorageAdapter): MultipartStorage {
  if (!storage.multipart) throw new Error('this storage was to take parts')
  return storage.multipart
}
