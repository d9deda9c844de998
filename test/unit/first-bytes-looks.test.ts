import { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import type { Aborter } from '../../src/engine/aborter.ts'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import { beginning, FirstBytes } from '../../src/engine/first-bytes.ts'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import {
  InvalidFileTypeError,
  StorageUnavailableError,
  UploadClosedError,
  UploadLockedError,
} from '../../src/errors.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { UploadSession, WriteChunk } from '../../src/types.ts'
import { bytes } from '../support/random.ts'
import { uploadRecord } from '../support/records.ts'

const id = 'u'.repeat(22)
const png = Buffer.from('89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489', 'hex')

interface Options {
  readonly verifyMimeType?: boolean
  readonly onFirstBytes?:
    | ((session: UploadSession, found: { bytes: Buffer; detected: string | null }, context: unknown) => unknown)
    | null
  readonly content?: Buffer
}

/** A record whose bytes are `content`, and a hook that notes what it is asked. */
async function world(record: UploadSession, options: Options = {}) {
  const store = new MemorySessionStore()
  await store.create(record)
  const content = options.content ?? bytes(10_000)
  const asked: { bytes: Buffer; detected: string | null; context: unknown }[] = []
  const read: unknown[] = []
  const state = { before: async () => {}, after: async () => {} }
  const onFirstBytes = async (
    session: UploadSession,
    found: { bytes: Buffer; detected: string | null },
    context: unknown,
  ) => {
    asked.push({ ...found, context })
    await options.onFirstBytes?.(session, found, context)
    await state.after()
  }
  const parts = {
    options: {
      hooks: options.onFirstBytes === null ? {} : { onFirstBytes },
      ...{ verifyMimeType: options.verifyMimeType ?? false, storageTimeout: 5_000, limits: { allowedMimeTypes: [] } },
    },
    sessions: new SessionUpdates(store),
    staging: {
      loosePath: (_: string, index: number, generation: number) => `loose ${index} ${generation}`,
      segments: (_: string, partSize: number, start: number, size: number) => [
        { path: `part of ${partSize}`, start, size },
      ],
      read: async (pieces: { start: number; size: number }[], take: (data: Buffer) => void) => {
        read.push(pieces)
        await state.before()
        for (const { start, size } of pieces) take(content.subarray(start, start + size))
      },
    },
    closing: new AbortController().signal,
  } as unknown as EngineParts
  const readStored = async (_: UploadSession, { start, end }: { start: number; end: number }) => {
    read.push({ start, end })
    await state.before()
    return content.subarray(start, end)
  }
  const first = new FirstBytes(() => parts, readStored)
  const stored = async () => (await store.get(id)) as UploadSession
  return { first, asked, read, state, store, stored, parts, content }
}

function upload(received: number, fields: Partial<UploadSession> = {}): UploadSession {
  const chunks = received > 0 ? [{ index: 0, count: 1, size: received, offset: 0, loose: 0 }] : []
  return uploadRecord({ id, totalSize: 10_000, partSize: 10_000, chunks, ...fields })
}

const refusal = new InvalidFileTypeError('image/png', [])
const refuse = () => {
  throw refusal
}

describe('the beginning of a file', () => {
  it('is due when it has arrived, or all of a shorter file, and nobody has looked yet', async () => {
    const due = async (received: number, fields: Partial<UploadSession> = {}, options: Options = {}) =>
      (await world(upload(received, fields), options)).first.isDue(upload(received, fields))
    expect(await due(beginning)).toBe(true)
    expect(await due(beginning - 1)).toBe(false)
    expect(await due(50, { totalSize: 50 })).toBe(true)
    expect(await due(49, { totalSize: 50 })).toBe(false)
    expect(await due(beginning, { totalSize: null })).toBe(true)
    expect(await due(beginning - 1, { totalSize: null })).toBe(false)
    expect(await due(beginning, { accepted: 0 })).toBe(false)
    expect(await due(beginning, { accepted: 0, beginnings: 1 })).toBe(true)
    expect(await due(beginning, {}, { onFirstBytes: null })).toBe(false)
    expect(await due(beginning, {}, { onFirstBytes: null, verifyMimeType: true })).toBe(true)
    const { first } = await world(upload(0))
    expect([first.isDue(upload(0), beginning), first.isDue(upload(0), beginning - 1)]).toEqual([true, false])
  })

  it('is looked at once it is there, and the record says so', async () => {
    const { first, asked, read, stored, content } = await world(upload(beginning + 5))
    const context = { request: 1 }
    const checked = await first.check(upload(beginning + 5), { context })
    expect(checked.accepted).toBe(0)
    expect((await stored()).accepted).toBe(0)
    expect(asked).toEqual([{ bytes: content.subarray(0, beginning), detected: null, context }])
    expect(read).toEqual([[{ path: 'part of 10000', start: 0, size: beginning }]])
    expect(await first.check(checked, {})).toBe(checked)
    const early = await world(upload(beginning - 1))
    expect((await early.first.check(upload(beginning - 1), {})).accepted).toBeUndefined()
    expect(early.asked).toEqual([])
  })

  it('is looked at once for all who ask at the same time', async () => {
    const { first, asked } = await world(upload(beginning))
    const all = await Promise.all([1, 2, 3].map(() => first.check(upload(beginning), {})))
    expect(all.map(({ accepted }) => accepted)).toEqual([0, 0, 0])
    expect(asked).toHaveLength(1)
  })

  it('is read from where its chunks lie, and side by side is one piece', async () => {
    const chunks = [
      { index: 0, count: 1, size: 10, offset: null, loose: 3 },
      { index: 1, count: 2, size: 20, offset: 10, loose: 0 },
      { index: 3, count: 1, size: 9_950, offset: 100, loose: 0 },
    ]
    const { first, read } = await world(upload(0, { chunks }))
    await first.check(upload(0, { chunks }), {})
    expect(read).toEqual([
      [
        { path: 'loose 0 3', start: 0, size: 10 },
        { path: 'part of 10000', start: 10, size: 40 },
        { path: 'part of 10000', start: 100, size: beginning - 50 },
      ],
    ])
  })

  it('that waits in the storage is read from there', async () => {
    const record = upload(beginning, { staged: 'storage', totalSize: 5_000 })
    const { first, read, asked } = await world(record)
    await first.check(record, {})
    expect(read).toEqual([{ start: 0, end: beginning }])
    expect(asked[0]?.bytes).toHaveLength(beginning)
    const short = upload(30, { staged: 'storage', totalSize: 30 })
    const other = await world(short)
    await other.first.check(short, {})
    expect(other.read).toEqual([{ start: 0, end: 30 }])
  })

  it('that left before anybody was asked to look is gone', async () => {
    const record = upload(beginning, { sentParts: [[1, 1]] })
    const { first } = await world(record)
    await expect(first.check(record, {})).rejects.toMatchObject({ code: 'FIRST_BYTES_GONE', status: 409 })
  })

  it('of a type that its bytes contradict is refused with both', async () => {
    const record = upload(png.length, { totalSize: png.length, mimeType: 'application/pdf' })
    const verify = { verifyMimeType: true, content: png }
    const { first, asked } = await world(record, verify)
    expect(await first.refusalOf(record, {})).toMatchObject({
      ...{ code: 'INVALID_FILE_TYPE', status: 415, details: { declared: 'application/pdf', detected: 'image/png' } },
      message: 'The file is declared as application/pdf, but its bytes are of type image/png.',
    })
    expect(asked).toEqual([])
    const right = await world({ ...record, mimeType: 'image/png' }, verify)
    expect(await right.first.refusalOf({ ...record, mimeType: 'image/png' }, {})).toBeNull()
    expect(right.asked).toMatchObject([{ detected: 'image/png' }])
    const unchecked = await world(record, { content: png })
    expect(await unchecked.first.refusalOf(record, {})).toBeNull()
  })

  it('is looked at by a completion whatever has arrived', async () => {
    const record = upload(30, { totalSize: 30 })
    const { first, asked } = await world(record)
    expect(await first.refusalOf(record, {})).toBeNull()
    expect(asked).toHaveLength(1)
    expect(await first.refusalOf({ ...record, accepted: 0 }, {})).toBeNull()
    expect(asked).toHaveLength(1)
  })
})

describe('a hook that looks at the beginning', () => {
  const record = upload(beginning)

  it('refuses the file for good with an error of ours that asks for no retry', async () => {
    const { first } = await world(record, { onFirstBytes: refuse })
    expect(await first.refusalOf(record, {})).toBe(refusal)
    const refused: unknown[] = []
    const aborter = { refuse: async (...args: unknown[]) => void refused.push(args) } as unknown as Aborter
    const thrown = await first.check(record, {}).catch((error) => error)
    expect(thrown).toMatchObject({ code: refusal.code, status: refusal.status, message: refusal.message })
    expect(await first.explain(thrown, id, aborter)).toBe(refusal)
    expect(refused).toEqual([[id, refusal]])
  })

  it('that fails otherwise refuses nothing: the client tries again', async () => {
    for (const cause of [new Error('no database'), 'text']) {
      const { first, stored } = await world(record, { onFirstBytes: () => Promise.reject(cause) })
      await expect(first.refusalOf(record, {})).rejects.toMatchObject({
        code: 'FIRST_BYTES_HOOK_FAILED',
        status: 503,
        cause,
      })
      expect((await stored()).accepted).toBeUndefined()
    }
    for (const error of [new StorageUnavailableError(), new UploadLockedError()]) {
      const { first } = await world(record, { onFirstBytes: () => Promise.reject(error) })
      await expect(first.refusalOf(record, {})).rejects.toBe(error)
    }
  })

  it('is told of a refusal that came from elsewhere in its own words', async () => {
    const words = { code: 'X', status: 415, message: 'no' }
    const { first } = await world({ ...record, state: 'aborted', refusal: words })
    const aborter = {} as Aborter
    for (const error of [new UploadClosedError('closed'), Object.assign(new Error(), { code: 'UPLOAD_ABORTED' })]) {
      expect(await first.explain(error, id, aborter)).toMatchObject({ ...words, details: { refusal: words } })
      expect(await first.explain(error, 'none', aborter)).toBe(error)
    }
    const other = new Error('other')
    expect(await first.explain(other, id, aborter)).toBe(other)
    const plain = await world(record)
    const closed = new UploadClosedError('closed')
    expect(await plain.first.explain(closed, id, aborter)).toBe(closed)
    plain.store.get = () => Promise.reject(new Error('no store'))
    expect(await plain.first.explain(closed, id, aborter)).toBe(closed)
  })
})

describe('a beginning that changes while it is looked at', () => {
  const record = upload(beginning)

  it('is looked at again when a chunk of it was replaced', async () => {
    const { first, asked, state, parts, stored } = await world(record)
    let changes = 1
    state.after = async () => {
      if (changes-- > 0) await parts.sessions.update(id, (current) => ({ ...current, beginnings: 1 }))
    }
    await first.check(record, {})
    expect(asked).toHaveLength(2)
    expect((await stored()).accepted).toBe(1)
  })

  it('is given up after five times', async () => {
    const { first, asked, state, parts } = await world(record)
    state.after = async () => {
      await parts.sessions.update(id, (current) => ({ ...current, beginnings: (current.beginnings ?? 0) + 1 }))
    }
    await expect(first.check(record, {})).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' })
    expect(asked).toHaveLength(5)
  })

  it('is read again when its files have moved, and the error is told when they do not come back', async () => {
    const { first, read, state } = await world(record)
    let failures = 2
    state.before = async () => {
      if (failures-- > 0) throw Object.assign(new Error('moved'), { code: 'ENOENT' })
    }
    expect((await first.check(record, {})).accepted).toBe(0)
    expect(read).toHaveLength(3)
    const lost = await world(record)
    lost.state.before = () => Promise.reject(new StorageUnavailableError(undefined, { code: 'STAGING_LOST' }))
    await expect(lost.first.check(record, {})).rejects.toMatchObject({ code: 'STAGING_LOST' })
    expect(lost.read).toHaveLength(5)
    const closed = await world(record)
    closed.state.before = () => Promise.reject(new StorageUnavailableError())
    await expect(closed.first.check(record, {})).rejects.toMatchObject({ status: 503 })
    expect(closed.read).toHaveLength(1)
    const shared = { ...record, staged: 'storage' } as const
    const pieces = await world(shared)
    pieces.state.before = () => Promise.reject(new StorageUnavailableError())
    await expect(pieces.first.check(shared, {})).rejects.toMatchObject({ status: 503 })
    expect(pieces.read).toHaveLength(5)
  })

  it('ends with the upload, or with the refusal by another', async () => {
    const gone = await world(record)
    gone.state.after = () => gone.store.delete(id)
    await expect(gone.first.check(record, {})).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND' })
    const refused = await world(record)
    refused.state.after = async () => {
      const words = { code: 'X', status: 415, message: 'no' }
      await refused.parts.sessions.update(id, (current) => ({ ...current, beginnings: 1, refusal: words }))
    }
    await expect(refused.first.check(record, {})).rejects.toMatchObject({ code: 'X', status: 415 })
    expect(refused.asked).toHaveLength(1)
  })
})

describe('a first chunk that comes in', () => {
  const request = { index: 0 } as WriteChunk

  async function tapped(
    pieces: Buffer[],
    options: Options = {},
    changes: { request?: Partial<WriteChunk>; record?: Partial<UploadSession> } = {},
  ) {
    const record = upload(0, changes.record)
    const at = await world(record, options)
    const written: Buffer[] = []
    const asked = { ...request, ...changes.request } as WriteChunk
    const plain = async (buffers: Buffer[]) => void written.push(...buffers)
    const sink = at.first.tap(record, asked, plain)
    let position = 0
    for (const piece of pieces) {
      await sink([piece], position)
      position += piece.length
    }
    return { ...at, written, isTapped: sink !== plain, request: asked }
  }

  it('is looked at as soon as its beginning is there, once, and not again when it is recorded', async () => {
    const content = bytes(10_000)
    const pieces = [content.subarray(0, 4_000), content.subarray(4_000, 4_200), content.subarray(4_200)]
    const { first, asked, written, request: same } = await tapped(pieces, { content })
    expect(asked.map((each) => each.bytes.equals(content.subarray(0, beginning)))).toEqual([true])
    expect(Buffer.concat(written).equals(content)).toBe(true)
    await first.check(upload(beginning), same)
    expect(asked).toHaveLength(1)
    await first.refusalOf(upload(beginning), {})
    expect(asked).toHaveLength(2)
  })

  it('is refused before the rest of it comes', async () => {
    await expect(tapped([bytes(beginning), bytes(5)], { onFirstBytes: refuse })).rejects.toMatchObject({
      code: refusal.code,
    })
    expect((await tapped([bytes(beginning - 1)], { onFirstBytes: refuse })).asked).toEqual([])
  })

  it('is left alone when it is not the first, has a checksum, or nobody wants to look', async () => {
    const pieces = [bytes(beginning)]
    const alone = [
      await tapped(pieces, {}, { request: { index: 1 } }),
      await tapped(pieces, {}, { request: { checksum: 'md5:x' } }),
      await tapped(pieces, {}, { record: { accepted: 0 } }),
      await tapped(pieces, { onFirstBytes: null }),
    ]
    expect(alone.map(({ isTapped, asked }) => [isTapped, asked.length])).toEqual(Array(4).fill([false, 0]))
    expect((await tapped(pieces)).isTapped).toBe(true)
  })
})

describe('bytes that are about to leave', () => {
  const body = (data: Buffer) => ({
    path: null,
    size: data.length,
    open: () => Readable.from([data.subarray(0, 3_000), data.subarray(3_000)]),
  })

  it('may, when they are not of the beginning, or are all of it', async () => {
    const { first } = await world(upload(0))
    const may = (start: number, size: number, fields: Partial<UploadSession> = {}) =>
      first.canLeave(upload(0, fields), start, size)
    expect([may(beginning, 1), may(beginning - 1, 10_000)]).toEqual([true, false])
    expect([may(0, beginning), may(0, beginning - 1)]).toEqual([true, false])
    expect([may(0, 50, { totalSize: 50 }), may(0, 49, { totalSize: 50 })]).toEqual([true, false])
    expect([may(0, beginning, { totalSize: null }), may(0, beginning - 1, { totalSize: null })]).toEqual([true, false])
    expect([may(0, 1, { accepted: 0 }), may(0, 1, { partial: true }), may(0, 1, { direct: true })]).toEqual([
      true,
      true,
      true,
    ])
  })

  it('are looked at first, and it is told that the record has to say so', async () => {
    const data = bytes(9_000)
    const { first, asked } = await world(upload(0))
    expect(await first.admit(upload(0), 0, body(data), {})).toBe(true)
    expect(asked.map((each) => each.bytes.equals(data.subarray(0, beginning)))).toEqual([true])
    expect(await first.admit(upload(0), beginning, body(data), {})).toBe(false)
    expect(await first.admit(upload(0, { accepted: 0 }), 0, body(data), {})).toBe(false)
    expect(asked).toHaveLength(1)
    const refusing = await world(upload(0), { onFirstBytes: refuse })
    await expect(refusing.first.admit(upload(0), 0, body(data), {})).rejects.toMatchObject({ code: refusal.code })
  })
})
