import { describe, expect, it } from 'vitest'
import {
  composedCreate,
  composedPieces,
  keepFinals,
  keepSources,
  linkSources,
  pinSources,
  refusePartial,
  totalOf,
  wholeSources,
} from '../../src/engine/composer.ts'
import { Creation } from '../../src/engine/creation.ts'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import { ResumeKeys } from '../../src/engine/resume-keys.ts'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { CreateUpload, MultipartStorage, UploadDraft, UploadLimits, UploadSession } from '../../src/types.ts'
import { uploadRecord } from '../support/records.ts'

const now = 1_000_000
const ttl = 4_000

function world(
  options: {
    limits?: Partial<UploadLimits>
    hooks?: object
    multipart?: Partial<MultipartStorage> | undefined
    staging?: string
  } = {},
) {
  const store = new MemorySessionStore()
  const limits = {
    ...{ maxFileSize: 1_000, maxChunkSize: 50, maxChunks: 10, allowedMimeTypes: [] },
    ...{ maxSessions: Number.POSITIVE_INFINITY, maxSessionsPerOwner: Number.POSITIVE_INFINITY },
    ...options.limits,
  }
  const events: string[] = []
  const parts = {
    options: {
      limits,
      hooks: options.hooks ?? {},
      sessions: store,
      storage: { multipart: options.multipart },
      sessionTtl: ttl,
      staging: options.staging ?? 'disk',
    },
    sessions: new SessionUpdates(store),
    clock: () => now,
    emit: (name: string) => events.push(name),
  } as unknown as EngineParts
  const creation = new Creation(parts, new ResumeKeys(parts))
  const create = (request: Partial<CreateUpload> = {}) =>
    creation.create({ protocol: 'native', fileName: 'a.txt', totalSize: 100, ...request })
  return { create, creation, parts, store, events }
}

describe('a new upload', () => {
  it('is a record of what the client said, with a key that does not tell its id', async () => {
    const { create, store, events } = world()
    const metadata = { a: 'b' }
    const { session, resumed } = await create({
      mimeType: 'Text/Plain; x',
      metadata,
      owner: 'ann',
      fileName: 'x/a b.txt',
    })
    expect(resumed).toBe(false)
    expect(session).toMatchObject({
      ...{ format: 1, kind: 'upload', version: 0, open: true, owner: 'ann', protocol: 'native', state: 'active' },
      ...{ fileName: 'a b.txt', mimeType: 'text/plain', metadata, totalSize: 100, chunkSize: null, stride: null },
      ...{ partSize: 100, chunks: [], sentParts: [], multipartId: null, checksum: null, resumeId: null },
      ...{ completing: null, handedOver: false, object: null, createdAt: now, updatedAt: now, expiresAt: now + ttl },
    })
    const optional = ['clientName', 'recognizable', 'partial', 'direct', 'staged', 'sources', 'wire']
    expect(optional.filter((name) => name in session)).toEqual([])
    expect(session.key).toMatch(/^uploads\/[0-9a-f-]{36}-a_b\.txt$/)
    expect(session.key).not.toContain(session.id)
    expect(await store.get(session.id)).toEqual(session)
    expect(events).toEqual(['created'])
  })

  it('remembers what its protocol wants of it', async () => {
    const { create } = world()
    const { session } = await create({
      recognizable: true,
      partial: true,
      wire: { x: 'y' },
      checksum: 'crc32:AAAAAA==',
    })
    expect(session).toMatchObject({ recognizable: true, partial: true, wire: { x: 'y' }, checksum: 'crc32:AAAAAA==' })
  })

  it('gets name, type and key from the hook, cleaned, and keeps the client’s name', async () => {
    const asked: unknown[] = []
    const onCreate = (draft: UploadDraft, context: unknown) => {
      asked.push({ ...draft }, context)
      Object.assign(draft, { fileName: 'x/other.txt', mimeType: 'Image/PNG', key: 'mine/a' })
    }
    const { create } = world({ hooks: { onCreate } })
    const { session } = await create({ context: 'request' })
    expect(asked).toEqual([
      expect.objectContaining({ fileName: 'a.txt', totalSize: 100, owner: null, uploadId: session.id }),
      'request',
    ])
    expect(session).toMatchObject({ fileName: 'other.txt', clientName: 'a.txt', mimeType: 'image/png', key: 'mine/a' })
    asked.length = 0
    expect((await create({ partial: true })).session.fileName).toBe('a.txt')
    expect(asked).toEqual([])
    const bad = world({ hooks: { onCreate: (draft: UploadDraft) => Object.assign(draft, { key: '../a' }) } })
    await expect(bad.create()).rejects.toMatchObject({ code: 'INVALID_KEY' })
  })

  it('has a size that is a whole number up to the limit, or none', async () => {
    const { create } = world()
    for (const totalSize of [-1, 1.5, Number.NaN, 2 ** 53]) {
      await expect(create({ totalSize })).rejects.toMatchObject({
        ...{ code: 'INVALID_SIZE', status: 400 },
        message: expect.stringContaining('totalSize must be a whole number'),
      })
    }
    await expect(create({ totalSize: 1_001 })).rejects.toMatchObject({
      code: 'FILE_SIZE_EXCEEDED',
      details: { limit: 1_000 },
    })
    for (const totalSize of [0, 1_000, null]) expect((await create({ totalSize })).session.totalSize).toBe(totalSize)
  })

  it('has chunks of a size up to the limit, and not too many of them', async () => {
    const { create } = world()
    for (const chunkSize of [0, -1, 1.5, 51]) {
      await expect(create({ chunkSize })).rejects.toMatchObject({
        ...{ code: 'INVALID_CHUNK_SIZE', status: 400, details: { limit: 50 } },
        message: expect.stringContaining('from 1 to 50'),
      })
    }
    for (const chunkSize of [10, 50]) expect((await create({ chunkSize })).session.chunkSize).toBe(chunkSize)
    expect((await create({ chunkSize: 1, totalSize: 10 })).session.chunkSize).toBe(1)
    expect((await create({ chunkSize: 1, totalSize: null })).session.chunkSize).toBe(1)
    await expect(create({ chunkSize: 9 })).rejects.toMatchObject({
      ...{ code: 'FILE_SIZE_EXCEEDED', status: 413, details: { maxChunks: 10 } },
      message: 'The file has more than 10 chunks of 9 bytes. Use larger chunks.',
    })
  })

  it('has a type that is allowed and a checksum that can be read', async () => {
    const { create } = world({ limits: { allowedMimeTypes: ['image/*'] } })
    await expect(create({ mimeType: 'text/plain' })).rejects.toMatchObject({ code: 'INVALID_FILE_TYPE' })
    await expect(create()).rejects.toMatchObject({ code: 'INVALID_FILE_TYPE' })
    expect((await create({ mimeType: 'image/png' })).session.mimeType).toBe('image/png')
    expect((await create({ partial: true })).session.partial).toBe(true)
    await expect(create({ mimeType: 'image/png', checksum: 'x' })).rejects.toMatchObject({ code: 'INVALID_CHECKSUM' })
  })

  it('is one of as many as are allowed, in all and of one owner', async () => {
    const all = world({ limits: { maxSessions: 2 } })
    await all.create()
    await all.create()
    await expect(all.create()).rejects.toMatchObject({ code: 'TOO_MANY_UPLOADS' })
    const owned = world({ limits: { maxSessionsPerOwner: 1 } })
    await owned.create({ owner: 'ann' })
    await expect(owned.create({ owner: 'ann' })).rejects.toMatchObject({ code: 'TOO_MANY_UPLOADS' })
    await owned.create({ owner: 'bob' })
    await owned.create()
    await owned.create()
  })

  it('is not made when the application says no, or its id is taken', async () => {
    const refused = world({ hooks: { authorize: (action: string) => action !== 'create' } })
    await expect(refused.create()).rejects.toMatchObject({ status: 404 })
    const { create, store, events } = world()
    store.create = async () => false
    await expect(create()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' })
    expect(events).toEqual([])
  })

  it('with a resume key is the one that is open already', async () => {
    const { create, events } = world({ limits: { maxSessions: 1 } })
    const first = await create({ resumeKey: 'k' })
    const again = await create({ resumeKey: 'k' })
    expect(again).toEqual({ session: first.session, resumed: true })
    expect(first.session.resumeId).not.toBeNull()
    expect(events).toEqual(['created'])
  })

  it('has parts as the storage wants them, and waits where the setting says', async () => {
    const multipart = { minPartSize: 20, maxPartSize: 100, maxParts: 10, partSize: 40, direct: {} } as never
    const disk = world({ multipart })
    expect((await disk.create({ totalSize: 300 })).session.partSize).toBe(40)
    expect((await disk.create({ totalSize: 300, partial: true })).session.partSize).toBe(300)
    expect((await disk.create({ chunkSize: 30, anyChunkSize: true })).session).toMatchObject({
      chunkSize: 30,
      partSize: 60,
    })
    const shared = world({ multipart, staging: 'storage' })
    expect((await shared.create({ totalSize: 300, chunkSize: 30 })).session).toMatchObject({
      partSize: 30,
      staged: 'storage',
    })
    const any = { totalSize: 300, chunkSize: 30, anyChunkSize: true }
    expect((await shared.create(any)).session).toMatchObject({ chunkSize: 40, partSize: 40 })
    expect((await shared.create({ ...any, partial: true })).session).toMatchObject({ chunkSize: 30, partSize: 300 })
    expect((await shared.create({ anyChunkSize: true })).session.chunkSize).toBeNull()
    expect((await shared.create({ direct: true })).session.staged).toBeUndefined()
    expect((await shared.create({ direct: true })).session).toMatchObject({ direct: true, partSize: 40 })
  })
})

describe('a concatenation', () => {
  const id = (letter: string) => letter.repeat(22)
  const partial = (letter: string, size: number | null, fields: Partial<UploadSession> = {}) =>
    uploadRecord({
      ...{ id: id(letter), partial: true, totalSize: size, partSize: 100 },
      chunks: size ? [{ index: 0, count: 1, size, offset: 0, loose: 0 }] : [],
      ...fields,
    })
  const limits = { maxChunks: 3 } as UploadLimits
  const request = { protocol: 'tus', fileName: 'a', sources: [id('a'), id('b')] }

  it('is of partial uploads that are open, one at least and not too many', () => {
    const compose = (...partials: UploadSession[]) => composedCreate(request, partials, limits)
    expect(compose(partial('a', 5), partial('b', 6))).toMatchObject({
      totalSize: 11,
      staging: 'disk',
      sources: request.sources,
    })
    expect(compose(partial('a', 5), partial('b', null)).totalSize).toBeNull()
    expect(compose(partial('a', null), partial('b', 5)).totalSize).toBeNull()
    expect(compose(partial('a', 1), partial('b', 1), partial('c', 1)).totalSize).toBe(3)
    const four = ['a', 'b', 'c', 'd'].map((letter) => partial(letter, 1))
    expect(() => compose(...four)).toThrow('More than 3 uploads')
    expect(() => compose()).toThrow('nothing to concatenate')
    expect(() => compose(partial('a', 5, { partial: false as never }))).toThrow('Only partial uploads')
    for (const wrong of [four, [], [uploadRecord()]]) {
      expect(() => compose(...wrong)).toThrow(expect.objectContaining({ code: 'NOT_PARTIAL', status: 400 }))
    }
    const gone = (state: 'aborted' | 'expired') => () => compose(partial('a', 5, { open: false, state }))
    expect(gone('aborted')).toThrow(expect.objectContaining({ code: 'UPLOAD_ABORTED' }))
    expect(gone('expired')).toThrow(expect.objectContaining({ code: 'UPLOAD_EXPIRED' }))
  })

  it('waits in the storage only if all of its pieces do, and is found again by what was said', () => {
    const shared = { staged: 'storage' } as const
    expect(composedCreate(request, [partial('a', 1, shared), partial('b', 1, shared)], limits).staging).toBe('storage')
    expect(composedCreate(request, [partial('a', 1, shared), partial('b', 1)], limits).staging).toBe('disk')
    const key = (changes: object) => composedCreate({ ...request, ...changes }, [partial('a', 1)], limits).resumeKey
    expect(key({})).toMatch(/^compose:[\w-]{43}$/)
    const keys = [
      {},
      { sources: [id('b'), id('a')] },
      { fileName: 'b' },
      { mimeType: 'a/b' },
      { metadata: { a: 'b' } },
      { wire: { a: 'b' } },
    ]
    expect(new Set(keys.map(key)).size).toBe(keys.length)
    expect(key({})).toBe(key({}))
  })

  it('is told to its pieces, once each, and they stay as long as it does', async () => {
    const { parts, store } = world()
    await store.create(partial('a', 5, { expiresAt: 10 }))
    await store.create(partial('b', 5, { expiresAt: 90 }))
    const session = uploadRecord({ id: id('z'), sources: [id('a'), id('b'), id('a')], expiresAt: 50 })
    await linkSources(parts, session)
    await linkSources(parts, session)
    expect(await store.get(id('a'))).toMatchObject({ finals: [id('z')], expiresAt: 50 })
    expect(await store.get(id('b'))).toMatchObject({ finals: [id('z')], expiresAt: 90 })
    await linkSources(parts, { ...session, id: id('y') })
    expect(await store.get(id('a'))).toMatchObject({ finals: [id('z'), id('y')] })
    await keepSources(parts, session)
    expect(await store.get(id('b'))).toMatchObject({ expiresAt: now + ttl })
    await store.create(partial('c', 5, { open: false, expiresAt: 7 }))
    await expect(linkSources(parts, { ...session, sources: [id('c')] })).rejects.toMatchObject({ status: 404 })
    await expect(linkSources(parts, { ...session, sources: [id('x')] })).rejects.toMatchObject({ status: 404 })
    await keepSources(parts, { ...session, sources: [id('c')] })
    expect(await store.get(id('c'))).toMatchObject({ expiresAt: 7 })
  })

  it('stays, with all its pieces, while somebody is at work on one of them; not written each time', async () => {
    const keep = async (left: number, fields: Partial<UploadSession> = {}) => {
      const { parts, store } = world()
      await store.create(partial('b', 5, { expiresAt: 7 }))
      await store.create(uploadRecord({ id: id('z'), sources: [id('b')], expiresAt: now + left, ...fields }))
      await keepFinals(parts, partial('a', 5, { finals: [id('z'), id('x')] }))
      const [final, other] = [await store.get(id('z')), await store.get(id('b'))]
      return [(final?.expiresAt ?? 0) - now, (other?.expiresAt ?? 0) - now]
    }
    expect(await keep(10)).toEqual([ttl, ttl])
    expect(await keep(ttl * 0.75)).toEqual([ttl, ttl])
    expect(await keep(ttl * 0.75 + 1)).toEqual([ttl * 0.75 + 1, 7 - now])
    expect(await keep(10, { state: 'completed' })).toEqual([10, 7 - now])
  })

  it('is whole when each of its pieces is', async () => {
    const { parts, store } = world()
    await store.create(partial('a', 5))
    await store.create(partial('b', 6))
    await store.create(partial('c', 7, { chunks: [] }))
    await store.create(partial('d', null))
    await store.create(partial('e', 5, { open: false }))
    const whole = (...letters: string[]) => wholeSources(parts, uploadRecord({ sources: letters.map(id) }))
    const found = await whole('b', 'a', 'b')
    expect(found.map((each) => each.id)).toEqual([id('b'), id('a'), id('b')])
    expect(totalOf(found)).toBe(17)
    for (const letter of ['c', 'd'])
      await expect(whole('a', letter)).rejects.toMatchObject({ code: 'UPLOAD_INCOMPLETE' })
    for (const letter of ['e', 'x']) await expect(whole('a', letter)).rejects.toMatchObject({ code: 'UPLOAD_EXPIRED' })
    expect(await wholeSources(parts, uploadRecord())).toEqual([])
  })

  it('has its bytes where those of its pieces lie', async () => {
    const { parts, store } = world()
    await store.create(partial('a', 5))
    await store.create(partial('b', 6))
    const segments = (uploadId: string, partSize: number, start: number, size: number) => [
      [uploadId[0], partSize, start, size],
    ]
    const staged = { ...parts, staging: { segments } } as unknown as EngineParts
    const pieces = (start: number, end: number) =>
      composedPieces(staged, uploadRecord({ sources: [id('a'), id('b')] }), { start, end })
    expect(await pieces(0, 11)).toEqual([
      ['a', 100, 0, 5],
      ['b', 100, 0, 6],
    ])
    expect(await pieces(3, 7)).toEqual([
      ['a', 100, 3, 2],
      ['b', 100, 0, 2],
    ])
    expect(await pieces(0, 5)).toEqual([['a', 100, 0, 5]])
    expect(await pieces(5, 11)).toEqual([['b', 100, 0, 6]])
    expect(await pieces(9, 10)).toEqual([['b', 100, 4, 1]])
  })

  it('pins its pieces while something is done with it, also when that fails', async () => {
    const { parts } = world()
    const pinned = new Set<string>()
    const present = async (uploadId: string) => {
      pinned.add(uploadId)
      return { release: async () => void pinned.delete(uploadId) }
    }
    const pinning = {
      ...parts,
      claims: { present },
      staging: { createFolder: async () => {} },
    } as unknown as EngineParts
    const session = uploadRecord({ sources: [id('a'), id('b')] })
    expect(await pinSources(pinning, session, async () => [...pinned])).toEqual([id('a'), id('b')])
    expect(pinned.size).toBe(0)
    await expect(pinSources(pinning, session, () => Promise.reject(new Error('failure')))).rejects.toThrow('failure')
    expect(pinned.size).toBe(0)
  })

  it('is what a partial upload is completed by', () => {
    expect(() => refusePartial(uploadRecord())).not.toThrow()
    expect(() => refusePartial(partial('a', 5))).toThrow(expect.objectContaining({ code: 'PARTIAL', status: 409 }))
  })
})
