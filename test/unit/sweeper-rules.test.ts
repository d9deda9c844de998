import { describe, expect, it } from 'vitest'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import type { Pieces } from '../../src/engine/pieces.ts'
import { ResumeKeys } from '../../src/engine/resume-keys.ts'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import { Sweeper } from '../../src/engine/sweeper.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { UploadSession } from '../../src/types.ts'
import { uploadRecord } from '../support/records.ts'

const hour = 3_600_000
const start = 1_000_000_000

/** A sweeper over things that can be looked at afterwards. */
async function world(
  records: UploadSession[],
  folders: { uploadId: string; age: number }[] = [],
  options: { staging?: 'disk' | 'storage'; multipart?: false } = {},
) {
  const store = new MemorySessionStore()
  for (const record of records) await store.create(record)
  const left = {
    folders: new Map(folders.map(({ uploadId, age }) => [uploadId, age])),
    sumsOnly: [] as string[],
    pieces: new Set(records.map(({ id }) => id)),
    spooled: new Map<string, number>(),
    objects: new Set(['key']),
    aborted: [] as (string | null)[],
    events: [] as string[],
  }
  const state = { now: start, busy: new Set<string>(), strayAge: 0 }
  const multipart = {
    abort: async ({ multipartId }: { multipartId: string | null }) => void left.aborted.push(multipartId),
  }
  const parts = {
    options: {
      storage: {
        remove: async (key: string) => void left.objects.delete(key),
        multipart: options.multipart === false ? undefined : multipart,
      },
      sessions: store,
      locker: { shared: false },
      sessionTtl: hour,
      completedTtl: 2 * hour,
      cleanupInterval: 50,
      staging: options.staging ?? 'disk',
    },
    sessions: new SessionUpdates(store),
    staging: {
      list: async () => [...left.folders].map(([uploadId, age]) => ({ uploadId, age })),
      listSpooled: async (age: number) => [...left.spooled].filter(([, idle]) => idle >= age).map(([path]) => path),
      discard: async (path: string) => void left.spooled.delete(path),
      remove: async (id: string) => void left.folders.delete(id),
      keepSums: async (id: string) => {
        const isFirst = left.folders.has(id) && !left.sumsOnly.includes(id)
        if (isFirst) left.sumsOnly.push(id)
        return isFirst
      },
    },
    claims: { isBusy: async (id: string) => state.busy.has(id), sweep: async () => {} },
    clock: () => state.now,
    uptime: () => state.now - start,
    closing: new AbortController().signal,
    emit: (name: string, event: { code?: string }) => left.events.push(event.code ?? name),
  } as unknown as EngineParts
  const pieces = {
    removeAll: async ({ id }: UploadSession) => void left.pieces.delete(id),
    removeStrays: async (age: number, isKnown: (id: string) => Promise<boolean>) => {
      state.strayAge = age
      return (await isKnown('stranger')) ? 0 : 1
    },
  } as unknown as Pieces
  const sweeper = new Sweeper(parts, pieces, new ResumeKeys(parts))
  return { sweeper, left, state, store, parts }
}

const id = 'u'.repeat(22)
const idle = (fields: Partial<UploadSession> = {}) => uploadRecord({ id, totalSize: 5, expiresAt: start, ...fields })

describe('the bytes of an upload that ended', () => {
  const discarded = async (fields: Partial<UploadSession>, options: { multipart?: false } = {}) => {
    const { sweeper, left, store } = await world([idle(fields)], [{ uploadId: id, age: 0 }], options)
    await sweeper.discard(idle(fields))
    const { aborted, sumsOnly } = left
    const record = (await store.get(id)) as UploadSession
    return {
      aborted,
      sumsOnly,
      folder: left.folders.has(id),
      pieces: left.pieces.has(id),
      object: left.objects.has('key'),
      record,
    }
  }
  const object = {} as NonNullable<UploadSession['object']>

  it('go from where they wait, but for the sums of a complete one that is to be recognised', async () => {
    expect(await discarded({ state: 'expired' })).toMatchObject({ folder: false, pieces: true })
    expect(await discarded({ state: 'expired', staged: 'storage' })).toMatchObject({ folder: true, pieces: false })
    const completed = await discarded({ state: 'completed', recognizable: true, object })
    expect(completed).toMatchObject({ folder: true, sumsOnly: [id] })
    expect(await discarded({ state: 'completed', object })).toMatchObject({ folder: false, sumsOnly: [] })
    expect(await discarded({ state: 'aborted', recognizable: true })).toMatchObject({ folder: false, sumsOnly: [] })
  })

  it('go with the multipart upload, and with any that was opened and not recorded', async () => {
    expect((await discarded({ state: 'expired' })).aborted).toEqual([])
    expect((await discarded({ state: 'expired', totalSize: 10 })).aborted).toEqual([])
    expect((await discarded({ state: 'expired', totalSize: 11 })).aborted).toEqual([null])
    expect((await discarded({ state: 'expired', totalSize: null })).aborted).toEqual([null])
    expect((await discarded({ state: 'expired', openings: 1 })).aborted).toEqual([null])
    const opened = await discarded({ state: 'expired', multipartId: 'm' })
    expect(opened.aborted).toEqual([null, 'm'])
    expect(opened.record.multipartId).toBeNull()
    expect((await discarded({ state: 'expired', multipartId: 'm' }, { multipart: false })).aborted).toEqual([])
  })

  it('that are an object stay, unless the application refused it; only strays of its key go', async () => {
    const completed = { state: 'completed', object, multipartId: 'm', totalSize: 25, partSize: 10 } as const
    expect(await discarded(completed)).toMatchObject({ aborted: [], object: true })
    expect((await discarded({ ...completed, openings: 1 })).aborted).toEqual([])
    expect((await discarded({ ...completed, openings: 2 })).aborted).toEqual([null])
    // What was opened for a file that turned out to be one part has become nothing.
    expect((await discarded({ ...completed, totalSize: 10, openings: 1 })).aborted).toEqual([null])
    expect((await discarded({ ...completed, totalSize: 10, direct: true, openings: 1 })).aborted).toEqual([])
    expect((await discarded({ state: 'completed', totalSize: null })).aborted).toEqual([])
    expect((await discarded({ state: 'expired', object, multipartId: 'm' })).aborted).toEqual([])
    expect(await discarded({ state: 'expired', object })).toMatchObject({ object: true })
    expect(await discarded({ state: 'aborted', object })).toMatchObject({ object: false, aborted: [] })
    expect(await discarded({ state: 'aborted' })).toMatchObject({ object: true })
  })
})

describe('a sweep', () => {
  it('ends uploads whose time is over, at that moment and not before, and tells', async () => {
    const { sweeper, left, store } = await world([idle(), idle({ id: 'v'.repeat(22), expiresAt: start + 1 })])
    expect(await sweeper.sweep()).toEqual({ expired: 1, forgotten: 0, orphans: 0, failed: 0 })
    expect(await store.get(id)).toMatchObject({
      ...{ state: 'expired', open: false, completing: null, updatedAt: start, expiresAt: start + 2 * hour },
    })
    expect(await store.get('v'.repeat(22))).toMatchObject({ state: 'active', open: true })
    expect(left.events).toEqual(['expired'])
  })

  it('leaves those that somebody is at work on, or is completing', async () => {
    const lease = (until: number) => ({ state: 'completing', completing: { by: 'a', until } }) as const
    const expired = async (fields: Partial<UploadSession>, busy = false) => {
      const { sweeper, state } = await world([idle(fields)])
      if (busy) state.busy.add(id)
      return (await sweeper.sweep()).expired
    }
    expect(await expired({}, true)).toBe(0)
    expect(await expired(lease(start + 1))).toBe(0)
    expect(await expired(lease(start))).toBe(1)
    expect(await expired({ ...lease(start + 1), state: 'active' })).toBe(1)
    expect(await expired({ open: false })).toBe(0)
  })

  it('tells of an object that nobody took over, and leaves it', async () => {
    const object = {} as NonNullable<UploadSession['object']>
    const { sweeper, left } = await world([idle({ state: 'completing', object })])
    await sweeper.sweep()
    expect(left.events).toEqual(['expired', 'OBJECT_LEFT'])
    expect(left.objects.has('key')).toBe(true)
  })

  it('forgets what has ended, with its bytes', async () => {
    for (const state of ['completed', 'aborted', 'expired'] as const) {
      const { sweeper, left, store } = await world([idle({ state, open: false })], [{ uploadId: id, age: 0 }])
      expect(await sweeper.sweep()).toMatchObject({ expired: 0, forgotten: 1 })
      expect(await store.get(id)).toBeNull()
      expect(left.folders.has(id)).toBe(false)
    }
  })

  it('leaves records of a newer format', async () => {
    const { sweeper, store } = await world([idle({ format: 2 as never })])
    expect(await sweeper.sweep()).toEqual({ expired: 0, forgotten: 0, orphans: 0, failed: 0 })
    expect(await store.get(id)).toMatchObject({ state: 'active' })
  })

  it('removes folders that nobody knows when they are old, and those of completed uploads at once', async () => {
    const gone = async (age: number, record: UploadSession | null, busy = false) => {
      const { sweeper, left, state } = await world(record ? [record] : [], [{ uploadId: id, age }])
      if (busy) state.busy.add(id)
      const { orphans } = await sweeper.sweep()
      return [orphans, left.folders.has(id), left.sumsOnly.length]
    }
    const later = (fields: Partial<UploadSession>) => idle({ expiresAt: start + 1, ...fields })
    expect(await gone(hour, null)).toEqual([1, false, 0])
    expect(await gone(hour - 1, null)).toEqual([0, true, 0])
    expect(await gone(hour, null, true)).toEqual([0, true, 0])
    expect(await gone(hour, later({}))).toEqual([0, true, 0])
    expect(await gone(0, later({ state: 'completed' }))).toEqual([1, false, 0])
    expect(await gone(0, later({ state: 'completed', recognizable: true }))).toEqual([1, true, 1])
    expect(await gone(0, later({ state: 'completed' }), true)).toEqual([0, true, 0])
    expect(await gone(hour, later({ state: 'completed', format: 2 as never }))).toEqual([0, true, 0])
  })

  it('removes bodies that were spooled long ago', async () => {
    const { sweeper, left } = await world([])
    left.spooled.set('old', hour).set('new', 0)
    expect((await sweeper.sweep()).orphans).toBe(1)
    expect([...left.spooled.keys()]).toEqual(['new'])
  })

  it('removes pieces that nobody knows, only where bytes wait in the storage', async () => {
    const shared = await world([], [], { staging: 'storage' })
    expect((await shared.sweeper.sweep()).orphans).toBe(1)
    expect(shared.state.strayAge).toBeGreaterThanOrEqual(hour)
    const disk = await world([])
    expect((await disk.sweeper.sweep()).orphans).toBe(0)
    expect(disk.state.strayAge).toBe(0)
  })

  it('goes on after what fails, counts it and warns', async () => {
    const other = 'v'.repeat(22)
    const { sweeper, left, parts } = await world([idle(), idle({ id: other })])
    const remove = parts.staging.remove.bind(parts.staging)
    parts.staging.remove = async (uploadId) => {
      if (uploadId === id) throw new Error('busy')
      return remove(uploadId)
    }
    expect(await sweeper.sweep()).toMatchObject({ expired: 2, failed: 1 })
    expect(left.events.filter((event) => event === 'CLEANUP_FAILED')).toHaveLength(1)
  })

  it('is one for all who ask at once, and one can wait for its end', async () => {
    const { sweeper } = await world([idle()])
    await sweeper.idle()
    const first = sweeper.sweep()
    expect(sweeper.sweep()).toBe(first)
    let ended = false
    void first.then(() => {
      ended = true
    })
    await sweeper.idle()
    expect(ended).toBe(true)
    expect(sweeper.sweep()).not.toBe(first)
  })

  it('comes by itself until it is stopped', async () => {
    const { sweeper, store, state } = await world([])
    sweeper.start()
    await store.create(idle())
    await expect.poll(async () => (await store.get(id)) as UploadSession).toMatchObject({ state: 'expired' })
    sweeper.stop()
    await sweeper.idle()
    state.now += 2 * hour
    await new Promise((resolve) => setTimeout(resolve, 120))
    expect(await store.get(id)).not.toBeNull()
  })
})
