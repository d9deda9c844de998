/** Uploads that are staged in the storage, when something changes or fails while bytes are on their way. */
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { UploadEngineOptions } from '../../src/create-upload-engine.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { ChunkRun, UploadSession } from '../../src/types.ts'
import { streamOf } from '../support/engine.ts'
import { bytes, sha256 } from '../support/random.ts'
import { partSize, sharedNodes, sharedStorage } from '../support/shared-nodes.ts'
import { eventually } from '../support/tus-client.ts'

const KiB = 1024
const protocol = 'native'

afterEach(() => {
  vi.restoreAllMocks()
})

function nodes(options: Partial<UploadEngineOptions> = {}, storage = sharedStorage()) {
  const shared = sharedNodes(2, storage, options)
  const [a, b] = shared.nodes as [(typeof shared.nodes)[0], (typeof shared.nodes)[0]]
  const { sessions } = shared
  const record = async (id: string) => (await sessions.get(id)) as UploadSession
  const change = async (id: string, fields: Partial<UploadSession>) => {
    const current = await record(id)
    await sessions.replace({ ...current, ...fields, version: current.version + 1 }, current.version)
  }
  const append = (uploadId: string, offset: number, body: Buffer | PassThrough, more: object = {}) => {
    const size = Buffer.isBuffer(body) ? { size: body.length } : {}
    return a.engine.append({ uploadId, protocol, offset, body: streamOf(body), ...size, ...more })
  }
  const create = async (totalSize: number | null, more: object = {}) =>
    (await a.engine.create({ fileName: 'a', totalSize, protocol, ...more })).session.id
  const spool = () => readdirSync(join(a.tempDir, 'spool'))
  return { ...shared, a, b, record, change, append, create, spool }
}

/** Lets something happen in the next call that sends a part, or stores a piece, before or after it is done. */
function onNext(storage: MemoryStorageAdapter, what: 'part' | 'piece', when: 'before' | 'after', then: () => unknown) {
  const target = (what === 'part' ? storage.multipart : storage.staging) as unknown as Record<string, unknown>
  const name = what === 'part' ? 'uploadPart' : 'put'
  const original = (target[name] as (...args: unknown[]) => Promise<unknown>).bind(target)
  target[name] = async (...args: unknown[]) => {
    target[name] = original
    if (when === 'before') await then()
    const result = await original(...args)
    if (when === 'after') await then()
    return result
  }
}

const noChecksum = (): undefined => undefined

const outage = () => {
  throw new Error('outage')
}

describe('the room that an append needs in tempDir', () => {
  it.each([
    ['three times its size', 1_000, {}, 3_000],
    ['three parts', 5 * partSize, {}, 3 * partSize],
    ['its size more when it has a checksum', 1_000, { checksum: noChecksum }, 4_000],
    ['its size more than three parts', 5 * partSize, { checksum: noChecksum }, 8 * partSize],
  ] as const)('is %s', async (_, size, more, room) => {
    for (const maxTempBytes of [room, room - 1]) {
      const { append, create } = nodes({ maxTempBytes })
      const id = await create(10 * partSize)
      const done = append(id, 0, bytes(size), more)
      if (maxTempBytes === room) expect(await done).toMatchObject({ offset: size })
      else await expect(done).rejects.toMatchObject({ status: 507 })
    }
  })
})

describe('an append', () => {
  it('counts what it has as soon as that is all, although the body has not ended', async () => {
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 4 * KiB, partSize: 256 * KiB } })
    const { append, create, record } = nodes({}, storage)
    const file = bytes(600 * KiB + 5)
    const id = await create(file.length)
    const body = new PassThrough({ highWaterMark: 1024 * KiB })
    const offsets: number[] = []
    const appending = append(id, 0, body, { onProgress: (offset: number) => offsets.push(offset) })
    body.write(file)
    await eventually(async () => expect(offsets).toEqual([256 * KiB, 512 * KiB, file.length]))
    expect((await record(id)).sentParts).toEqual([[1, 3]])
    body.end()
    expect(await appending).toMatchObject({ offset: file.length, size: file.length, interrupted: false })
  })

  it('over a slow line is stored every ten seconds', async () => {
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 4 * KiB, partSize: 8192 * KiB } })
    const { append, create, record, spool, a, b } = nodes({ maxChunkSize: 8192 * KiB }, storage)
    const piece = bytes(520 * KiB)
    const id = await create(20_000 * KiB)
    let ahead = 0
    // A clock that stands still unless it is set. Its times are whole: differences of fractions are rounded, down too.
    const start = 1_000
    vi.spyOn(performance, 'now').mockImplementation(() => start + ahead)
    const body = new PassThrough({ highWaterMark: 1 })
    const appending = append(id, 0, body)
    const steps = [
      { time: 0, waiting: 1, stored: 0 },
      { time: 9_999, waiting: 2, stored: 0 },
      { time: 10_000, waiting: 0, stored: 3 },
      { time: 10_001, waiting: 1, stored: 3 },
      { time: 19_999, waiting: 2, stored: 3 },
      { time: 20_000, waiting: 0, stored: 6 },
    ]
    const bytesIn = (names: readonly string[]) =>
      names.reduce((sum, name) => sum + statSync(join(a.tempDir, 'spool', name)).size, 0)
    for (const { time, waiting, stored } of steps) {
      ahead = time
      await new Promise<void>((resolve) => body.write(piece, () => resolve()))
      await eventually(async () => expect(bytesIn(spool())).toBe(waiting * piece.length))
      // The writer hears of it before any timer.
      await pause(5)
      const size = async () => (await record(id)).chunks.reduce((sum, chunk) => sum + chunk.size, 0)
      await eventually(async () => expect(await size()).toBe(stored * piece.length))
    }
    body.end()
    expect(await appending).toMatchObject({ offset: 6 * piece.length })
    expect((await b.client.get(id)).chunks.map(({ size }) => size / piece.length)).toEqual([3, 3])
  })

  it('tells of every segment and every part', async () => {
    const { a, append, create } = nodes()
    const appended: unknown[] = []
    const parts: unknown[] = []
    a.engine.events.on('appended', ({ offset, size }) => appended.push([offset, size]))
    a.engine.events.on('part', ({ partNumber, size }) => parts.push([partNumber, size]))
    const id = await create(3 * partSize + 7)
    await append(id, 0, bytes(100))
    await append(id, 100, bytes(2 * partSize))
    await append(id, 2 * partSize + 100, bytes(partSize - 93))
    expect(appended).toEqual([
      [0, 100],
      [100, partSize - 100],
      [partSize, partSize],
      [2 * partSize, 100],
      [2 * partSize + 100, partSize - 100],
      [3 * partSize, 7],
    ])
    expect(parts).toEqual([
      [1, partSize],
      [2, partSize],
      [3, partSize],
      [4, 7],
    ])
  })

  it('counts up to the part that the storage did not take, and nothing behind it', async () => {
    const { storage, append, create, record, spool, b } = nodes()
    const file = bytes(5 * partSize)
    const id = await create(file.length)
    onNext(storage, 'part', 'after', () => onNext(storage, 'part', 'before', outage))
    await expect(append(id, 0, file)).rejects.toMatchObject({ status: 502, retryable: true })
    expect(await record(id)).toMatchObject({ sentParts: [[1, 1]], chunks: [{ size: partSize }] })
    expect(spool()).toEqual([])
    await append(id, partSize, file.subarray(partSize))
    expect(storage.read((await b.client.complete(id)).key)?.equals(file)).toBe(true)
  })

  it('tells what the storage said when the line broke as well', async () => {
    const { storage, append, create, spool } = nodes()
    const id = await create(5 * partSize)
    onNext(storage, 'piece', 'before', outage)
    const body = new PassThrough()
    const appending = append(id, 0, body)
    appending.catch(() => {})
    body.write(bytes(100))
    await pause(10)
    body.destroy(new Error('the line is dead'))
    await expect(appending).rejects.toMatchObject({ status: 502 })
    expect(spool()).toEqual([])
  })

  it('to an upload that is aborted meanwhile leaves no piece, nor a part that counts', async () => {
    for (const [what, size] of [
      ['piece', 100],
      ['part', partSize],
    ] as const) {
      const { storage, append, create, record, spool, b } = nodes()
      const id = await create(5 * partSize)
      onNext(storage, what, 'after', () => b.client.abort(id))
      await expect(append(id, 0, bytes(size))).rejects.toMatchObject({ code: 'UPLOAD_ABORTED', status: 410 })
      await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
      expect(storage.openMultipartUploads()).toEqual([])
      expect(await record(id)).toMatchObject({ state: 'aborted', sentParts: [] })
      expect(spool()).toEqual([])
    }
  })

  it('to an upload that has gone says so', async () => {
    const { storage, sessions, append, create } = nodes()
    const id = await create(5 * partSize)
    onNext(storage, 'piece', 'after', () => sessions.delete(id))
    await expect(append(id, 0, bytes(100))).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND', status: 404 })
  })

  it('leaves a piece that the record may name, when the answer of the session store was lost', async () => {
    const { storage, sessions, append, create, b } = nodes()
    const file = bytes(200)
    const id = await create(200)
    onNext(storage, 'piece', 'after', () => {
      sessions.beforeReplace = outage
    })
    await expect(append(id, 0, file.subarray(0, 100))).rejects.toMatchObject({ status: 503 })
    expect(storage.stagedKeys()).toHaveLength(1)
    sessions.beforeReplace = () => {}
    await append(id, 0, file)
    expect(storage.read((await b.client.complete(id)).key)?.equals(file)).toBe(true)
    expect(storage.stagedKeys()).toEqual([])
  })

  it('that comes second leaves no piece of its own, and takes none of the other', async () => {
    const { storage, append, create, change, record } = nodes()
    const id = await create(5 * partSize)
    await append(id, 0, bytes(100))
    const [first] = (await record(id)).chunks
    const kept = storage.stagedKeys()
    onNext(storage, 'piece', 'after', () => change(id, { chunks: [{ ...first, size: 150 } as ChunkRun] }))
    await expect(append(id, 100, bytes(100))).rejects.toMatchObject({ code: 'UPLOAD_LOCKED', status: 423 })
    await eventually(async () => expect(storage.stagedKeys()).toEqual(kept))
    expect((await record(id)).chunks).toMatchObject([{ size: 150 }])
  })

  it('does not count a part in a multipart upload that was begun anew meanwhile', async () => {
    const { storage, append, create, change, record } = nodes()
    const id = await create(5 * partSize)
    onNext(storage, 'part', 'after', () => change(id, { multipartId: null }))
    await expect(append(id, 0, bytes(partSize))).rejects.toMatchObject({ status: 503, retryable: true })
    expect(await record(id)).toMatchObject({ chunks: [], sentParts: [] })
    await append(id, 0, bytes(partSize))
    expect((await record(id)).sentParts).toEqual([[1, 1]])
  })

  it('with a checksum whose body breaks off counts not at all, and leaves nothing', async () => {
    const { storage, append, create, record, spool } = nodes()
    const id = await create(5 * partSize)
    const body = new PassThrough()
    const appending = append(id, 0, body, { checksum: noChecksum })
    appending.catch(() => {})
    body.write(bytes(2 * partSize))
    await pause(10)
    body.destroy(new Error('the line is dead'))
    await expect(appending).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect((await record(id)).chunks).toEqual([])
    expect([storage.stagedKeys(), storage.openMultipartUploads(), spool()]).toEqual([[], [], []])
  })

  it.each([partSize, 2048 * KiB])('of %i bytes counts only with the checksum that comes behind it', async (size) => {
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 4 * KiB, partSize: 4096 * KiB } })
    const { append, create, record, spool } = nodes({}, storage)
    const file = bytes(size)
    const id = await create(5 * size)
    const sum = (data: Buffer) => () => `sha256:${Buffer.from(sha256(data), 'hex').toString('base64')}`
    const wrong = append(id, 0, file, { checksum: sum(file.subarray(1)) })
    await expect(wrong).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' })
    expect([(await record(id)).chunks, storage.stagedKeys(), spool()]).toEqual([[], [], []])
    expect(await append(id, 0, file, { checksum: sum(file) })).toMatchObject({ offset: size })
  })
})

describe('many small appends', () => {
  it('are gathered by the 33rd of a part, and only those of that part', async () => {
    const { storage, append, create, record, spool } = nodes()
    const file = bytes(2 * partSize)
    // With a checksum of all of it no part leaves.
    const id = await create(file.length, { checksum: 'crc32:AAAAAA==' })
    let at = 0
    const add = async (size: number) => {
      await append(id, at, file.subarray(at, at + size))
      at += size
    }
    for (let i = 0; i < 31; i++) await add(200)
    await add(partSize - 31 * 200)
    for (let i = 0; i < 32; i++) await add(10)
    expect((await record(id)).chunks).toHaveLength(64)
    await add(10)
    const { chunks } = await record(id)
    expect(chunks).toHaveLength(33)
    expect(chunks.at(-1)).toMatchObject({ index: 32, count: 1, offset: partSize, size: 330 })
    await eventually(async () => expect(storage.stagedKeys()).toHaveLength(33))
    expect(spool()).toEqual([])
    const staged = await storage.staging.open(`${id}/${chunks.at(-1)?.loose.toString(36)}`)
    expect(sha256(Buffer.concat(await staged.toArray()))).toBe(sha256(file.subarray(partSize, partSize + 330)))
  })

  it('that cannot be stored as one stay as they were, and leave nothing in tempDir', async () => {
    const { storage, append, create, record, spool } = nodes()
    const id = await create(10 * partSize)
    for (let i = 0; i < 32; i++) await append(id, 10 * i, bytes(10, i))
    onNext(storage, 'piece', 'before', outage)
    await expect(append(id, 320, bytes(10))).rejects.toMatchObject({ retryable: true })
    expect((await record(id)).chunks).toHaveLength(32)
    expect(storage.stagedKeys()).toHaveLength(32)
    expect(spool()).toEqual([])
  })
})

describe('a chunk that is a part', () => {
  it('does not count in a multipart upload that was begun anew meanwhile', async () => {
    const { storage, a, b, create, change, record } = nodes()
    const id = await create(3 * partSize, { chunkSize: partSize })
    onNext(storage, 'part', 'after', () => change(id, { multipartId: null }))
    await expect(a.client.write(id, 1, bytes(partSize))).rejects.toMatchObject({ status: 503, retryable: true })
    expect(await record(id)).toMatchObject({ chunks: [], sentParts: [] })
    expect(await b.client.write(id, 1, bytes(partSize))).toMatchObject({ duplicate: false })
    expect((await record(id)).sentParts).toEqual([[2, 2]])
  })

  it('does not count where its place is not known any more, because a lower one was taken back', async () => {
    const { storage, a, create, change, record } = nodes()
    const id = await create(3 * partSize)
    await a.client.write(id, 0, bytes(partSize))
    onNext(storage, 'part', 'after', () => change(id, { chunks: [], sentParts: [] }))
    await expect(a.client.write(id, 1, bytes(partSize))).rejects.toMatchObject({ status: 503, retryable: true })
    expect(await record(id)).toMatchObject({ chunks: [], sentParts: [] })
  })

  it('of an upload that ended meanwhile hears that, not what became of its parts', async () => {
    for (const [end, expected] of [
      ['abort', { code: 'UPLOAD_ABORTED', status: 410 }],
      ['completing', { code: 'UPLOAD_CLOSED', status: 409 }],
      ['nothing', { status: 502, retryable: true }],
      ['unreadable', { status: 502, retryable: true }],
    ] as const) {
      const { storage, sessions, a, b, create, change, spool } = nodes()
      const id = await create(3 * partSize, { chunkSize: partSize })
      const get = sessions.get.bind(sessions)
      onNext(storage, 'part', 'before', async () => {
        if (end === 'abort') await b.client.abort(id)
        if (end === 'completing') await change(id, { state: 'completing', completing: { by: 'x', until: 9 } })
        if (end === 'unreadable') sessions.get = outage
        outage()
      })
      await expect(a.client.write(id, 1, bytes(partSize))).rejects.toMatchObject(expected)
      sessions.get = get
      expect(spool()).toEqual([])
    }
  })
})

describe('a chunk that is a piece', () => {
  it('which another node had stored, and which was taken back again, is asked for once more', async () => {
    const { storage, sessions, a, b, create, record } = nodes()
    const id = await create(3 * partSize, { chunkSize: 1_000 })
    onNext(storage, 'piece', 'after', async () => {
      await b.client.write(id, 0, bytes(1_000))
      // Seen by the swap, and gone at the next look.
      const get = sessions.get.bind(sessions)
      let looks = 0
      sessions.get = async (key) => {
        const found = await get(key)
        looks += 1
        if (looks === 1 || found?.kind !== 'upload') return found
        sessions.get = get
        return { ...found, chunks: [] }
      }
    })
    await expect(a.client.write(id, 0, bytes(1_000))).rejects.toMatchObject({ status: 503, retryable: true })
    expect(await a.client.write(id, 0, bytes(1_000))).toMatchObject({ duplicate: true })
    expect((await record(id)).chunks).toHaveLength(1)
    await eventually(async () => expect(storage.stagedKeys()).toHaveLength(1))
  })

  it('with other bytes than another node has stored meanwhile is refused, and removed', async () => {
    const { storage, a, b, create, record } = nodes()
    const id = await create(3 * partSize, { chunkSize: 1_000 })
    let kept: string[] = []
    onNext(storage, 'piece', 'before', async () => {
      await b.client.write(id, 0, bytes(1_000, 1))
      kept = storage.stagedKeys()
    })
    await expect(a.client.write(id, 0, bytes(1_000, 2))).rejects.toMatchObject({ code: 'CHUNK_CONFLICT', status: 409 })
    expect(kept).toHaveLength(1)
    await eventually(async () => expect(storage.stagedKeys()).toEqual(kept))
    expect((await record(id)).chunks).toHaveLength(1)
  })

  it('that completes a part is sent on by its own node, and only once', async () => {
    const { storage, a, b, create, record } = nodes()
    const id = await create(3 * partSize, { chunkSize: partSize / 4 })
    const sent: [string, number][] = []
    for (const [name, { engine }] of [
      ['a', a],
      ['b', b],
    ] as const) {
      engine.events.on('part', ({ partNumber }) => sent.push([name, partNumber]))
    }
    for (const [index, node] of [a, a, a, b, b, b, b, a].entries())
      await node.client.write(id, index, bytes(partSize / 4))
    await eventually(async () => expect((await record(id)).sentParts).toEqual([[1, 2]]))
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
    expect(sent.sort()).toEqual([
      ['a', 2],
      ['b', 1],
    ])
  })

  it('that does not count leaves nothing: neither here nor in the storage', async () => {
    const { storage, a, create, spool } = nodes()
    const id = await create(3 * partSize, { chunkSize: 1_000 })
    const write = (body: Buffer | PassThrough, size: number) =>
      a.engine.writeChunk({ uploadId: id, protocol, index: 0, body: streamOf(body), size })
    await expect(write(bytes(999), 1_000)).rejects.toMatchObject({ status: 400 })
    await expect(write(bytes(1_001), 1_001)).rejects.toMatchObject({ status: expect.any(Number) })
    const body = new PassThrough()
    body.write(bytes(500))
    setTimeout(() => body.destroy(), 5)
    await expect(write(body, 1_000)).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect([storage.stagedKeys(), spool()]).toEqual([[], []])
  })

  it('needs room in tempDir for its size, for as long as it is there', async () => {
    const { a, create } = nodes({ maxTempBytes: 1_000 })
    const id = await create(3 * partSize, { chunkSize: 1_000 })
    const write = (index: number, size: number) =>
      a.engine.writeChunk({ uploadId: id, protocol, index, body: streamOf(bytes(size)), size })
    for (const index of [0, 1, 2]) await write(index, 1_000)
    const small = nodes({ maxTempBytes: 999 })
    const other = await small.create(3 * partSize, { chunkSize: 1_000 })
    const refused = { uploadId: other, protocol, index: 0, body: streamOf(bytes(1_000)), size: 1_000 }
    await expect(small.a.engine.writeChunk(refused)).rejects.toMatchObject({ status: 507 })
  })
})
