/** What a completion answers, and what the record says afterwards. */
import { describe, expect, it } from 'vitest'
import { InvalidRequestError, NexusUploaderError, UploadLockedError } from '../../src/errors.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { StoredObject, UploadHooks, UploadSession } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'

const protocol = 'native'
const hour = 3_600_000
const data = bytes(1_000)

async function whole(hooks: UploadHooks = {}, totalSize: number | null = data.length) {
  const sessions = new MemorySessionStore()
  const storage = new MemoryStorageAdapter({ multipart: false })
  const now = Date.now()
  const { engine, client } = testEngine({ sessions, storage, hooks, clock: () => now, completedTtl: 2 * hour })
  const events: string[] = []
  for (const name of ['completed', 'aborted', 'storageError', 'warning'] as const) {
    engine.events.on(name, () => void events.push(name))
  }
  const id = await client.create(totalSize)
  await client.write(id, 0, data)
  const record = async () => (await sessions.get(id)) as UploadSession
  const change = async (fields: Partial<UploadSession>) => {
    const current = await record()
    await sessions.replace({ ...current, ...fields, version: current.version + 1 }, current.version)
  }
  const complete = (more: object = {}) => engine.complete({ uploadId: id, protocol, ...more })
  return { engine, client, id, record, change, complete, storage, events, now }
}

describe('a completion', () => {
  it('gives the object, and the record remembers it for completedTtl', async () => {
    const { complete, record, storage, events, now, id } = await whole()
    const object = await complete()
    const { key } = await record()
    expect(object).toMatchObject({ key, size: data.length, url: expect.any(String) })
    expect('checksum' in object).toBe(false)
    expect(await record()).toMatchObject({
      ...{ id, state: 'completed', open: false, completing: null, object, updatedAt: now, expiresAt: now + 2 * hour },
    })
    expect(storage.read(key)?.equals(data)).toBe(true)
    expect(events).toEqual(['completed'])
    expect(await complete()).toEqual(object)
    expect(events).toEqual(['completed'])
  })

  it('with another size than the upload’s is refused before and after', async () => {
    const mismatch = { code: 'SIZE_MISMATCH', status: 400, message: 'totalSize differs from the size of the upload.' }
    const { complete, record } = await whole()
    await expect(complete({ totalSize: 999 })).rejects.toMatchObject(mismatch)
    expect((await record()).state).toBe('active')
    expect((await complete({ totalSize: 1_000 })).size).toBe(1_000)
    await expect(complete({ totalSize: 999 })).rejects.toMatchObject(mismatch)
    const open = await whole({}, null)
    await expect(open.complete({ totalSize: 1_001 })).rejects.toMatchObject({ code: 'UPLOAD_INCOMPLETE' })
    expect(await open.record()).toMatchObject({ state: 'active', totalSize: null })
    expect((await open.complete()).size).toBe(1_000)
    expect((await open.record()).totalSize).toBe(1_000)
    const other = await whole({}, null)
    const both = await Promise.allSettled([other.complete(), other.complete({ totalSize: 1_001 })])
    expect(both).toMatchObject([{ status: 'fulfilled' }, { status: 'rejected', reason: mismatch }])
  })

  it('with a checksum that nobody asked for when it was stored is told so', async () => {
    const { complete } = await whole()
    const object = await complete()
    const late = complete({ checksum: 'crc32:AAAAAA==' })
    await expect(late).rejects.toMatchObject({ code: 'CHECKSUM_TOO_LATE', status: 400 })
    expect(await complete()).toEqual(object)
    await expect(complete({ checksum: 'x' })).rejects.toMatchObject({ code: 'INVALID_CHECKSUM' })
  })

  it('of an upload that has ended, or is gone, is told which', async () => {
    const aborted = await whole()
    await aborted.client.abort(aborted.id)
    await expect(aborted.complete()).rejects.toMatchObject({ code: 'UPLOAD_ABORTED', status: 410 })
    const expired = await whole()
    await expired.change({ state: 'expired', open: false })
    await expect(expired.complete()).rejects.toMatchObject({ code: 'UPLOAD_EXPIRED', status: 410 })
  })

  it('takes over from a completer without a lease, from one whose lease has run out, and from one that is dead', async () => {
    for (const lease of [
      null,
      { by: 'another.1.1.0.1.00', until: 0 },
      { by: 'another.1.1.0.1.00', until: Number.MAX_SAFE_INTEGER },
    ]) {
      const { complete, change, record } = await whole()
      await change({ state: 'completing', completing: lease })
      expect((await complete()).size).toBe(1_000)
      expect((await record()).state).toBe('completed')
    }
  })

  it('waits for who has the lease, and gives what they made', async () => {
    const { complete, change, now, storage } = await whole()
    await change({ state: 'completing', completing: { by: 'another.1.1.0.1.00', until: now + 20_000 } })
    let ended = false
    const waiting = complete().finally(() => {
      ended = true
    })
    await new Promise((resolve) => setTimeout(resolve, 250))
    expect(ended).toBe(false)
    const object: StoredObject = { url: 'theirs', key: 'k', size: 1_000 }
    await change({ state: 'completed', completing: null, open: false, object })
    expect(await waiting).toEqual(object)
    expect(storage.keys()).toEqual([])
  })
})

describe('a hook that is told of the object', () => {
  const failing = (error: unknown) => whole({ onComplete: () => Promise.reject(error) })

  it('that does not want the file makes it go, for good', async () => {
    const reason = new InvalidRequestError('no', { code: 'UNWANTED' })
    const { complete, record, storage, events, now } = await failing(reason)
    await expect(complete()).rejects.toBe(reason)
    expect(await record()).toMatchObject({
      ...{ state: 'aborted', open: false, completing: null, updatedAt: now, expiresAt: now + 2 * hour },
      refusal: { code: 'UNWANTED', status: 400, message: 'no' },
    })
    expect(storage.read((await record()).key) ?? null).toBeNull()
    expect(events).toEqual(['aborted'])
    await expect(complete()).rejects.toMatchObject({ code: 'UNWANTED', status: 400, message: 'no' })
  })

  it('that fails, or asks for a retry, leaves the object for the next try', async () => {
    const cause = new Error('no database')
    const strange = await failing(cause)
    await expect(strange.complete()).rejects.toMatchObject({
      ...{ code: 'COMPLETION_HOOK_FAILED', status: 503, cause },
      message: 'The file is stored, but the application could not take it over yet. Try again.',
    })
    expect(await strange.record()).toMatchObject({
      state: 'active',
      open: true,
      completing: null,
      object: { size: 1_000 },
    })
    for (const error of [new UploadLockedError(), new NexusUploaderError('OURS', 500, 'broken')]) {
      const { complete, record, storage, events } = await failing(error)
      await expect(complete()).rejects.toBe(error)
      expect(await record()).toMatchObject({ state: 'active', completing: null })
      expect(storage.read((await record()).key)?.length).toBe(1_000)
      expect(events).toEqual([])
    }
  })

  it('gets the record, the object and the request, once', async () => {
    const told: unknown[][] = []
    const { complete, id } = await whole({ onComplete: (...given) => void told.push(given) })
    const object = await complete({ context: 'request' })
    await complete({ context: 'again' })
    expect(told).toEqual([[expect.objectContaining({ id, state: 'completing' }), object, 'request']])
  })
})

describe('an upload that ends while its object is being stored', () => {
  const ending = async (fields: Partial<UploadSession>) => {
    const at = await whole()
    const upload = at.storage.upload.bind(at.storage)
    at.storage.upload = async (...given) => {
      const url = await upload(...given)
      await at.change({ open: false, completing: null, ...fields })
      return url
    }
    const key = (await at.record()).key
    const error = await at.complete().catch((cause) => cause)
    return {
      error,
      isThere: at.storage.read(key) !== undefined && at.storage.read(key) !== null,
      state: (await at.record()).state,
    }
  }

  it('leaves no object behind, unless somebody else has recorded it or it was to stay', async () => {
    for (const state of ['aborted', 'expired'] as const) {
      expect(await ending({ state })).toMatchObject({ isThere: false, state, error: { code: 'UPLOAD_LOCKED' } })
    }
    expect(await ending({ state: 'aborted', forgotten: true })).toMatchObject({ isThere: true })
    const object: StoredObject = { url: 'theirs', key: 'k', size: 1_000 }
    expect(await ending({ state: 'aborted', object })).toMatchObject({ isThere: true })
    expect(await ending({ state: 'active', open: true })).toMatchObject({
      isThere: true,
      error: { code: 'UPLOAD_LOCKED' },
    })
    expect(await ending({ state: 'completed', object })).toMatchObject({ isThere: true, error: object })
  })
})
