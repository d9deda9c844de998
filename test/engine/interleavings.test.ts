/** Interleavings that time alone seldom shows: a store that lets something else happen between two calls. */
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { testEngine } from '../support/engine.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

/** Another process's view of the same records, which can be held up after a look. */
class HeldUp extends MemorySessionStore {
  readonly #records: MemorySessionStore
  afterGet: (() => Promise<unknown>) | null = null

  constructor(records: MemorySessionStore) {
    super()
    this.#records = records
  }

  override create(...args: Parameters<MemorySessionStore['create']>) {
    return this.#records.create(...args)
  }

  override async get(id: string) {
    const record = await this.#records.get(id)
    const then = this.afterGet
    this.afterGet = null
    await then?.()
    return record
  }

  override replace(...args: Parameters<MemorySessionStore['replace']>) {
    return this.#records.replace(...args)
  }

  override listExpired(now: number) {
    return this.#records.listExpired(now)
  }
}

describe('a writer that was held up between looking and writing', () => {
  it('does not touch the bytes of a chunk that was acknowledged meanwhile [C02]', async () => {
    const records = new MemorySessionStore()
    const slow = new HeldUp(records)
    const storage = new MemoryStorageAdapter({ multipart: false })
    const tempDir = tempFolder()
    const a = testEngine({ sessions: records, storage, tempDir })
    const b = testEngine({ sessions: slow, storage, tempDir })
    const file = bytes(1_000_000, 1)
    const id = await a.client.create(file.length, { chunkSize: 1_000_000 })
    slow.afterGet = () => a.client.write(id, 0, file)
    const torn = new Readable({ read() {} })
    torn.push(bytes(900_000, 2))
    const late = b.client.write(id, 0, torn)
    setTimeout(() => torn.destroy(), 100)
    await expect(late).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    const { key } = await a.client.complete(id)
    expect(sha256(storage.read(key) ?? '')).toBe(sha256(file))
  })

  it('hears that the upload was given up meanwhile, not that its bytes are lost [C04]', async () => {
    const records = new MemorySessionStore()
    const slow = new HeldUp(records)
    const tempDir = tempFolder()
    const a = testEngine({ sessions: records, tempDir })
    const b = testEngine({ sessions: slow, tempDir })
    const id = await a.client.create(200, { chunkSize: 100 })
    await a.client.write(id, 0, bytes(100))
    // The second look is the one under the claim.
    slow.afterGet = async () => {
      slow.afterGet = () => a.client.abort(id)
    }
    await expect(b.client.write(id, 1, bytes(100))).rejects.toMatchObject({ code: 'UPLOAD_ABORTED', status: 410 })
  })

  it.each([
    ['the same bytes are welcome', 1, { duplicate: true }],
    ['other bytes are refused', 2, { code: 'CHUNK_CONFLICT' }],
  ])('when the chunk has been stored and sent meanwhile, %s [C02]', async (_name, seed, expected) => {
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 100, partSize: 100 } })
    const records = new MemorySessionStore()
    const slow = new HeldUp(records)
    const tempDir = tempFolder()
    const a = testEngine({ sessions: records, storage, tempDir })
    const b = testEngine({ sessions: slow, storage, tempDir })
    const file = bytes(200, 1)
    const id = await a.client.create(200, { chunkSize: 100 })
    const first = new Readable({ read() {} })
    const stored = a.client.write(id, 0, first)
    first.push(file.subarray(0, 50))
    await expect.poll(() => filesBelow(join(tempDir, 'staging', id, 'claims'))).toContain('0-100')
    const second = Readable.from([bytes(200, seed).subarray(0, 100)])
    second.once('end', () => {
      slow.afterGet = async () => {
        first.push(file.subarray(50, 100))
        first.push(null)
        await stored
        await expect.poll(async () => (await a.client.get(id)).sentParts).toEqual([[1, 1]])
      }
    })
    expect(await b.client.write(id, 0, second).catch((error) => error)).toMatchObject(expected)
    await b.client.write(id, 1, file.subarray(100))
    expect(storage.read((await b.client.complete(id)).key)?.equals(file)).toBe(true)
  })
})

describe('a sweeper that was held up between looking and removing', () => {
  it('leaves an upload alone that got a chunk meanwhile [C10]', async () => {
    let ahead = 0
    const clock = () => Date.now() + ahead
    const records = new MemorySessionStore()
    const slow = new HeldUp(records)
    const tempDir = tempFolder()
    const a = testEngine({ sessions: records, tempDir, clock })
    const b = testEngine({ sessions: slow, tempDir, clock })
    const id = await a.client.create(100)
    ahead = 2 * 60 * 60_000
    slow.afterGet = () => a.client.write(id, 0, bytes(100))
    expect((await b.engine.sweep()).expired).toBe(0)
    expect((await a.client.complete(id)).size).toBe(100)
  })
})

describe('many requests at once', () => {
  it('make Node warn of no leak', async () => {
    const warnings: Error[] = []
    const listen = (warning: Error) => warnings.push(warning)
    process.on('warning', listen)
    try {
      const { client } = testEngine()
      const file = bytes(400_000)
      const id = await client.create(file.length, { chunkSize: 10_000 })
      await Promise.all(cut(file, 10_000).map((data, index) => client.write(id, index, data)))
      await Promise.all(Array.from({ length: 40 }, () => client.complete(id)))
      await new Promise((resolve) => setTimeout(resolve, 50))
    } finally {
      process.off('warning', listen)
    }
    expect(warnings).toEqual([])
  })
})

describe('a body', () => {
  it('whose stream is closed without an end and without an error is not whole', async () => {
    const { client } = testEngine()
    const id = await client.create(1000)
    const closed = new Readable({ read() {} })
    closed.push(bytes(1000))
    setTimeout(() => closed.destroy(), 30)
    await expect(client.write(id, 0, closed)).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect((await client.get(id)).chunks).toEqual([])
  })
})

describe('a storage that holds fewer parts than it confirmed', () => {
  it('is never asked to make an object of them', async () => {
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1000, partSize: 100_000 } })
    const { multipart } = storage
    if (!multipart) throw new Error('this storage was to take parts')
    const listParts = multipart.listParts.bind(multipart)
    multipart.listParts = async (...args) => (await listParts(...args))?.slice(0, -1) ?? null
    let completed = 0
    multipart.complete = async () => {
      completed += 1
      return 'memory://short'
    }
    const { client } = testEngine({ storage })
    const file = bytes(300_000)
    const id = await client.create(file.length, { chunkSize: 100_000 })
    for (const [index, data] of cut(file, 100_000).entries()) await client.write(id, index, data)
    await expect(client.complete(id)).rejects.toMatchObject({ name: expect.stringMatching(/UploadExpired|Storage/) })
    expect(completed).toBe(0)
  })
})
