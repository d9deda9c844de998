import { describe, expect, it } from 'vitest'
import {
  DirectUploads,
  refuseDirect,
  requireDirect,
  requireNamed,
  requireSize,
} from '../../src/engine/direct-uploads.ts'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import type { StoredPart, UploadSession } from '../../src/types.ts'
import { uploadRecord } from '../support/records.ts'

const now = 1_000_000
const ttl = 100_000

function stored(...sizes: number[]): StoredPart[] {
  return sizes.map((size, i) => ({ partNumber: i + 1, size, etag: `"e${i + 1}"` })) as StoredPart[]
}

function named(...numbers: number[]) {
  return numbers.map((partNumber) => ({ partNumber, etag: `e${partNumber}` }))
}

/** A record in a storage that signs, with these parts. */
function world(fields: Partial<UploadSession> = {}, parts: StoredPart[] | null = []) {
  let session = uploadRecord({ direct: true, multipartId: 'm', expiresAt: now + ttl, ...fields })
  const signed: unknown[] = []
  let updates = 0
  const multipart = {
    minPartSize: 5,
    maxParts: 10,
    listParts: async () => parts,
    direct: {
      create: async () => 'opened',
      signPart: async (...args: unknown[]) => {
        signed.push(args)
        return 'url'
      },
    },
  }
  const parts_ = {
    options: { storage: { multipart }, sessionTtl: ttl, storageTimeout: 5_000, limits: { maxFileSize: 100 } },
    closing: new AbortController().signal,
    clock: () => now,
    sessions: {
      get: async () => session,
      update: async (_: string, change: (current: UploadSession) => UploadSession) => {
        updates += 1
        session = change(session)
        return session
      },
    },
  } as unknown as EngineParts
  const direct = new DirectUploads(parts_)
  return { direct, parts: parts_, signed, multipart, session: () => session, updates: () => updates }
}

describe('a URL for a part', () => {
  it('is signed for numbers from 1 to the most parts', async () => {
    const { direct, session, signed } = world()
    for (const partNumber of [0, -1, 11, 1.5, Number.NaN]) {
      const signing = direct.signPart(session(), { uploadId: '', protocol: 'uppy', partNumber, lifetime: 1_000 })
      await expect(signing).rejects.toMatchObject({ status: 400, message: expect.stringContaining('from 1 to 10') })
    }
    for (const partNumber of [1, 10]) {
      expect(await direct.signPart(session(), { uploadId: '', protocol: 'uppy', partNumber, lifetime: 1_000 })).toBe(
        'url',
      )
    }
    expect(signed).toEqual([1, 10].map((number) => [{ fileKey: 'key', multipartId: 'm' }, number, 1_000]))
  })

  it('opens the multipart upload when there is none', async () => {
    const { direct, session, signed } = world({ multipartId: null })
    await direct.signPart(session(), { uploadId: '', protocol: 'uppy', partNumber: 1, lifetime: 1_000 })
    expect(session()).toMatchObject({ multipartId: 'opened', openings: 1 })
    expect(signed).toEqual([[{ fileKey: 'key', multipartId: 'opened' }, 1, 1_000]])
  })

  it('is not given for an upload that ended while its multipart upload was opened', async () => {
    const { direct, session, signed, multipart, parts } = world({ multipartId: null })
    const aborted: unknown[] = []
    Object.assign(multipart, { abort: async (ref: unknown) => void aborted.push(ref) })
    multipart.direct.create = async () => {
      await parts.sessions.update(session().id, (current) => ({ ...current, state: 'aborted', open: false }))
      return 'late'
    }
    const signing = direct.signPart(session(), { uploadId: '', protocol: 'uppy', partNumber: 1, lifetime: 1_000 })
    await expect(signing).rejects.toMatchObject({ code: 'UPLOAD_ABORTED', status: 410 })
    expect(signed).toEqual([])
    expect(aborted).toEqual([{ fileKey: 'key', multipartId: 'late' }])
  })

  it('is not given for an upload that is completed, being completed, or of another kind', async () => {
    const sign = (fields: Partial<UploadSession>) => {
      const { direct, session } = world(fields)
      return direct.signPart(session(), { uploadId: '', protocol: 'uppy', partNumber: 1, lifetime: 1_000 })
    }
    await expect(sign({ state: 'completing' })).rejects.toMatchObject({ code: 'UPLOAD_CLOSED' })
    await expect(sign({ object: { url: 'u', size: 1 } as never })).rejects.toMatchObject({ code: 'UPLOAD_CLOSED' })
    await expect(sign({ state: 'aborted' })).rejects.toMatchObject({ code: 'UPLOAD_ABORTED' })
    const through = uploadRecord()
    await expect(
      world().direct.signPart(through, { uploadId: '', protocol: 'uppy', partNumber: 1, lifetime: 1_000 }),
    ).rejects.toMatchObject({ code: 'NOT_DIRECT', status: 409 })
  })

  it('keeps its upload for as long as it holds, and the record is written only when a quarter of that has gone', async () => {
    const sign = async (left: number, lifetime: number, fields: Partial<UploadSession> = {}) => {
      const { direct, session, updates } = world({ expiresAt: now + left, ...fields })
      await direct.signPart(session(), { uploadId: '', protocol: 'uppy', partNumber: 1, lifetime })
      return [updates(), session().expiresAt - now]
    }
    expect(await sign(ttl * 0.75 + 1, 1_000)).toEqual([0, ttl * 0.75 + 1])
    expect(await sign(ttl * 0.75, 1_000)).toEqual([1, ttl])
    expect(await sign(ttl, ttl)).toEqual([0, ttl])
    expect(await sign(ttl - 1, ttl)).toEqual([1, ttl])
    expect(await sign(ttl, ttl * 2)).toEqual([1, ttl * 2])
    expect(await sign(1, 1_000, { open: false })).toEqual([1, 1])
  })
})

describe('the parts of an upload', () => {
  it('are those that the storage has; none before it is opened or when the storage has forgotten it', async () => {
    const list = (fields: Partial<UploadSession>, parts: StoredPart[] | null) => {
      const { direct, session } = world(fields, parts)
      return direct.listParts(session())
    }
    expect(await list({}, stored(5, 3))).toEqual(stored(5, 3))
    expect(await list({ multipartId: null }, stored(5, 3))).toEqual([])
    expect(await list({}, null)).toEqual([])
    await expect(list({ state: 'expired' }, [])).rejects.toMatchObject({ code: 'UPLOAD_EXPIRED' })
  })

  it('must be named, all of them, in order and with their ETags, quoted or not', () => {
    expect(() => requireNamed(named(1, 2), stored(5, 3))).not.toThrow()
    expect(() => requireNamed([{ partNumber: 1, etag: '"e1"' }], stored(5))).not.toThrow()
    const mismatch = expect.objectContaining({ code: 'PARTS_MISMATCH', status: 400 })
    for (const wrong of [named(2, 1), named(1, 3), named(2), named(1, 2, 3), [{ partNumber: 1, etag: 'other' }]]) {
      expect(() => requireNamed(wrong, stored(5, 3))).toThrow(mismatch)
    }
    expect(() => requireNamed(named(1, 3), stored(5, 3))).toThrow('Part 3 is not stored')
    expect(() => requireNamed(named(1), stored(5, 3))).toThrow('2 parts are stored, but 1 are named')
    expect(() => requireNamed([], [])).toThrow(mismatch)
    const gap = stored(5, 5, 5).filter(({ partNumber }) => partNumber !== 2)
    expect(() => requireNamed(named(1, 3), gap)).toThrow(mismatch)
  })

  it('must have the declared size together', () => {
    expect(requireSize(uploadRecord(), stored(5, 3))).toBe(8)
    expect(requireSize(uploadRecord({ totalSize: 8 }), stored(5, 3))).toBe(8)
    for (const totalSize of [7, 9]) {
      const mismatch = expect.objectContaining({ code: 'SIZE_MISMATCH', status: 400 })
      expect(() => requireSize(uploadRecord({ totalSize }), stored(5, 3))).toThrow(mismatch)
      expect(() => requireSize(uploadRecord({ totalSize }), stored(5, 3))).toThrow(`8 bytes, but ${totalSize}`)
    }
  })
})

describe('the completion of an upload straight to the storage', () => {
  const check = (
    request: { parts?: { partNumber: number; etag: string }[]; checksum?: string },
    parts: StoredPart[] | null,
    fields: Partial<UploadSession> = {},
  ) => {
    const { direct, session } = world(fields, parts)
    return direct.check(session(), { uploadId: '', ...request } as never)
  }

  it('gives the size of the file', async () => {
    expect(await check({ parts: named(1, 2) }, stored(5, 3))).toBe(8)
    expect(await check({ parts: named(1, 2) }, stored(5, 95))).toBe(100)
  })

  it('is refused when a part but the last is too small, or the file too large', async () => {
    const small = check({ parts: named(1, 2, 3) }, stored(5, 4, 3))
    await expect(small).rejects.toMatchObject({
      code: 'PARTS_MISMATCH',
      message: expect.stringMatching(/^Part 2 .* 5 bytes/),
    })
    await expect(check({ parts: named(1, 2) }, stored(5, 96))).rejects.toMatchObject({ code: 'FILE_SIZE_EXCEEDED' })
    await expect(check({}, stored(5))).rejects.toMatchObject({ code: 'PARTS_MISMATCH' })
    await expect(check({}, stored(5), { multipartId: null })).rejects.toMatchObject({
      code: 'PARTS_MISMATCH',
      message: expect.stringContaining('0 parts are stored'),
    })
  })

  it('takes no checksum, neither now nor before', async () => {
    const now = check({ parts: named(1), checksum: 'md5:x' }, stored(5))
    await expect(now).rejects.toMatchObject({
      ...{ code: 'INVALID_CHECKSUM', status: 400 },
      message: expect.stringContaining('cannot be checked against a checksum'),
    })
    const before = check({ parts: named(1) }, stored(5), { checksum: 'md5:x' })
    await expect(before).rejects.toMatchObject({ code: 'INVALID_CHECKSUM' })
  })

  it('that comes again when the storage has joined the parts already gives the recorded size, if there is one', async () => {
    expect(await check({ parts: named(1) }, null, { totalSize: 5 })).toBe(5)
    await expect(check({ parts: named(1) }, null)).rejects.toMatchObject({ code: 'UPLOAD_EXPIRED' })
  })

  it('needs an upload that is direct, and a storage that still signs', async () => {
    await expect(world().direct.check(uploadRecord(), {} as never)).rejects.toMatchObject({ code: 'NOT_DIRECT' })
    const { direct, session, multipart } = world()
    Object.assign(multipart, { direct: undefined })
    await expect(direct.check(session(), {} as never)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' })
    await expect(direct.listParts(session())).rejects.toMatchObject({ status: 503 })
    const other = world()
    Object.assign(other.parts.options.storage, { multipart: undefined })
    await expect(other.direct.listParts(session())).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' })
  })
})

describe('an upload straight to the storage', () => {
  it('has no checksum, chunk size or pieces, and needs a storage that signs', () => {
    const { parts, multipart } = world()
    expect(() => requireDirect(parts, {} as never)).not.toThrow()
    for (const wrong of [{ checksum: 'md5:x' }, { chunkSize: 5 }, { partial: true }]) {
      expect(() => requireDirect(parts, wrong as never)).toThrow(expect.objectContaining({ status: 400 }))
    }
    Object.assign(multipart, { direct: undefined })
    expect(() => requireDirect(parts, {} as never)).toThrow(TypeError)
    const none = { options: { storage: {} } } as unknown as EngineParts
    expect(() => requireDirect(none, {} as never)).toThrow('cannot sign')
  })

  it('takes no bytes here', () => {
    expect(() => refuseDirect(uploadRecord())).not.toThrow()
    expect(() => refuseDirect(uploadRecord({ direct: true }))).toThrow(
      expect.objectContaining({ code: 'DIRECT', status: 409 }),
    )
  })
})
