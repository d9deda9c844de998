/** How a whole upload gets into the storage as one object: what is given to the storage, and what becomes of its answer. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { appendFile, readFile, rm, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { Claims } from '../../src/engine/claims.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { ObjectInfo, PartBody, StorageAdapter, UploadHooks, UploadSession } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'
import { bytes, cut } from '../support/random.ts'
import { sharedNodes, sharedStorage } from '../support/shared-nodes.ts'

const file = bytes(1_000)
const sum = (algorithm: string, data = file) => `${algorithm}:${createHash(algorithm).update(data).digest('base64')}`

afterEach(() => {
  vi.restoreAllMocks()
})

/** Takes over files; fails before or after that as often as it is told. */
class Adopting implements StorageAdapter {
  readonly given: { path: string; wasThere: boolean; info: ObjectInfo }[] = []
  readonly objects = new Map<string, Buffer>()
  before = 0
  after = 0

  async upload(): Promise<string> {
    throw new Error('not needed')
  }

  async adoptFile(key: string, path: string, info: ObjectInfo): Promise<string> {
    this.given.push({ path, wasThere: existsSync(path), info })
    if (this.before-- > 0) throw new Error('before')
    // As a storage does that may have taken over the file already.
    if (existsSync(path)) {
      this.objects.set(key, await readFile(path))
      await rm(path)
    }
    if (this.after-- > 0) throw new Error('after')
    return `file://${key}`
  }
}

async function uploaded(
  storage: StorageAdapter,
  options: { hooks?: UploadHooks; storageTimeout?: number } = {},
  data: Buffer = file,
  checksum?: string,
) {
  const sessions = new MemorySessionStore()
  const { engine, client, tempDir } = testEngine({ storage, sessions, ...options })
  const events: unknown[] = []
  engine.events.on('storageError', (event) => events.push(event))
  const id = await client.create(data.length, checksum === undefined ? {} : { checksum })
  if (data.length > 0) await client.write(id, 0, data)
  const record = async () => (await sessions.get(id)) as UploadSession
  const change = async (fields: Partial<UploadSession>) => {
    const current = await record()
    await sessions.replace({ ...current, ...fields, version: current.version + 1 }, current.version)
  }
  const folder = join(tempDir, 'staging', id)
  const complete = (asked?: string) => client.complete(id, asked)
  return { engine, client, id, record, change, events, folder, complete, part: join(folder, 'part-1') }
}

/** The patience of a minute is over in a moment. */
function hurry() {
  const now = performance.now.bind(performance)
  const start = now()
  vi.spyOn(performance, 'now').mockImplementation(() => start + (now() - start) * 1_000)
}

describe('a file that a storage takes over', () => {
  it('is given with what is known of it, and the record says that it was given away', async () => {
    const storage = new Adopting()
    storage.before = 1
    const { complete, record, part, id } = await uploaded(storage)
    expect((await record()).handedOver).toBe(false)
    await expect(complete()).rejects.toMatchObject({ status: 502 })
    expect(await record()).toMatchObject({ handedOver: true, state: 'active' })
    const { key } = await complete()
    expect(storage.objects.get(key)?.equals(file)).toBe(true)
    const info = { size: 1_000, fileName: 'file.bin', uploadId: id }
    expect(storage.given).toMatchObject([
      { path: part, wasThere: true, info },
      { path: part, wasThere: true, info },
    ])
  })

  it('was not given away when the storage only takes streams', async () => {
    const { complete, record } = await uploaded(new MemoryStorageAdapter({ multipart: false }))
    await complete()
    expect((await record()).handedOver).toBe(false)
  })

  it('keeps the checksum that was verified for the tries after one that asked for none', async () => {
    const storage = new Adopting()
    storage.before = 1
    storage.after = 1
    const { complete, record } = await uploaded(storage)
    await expect(complete(sum('sha256'))).rejects.toMatchObject({ status: 502 })
    await expect(complete()).rejects.toMatchObject({ status: 502 })
    expect((await record()).verified).toBe(sum('sha256'))
    expect(await complete(sum('sha256'))).toMatchObject({ checksum: sum('sha256') })
    expect(storage.given.map(({ wasThere }) => wasThere)).toEqual([true, true, false])
  })

  it('and is gone keeps what was verified also when a try asks for what it was created with', async () => {
    const storage = new Adopting()
    storage.after = 2
    const { complete } = await uploaded(storage, {}, file, sum('md5'))
    await expect(complete(sum('sha256'))).rejects.toMatchObject({ status: 502 })
    await expect(complete()).rejects.toMatchObject({ status: 502 })
    await expect(complete(sum('sha1'))).rejects.toMatchObject({ code: 'CHECKSUM_TOO_LATE' })
    expect(await complete(sum('sha256'))).toMatchObject({ checksum: sum('sha256') })
  })

  it('is not made anew when it was empty and has been given away', async () => {
    const storage = new Adopting()
    storage.after = 1
    const { complete } = await uploaded(storage, {}, Buffer.alloc(0))
    await expect(complete()).rejects.toMatchObject({ status: 502 })
    const { key } = await complete()
    expect(storage.given.map(({ wasThere }) => wasThere)).toEqual([true, false])
    expect(storage.objects.get(key)).toEqual(Buffer.alloc(0))
  })

  it('is not waited for without end', async () => {
    const storage = new Adopting()
    storage.adoptFile = () => new Promise<never>(() => {})
    const { complete, record } = await uploaded(storage, { storageTimeout: 30 })
    await expect(complete()).rejects.toMatchObject({ code: 'STORAGE_TIMEOUT', status: 504 })
    expect((await record()).state).toBe('active')
  })
})

describe('the staged file', () => {
  it('becomes the object up to its end, whatever lies behind that', async () => {
    for (const checksum of [undefined, sum('sha256')]) {
      const storage = new MemoryStorageAdapter({ multipart: false })
      const { complete, part } = await uploaded(storage)
      await appendFile(part, 'of a writer who came too late')
      expect(storage.read((await complete(checksum)).key)?.equals(file)).toBe(true)
    }
  })

  it('that lacks a byte is lost, and nothing is given to the storage', async () => {
    for (const storage of [new MemoryStorageAdapter({ multipart: false }), new Adopting()]) {
      const { complete, part, record } = await uploaded(storage)
      await truncate(part, 999)
      await expect(complete()).rejects.toMatchObject({ code: 'STAGING_LOST', status: 503 })
      expect(await record()).toMatchObject({ state: 'active', handedOver: false, object: null })
      if (storage instanceof Adopting) expect(storage.given).toEqual([])
    }
  })

  it('that lacks a byte is lost also when it was to be given away before', async () => {
    const storage = new Adopting()
    storage.before = 1
    const { complete, part } = await uploaded(storage)
    await expect(complete()).rejects.toMatchObject({ status: 502 })
    await truncate(part, 999)
    await expect(complete()).rejects.toMatchObject({ code: 'STAGING_LOST' })
    expect(storage.given).toHaveLength(1)
  })

  it('is left alone while another process holds bytes of it', async () => {
    const storage = new Adopting()
    const { complete, folder, id, record } = await uploaded(storage)
    const claim = await new Claims(() => join(folder, 'claims')).claim(id, { start: 5_000, end: 5_001 })
    hurry()
    await expect(complete()).rejects.toMatchObject({ code: 'UPLOAD_LOCKED', status: 423 })
    expect(storage.given).toEqual([])
    expect((await record()).state).toBe('active')
    await claim?.release()
    expect((await complete()).size).toBe(1_000)
  })

  it('is not given to the storage by who has lost the upload meanwhile', async () => {
    const wide = new MemoryStorageAdapter({ multipart: { minPartSize: 100, partSize: 300 } })
    for (const storage of [new MemoryStorageAdapter({ multipart: false }), new Adopting(), wide]) {
      const theirs = { by: 'another.1.1.0.1.00', until: Date.now() + 20_000 }
      const at: { change?: (fields: Partial<UploadSession>) => Promise<void> } = {}
      const hooks: UploadHooks = { onFirstBytes: () => at.change?.({ completing: theirs }) }
      const { change, complete, record } = await uploaded(
        storage,
        { hooks },
        Buffer.concat([file, file]),
        sum('md5', Buffer.concat([file, file])),
      )
      at.change = async (fields) => {
        if ((await record()).state === 'completing') await change(fields)
      }
      // The first look was before the completion; the record forgets it.
      await change({ beginnings: 1 })
      await expect(complete()).rejects.toMatchObject({ code: 'UPLOAD_LOCKED' })
      expect(await record()).toMatchObject({ state: 'completing', completing: theirs })
      if (storage instanceof Adopting) expect(storage.given).toEqual([])
      else expect(storage.keys()).toEqual([])
    }
  })
})

describe('the answer of a storage', () => {
  it('must be a URL; else the upload stays as it was', async () => {
    for (const answer of ['', undefined, null, 7, {}]) {
      const memory = new MemoryStorageAdapter({ multipart: false })
      const storage: StorageAdapter = { upload: async () => answer as never }
      const { complete, record, events, id } = await uploaded(storage)
      const error = await complete().catch((cause) => cause)
      expect(error).toMatchObject({ status: 502, message: 'The storage returned no URL.' })
      expect(events).toEqual([{ uploadId: id, operation: 'complete', error }])
      expect(await record()).toMatchObject({ state: 'active', object: null })
      storage.upload = (...object) => memory.upload(...object)
      expect((await complete()).size).toBe(1_000)
    }
  })

  it('that is an error of any kind is its failure, told once, with the cause', async () => {
    const failure = new Error('disk 7 is on fire')
    const { complete, events, id } = await uploaded({ upload: () => Promise.reject(failure) })
    const error = await complete().catch((cause) => cause)
    expect(error).toMatchObject({ status: 502, retryable: true, cause: failure })
    expect(error.message).not.toContain('fire')
    expect(events).toEqual([{ uploadId: id, operation: 'complete', error: failure }])
  })

  it('that never comes gets no bytes any more, from whatever it has opened or opens yet', async () => {
    const given: { body: PartBody; stream: Readable }[] = []
    const storage: StorageAdapter = {
      upload: () => Promise.reject(new Error('not needed')),
      uploadBody: (_key, body) => {
        given.push({ body, stream: body.open() })
        return new Promise(() => {})
      },
    }
    const { complete, record } = await uploaded(storage, { storageTimeout: 100 })
    expect(await complete().catch((cause) => cause)).toMatchObject({ code: 'STORAGE_TIMEOUT' })
    expect(given.map(({ stream }) => stream.destroyed)).toEqual([true])
    expect(() => given[0]?.body.open()).toThrow()
    expect(await record()).toMatchObject({ state: 'active', object: null })
  })

  it('may come although a stream failed to which nobody listened yet', async () => {
    const storage: StorageAdapter = {
      upload: () => Promise.reject(new Error('not needed')),
      uploadBody: async (_key, body) => {
        const stream = body.open()
        expect(stream.listenerCount('error')).toBe(1)
        stream.destroy(new Error('the disk failed'))
        await pause(10)
        return 'url'
      },
    }
    const { complete } = await uploaded(storage)
    expect(await complete()).toMatchObject({ url: 'url' })
  })

  it('ends what it was given to read, and a call that takes too long', async () => {
    const uploads: { stream: Readable; info: ObjectInfo | undefined }[] = []
    const keep = (answer: () => Promise<string>): StorageAdapter['upload'] => {
      return (_key, stream, _type, info) => {
        uploads.push({ stream, info })
        return answer()
      }
    }
    const answers = [
      { answer: async () => 'url', storageTimeout: 5_000 },
      { answer: () => Promise.reject(new Error('no')), storageTimeout: 5_000 },
      { answer: () => new Promise<never>(() => {}), storageTimeout: 400 },
    ]
    for (const { answer, storageTimeout } of answers) {
      const disk = await uploaded({ upload: keep(answer) }, { storageTimeout })
      const tight = await uploaded({ upload: keep(answer) }, { storageTimeout })
      // As when it was opened while files had to be smaller.
      await tight.change({ partSize: 999 })
      const memory = sharedStorage()
      memory.upload = keep(answer)
      const { nodes } = sharedNodes(1, memory, { storageTimeout })
      const node = nodes[0]?.client as (typeof nodes)[0]['client']
      const id = await node.create(file.length)
      await node.write(id, 0, file)
      await Promise.allSettled([disk.complete(), tight.complete(), node.complete(id)])
    }
    expect(uploads).toHaveLength(9)
    await pause(0)
    expect(uploads.map(({ stream }) => stream.destroyed)).toEqual(uploads.map(() => true))
    expect(uploads.at(-1)?.info?.signal?.aborted).toBe(true)
  })
})

describe('chunks that have not found their place', () => {
  it('keep the file from being made while another process is at their place', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { client, tempDir } = testEngine({ storage })
    const id = await client.create(1_000)
    const chunks = cut(file, 400)
    for (const index of [2, 1]) await client.write(id, index, chunks[index] as Buffer)
    const claim = await new Claims(() => join(tempDir, 'staging', id, 'claims')).claim(id, { start: 800, end: 801 })
    await client.write(id, 0, chunks[0] as Buffer)
    hurry()
    await expect(client.complete(id)).rejects.toMatchObject({ code: 'UPLOAD_LOCKED' })
    expect(storage.keys()).toEqual([])
    await claim?.release()
    expect(storage.read((await client.complete(id)).key)?.equals(file)).toBe(true)
  })
})
