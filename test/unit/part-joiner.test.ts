/** What becomes of an upload whose parts are to be joined, by what the storage says that it holds. */
import { describe, expect, it } from 'vitest'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import { PartJoiner } from '../../src/engine/part-joiner.ts'
import type { PartSender } from '../../src/engine/part-sender.ts'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import { StorageError, StorageUnavailableError } from '../../src/errors.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { StoredPart, UploadSession } from '../../src/types.ts'
import { uploadRecord } from '../support/records.ts'

const id = 'u'.repeat(22)
const lease = { by: 'us', until: 9 }
const { signal } = new AbortController()

/** Three parts of 10, 10 and 5 bytes, all of them sent, and whoever joins them has the lease. */
function sent(fields: Partial<UploadSession> = {}): UploadSession {
  const chunks = [
    { index: 0, count: 2, size: 10, offset: 0, loose: 0 },
    { index: 2, count: 1, size: 5, offset: 20, loose: 0 },
  ]
  return uploadRecord({
    ...{ id, totalSize: 25, chunkSize: 10, chunks, sentParts: [[1, 3]], multipartId: 'm' },
    ...{ state: 'completing', completing: lease, ...fields },
  })
}

const part = (partNumber: number, size = 10, crc32?: number): StoredPart => ({
  ...{ partNumber, size, etag: `e${partNumber}` },
  ...(crc32 !== undefined && { crc32 }),
})
const all = [part(1), part(2), part(3, 5)]

async function world(record: UploadSession, listed: readonly StoredPart[] | null) {
  const store = new MemorySessionStore()
  await store.create(record)
  const seen = { listed: [] as unknown[], completed: [] as unknown[][], sums: 0 }
  const state = {
    listed,
    sums: new Map<number, number>(),
    here: [] as number[],
    complete: async (): Promise<string> => 'url',
    onList: async () => {},
    sent: record,
    known: [] as readonly StoredPart[],
  }
  const multipart = {
    listParts: async (ref: unknown) => {
      seen.listed.push(ref)
      await state.onList()
      return state.listed
    },
    complete: async (...given: unknown[]) => {
      seen.completed.push(given)
      return state.complete()
    },
    sentParts: () => state.known,
  }
  const read = async () => {
    seen.sums += 1
    return state.sums
  }
  const options = { storage: { multipart }, storageTimeout: 5_000, sessions: { chunkSums: { read } } }
  const sums = {
    all: async () => {
      seen.sums += 1
      return (index: number) => state.sums.get(index) ?? null
    },
  }
  const parts = { options, sessions: new SessionUpdates(store), staging: { sums } } as unknown as EngineParts
  const sender = {
    sendAll: async () => state.sent,
    sourceOf: () => ({ holds: async (_: unknown, partNumber: number) => state.here.includes(partNumber) }),
  } as unknown as PartSender
  const joiner = new PartJoiner(parts, sender)
  const stored = async () => (await store.get(id)) as UploadSession
  const change = async (fields: Partial<UploadSession>) => {
    await parts.sessions.update(id, (current) => ({ ...current, ...fields }))
  }
  return { joiner, seen, state, stored, change, options, join: () => joiner.sendAndJoin(record, signal) }
}

describe('parts that are all there', () => {
  it('become the object as the storage lists them, with what is known of the file', async () => {
    const { join, seen, stored } = await world(sent(), all)
    expect(await join()).toBe('url')
    const ref = { fileKey: 'key', multipartId: 'm' }
    expect(seen.listed).toEqual([ref])
    expect(seen.completed).toEqual([[ref, all, expect.objectContaining({ size: 25, fileName: 'file', uploadId: id })]])
    expect(await stored()).toMatchObject({ state: 'completing', sentParts: [[1, 3]], completing: lease })
  })

  it('are not joined while one is still on its way from elsewhere, nor is the storage asked', async () => {
    const { join, state, seen } = await world(sent(), all)
    state.sent = sent({ sentParts: [[1, 2]] })
    await expect(join()).rejects.toMatchObject({ code: 'UPLOAD_LOCKED', status: 423 })
    expect(seen).toMatchObject({ listed: [], completed: [] })
  })

  it('are not joined by who has lost the upload to somebody else', async () => {
    for (const completing of [null, { by: 'they', until: 9 }]) {
      const { join, change, seen } = await world(sent(), all)
      await change({ completing })
      await expect(join()).rejects.toMatchObject({ code: 'UPLOAD_LOCKED' })
      expect(seen).toMatchObject({ listed: [], completed: [] })
    }
  })

  it('cannot be joined by a storage without parts, nor without a multipart upload', async () => {
    const none = await world(sent(), all)
    Object.assign(none.options.storage, { multipart: undefined })
    await expect(none.join()).rejects.toMatchObject({ status: 503 })
    const unopened = await world(sent({ multipartId: null }), all)
    await expect(unopened.join()).rejects.toMatchObject({ status: 503 })
    expect(unopened.seen).toMatchObject({ listed: [], completed: [] })
  })

  it.each(['a list', 'the object', 'the object that is there already'])(
    'are not waited for without end when the storage does not answer with %s',
    async (what) => {
      const { join, state, options } = await world(sent(), what.endsWith('already') ? null : all)
      options.storageTimeout = 20
      const never = () => new Promise<never>(() => {})
      if (what === 'a list') state.onList = never
      else state.complete = never
      await expect(join()).rejects.toMatchObject({ code: 'STORAGE_TIMEOUT', status: 504 })
    },
  )

  it('are not waited for when the completion is given up', async () => {
    const { joiner, state } = await world(sent(), all)
    state.complete = () => new Promise<never>(() => {})
    const stop = new AbortController()
    const joining = joiner.sendAndJoin(sent(), stop.signal)
    setImmediate(() => stop.abort())
    await expect(joining).rejects.toMatchObject({ status: 503 })
  })
})

describe('parts that this process has sent all, and knows to be there', () => {
  const named = [part(1), part(2), part(3, 5)].map((one) => ({ ...one, etag: `own ${one.etag}` }))

  it('become the object without a list of them', async () => {
    const { join, seen, state } = await world(sent(), all)
    state.known = named
    expect(await join()).toBe('url')
    expect(seen.listed).toEqual([])
    expect(seen.completed).toEqual([
      [{ fileKey: 'key', multipartId: 'm' }, named, expect.objectContaining({ uploadId: id })],
    ])
  })

  it.each([
    ['one is not known', named.slice(1)],
    ['one has another size', [part(1), part(2), part(3)]],
    ['there is one more', [...named, part(4)]],
    ['none is known', []],
  ])('are listed when %s', async (_, known) => {
    const { join, seen, state } = await world(sent(), all)
    state.known = known
    expect(await join()).toBe('url')
    expect(seen.listed).toHaveLength(1)
    expect(seen.completed.map((given) => given[1])).toEqual([all])
  })

  it('are listed when they are made of pieces in the storage: another node may have sent one once more', async () => {
    const { join, seen, state } = await world(sent({ staged: 'storage' }), all)
    state.known = named
    expect(await join()).toBe('url')
    expect(seen.listed).toHaveLength(1)
    expect(seen.completed.map((given) => given[1])).toEqual([all])
  })

  it('are listed when the storage refuses them, and only what it holds is joined', async () => {
    const { join, seen, state } = await world(sent(), all)
    state.known = named
    let tries = 0
    state.complete = async () => {
      tries += 1
      if (tries === 1) throw new StorageError('refused')
      return 'url'
    }
    expect(await join()).toBe('url')
    expect(seen.completed.map((given) => given[1])).toEqual([named, all])
    const lost = await world(sent(), [part(1), part(2)])
    lost.state.known = named
    lost.state.complete = () => Promise.reject(new StorageError('refused'))
    await expect(lost.join()).rejects.toMatchObject({ code: 'UPLOAD_EXPIRED' })
    expect(lost.seen.completed).toHaveLength(1)
  })

  it('wait for another try when the storage is out of reach', async () => {
    const { join, seen, state, stored } = await world(sent(), all)
    state.known = named
    state.complete = () => Promise.reject(new StorageUnavailableError())
    await expect(join()).rejects.toMatchObject({ status: 503 })
    expect(seen).toMatchObject({ listed: [], completed: [expect.anything()] })
    expect(await stored()).toMatchObject({ state: 'completing', sentParts: [[1, 3]] })
  })

  it('are not joined by who has lost the upload to somebody else, neither at first nor after a refusal', async () => {
    const { join, change, seen, state } = await world(sent(), all)
    state.known = named
    await change({ completing: { by: 'they', until: 9 } })
    await expect(join()).rejects.toMatchObject({ code: 'UPLOAD_LOCKED' })
    expect(seen).toMatchObject({ listed: [], completed: [] })
    await change({ completing: lease })
    state.complete = async () => {
      await change({ completing: { by: 'they', until: 9 } })
      throw new StorageError('refused')
    }
    await expect(join()).rejects.toMatchObject({ code: 'UPLOAD_LOCKED' })
    expect(seen).toMatchObject({ listed: [], completed: [expect.anything()] })
  })

  it('are not waited for without end when the storage does not answer', async () => {
    const { join, state, options } = await world(sent(), all)
    options.storageTimeout = 20
    state.known = named
    state.complete = () => new Promise<never>(() => {})
    await expect(join()).rejects.toMatchObject({ code: 'STORAGE_TIMEOUT', status: 504 })
  })
})

describe('a storage that holds other parts than it confirmed', () => {
  const cases: [string, StoredPart[], [number, number][]][] = [
    ['no parts', [], []],
    ['not the first', [part(2), part(3, 5)], [[2, 3]]],
    [
      'not the one in the middle',
      [part(1), part(3, 5)],
      [
        [1, 1],
        [3, 3],
      ],
    ],
    ['not the last', [part(1), part(2)], [[1, 2]]],
    [
      'one that is too short',
      [part(1), part(2, 9), part(3, 5)],
      [
        [1, 1],
        [3, 3],
      ],
    ],
    ['one that is too long', [part(1), part(2), part(3, 10)], [[1, 2]]],
    ['others in their place', [part(4), part(5), part(6, 5)], []],
  ]

  it.each(cases)('(%s) makes no object of them, and gets what it lacks once more', async (_, listed, kept) => {
    const { join, state, seen, stored } = await world(sent(), listed)
    state.here = [1, 2, 3]
    const count = kept.reduce((sum, [first, last]) => sum + last - first + 1, 0)
    await expect(join()).rejects.toMatchObject({
      ...{ code: 'PARTS_DISAGREE', status: 502, retryable: true },
      cause: { message: `the storage holds ${count} of 3 parts of upload ${id}` },
    })
    expect(seen.completed).toEqual([])
    expect(await stored()).toMatchObject({ sentParts: kept, state: 'completing', open: true, multipartId: 'm' })
  })

  it('(one behind the end) makes the object without it', async () => {
    const { join, seen } = await world(sent(), [...all, part(4)])
    expect(await join()).toBe('url')
    expect(seen.completed.map((given) => given[1])).toEqual([all])
  })

  it('ends the upload when bytes of a lost part are not here any more', async () => {
    for (const here of [[], [2], [1]]) {
      const { join, state, stored, seen } = await world(sent(), [part(3, 5)])
      state.here = here
      await expect(join()).rejects.toMatchObject({ code: 'UPLOAD_EXPIRED', status: 410, cause: expect.any(Error) })
      expect(await stored()).toMatchObject({ state: 'expired', open: false, completing: null, sentParts: [[1, 3]] })
      expect(seen.completed).toEqual([])
    }
  })

  it('needs only the lost parts to be here', async () => {
    const { join, state, stored } = await world(sent(), [part(2), part(3, 5)])
    state.here = [1]
    await expect(join()).rejects.toMatchObject({ code: 'PARTS_DISAGREE' })
    expect((await stored()).sentParts).toEqual([[2, 3]])
  })

  it('gets the parts of a concatenation from its pieces, wherever they lie', async () => {
    const { join, stored } = await world(sent({ sources: ['a'] }), [part(1)])
    await expect(join()).rejects.toMatchObject({ code: 'PARTS_DISAGREE' })
    expect(await stored()).toMatchObject({ state: 'completing', open: true, sentParts: [[1, 1]] })
  })

  it('does not end an upload that somebody else has taken over meanwhile, nor change what is sent', async () => {
    const theirs = { by: 'they', until: 9 }
    for (const here of [[], [1, 2, 3]]) {
      const { join, state, change, stored } = await world(sent(), [])
      state.here = here
      state.onList = () => change({ completing: theirs })
      await expect(join()).rejects.toMatchObject({ code: here.length > 0 ? 'UPLOAD_LOCKED' : 'PARTS_DISAGREE' })
      expect(await stored()).toMatchObject({ state: 'completing', completing: theirs, sentParts: [[1, 3]] })
    }
  })
})

describe('a multipart upload that is closed already', () => {
  const gone = new StorageError('gone', { code: 'MULTIPART_GONE' })

  it('may have been by an earlier completion: the storage looks for an object of that size', async () => {
    const { join, seen } = await world(sent(), null)
    expect(await join()).toBe('url')
    const expected = [
      { partNumber: 1, size: 10, etag: '' },
      { partNumber: 2, size: 10, etag: '' },
      { partNumber: 3, size: 5, etag: '' },
    ]
    expect(seen.completed).toMatchObject([[{ fileKey: 'key', multipartId: 'm' }, expected, { size: 25 }]])
  })

  it('and has no object ends the upload; an outage does not', async () => {
    const lost = await world(sent(), null)
    lost.state.complete = () => Promise.reject(gone)
    await expect(lost.join()).rejects.toMatchObject({ code: 'UPLOAD_EXPIRED', status: 410, cause: gone })
    expect(await lost.stored()).toMatchObject({ state: 'expired', open: false, completing: null })
    const outage = await world(sent(), null)
    const failure = new StorageError('outage')
    outage.state.complete = () => Promise.reject(failure)
    await expect(outage.join()).rejects.toBe(failure)
    expect(await outage.stored()).toMatchObject({ state: 'completing', open: true, completing: lease })
  })

  it('is not one that is closed when a listed one cannot be joined', async () => {
    const { join, state, stored } = await world(sent(), all)
    state.complete = () => Promise.reject(gone)
    await expect(join()).rejects.toBe(gone)
    expect(await stored()).toMatchObject({ state: 'completing', open: true })
  })

  it('of a concatenation is begun anew, unless that has ended', async () => {
    const { join, state, stored } = await world(sent({ sources: ['a'] }), null)
    state.complete = () => Promise.reject(gone)
    await expect(join()).rejects.toMatchObject({ code: 'PARTS_DISAGREE', cause: gone })
    expect(await stored()).toMatchObject({ state: 'completing', open: true, multipartId: null, sentParts: [] })
    const ended = await world(sent({ sources: ['a'] }), null)
    ended.state.complete = async () => {
      await ended.change({ state: 'aborted', open: false, completing: null })
      throw gone
    }
    await expect(ended.join()).rejects.toMatchObject({ status: 410 })
    expect(await ended.stored()).toMatchObject({ state: 'aborted', multipartId: 'm', sentParts: [[1, 3]] })
  })

  it('says nothing about an upload that has another one by now, or an object, or another completer', async () => {
    const object = { url: 'u', key: 'key', size: 25 }
    for (const fields of [{ multipartId: 'n' }, { object }, { completing: { by: 'they', until: 9 } }]) {
      const { join, state, stored, change } = await world(sent(), null)
      state.complete = async () => {
        await change(fields)
        throw gone
      }
      await expect(join()).rejects.toMatchObject({ code: 'PARTS_DISAGREE', retryable: true })
      expect(await stored()).toMatchObject({ state: 'completing', open: true, sentParts: [[1, 3]], ...fields })
    }
  })
})

describe('parts with other bytes than were recorded', () => {
  const size = 5_000
  /** Three parts, each one chunk, that were stored by any node. */
  const shared = (fields: Partial<UploadSession> = {}) =>
    sent({
      ...{ totalSize: 3 * size, chunkSize: size, partSize: size, staged: 'storage', beginnings: 4 },
      ...{ chunks: [{ index: 0, count: 3, size, offset: 0, loose: 0 }], ...fields },
    })
  const listing = (...crcs: number[]) => crcs.map((crc, i) => part(i + 1, size, crc))
  const joined = async (record: UploadSession, listed: readonly StoredPart[]) => {
    const at = await world(record, listed)
    at.state.sums = new Map([100, 101, 102].entries())
    const error = await at.join().catch((cause) => cause)
    return { ...at, error, record: await at.stored() }
  }

  it('are taken back, and the client is told which chunks to send again', async () => {
    const { error, record, seen } = await joined(shared(), listing(100, 9, 102))
    expect(error).toMatchObject({ code: 'UPLOAD_INCOMPLETE', status: 409, missing: [[1, 1]] })
    expect(seen.completed).toEqual([])
    expect(record.sentParts).toEqual([
      [1, 1],
      [3, 3],
    ])
    expect(record.chunks.map(({ index }) => index)).toEqual([0, 2])
    // They lie behind the beginning, which stays looked at.
    expect(record.beginnings).toBe(4)
  })

  it('make the beginning be looked at again when they are in it', async () => {
    const { error, record } = await joined(shared(), listing(9, 101, 102))
    expect(error).toMatchObject({ missing: [[0, 0]] })
    expect(record).toMatchObject({ beginnings: 5, sentParts: [[2, 3]] })
    expect((await joined(shared(), listing(9, 101, 9))).record).toMatchObject({ beginnings: 5, sentParts: [[2, 2]] })
  })

  it('are the ones that were recorded when the sums are the same', async () => {
    const { error, record, seen } = await joined(shared(), listing(100, 101, 102))
    expect(error).toBe('url')
    expect(record.sentParts).toEqual([[1, 3]])
    expect(seen.completed).toHaveLength(1)
  })

  it('are not looked for where nothing can tell, nor are the sums read', async () => {
    const untold = [part(1, size), part(2, size), part(3, size)]
    const disk = shared()
    Reflect.deleteProperty(disk, 'staged')
    for (const [record, listed] of [
      [shared(), untold],
      [disk, listing(9, 9, 9)],
      [shared({ sources: ['a'] }), listing(9, 9, 9)],
      [shared({ appended: true }), listing(9, 9, 9)],
    ] as const) {
      const { error, seen, record: after } = await joined(record, listed)
      expect(error).toBe('url')
      expect([seen.sums, after.sentParts]).toEqual([0, [[1, 3]]])
    }
    const one = [part(1, size), part(2, size, 9), part(3, size)]
    expect((await joined(shared(), one)).error).toMatchObject({ missing: [[1, 1]] })
  })

  it('are not taken back by who has lost the upload meanwhile', async () => {
    const at = await world(shared(), listing(9, 101, 102))
    at.state.sums = new Map([[0, 100]])
    at.state.onList = () => at.change({ completing: { by: 'they', until: 9 } })
    await expect(at.join()).rejects.toMatchObject({ code: 'UPLOAD_LOCKED' })
    expect(await at.stored()).toMatchObject({ sentParts: [[1, 3]], chunks: [{ count: 3 }], beginnings: 4 })
  })
})

describe('parts that the client has sent straight to the storage', () => {
  const direct = (totalSize: number | null = 25) => sent({ direct: true, totalSize, chunks: [], sentParts: [] })
  const named = all.map(({ partNumber, etag }) => ({ partNumber, etag }))

  it('are joined when they are the ones that it names', async () => {
    const { joiner, seen } = await world(direct(), all)
    expect(await joiner.joinDirect(direct(), named, signal)).toBe('url')
    expect(seen.completed).toMatchObject([[{ multipartId: 'm' }, all, { size: 25 }]])
  })

  it('are not when it names others, or the file has another size', async () => {
    for (const [given, listed, code] of [
      [named.slice(1), all, 'PARTS_MISMATCH'],
      [named, all.slice(0, 2), 'PARTS_MISMATCH'],
      [named, [part(1), part(2), part(3, 6)], 'SIZE_MISMATCH'],
    ] as const) {
      const { joiner, seen, stored } = await world(direct(), listed)
      await expect(joiner.joinDirect(direct(), given, signal)).rejects.toMatchObject({ code, status: 400 })
      expect(seen.completed).toEqual([])
      expect(await stored()).toMatchObject({ state: 'completing', open: true })
    }
  })

  it('and were joined already are looked for by the size of the file', async () => {
    const { joiner, seen } = await world(direct(), null)
    expect(await joiner.joinDirect(direct(), named, signal)).toBe('url')
    expect(seen.completed).toMatchObject([[{}, [{ partNumber: 1, size: 25, etag: '' }], { size: 25 }]])
  })
})
