import { Readable } from 'node:stream'
import { crc32 } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { orders, send, streamOf, testEngine } from '../support/engine.ts'
import { flaky, type Trouble } from '../support/flaky-storage.ts'
import { bytes, cut, seeded, sha256 } from '../support/random.ts'
import { filesBelow } from '../support/temp-folder.ts'

const parts = { minPartSize: 50_000, maxPartSize: 10_000_000, maxParts: 1000, partSize: 70_000 }
const storages = {
  'one part': () => new MemoryStorageAdapter({ multipart: false }),
  'many parts': () => new MemoryStorageAdapter({ multipart: parts }),
}

const layouts = {
  'equal chunks': { total: 400_000, sizes: [100_000], chunkSize: 100_000 },
  'a shorter last chunk': { total: 412_345, sizes: [64_000], chunkSize: 64_000 },
  'a longer last chunk': { total: 450_000, sizes: [100_000, 100_000, 100_000, 150_000], chunkSize: 100_000 },
  'tiny chunks': { total: 90_001, sizes: [1_000], chunkSize: 1_000 },
  'one chunk': { total: 5, sizes: [5], chunkSize: 5 },
  'chunks larger than parts': { total: 1_000_000, sizes: [300_000], chunkSize: 300_000 },
}

describe.each(Object.entries(storages))('a storage that takes %s', (_name, makeStorage) => {
  describe.each(Object.entries(layouts))('%s', (_layout, { total, sizes, chunkSize }) => {
    for (const order of orders) {
      for (const declared of [true, false]) {
        it(`arrive whole when sent ${order}, chunk size ${declared ? 'declared' : 'not declared'}`, async () => {
          const storage = makeStorage()
          const { client, tempDir } = testEngine({ storage })
          const file = bytes(total, 3)
          const id = await client.create(total, declared ? { chunkSize } : {})
          await send(order, cut(file, ...sizes), (index, data) => client.write(id, index, data))
          const { url, key, size } = await client.complete(id)
          expect(size).toBe(total)
          expect(sha256(storage.read(key) ?? '')).toBe(sha256(file))
          expect((await client.complete(id)).url).toBe(url)
          expect(await filesBelow(`${tempDir}/staging`)).toEqual([])
        })
      }
    }
  })

  it.each([1, 2, 3, 4, 5, 6, 7, 8])('assembles unequal chunks, repeated and in any order (seed %i)', async (seed) => {
    const random = seeded(seed)
    const storage = makeStorage()
    const { client } = testEngine({ storage })
    const sizes = Array.from({ length: 25 }, () => random.integer(1, 60_000))
    const total = sizes.reduce((sum, size) => sum + size, 0)
    const file = bytes(total, seed)
    const chunks = cut(file, ...sizes)
    const id = await client.create(total)
    const indexes = random.shuffle([...chunks.keys(), ...chunks.keys()])
    const queue = indexes.values()
    const worker = async () => {
      for (const index of queue) await client.write(id, index, chunks[index] as Buffer)
    }
    await Promise.all([worker(), worker(), worker(), worker(), worker()])
    const { key } = await client.complete(id)
    expect(sha256(storage.read(key) ?? '')).toBe(sha256(file))
  })

  it('stores an empty file, with no chunk or with an empty one', async () => {
    const storage = makeStorage()
    const { client } = testEngine({ storage })
    for (const chunkSize of [undefined, 10]) {
      for (const chunks of [0, 1]) {
        const id = await client.create(0, chunkSize === undefined ? {} : { chunkSize })
        if (chunks > 0) await client.write(id, 0, Buffer.alloc(0))
        const { key } = await client.complete(id)
        expect(storage.read(key)?.length).toBe(0)
      }
    }
  })

  it('counts a repeated chunk once and says that it was there', async () => {
    const { client } = testEngine({ storage: makeStorage() })
    const file = bytes(200_000)
    const id = await client.create(file.length)
    const [first, second] = cut(file, 100_000) as [Buffer, Buffer]
    expect((await client.write(id, 0, first)).duplicate).toBe(false)
    expect((await client.write(id, 0, first)).duplicate).toBe(true)
    expect((await client.get(id)).chunks).toHaveLength(1)
    await client.write(id, 1, second)
    expect((await client.write(id, 1, second)).duplicate).toBe(true)
    await client.complete(id)
  })

  it('is welcome again when its part has left before the size of the file was known', async () => {
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1000, partSize: 1000 } })
    const { client } = testEngine({ storage, maxFileSize: 100_000 })
    const file = bytes(3000)
    const id = await client.create(null)
    for (const [index, data] of cut(file, 500).entries()) await client.write(id, index, data)
    await expect.poll(async () => (await client.get(id)).sentParts).toEqual([[1, 3]])
    for (const [index, data] of cut(file, 500).entries()) {
      expect((await client.write(id, index, data)).duplicate).toBe(true)
    }
    await expect(client.write(id, 0, bytes(500, 9))).rejects.toMatchObject({ code: 'CHUNK_CONFLICT' })
  })
})

describe('the same chunk with other bytes', () => {
  it('is replaced as a whole while its part is here', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { client } = testEngine({ storage })
    const file = bytes(300_000)
    const chunks = cut(file, 100_000)
    const id = await client.create(file.length)
    await send('in order', chunks, (index, data) => client.write(id, index, data))
    const other = bytes(100_000, 99)
    expect((await client.write(id, 1, other)).duplicate).toBe(false)
    const { key } = await client.complete(id)
    const expected = Buffer.concat([chunks[0] as Buffer, other, chunks[2] as Buffer])
    expect(sha256(storage.read(key) ?? '')).toBe(sha256(expected))
  })

  it('is refused once its part is with the storage; the same bytes are not', async () => {
    const storage = new MemoryStorageAdapter({ multipart: parts })
    const { client, engine } = testEngine({ storage })
    const file = bytes(280_000)
    const chunks = cut(file, 70_000)
    const id = await client.create(file.length, { chunkSize: 70_000 })
    const sent = new Promise<void>((resolve) => engine.events.once('part', () => resolve()))
    await client.write(id, 0, chunks[0] as Buffer)
    await sent
    expect((await client.write(id, 0, chunks[0] as Buffer)).duplicate).toBe(true)
    await expect(client.write(id, 0, bytes(70_000, 5))).rejects.toMatchObject({ status: 409, code: 'CHUNK_CONFLICT' })
    for (const index of [1, 2, 3]) await client.write(id, index, chunks[index] as Buffer)
    const { key } = await client.complete(id)
    expect(sha256(storage.read(key) ?? '')).toBe(sha256(file))
  })

  it.each([1, 2, 3, 4, 5])('never mixes two writers (seed %i)', async (seed) => {
    const random = seeded(seed)
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { client } = testEngine({ storage })
    const versions = Array.from({ length: 6 }, (_, i) => Buffer.alloc(150_000, i + 1))
    const id = await client.create(150_000)
    await Promise.all(
      versions.map(async (data) => {
        await new Promise((resolve) => setTimeout(resolve, random.integer(0, 8)))
        await client.write(id, 0, slow(data, random.integer(0, 3)))
      }),
    )
    const { key } = await client.complete(id)
    const stored = storage.read(key) ?? Buffer.alloc(0)
    expect(stored.length).toBe(150_000)
    expect(new Set(stored).size).toBe(1)
  })
})

describe('a chunk that does not fit', () => {
  it('is refused by its size and leaves nothing', async () => {
    const { client, tempDir } = testEngine({ maxChunkSize: 100_000 })
    const id = await client.create(500_000)
    await expect(client.write(id, 0, bytes(100_001))).rejects.toMatchObject({
      code: 'CHUNK_SIZE_EXCEEDED',
      status: 413,
    })
    await expect(client.write(id, 0, Buffer.alloc(0))).rejects.toMatchObject({ code: 'EMPTY_CHUNK' })
    expect((await client.get(id)).chunks).toEqual([])
    expect((await filesBelow(tempDir)).filter((name) => name.includes('claims/') || name.endsWith('.tmp'))).toEqual([])
    await client.write(id, 0, bytes(100_000))
  })

  it('is refused when the chunks would pass the declared file size', async () => {
    const { client } = testEngine({ maxChunkSize: 100_000 })
    const id = await client.create(150_000)
    await client.write(id, 0, bytes(100_000))
    await expect(client.write(id, 1, bytes(50_001))).rejects.toMatchObject({ code: 'FILE_SIZE_EXCEEDED', status: 413 })
    await client.write(id, 1, bytes(50_000))
    await client.complete(id)
  })

  it('is refused when it differs from the declared chunk size', async () => {
    const { client } = testEngine()
    const id = await client.create(250_000, { chunkSize: 100_000 })
    await expect(client.write(id, 0, bytes(99_999))).rejects.toMatchObject({ code: 'CHUNK_SIZE_MISMATCH', status: 400 })
    await expect(client.write(id, 2, bytes(49_999))).rejects.toMatchObject({ code: 'CHUNK_SIZE_MISMATCH', status: 400 })
    await expect(client.write(id, 3, bytes(1))).rejects.toMatchObject({ code: 'CHUNK_OUT_OF_RANGE', status: 400 })
    expect((await client.get(id)).chunks).toEqual([])
  })

  it.each([-1, 1.5, Number.NaN, 10_000, Number.POSITIVE_INFINITY])('is refused under the index %d', async (index) => {
    const { client } = testEngine()
    const id = await client.create(10)
    await expect(client.write(id, index, bytes(5))).rejects.toMatchObject({ code: 'INVALID_CHUNK_INDEX', status: 400 })
  })

  it('goes on in a file of its own when it outgrows the place it was expected to have', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { client } = testEngine({ storage, maxChunkSize: 2_000_000 })
    const sizes = [600_000, 1_500_000, 600_000, 600_000, 600_000]
    const file = bytes(3_900_000)
    const chunks = cut(file, ...sizes)
    const id = await client.create(file.length)
    for (const index of [0, 2, 3, 1, 4]) await client.write(id, index, chunks[index] as Buffer)
    const { key } = await client.complete(id)
    expect(sha256(storage.read(key) ?? '')).toBe(sha256(file))
  })
})

describe('a broken body', () => {
  it('is not counted and leaves no file but the sparse place of the part', async () => {
    const { client, tempDir } = testEngine()
    const id = await client.create(3_000_000)
    for (const index of [0, 2]) {
      const broken = new Readable({ read() {} })
      const written = client.write(id, index, broken)
      broken.push(bytes(1_000_000))
      if (index === 0) await expect.poll(() => filesBelow(`${tempDir}/staging`)).toContain(`${id}/part-1`)
      setTimeout(() => broken.destroy(new Error('connection reset')), 50)
      await expect(written).rejects.toMatchObject({ code: 'BODY_INCOMPLETE', status: 400 })
    }
    expect((await client.get(id)).chunks).toEqual([])
    expect(await filesBelow(`${tempDir}/staging`)).toEqual([`${id}/part-1`])
  })

  it('that falls silent is given up after bodyIdleTimeout', async () => {
    const { client } = testEngine({ bodyIdleTimeout: 80 })
    const id = await client.create(300_000)
    const silent = new Readable({ read() {} })
    silent.push(bytes(1000))
    await expect(client.write(id, 0, silent)).rejects.toMatchObject({ code: 'BODY_TIMEOUT', status: 408 })
    await client.write(id, 0, bytes(300_000))
    await client.complete(id)
  })

  it('whose caller has gone is given up at once', async () => {
    const { client } = testEngine()
    const id = await client.create(300_000)
    const gone = new AbortController()
    const written = client.write(id, 0, new Readable({ read() {} }), { signal: gone.signal })
    setTimeout(() => gone.abort(), 20)
    await expect(written).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
  })
})

describe('a checksum', () => {
  it('of a chunk that does not match discards the chunk', async () => {
    const { client } = testEngine()
    const data = bytes(100_000)
    const id = await client.create(data.length)
    const right = `sha256:${Buffer.from(sha256(data), 'hex').toString('base64')}`
    await expect(client.write(id, 0, bytes(100_000, 2), { checksum: right })).rejects.toMatchObject({
      code: 'CHECKSUM_MISMATCH',
      status: 422,
    })
    expect((await client.get(id)).chunks).toEqual([])
    const crc = Buffer.alloc(4)
    crc.writeUInt32BE(crc32(data))
    await client.write(id, 0, data, { checksum: `crc32:${crc.toString('base64')}` })
    await client.complete(id, right)
  })

  it.each(Object.entries(storages))('of the whole file is checked before a byte leaves (%s)', async (_name, make) => {
    const storage = make()
    const { client } = testEngine({ storage })
    const file = bytes(300_000)
    const checksum = `sha256:${Buffer.from(sha256(file), 'hex').toString('base64')}`
    const id = await client.create(file.length, { checksum, chunkSize: 100_000 })
    const chunks = cut(file, 100_000)
    const wrong = bytes(100_000, 77)
    await client.write(id, 0, chunks[0] as Buffer)
    await client.write(id, 1, wrong)
    await client.write(id, 2, chunks[2] as Buffer)
    await expect(client.complete(id)).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' })
    expect(storage.keys()).toEqual([])
    await client.write(id, 1, chunks[1] as Buffer)
    const object = await client.complete(id)
    expect(object.checksum).toBe(checksum)
    expect(sha256(storage.read(object.key) ?? '')).toBe(sha256(file))
  })

  it.each(['sha256:AAAA', 'md6:AAAA', 'nonsense', 'sha256:', '__proto__:AAAA'])('%s is refused', async (checksum) => {
    const { client } = testEngine()
    await expect(client.create(5, { checksum })).rejects.toMatchObject({ code: 'INVALID_CHECKSUM', status: 400 })
  })
})

function slow(data: Buffer, delay: number): Readable {
  const source = streamOf(data)
  return Readable.from(
    (async function* () {
      for await (const piece of source) {
        if (delay > 0) await new Promise((resolve) => setTimeout(resolve, delay))
        yield piece
      }
    })(),
    { objectMode: false },
  )
}

describe('a wrong whole-file checksum at complete', () => {
  it('is forgotten with the refusal: the right one, or none, still completes', async () => {
    const { client } = testEngine()
    const file = bytes(100_000)
    const id = await client.create(file.length)
    await client.write(id, 0, file)
    const of = (data: Buffer) => `sha256:${Buffer.from(sha256(data), 'hex').toString('base64')}`
    await expect(client.complete(id, of(bytes(5)))).rejects.toMatchObject({
      code: 'CHECKSUM_MISMATCH',
      retryable: false,
    })
    expect((await client.complete(id, of(file))).checksum).toBe(of(file))
  })
})

describe('a chunk of another size in front of parts that are with the storage', () => {
  const small = () => new MemoryStorageAdapter({ multipart: { minPartSize: 1_000, partSize: 1_000 } })

  /** Its first part leaves when the returned function is called, and not before. */
  function holdFirstPart({ multipart }: MemoryStorageAdapter): () => void {
    if (!multipart) throw new Error('this storage was to take parts')
    const uploadPart = multipart.uploadPart.bind(multipart)
    let release: () => void = () => {}
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    multipart.uploadPart = async (...args) => {
      if (args[1] === 1) await held
      return uploadPart(...args)
    }
    return release
  }

  it('is refused where an empty one was, and the upload completes', async () => {
    const storage = small()
    const { client } = testEngine({ storage, maxFileSize: 100_000 })
    const file = bytes(3_300)
    const id = await client.create(null)
    await client.write(id, 0, Buffer.alloc(0))
    for (const [at, data] of cut(file, 400).entries()) await client.write(id, at + 1, data)
    await expect.poll(async () => (await client.get(id)).sentParts).toEqual([[1, 3]])
    await expect(client.write(id, 0, bytes(400, 9))).rejects.toMatchObject({ status: 409, code: 'CHUNK_CONFLICT' })
    expect((await client.write(id, 0, Buffer.alloc(0))).duplicate).toBe(true)
    const { key } = await client.complete(id)
    expect(sha256(storage.read(key) ?? '')).toBe(sha256(file))
  })

  it.each([3_000, null])(
    'is refused where its own part is still here, and those behind it are not (size: %s)',
    async (total) => {
      const storage = small()
      const release = holdFirstPart(storage)
      const { client } = testEngine({ storage, maxFileSize: 100_000 })
      const file = bytes(3_000)
      const id = await client.create(total)
      for (const [index, data] of cut(file, 500).entries()) await client.write(id, index, data)
      await expect.poll(async () => (await client.get(id)).sentParts).toEqual([[2, 3]])
      await expect(client.write(id, 0, bytes(400, 9))).rejects.toMatchObject({ status: 409, code: 'CHUNK_CONFLICT' })
      const other = bytes(500, 8)
      expect((await client.write(id, 1, other)).duplicate).toBe(false)
      release()
      const { key } = await client.complete(id)
      const expected = Buffer.concat([file.subarray(0, 500), other, file.subarray(1_000)])
      expect(sha256(storage.read(key) ?? '')).toBe(sha256(expected))
    },
  )

  it('is welcome where the declared size of chunks says where the others lie', async () => {
    const storage = small()
    const { client } = testEngine({ storage, maxFileSize: 100_000 })
    const file = bytes(3_300)
    const id = await client.create(null, { chunkSize: 500 })
    const chunks = cut(file, 500)
    await client.write(id, 0, (chunks[0] as Buffer).subarray(0, 300))
    for (const [index, data] of chunks.entries()) if (index > 0) await client.write(id, index, data)
    await expect.poll(async () => (await client.get(id)).sentParts).toEqual([[2, 3]])
    expect((await client.write(id, 0, chunks[0] as Buffer)).duplicate).toBe(false)
    const { key } = await client.complete(id)
    expect(sha256(storage.read(key) ?? '')).toBe(sha256(file))
  })
})

describe('an empty first chunk', () => {
  it('is welcome again when a completion that failed has said how large the file is', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    const trouble: Trouble = { when: 'before' }
    const { client } = testEngine({ storage: flaky(storage, trouble) })
    const id = await client.create(null)
    const file = bytes(400)
    await client.write(id, 0, Buffer.alloc(0))
    await client.write(id, 1, file)
    await expect(client.complete(id)).rejects.toMatchObject({ status: 502 })
    for (const more of [{ size: 0 }, {}]) {
      expect((await client.write(id, 0, Buffer.alloc(0), more)).duplicate).toBe(true)
    }
    trouble.when = 'never'
    const { key } = await client.complete(id)
    expect(storage.read(key)).toEqual(file)
  })
})

describe('a refused replacement', () => {
  it('leaves the stored chunk known: its bytes are still welcome again', async () => {
    const storage = new MemoryStorageAdapter({ multipart: parts })
    const { multipart } = storage
    if (!multipart) throw new Error('this storage was to take parts')
    const { client } = testEngine({ storage })
    const file = bytes(140_000)
    const [first] = cut(file, 70_000) as [Buffer]
    const id = await client.create(file.length, { chunkSize: 70_000 })
    const uploadPart = multipart.uploadPart.bind(multipart)
    let sendNow: () => void = () => {}
    const held = new Promise<void>((resolve) => {
      sendNow = resolve
    })
    multipart.uploadPart = async (...args) => {
      await held
      return uploadPart(...args)
    }
    await client.write(id, 0, first)
    const source = streamOf(bytes(70_000, 9))
    const replacing = client.write(
      id,
      0,
      Readable.from(
        (async function* () {
          for await (const piece of source) {
            yield piece
            sendNow()
            await new Promise((resolve) => setTimeout(resolve, 60))
          }
        })(),
        { objectMode: false },
      ),
    )
    await expect(replacing).rejects.toMatchObject({ code: 'CHUNK_CONFLICT' })
    expect((await client.write(id, 0, first)).duplicate).toBe(true)
  })
})
