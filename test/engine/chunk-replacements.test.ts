/** Chunks that come again, or others in their place, while parts leave: what has been acknowledged still becomes the file. */
import { PassThrough } from 'node:stream'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { ChunkSums } from '../../src/engine/chunk-sums.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { MultipartStorage, UploadSession } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'
import { flaky, type Trouble } from '../support/flaky-storage.ts'
import { bytes, cut } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'
import { eventually } from '../support/tus-client.ts'

const hour = 60 * 60_000

function world(partSize: number, more: Parameters<typeof testEngine>[0] = {}) {
  const storage = new MemoryStorageAdapter({ multipart: { minPartSize: partSize, partSize } })
  const multipart = storage.multipart as MultipartStorage
  const { client, engine } = testEngine({ storage, maxFileSize: 1_000_000, ...more })
  const sent = (id: string, parts: readonly (readonly [number, number])[]) =>
    eventually(async () => expect((await client.get(id)).sentParts).toEqual(parts))
  const requireObject = async (id: string, file: Buffer) =>
    expect(storage.read((await client.complete(id)).key)).toEqual(file)
  return { storage, multipart, client, engine, sent, requireObject }
}

/** A request that has begun, and ends when it is told to. */
function onItsWay(data: Buffer) {
  const body = new PassThrough()
  body.write(data.subarray(0, 10))
  return { body, end: () => body.end(data.subarray(10)) }
}

describe('a chunk behind a gap that comes again when the beginning was looked at, and has left', () => {
  const file = bytes(20_000)
  const chunks = cut(file, 5_000) as [Buffer, Buffer, Buffer, Buffer]

  it.each([true, false])('does not call what was looked at in question (the same bytes: %s)', async (isSame) => {
    const looked: number[] = []
    const hooks = {
      onFirstBytes: async (_: unknown, { bytes }: { bytes: Uint8Array }) => void looked.push(bytes.length),
    }
    const { client, sent, requireObject } = world(5_000, { hooks })
    const id = await client.create(file.length)
    await client.write(id, 0, chunks[0])
    await sent(id, [[1, 1]])
    const first = onItsWay(chunks[3])
    const writing = client.write(id, 3, first.body)
    await eventually(async () => expect(first.body.readableLength).toBe(0))
    await client.write(id, 3, isSame ? chunks[3] : bytes(5_000, 9))
    first.end()
    await writing
    for (const index of [1, 2] as const) await client.write(id, index, chunks[index])
    await requireObject(id, file)
    expect(looked).toEqual([4100])
  })
})

describe('the sum of a chunk', () => {
  afterEach(() => void vi.restoreAllMocks())

  it('that could not be written is made up for when the chunk comes again', async () => {
    const { client, sent } = world(200)
    const id = await client.create(400, { chunkSize: 100 })
    const [first, second] = [bytes(100, 1), bytes(100, 2)]
    const full = Object.assign(new Error('no space left'), { code: 'ENOSPC' })
    vi.spyOn(ChunkSums.prototype, 'write').mockRejectedValueOnce(full)
    await expect(client.write(id, 0, first)).rejects.toMatchObject({ status: 507 })
    expect((await client.write(id, 0, first)).duplicate).toBe(true)
    await client.write(id, 1, second)
    await sent(id, [[1, 1]])
    expect((await client.write(id, 0, first)).duplicate).toBe(true)
  })

  it('is not touched by other bytes that are known to be refused', async () => {
    const { client } = world(200)
    const id = await client.create(450, { chunkSize: 100 })
    for (const index of [3, 4]) await client.write(id, index, bytes(index === 3 ? 100 : 50, index))
    const write = vi.spyOn(ChunkSums.prototype, 'write')
    await expect(client.write(id, 3, bytes(150, 7))).rejects.toMatchObject({ code: 'CHUNK_OVERLAP' })
    expect(write).not.toHaveBeenCalled()
  })

  it('is put back when other bytes turn out to be late at the very end', async () => {
    const sessions = new MemorySessionStore()
    const { client } = world(200, { sessions })
    const id = await client.create(450, { chunkSize: 100 })
    const chunk = bytes(100, 1)
    await client.write(id, 1, chunk)
    const replace = sessions.replace.bind(sessions)
    // Somebody else counts the part of the chunk between the look and the change.
    sessions.replace = async (next, version) => {
      sessions.replace = replace
      const current = (await sessions.get(id)) as UploadSession
      await replace({ ...current, sentParts: [[1, 1]], version: current.version + 1 }, current.version)
      return replace(next, version)
    }
    await expect(client.write(id, 1, bytes(100, 9))).rejects.toMatchObject({ code: 'CHUNK_CONFLICT' })
    expect((await client.write(id, 1, chunk)).duplicate).toBe(true)
  })

  it('stays when other bytes are refused because they overlap', async () => {
    const { client, sent } = world(200)
    const id = await client.create(450, { chunkSize: 100 })
    const chunk = bytes(100, 3)
    await client.write(id, 3, chunk)
    await client.write(id, 4, bytes(50, 4))
    await expect(client.write(id, 3, bytes(150, 7))).rejects.toMatchObject({ code: 'CHUNK_OVERLAP' })
    await client.write(id, 2, bytes(100, 2))
    await sent(id, [[2, 3]])
    expect((await client.write(id, 3, chunk)).duplicate).toBe(true)
  })

  it('is that of the bytes that count when others come too late', async () => {
    const { client, sent } = world(100)
    const id = await client.create(200)
    await client.write(id, 0, bytes(30, 1))
    const late = onItsWay(bytes(50, 9))
    const refused = expect(client.write(id, 0, late.body)).rejects.toMatchObject({ code: 'CHUNK_CONFLICT' })
    await eventually(async () => expect(late.body.readableLength).toBe(0))
    const chunk = bytes(50, 2)
    await client.write(id, 0, chunk)
    await client.write(id, 1, bytes(50, 3))
    await sent(id, [[1, 1]])
    late.end()
    await refused
    expect((await client.write(id, 0, chunk)).duplicate).toBe(true)
  })
})

describe('a chunk that is sent again to a storage that failed after it had taken the file', () => {
  it('is refused, and the completion is repeated', async () => {
    const trouble: Trouble = { when: 'never' }
    const storage = flaky(new LocalStorageAdapter({ directory: tempFolder() }), trouble)
    const { client } = testEngine({ storage })
    const chunks = cut(bytes(300), 100)
    const id = await client.create(300, { chunkSize: 100 })
    for (const [index, data] of chunks.entries()) await client.write(id, index, data)
    trouble.when = 'after'
    await expect(client.complete(id)).rejects.toMatchObject({ status: 502 })
    trouble.when = 'never'
    const again = client.write(id, 1, chunks[1] as Buffer)
    await expect(again).rejects.toMatchObject({ status: 409, code: 'UPLOAD_CLOSED' })
    expect(await client.complete(id)).toMatchObject({ size: 300 })
  })
})

describe('a part behind the end of the file', () => {
  it('is left out: it was on its way when a shorter chunk came', async () => {
    const { client, multipart, sent, requireObject, storage } = world(100)
    const uploadPart = multipart.uploadPart.bind(multipart)
    let release: () => void = () => {}
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    multipart.uploadPart = async (...args) => {
      if (args[1] >= 2) await held
      return uploadPart(...args)
    }
    const id = await client.create(null)
    const [first, short] = [bytes(150, 1), bytes(40, 3)]
    await client.write(id, 0, first)
    await client.write(id, 1, bytes(150, 2))
    await sent(id, [[1, 1]])
    expect((await client.write(id, 1, short)).duplicate).toBe(false)
    release()
    await eventually(async () => expect(storage.openMultipartUploads()[0]?.parts).toHaveLength(3))
    await requireObject(id, Buffer.concat([first, short]))
  })

  it('is left out: its answer was lost', async () => {
    const trouble: Trouble = { when: 'never' }
    const memory = new MemoryStorageAdapter({ multipart: { minPartSize: 100, partSize: 100 } })
    const { client } = testEngine({ storage: flaky(memory, trouble), maxFileSize: 1_000_000 })
    const id = await client.create(null)
    const [first, short] = [bytes(101, 1), bytes(60, 3)]
    await client.write(id, 0, first)
    await eventually(async () => expect((await client.get(id)).sentParts).toEqual([[1, 1]]))
    trouble.when = 'after'
    await client.write(id, 1, bytes(250, 2))
    await eventually(async () => expect(memory.openMultipartUploads()[0]?.parts.length).toBeGreaterThan(1))
    trouble.when = 'never'
    await client.write(id, 1, short)
    expect(memory.read((await client.complete(id)).key)).toEqual(Buffer.concat([first, short]))
  })
})

it('the multipart upload of a file that has become a single part is aborted in the end', async () => {
  let ahead = 0
  const { client, engine, multipart, storage, requireObject } = world(100, { clock: () => Date.now() + ahead })
  const uploadPart = multipart.uploadPart.bind(multipart)
  multipart.uploadPart = async (...args) => {
    await uploadPart(...args)
    throw new Error('the answer is lost')
  }
  const id = await client.create(null)
  await client.write(id, 0, bytes(150, 1))
  await eventually(async () => expect(storage.openMultipartUploads()[0]?.parts.length).toBeGreaterThan(0))
  const short = bytes(60, 2)
  await client.write(id, 0, short)
  await requireObject(id, short)
  for (let round = 0; round < 3; round++) {
    ahead += 30 * hour
    await engine.sweep()
  }
  await expect(client.get(id)).rejects.toMatchObject({ status: 404 })
  expect(storage.openMultipartUploads()).toEqual([])
})

it('chunks behind one that is too short are received although their parts have left', async () => {
  const { client, sent } = world(5_000, { verifyMimeType: true })
  const id = await client.create(null, { chunkSize: 5_000 })
  await client.write(id, 1, bytes(5_000, 1))
  await client.write(id, 2, bytes(5_000, 2))
  await sent(id, [[2, 2]])
  expect(await client.write(id, 0, bytes(2_500, 3))).toMatchObject({ size: 2_500 })
  expect(await client.write(id, 3, bytes(5_000, 4))).toMatchObject({ size: 5_000 })
  await expect(client.complete(id)).rejects.toMatchObject({ status: 409 })
})
