/** What only one at a time may do: open a multipart upload, add to the end of an upload. */
import { describe, expect, it } from 'vitest'
import { acquireAppendLock } from '../../src/engine/append-lock.ts'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import { MultipartOpening, objectInfo, openMultipart } from '../../src/engine/multipart-opening.ts'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import { StorageUnavailableError, UploadLockedError } from '../../src/errors.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { MultipartStorage, UploadSession } from '../../src/types.ts'
import { uploadRecord } from '../support/records.ts'

const id = 'u'.repeat(22)

describe('a multipart upload', () => {
  async function world(fields: Partial<UploadSession> = {}) {
    const store = new MemorySessionStore()
    const record = uploadRecord({ id, ...fields })
    await store.create(record)
    const aborted: (string | null)[] = []
    const created: unknown[] = []
    const multipart = {
      create: async (key: string, info: object) => {
        created.push({ key, ...info })
        return `m${created.length}`
      },
      abort: async ({ multipartId }: { multipartId: string | null }) => void aborted.push(multipartId),
    } as unknown as MultipartStorage
    const parts = {
      options: { storage: { multipart }, storageTimeout: 5_000 },
      sessions: new SessionUpdates(store),
      closing: new AbortController().signal,
    } as unknown as EngineParts
    return { record, store, parts, multipart, aborted, created, stored: () => store.get(id) }
  }

  it('is opened once for all who ask at the same time, with what is known of the file', async () => {
    const { record, parts, created, stored } = await world({ totalSize: 5, metadata: { a: 'b' } })
    const opening = new MultipartOpening(parts)
    const opened = await Promise.all([opening.open(record), opening.open(record)])
    expect(opened.map(({ multipartId }) => multipartId)).toEqual(['m1', 'm1'])
    expect(created).toMatchObject([
      {
        key: 'key',
        size: 5,
        fileName: 'file',
        mimeType: 'application/octet-stream',
        uploadId: id,
        metadata: { a: 'b' },
      },
    ])
    expect(await stored()).toMatchObject({ multipartId: 'm1', openings: 1 })
    expect(await opening.open({ ...record, multipartId: 'x' })).toMatchObject({ multipartId: 'x' })
    expect((await opening.open(record)).multipartId).toBe('m1')
    expect(created).toHaveLength(1)
  })

  it('is counted before it is opened, and so are those that may have been lost', async () => {
    const { record, parts, multipart, stored, aborted } = await world({ openings: 2 })
    const open = async (onDoubt: () => void) => {
      expect(await stored()).toMatchObject({ multipartId: null, openings: 3 })
      onDoubt()
      onDoubt()
      return 'm'
    }
    expect(await openMultipart(parts, multipart, record, open)).toMatchObject({ multipartId: 'm', openings: 5 })
    expect(aborted).toEqual([])
    const failing = await world()
    const failure = new Error('failure')
    await expect(
      openMultipart(failing.parts, failing.multipart, failing.record, () => Promise.reject(failure)),
    ).rejects.toBe(failure)
    expect(await failing.stored()).toMatchObject({ multipartId: null, openings: 1 })
  })

  it('that another process has opened meanwhile is taken, and the own one goes', async () => {
    const { record, parts, multipart, aborted, stored } = await world()
    const other = (multipartId: string) => parts.sessions.update(id, (current) => ({ ...current, multipartId }))
    const opened = await openMultipart(parts, multipart, record, async (onDoubt) => {
      onDoubt()
      await other('theirs')
      return 'ours'
    })
    expect(opened).toMatchObject({ multipartId: 'theirs', openings: 2 })
    expect(aborted).toEqual(['ours'])
    const none = await openMultipart(parts, multipart, record, () => Promise.reject(new Error('not needed')))
    expect(none.multipartId).toBe('theirs')
    expect(await stored()).toMatchObject({ openings: 2 })
  })

  it('of an upload that has gone does not stay', async () => {
    const { record, parts, multipart, aborted, store } = await world()
    const opening = openMultipart(parts, multipart, record, async () => {
      await store.delete(id)
      return 'ours'
    })
    await expect(opening).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND' })
    expect(aborted).toEqual(['ours'])
    await expect(openMultipart(parts, multipart, record, async () => 'x')).rejects.toMatchObject({ status: 404 })
    expect(aborted).toEqual(['ours'])
  })

  it('needs a storage that has them', async () => {
    const { record, parts } = await world()
    Object.assign(parts.options.storage, { multipart: undefined })
    expect(() => new MultipartOpening(parts).open(record)).toThrow(StorageUnavailableError)
  })

  it('and a whole object are told the same of the file', () => {
    const { signal } = new AbortController()
    const record = uploadRecord({ id, totalSize: 7, fileName: 'a', mimeType: 'b/c', metadata: { x: 'y' } })
    expect(objectInfo(record, signal)).toEqual({
      ...{ size: 7, fileName: 'a', mimeType: 'b/c', uploadId: id, metadata: { x: 'y' }, signal },
    })
  })
})

describe('the lock of an append', () => {
  function world(answers: { lock?: unknown; claim?: unknown } = {}) {
    const held = { lock: 0, claim: 0 }
    const seen = { forgotten: 0, requested: false, patience: 0 }
    const lost = new AbortController()
    const parts = {
      options: {
        locker: {
          acquire: async () => {
            if (answers.lock) throw answers.lock
            held.lock += 1
            return {
              lost: lost.signal,
              release: async () => {
                held.lock -= 1
              },
            }
          },
        },
      },
      claims: {
        insist: async (_: string, range: { start: number; end: number }, patience: number) => {
          seen.patience = patience
          if (answers.claim !== undefined) {
            if (answers.claim === null) return null
            throw answers.claim
          }
          held.claim += 1
          return {
            range,
            release: async () => {
              held.claim -= 1
            },
          }
        },
        forgetRequest: async () => {
          seen.forgotten += 1
        },
        isRequested: async () => seen.requested,
      },
    } as unknown as EngineParts
    const acquire = (onYield: () => void = () => {}, signal = new AbortController().signal) =>
      acquireAppendLock(parts, id, onYield, signal)
    return { acquire, held, seen, lost, parts }
  }

  it('is the lock of all nodes and the claim of those on one disk, and both are given back', async () => {
    const { acquire, held, seen, lost } = world()
    const lock = await acquire()
    expect(held).toEqual({ lock: 1, claim: 1 })
    expect(seen.forgotten).toBe(1)
    expect(seen.patience).toBeGreaterThan(1)
    expect(lock.lost).toBe(lost.signal)
    await lock.release()
    expect(held).toEqual({ lock: 0, claim: 0 })
  })

  it('needs no claim on an upload without a folder', async () => {
    const { acquire, held } = world({ claim: Object.assign(new Error('none'), { code: 'ENOENT' }) })
    const lock = await acquire()
    expect(held).toEqual({ lock: 1, claim: 0 })
    await lock.release()
    expect(held.lock).toBe(0)
  })

  it('is given back when the claim cannot be had', async () => {
    const refused = world({ claim: null })
    await expect(refused.acquire()).rejects.toMatchObject({ code: 'UPLOAD_LOCKED', status: 423 })
    const full = world({ claim: Object.assign(new Error('full'), { code: 'ENOSPC' }) })
    await expect(full.acquire()).rejects.toMatchObject({ status: 507 })
    const reason = new Error('stop')
    const stopped = world({ claim: reason })
    await expect(stopped.acquire(() => {}, AbortSignal.abort(reason))).rejects.toBe(reason)
    for (const { held } of [refused, full, stopped]) expect(held).toEqual({ lock: 0, claim: 0 })
    const failing = world()
    failing.parts.claims.forgetRequest = () => Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' }))
    await expect(failing.acquire()).rejects.toMatchObject({ status: 507 })
    expect(failing.held).toEqual({ lock: 0, claim: 0 })
  })

  it('that is not given in time is told as locked; other failures are what they are', async () => {
    const late = world({ lock: new DOMException('late', 'TimeoutError') })
    await expect(late.acquire()).rejects.toBeInstanceOf(UploadLockedError)
    const locked = new UploadLockedError()
    await expect(world({ lock: locked }).acquire()).rejects.toBe(locked)
    const outage = new StorageUnavailableError()
    await expect(world({ lock: outage }).acquire()).rejects.toBe(outage)
    const strange = new Error('strange')
    await expect(world({ lock: strange }).acquire()).rejects.toBe(strange)
    const stop = new DOMException('late', 'TimeoutError')
    await expect(world({ lock: stop }).acquire(() => {}, AbortSignal.abort())).rejects.toBe(stop)
  })

  it('is asked for by a word of another process, which is looked for until it is given back', async () => {
    const { acquire, seen } = world()
    let asked = 0
    const lock = await acquire(() => {
      asked += 1
    })
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(asked).toBe(0)
    seen.requested = true
    await expect.poll(() => asked, { timeout: 10_000 }).toBeGreaterThan(0)
    await lock.release()
    const before = asked
    await new Promise((resolve) => setTimeout(resolve, 600))
    expect(asked).toBe(before)
  })
})
