import { describe, expect, it, vi } from 'vitest'
import { Aborter } from '../../src/engine/aborter.ts'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import { MultipartOpening } from '../../src/engine/multipart-opening.ts'
import { PartSender } from '../../src/engine/part-sender.ts'
import type { Pieces } from '../../src/engine/pieces.ts'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import { InvalidFileTypeError } from '../../src/errors.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { AbortUpload, UploadSession } from '../../src/types.ts'
import { uploadRecord } from '../support/records.ts'

const id = 'u'.repeat(22)
const hour = 3_600_000

/** An upload of parts of 10 bytes, the first `whole` of them settled. */
function upload(whole: number, fields: Partial<UploadSession> = {}): UploadSession {
  const chunks = whole > 0 ? [{ index: 0, count: whole, size: 10, offset: 0, loose: 0 }] : []
  return uploadRecord({ id, totalSize: 1_000, chunkSize: 10, chunks, ...fields })
}

async function world(record: UploadSession, concurrency = 2) {
  const store = new MemorySessionStore()
  await store.create(record)
  const seen = {
    sent: [] as number[],
    most: 0,
    opened: 0,
    removed: [] as number[],
    events: [] as string[],
    errors: [] as unknown[],
    claimed: 0,
    yielded: 0,
    discarded: 0,
  }
  const state = { uptime: 0, under: 0, isGone: false, fails: null as Error | null, gate: null as Promise<void> | null }
  const multipart = {
    create: async () => {
      seen.opened += 1
      return `m${seen.opened}`
    },
    uploadPart: async (_: unknown, part: number) => {
      state.under += 1
      seen.most = Math.max(seen.most, state.under)
      await (state.gate ?? new Promise((resolve) => setImmediate(resolve)))
      state.under -= 1
      if (state.fails) throw state.fails
      seen.sent.push(part)
    },
    listParts: async () => (state.isGone ? null : []),
    abort: async () => {},
  }
  const claim = async () => {
    seen.claimed += 1
    return {
      release: async () => {
        seen.claimed -= 1
      },
    }
  }
  const closing = new AbortController()
  const parts = {
    options: {
      ...{ storage: { multipart }, sessions: store, partConcurrency: concurrency, storageTimeout: 5_000 },
      ...{ hooks: {}, verifyMimeType: false, completedTtl: hour },
    },
    sessions: new SessionUpdates(store),
    staging: {
      sizeOf: async () => 10,
      partPath: (_: string, part: number) => String(part),
      partBody: (_: string, part: number, size: number) => ({ path: String(part), size }),
      removePart: async (_: string, part: number) => void seen.removed.push(part),
    },
    claims: {
      ...{ claim, insist: claim },
      requestYield: async () => {
        seen.yielded += 1
      },
    },
    clock: () => 1_000_000,
    uptime: () => state.uptime,
    closing: closing.signal,
    emit: (name: string, event: { error?: unknown; code?: string }) => {
      seen.events.push(event.code ?? name)
      if (event.error) seen.errors.push(event.error)
    },
  } as unknown as EngineParts
  const opening = new MultipartOpening(parts)
  const sender = new PartSender(parts, {} as Pieces, opening)
  const stored = async () => (await store.get(id)) as UploadSession
  return { sender, seen, state, store, stored, parts, closing, opening }
}

const { signal } = new AbortController()
const sorted = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b)
const upTo = (count: number) => Array.from({ length: count }, (_, i) => i + 1)

describe('whole parts', () => {
  it('are sent, counted and removed from the disk, as many at a time as allowed, with one multipart upload', async () => {
    const { sender, seen, stored } = await world(upload(6))
    sender.poke(await stored())
    await sender.idle(id)
    expect(sorted(seen.sent)).toEqual(upTo(6))
    expect(sorted(seen.removed)).toEqual(upTo(6))
    expect(await stored()).toMatchObject({ sentParts: [[1, 6]], multipartId: 'm1', openings: 1 })
    expect(seen).toMatchObject({ most: 2, opened: 1, claimed: 0 })
    expect(seen.events.filter((event) => event === 'part')).toHaveLength(6)
    const wide = await world(upload(9), 100)
    wide.sender.poke(await wide.stored())
    await wide.sender.idle()
    expect(wide.seen.most).toBe(4)
  })

  it('wait for the checksum of the whole file, and for more than one part; a completion sends what is left', async () => {
    for (const record of [upload(6, { checksum: 'md5:x' }), upload(1, { totalSize: 10 }), upload(0)]) {
      const { sender, seen, stored } = await world(record)
      sender.poke(await stored())
      await sender.idle(id)
      expect(seen).toMatchObject({ sent: [], opened: 0 })
    }
    const completing = await world(upload(6, { checksum: 'md5:x', state: 'completing' }))
    expect((await completing.sender.sendAll(id, signal)).sentParts).toEqual([[1, 6]])
    const active = await world(upload(6))
    expect((await active.sender.sendAll(id, signal)).sentParts).toEqual([])
    const stored = await world(upload(6, { state: 'completing', object: {} as never }))
    expect((await stored.sender.sendAll(id, signal)).sentParts).toEqual([])
    await expect(stored.sender.sendAll('none', signal)).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND' })
  })

  it('that become whole meanwhile are sent in the same run', async () => {
    const { sender, seen, state, stored, parts } = await world(upload(2))
    let open: () => void = () => {}
    state.gate = new Promise((resolve) => {
      open = resolve
    })
    sender.poke(await stored())
    const grown = await parts.sessions.update(id, (current) => ({ ...current, chunks: upload(4).chunks }))
    if (grown) sender.poke(grown)
    open()
    await sender.idle(id)
    expect(sorted(seen.sent)).toEqual([1, 2, 3, 4])
  })

  it('do not wait for a slow one that was begun before them', async () => {
    const { sender, seen, state, stored, parts } = await world(upload(1))
    const grow = async (whole: number) => {
      const grown = await parts.sessions.update(id, (current) => ({ ...current, chunks: upload(whole).chunks }))
      if (grown) sender.poke(grown)
    }
    let open: () => void = () => {}
    state.gate = new Promise((resolve) => {
      open = resolve
    })
    sender.poke(await stored())
    await vi.waitFor(() => expect(state.under).toBe(1))
    state.gate = null
    for (const whole of [2, 4]) {
      await grow(whole)
      await vi.waitFor(() => expect(sorted(seen.sent)).toEqual(upTo(whole).slice(1)))
    }
    open()
    await sender.idle(id)
    expect(await stored()).toMatchObject({ sentParts: [[1, 4]] })
    expect(seen).toMatchObject({ most: 2, opened: 1 })
  })

  it('are seen also when they become whole while the record is being read', async () => {
    const { sender, state, stored, parts } = await world(upload(1), 4)
    const grow = async (whole: number) => {
      const grown = await parts.sessions.update(id, (current) => ({ ...current, chunks: upload(whole).chunks }))
      if (grown) sender.poke(grown)
    }
    let open: () => void = () => {}
    state.gate = new Promise((resolve) => {
      open = resolve
    })
    sender.poke(await stored())
    await vi.waitFor(() => expect(state.under).toBe(1))
    await grow(2)
    const read = parts.sessions.get.bind(parts.sessions)
    vi.spyOn(parts.sessions, 'get').mockImplementationOnce(async (uploadId) => {
      const record = await read(uploadId)
      await grow(3)
      return record
    })
    await vi.waitFor(() => expect(state.under).toBe(3))
    open()
    await sender.idle(id)
    expect(await stored()).toMatchObject({ sentParts: [[1, 3]] })
  })

  it('at which somebody still is are sent in the same run, as soon as those are done', async () => {
    const { sender, seen, state, stored, parts } = await world(upload(2))
    let open: () => void = () => {}
    state.gate = new Promise((resolve) => {
      open = resolve
    })
    const held = vi.spyOn(parts.claims, 'claim').mockResolvedValueOnce(null)
    sender.poke(await stored())
    await vi.waitFor(() => expect(state.under).toBe(1))
    await vi.waitFor(() => expect(held).toHaveBeenCalledTimes(2))
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(held).toHaveBeenCalledTimes(2)
    state.gate = null
    sender.poke(await stored())
    await vi.waitFor(() => expect(seen.sent).toEqual([1]))
    open()
    await sender.idle(id)
    expect(seen.sent).toEqual([1, 2])
    expect(seen.opened).toBe(1)
  })

  it('that the storage does not take are told, and tried again after a pause that doubles up to half a minute', async () => {
    const { sender, seen, state, stored } = await world(upload(1))
    const failure = new Error('failure')
    state.fails = failure
    const tried = async (uptime: number) => {
      state.uptime = uptime
      const before = seen.errors.length
      sender.poke(await stored())
      await sender.idle(id)
      return seen.errors.length > before
    }
    expect(await tried(0)).toBe(true)
    expect(seen.errors).toEqual([failure])
    expect(seen.events).toEqual(['storageError'])
    let at = 0
    for (const pause of [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
      expect(await tried(at + pause - 1)).toBe(false)
      at += pause
      expect(await tried(at)).toBe(true)
    }
    state.fails = null
    expect(await tried(at + 30_000)).toBe(false)
    expect(seen.sent).toEqual([1])
    expect(seen.claimed).toBe(0)
    state.uptime = at
    state.fails = failure
    await expect((await world(upload(1))).sender.send(await stored(), 1, {} as never)).resolves.toBeUndefined()
    await expect(sender.send(await stored(), 1, {} as never)).rejects.toMatchObject({ cause: failure })
  })

  it('are not told to have failed when the engine ends', async () => {
    const { sender, seen, state, stored, closing } = await world(upload(1))
    state.gate = new Promise(() => {})
    sender.poke(await stored())
    await new Promise((resolve) => setTimeout(resolve, 10))
    closing.abort()
    await sender.idle()
    expect(seen.events).toEqual([])
  })

  it('make a client wait when more than five of them are queued, until some have left', async () => {
    const six = await world(upload(6))
    let open: () => void = () => {}
    six.state.gate = new Promise((resolve) => {
      open = resolve
    })
    // Nothing is under way: nothing to wait for.
    await six.sender.capacity(await six.stored(), signal)
    six.sender.poke(await six.stored())
    let isFree = false
    const waiting = six.sender.capacity(await six.stored(), signal).then(() => {
      isFree = true
    })
    await new Promise((resolve) => setTimeout(resolve, 80))
    expect(isFree).toBe(false)
    await expect(six.sender.capacity(await six.stored(), AbortSignal.abort())).rejects.toMatchObject({ status: 503 })
    open()
    await waiting
    const five = await world(upload(5))
    five.state.gate = new Promise(() => {})
    five.sender.poke(await five.stored())
    await five.sender.capacity(await five.stored(), signal)
    await five.sender.capacity(upload(6, { checksum: 'md5:x' }), signal)
    five.closing.abort()
  })
})

describe('a multipart upload that the storage has dropped', () => {
  const cause = new Error('NoSuchUpload')
  const explained = async (record: UploadSession, opened: Partial<UploadSession> = {}, isGone = true) => {
    const { sender, state, stored } = await world(record)
    state.isGone = isGone
    const error = (await sender.explain({ ...record, ...opened }, cause)) as { code?: string; cause?: unknown }
    const { multipartId, state: now, open, sentParts } = await stored()
    return { code: error === cause ? 'cause' : error.code, multipartId, now, open, sentParts }
  }
  const lease = (by: string) => ({ by, until: 9 })

  it('is begun anew while every byte is still here, and takes the upload with it when parts are gone', async () => {
    const anew = { code: 'cause', multipartId: null, now: 'active', open: true, sentParts: [] }
    expect(await explained(upload(2, { multipartId: 'm' }))).toEqual(anew)
    expect(await explained(upload(2, { multipartId: 'm', sources: [], sentParts: [[1, 1]] }))).toEqual(anew)
    expect(await explained(upload(2, { multipartId: 'm', sentParts: [[1, 1]] }))).toMatchObject({
      ...{ code: 'UPLOAD_EXPIRED', now: 'expired', open: false },
    })
  })

  it('changes nothing when it is still there, when another one was opened, or when there is an object', async () => {
    const kept = { code: 'cause', multipartId: 'm', now: 'active', sentParts: [[1, 1]] }
    const record = upload(2, { multipartId: 'm', sentParts: [[1, 1]] })
    expect(await explained(record, {}, false)).toMatchObject(kept)
    expect(await explained(record, { multipartId: 'l' })).toMatchObject(kept)
    expect(await explained({ ...record, object: {} as never })).toMatchObject(kept)
  })

  it('may have been joined by whoever completes the upload, so only they conclude anything', async () => {
    const record = upload(2, { multipartId: 'm', sentParts: [[1, 1]], state: 'completing', completing: lease('a') })
    expect(await explained(record)).toMatchObject({ code: 'UPLOAD_EXPIRED', now: 'expired' })
    expect(await explained(record, { completing: lease('b') })).toMatchObject({ code: 'cause', now: 'completing' })
    expect(await explained(record, { completing: null })).toMatchObject({ code: 'cause', now: 'completing' })
    const none = { ...record, completing: null }
    expect(await explained(none)).toMatchObject({ code: 'cause', now: 'completing' })
  })
})

describe('an upload that is given up', () => {
  const object = {} as NonNullable<UploadSession['object']>
  const aborting = async (record: UploadSession, completed: NonNullable<AbortUpload['completed']>, fails = false) => {
    const { sender, seen, parts, stored } = await world(record)
    const aborter = new Aborter(parts, sender, async () => {
      seen.discarded += 1
      if (fails) throw new Error('failure')
    })
    const error = await aborter.abort(record, completed).catch((cause) => cause)
    const { state, open, forgotten, object: left } = await stored()
    return {
      code: error?.code,
      state,
      open,
      forgotten,
      left,
      discarded: seen.discarded,
      events: seen.events,
      yielded: seen.yielded,
    }
  }

  it('says so first, makes writers yield, and its bytes go', async () => {
    expect(await aborting(upload(2), 'refuse')).toMatchObject({
      ...{ code: undefined, state: 'aborted', open: false, discarded: 1, events: ['aborted'], yielded: 1 },
    })
    const { sender, parts, stored } = await world(upload(2, { state: 'completing', completing: { by: 'a', until: 9 } }))
    await new Aborter(parts, sender, async () => {}).abort(await stored(), 'refuse')
    expect(await stored()).toMatchObject({ completing: null, updatedAt: 1_000_000, expiresAt: 1_000_000 + hour })
    await expect(
      new Aborter(parts, sender, async () => {}).abort(upload(0, { id: 'none' }), 'refuse'),
    ).rejects.toMatchObject({
      code: 'UPLOAD_NOT_FOUND',
    })
  })

  it('is not, while somebody completes it or when it is complete, unless that is asked for', async () => {
    const completing = upload(2, { state: 'completing', completing: { by: 'a', until: 1_000_001 } })
    expect(await aborting(completing, 'remove')).toMatchObject({
      code: 'UPLOAD_LOCKED',
      state: 'completing',
      discarded: 0,
    })
    const completed = upload(2, { state: 'completed', open: false, object })
    expect(await aborting(completed, 'refuse')).toMatchObject({
      code: 'UPLOAD_CLOSED',
      state: 'completed',
      discarded: 0,
    })
    expect(await aborting(completed, 'remove')).toMatchObject({
      state: 'aborted',
      left: {},
      discarded: 1,
      events: ['aborted'],
    })
    const forgotten = await aborting(completed, 'forget' as never)
    expect(forgotten).toMatchObject({ state: 'aborted', left: null, forgotten: true, discarded: 0 })
  })

  it('when it has an object that the application has not taken over is like a complete one', async () => {
    const stored = upload(2, { object })
    expect(await aborting(stored, 'refuse')).toMatchObject({ code: 'UPLOAD_CLOSED', state: 'active' })
    expect(await aborting(stored, 'remove')).toMatchObject({ state: 'aborted', left: {}, discarded: 1 })
    expect(await aborting(upload(2, { object, state: 'completing' }), 'remove')).toMatchObject({
      code: 'UPLOAD_CLOSED',
    })
  })

  it('once more is no event, and what is left of it is tried again', async () => {
    const aborted = upload(2, { state: 'aborted', open: false })
    expect(await aborting(aborted, 'refuse')).toMatchObject({ code: undefined, discarded: 1, events: [] })
    expect(await aborting(upload(2), 'refuse', true)).toMatchObject({
      state: 'aborted',
      events: ['CLEANUP_FAILED', 'aborted'],
    })
  })

  it('by the application is so for good, with the reason; a completion looks for itself', async () => {
    const refusing = async (record: UploadSession) => {
      const { sender, seen, parts, stored } = await world(record)
      const aborter = new Aborter(parts, sender, async () => {
        seen.discarded += 1
      })
      await aborter.refuse(id, new InvalidFileTypeError('image/png', []))
      await aborter.refuse('none', new InvalidFileTypeError('image/png', []))
      return { record: await stored(), seen }
    }
    const refused = await refusing(upload(2))
    expect(refused.record).toMatchObject({
      ...{ state: 'aborted', open: false, refusal: { code: 'INVALID_FILE_TYPE', status: 415 } },
      ...{ updatedAt: 1_000_000, expiresAt: 1_000_000 + hour },
    })
    expect(refused.seen).toMatchObject({ discarded: 1, yielded: 1, events: ['aborted'] })
    for (const fields of [{ state: 'completing' }, { object }, { state: 'aborted' }] as const) {
      const kept = await refusing(upload(2, fields))
      expect(kept.record.refusal).toBeUndefined()
      expect(kept.seen).toMatchObject({ discarded: 0, yielded: 0, events: [] })
    }
  })
})
