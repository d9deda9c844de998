/** Parts on their way to a storage that fails, while others change the upload or want the same slots. */
import { describe, expect, it } from 'vitest'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import { MultipartOpening } from '../../src/engine/multipart-opening.ts'
import { PartSender } from '../../src/engine/part-sender.ts'
import type { Pieces } from '../../src/engine/pieces.ts'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { UploadSession } from '../../src/types.ts'
import { uploadRecord } from '../support/records.ts'

const ids = ['u'.repeat(22), 'v'.repeat(22)] as const
const [id, otherId] = ids
const { signal } = new AbortController()
const never = () => new Promise<never>(() => {})
const turn = () => new Promise((resolve) => setTimeout(resolve, 5))

/** An upload of parts of 10 bytes, the first `whole` of them settled. */
function upload(whole: number, fields: Partial<UploadSession> = {}): UploadSession {
  const chunks = whole > 0 ? [{ index: 0, count: whole, size: 10, offset: 0, loose: 0 }] : []
  return uploadRecord({ id, totalSize: 1_000, chunkSize: 10, chunks, ...fields })
}

async function world(
  records: readonly UploadSession[],
  options: { concurrency?: number; storageTimeout?: number } = {},
) {
  const store = new MemorySessionStore()
  for (const record of records) await store.create(record)
  const seen = { sent: [] as string[], created: 0, removed: [] as number[], events: [] as string[], claimed: 0 }
  const state = {
    upload: async (_part: number): Promise<void> => {},
    list: async (): Promise<object[] | null> => [],
  }
  const multipart = {
    create: async () => {
      seen.created += 1
      return `m${seen.created}`
    },
    uploadPart: async ({ fileKey, multipartId }: { fileKey: string; multipartId: string }, part: number) => {
      await state.upload(part)
      seen.sent.push(`${fileKey} ${multipartId} ${part}`)
    },
    listParts: () => state.list(),
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
  const sessions = new SessionUpdates(store)
  const parts = {
    options: {
      ...{ storage: { multipart }, sessions: store, partConcurrency: options.concurrency ?? 2, hooks: {} },
      ...{ storageTimeout: options.storageTimeout ?? 5_000, verifyMimeType: false },
    },
    sessions,
    staging: {
      sizeOf: async () => 10,
      partPath: (_: string, part: number) => String(part),
      partBody: (_: string, part: number, size: number) => ({ path: String(part), size }),
      removePart: async (_: string, part: number) => void seen.removed.push(part),
    },
    claims: { claim, insist: claim },
    uptime: () => 0,
    closing: closing.signal,
    emit: (name: string, event: { operation?: string }) => void seen.events.push(event.operation ?? name),
  } as unknown as EngineParts
  const sender = new PartSender(parts, {} as Pieces, new MultipartOpening(parts))
  const stored = async (uploadId: string = id) => (await store.get(uploadId)) as UploadSession
  const change = (fields: Partial<UploadSession>) =>
    sessions.update(id, (current) => ({ ...current, ...fields })) as Promise<UploadSession>
  return { sender, seen, state, store, stored, change, closing }
}

describe('a part that has arrived', () => {
  it('does not count in a multipart upload that was begun anew meanwhile, and stays on the disk', async () => {
    const { sender, seen, state, stored, change } = await world([upload(1)])
    state.upload = async () => {
      await change({ multipartId: 'other' })
    }
    sender.poke(await stored())
    await sender.idle(id)
    expect(seen).toMatchObject({ sent: ['key m1 1'], removed: [], events: [], claimed: 0 })
    expect(await stored()).toMatchObject({ multipartId: 'other', sentParts: [] })
  })

  it('does not count when its bytes have been taken back meanwhile', async () => {
    const { sender, seen, state, stored, change } = await world([upload(1)])
    state.upload = async () => {
      await change({ chunks: [] })
    }
    sender.poke(await stored())
    await sender.idle(id)
    expect(seen).toMatchObject({ removed: [], events: [], claimed: 0 })
    expect((await stored()).sentParts).toEqual([])
  })

  it('of an upload that has gone meanwhile is no failure of the storage', async () => {
    const { sender, seen, state, stored, store } = await world([upload(1)])
    state.upload = async () => {
      await store.delete(id)
    }
    sender.poke(await stored())
    await sender.idle(id)
    expect(seen).toMatchObject({ removed: [], events: [], claimed: 0 })
    await expect(sender.sendAll(id, signal)).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND' })
  })

  it('is told with its upload, number and size, and leaves the disk', async () => {
    const { sender, seen, stored } = await world([upload(3, { state: 'completing', totalSize: 30 })])
    expect((await sender.sendAll(id, signal)).sentParts).toEqual([[1, 3]])
    expect(seen.events).toEqual(['part', 'part', 'part'])
    expect([...seen.removed].sort()).toEqual([1, 2, 3])
    expect((await stored()).multipartId).toBe('m1')
  })
})

describe('a completion', () => {
  it('opens no multipart upload when there is nothing to send', async () => {
    const { sender, seen, stored } = await world([upload(0, { state: 'completing' })])
    expect((await sender.sendAll(id, signal)).sentParts).toEqual([])
    expect(seen.created).toBe(0)
    expect((await stored()).multipartId).toBeNull()
  })

  it('hears that a part failed when no other one is under way any more', async () => {
    const { sender, state, seen } = await world([upload(3, { state: 'completing' })], { concurrency: 8 })
    const failure = new Error('outage')
    let go = () => {}
    const gate = new Promise<void>((resolve) => {
      go = resolve
    })
    state.upload = async (part) => {
      if (part === 1) throw failure
      await gate
    }
    let ended = false
    const sending = sender.sendAll(id, signal).finally(() => {
      ended = true
    })
    sending.catch(() => {})
    await turn()
    expect(ended).toBe(false)
    go()
    await expect(sending).rejects.toBe(failure)
    expect([...seen.sent].sort()).toEqual(['key m1 2', 'key m1 3'])
    expect(seen.claimed).toBe(0)
  })

  it('waits for what is being sent already, and sends the rest', async () => {
    const { sender, state, stored, change, seen } = await world([upload(2)])
    let go = () => {}
    const gate = new Promise<void>((resolve) => {
      go = resolve
    })
    state.upload = () => gate
    sender.poke(await stored())
    await turn()
    await change({ state: 'completing' })
    const sending = sender.sendAll(id, signal)
    await turn()
    expect(seen.sent).toEqual([])
    go()
    expect((await sending).sentParts).toEqual([[1, 2]])
    expect([...seen.sent].sort()).toEqual(['key m1 1', 'key m1 2'])
  })

  it('does not wait without end for a storage that takes a part and says nothing', async () => {
    const { sender, state, stored, seen } = await world([upload(2, { state: 'completing' })], { storageTimeout: 20 })
    state.upload = never
    await expect(sender.sendAll(id, signal)).rejects.toMatchObject({ code: 'STORAGE_TIMEOUT', status: 504 })
    await expect(sender.send(await stored(), 1, {} as never)).rejects.toMatchObject({ code: 'STORAGE_TIMEOUT' })
    expect(seen.claimed).toBe(0)
  })

  it('that was given up sends nothing more', async () => {
    const { sender, seen } = await world([upload(3, { state: 'completing' })])
    const reason = new Error('given up')
    await expect(sender.sendAll(id, AbortSignal.abort(reason))).rejects.toBe(reason)
    expect(seen.sent).toEqual([])
    // And keeps no slot.
    expect((await sender.sendAll(id, signal)).sentParts).toEqual([[1, 3]])
  })
})

describe('slots', () => {
  it('are shared by all uploads, and each is handed on whatever became of the part', async () => {
    const { sender, seen, state, stored } = await world([upload(3), upload(3, { id: otherId, key: 'other' })])
    let under = 0
    let most = 0
    let failures = 1
    state.upload = async () => {
      under += 1
      most = Math.max(most, under)
      await turn()
      under -= 1
      if (failures-- > 0) throw new Error('outage')
    }
    for (const uploadId of ids) sender.poke(await stored(uploadId))
    await sender.idle()
    expect(most).toBe(2)
    expect(seen.sent.length).toBe(5)
    expect(seen.events.filter((event) => event === 'uploadPart')).toHaveLength(1)
    most = 0
    // All of them are free again.
    await Promise.all([1, 2, 3, 4].map(async (part) => sender.send(await stored(), part, {} as never)))
    expect(seen.sent).toHaveLength(9)
  })
})

describe('a storage that cannot say whether a multipart upload is still there', () => {
  it('is not taken to have dropped it', async () => {
    const cause = new Error('outage')
    const { sender, state, stored } = await world([upload(2, { multipartId: 'm' })], { storageTimeout: 20 })
    for (const list of [() => Promise.reject(new Error('no answer')), never]) {
      state.list = list
      expect(await sender.explain(await stored(), cause)).toBe(cause)
      expect(await stored()).toMatchObject({ multipartId: 'm', state: 'active' })
    }
    state.list = async () => null
    expect(await sender.explain(await stored(), cause)).toBe(cause)
    expect((await stored()).multipartId).toBeNull()
  })
})

describe('a client that waits for queued parts', () => {
  it('goes on when its upload has gone', async () => {
    const { sender, state, stored, store, closing } = await world([upload(9)])
    state.upload = never
    const session = await stored()
    sender.poke(session)
    await turn()
    await store.delete(id)
    await sender.capacity(session, signal)
    closing.abort()
  })

  it('goes on when parts of the queue have left', async () => {
    const { sender, state, stored, closing } = await world([upload(7)])
    let left = 2
    state.upload = async () => {
      if (left-- <= 0) await never()
    }
    sender.poke(await stored())
    await turn()
    // Five are left.
    await sender.capacity(await stored(), signal)
    expect((await stored()).sentParts).toEqual([[1, 2]])
    closing.abort()
  })
})

describe('an upload that is forgotten', () => {
  it('is not while something of it is under way', async () => {
    const { sender, state, stored, seen } = await world([upload(1)])
    let go = () => {}
    state.upload = () =>
      new Promise<void>((resolve) => {
        go = resolve
      })
    sender.poke(await stored())
    await turn()
    sender.forget(id)
    let idle = false
    const waiting = sender.idle(id).then(() => {
      idle = true
    })
    await turn()
    expect(idle).toBe(false)
    go()
    await waiting
    expect(seen.sent).toEqual(['key m1 1'])
  })
})
