import { describe, expect, it } from 'vitest'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import { ResumeKeys, resumeIdOf } from '../../src/engine/resume-keys.ts'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import { oneAtATime } from '../../src/engine/sweep-turn.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { CreateUpload, UploadSession } from '../../src/types.ts'
import { uploadRecord } from '../support/records.ts'

describe('the turn to sweep what all nodes share', () => {
  function asking(acquire: (key: string, signal: AbortSignal) => Promise<void>, shared = true) {
    const seen = { asked: 0, ran: 0, released: 0 }
    const closing = new AbortController()
    const locker = {
      shared,
      acquire: async (key: string, { signal }: { signal: AbortSignal }) => {
        seen.asked += 1
        await acquire(key, signal)
        return {
          release: async () => {
            seen.released += 1
          },
        }
      },
    }
    const parts = { options: { locker }, closing: closing.signal } as unknown as EngineParts
    const sweep = (task: () => Promise<void> = async () => {}) =>
      oneAtATime(parts, async () => {
        seen.ran += 1
        await task()
      })
    return { seen, sweep, closing }
  }

  it('is taken and given back, also when the sweep fails', async () => {
    const { seen, sweep } = asking(async () => {})
    await sweep()
    expect(seen).toEqual({ asked: 1, ran: 1, released: 1 })
    await expect(sweep(() => Promise.reject(new Error('failure')))).rejects.toThrow('failure')
    expect(seen).toEqual({ asked: 2, ran: 2, released: 2 })
  })

  it('needs nobody’s consent without a shared locker', async () => {
    const { seen, sweep } = asking(async () => {}, false)
    await sweep()
    expect(seen).toEqual({ asked: 0, ran: 1, released: 0 })
  })

  it('that another node has is left to it, after half a second or with the end of the engine', async () => {
    const held = (_: string, signal: AbortSignal) =>
      new Promise<void>((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    const { seen, sweep } = asking(held)
    const begun = performance.now()
    await sweep()
    expect(performance.now() - begun).toBeGreaterThan(400)
    expect(seen).toEqual({ asked: 1, ran: 0, released: 0 })
    const other = asking(held)
    const sweeping = other.sweep()
    other.closing.abort()
    await sweeping
    expect(other.seen.ran).toBe(0)
  })

  it('that nobody can give is an error', async () => {
    const { seen, sweep } = asking(() => Promise.reject(new Error('no Redis')))
    await expect(sweep()).rejects.toThrow('no Redis')
    expect(seen.ran).toBe(0)
  })
})

describe('what a client calls its upload', () => {
  const day = 24 * 60 * 60_000
  const request = { protocol: 'native', resumeKey: 'k', fileName: 'a', totalSize: 10 } as const
  const resumeId = resumeIdOf(request)

  async function keyed(...records: UploadSession[]) {
    const store = new MemorySessionStore()
    let now = 1_000
    let allowed: unknown = true
    for (const record of records) await store.create(record)
    const parts = {
      options: { sessions: store, hooks: { authorize: () => allowed } },
      sessions: new SessionUpdates(store),
      clock: () => now,
    } as unknown as EngineParts
    const keys = new ResumeKeys(parts)
    return {
      store,
      keys,
      at: (time: number) => {
        now = time
      },
      allow: (answer: boolean) => {
        allowed = answer
      },
      open: (changes: Partial<CreateUpload> = {}, fileName = 'a') =>
        keys.findOpen(resumeId, { ...request, ...changes }, fileName),
    }
  }

  const id = (letter: string) => letter.repeat(22)
  const record = (letter: string, fields: Partial<UploadSession> = {}) =>
    uploadRecord({ id: id(letter), resumeId, fileName: 'a', totalSize: 10, ...fields })

  it('leads to the open upload of the same file, and to no other', async () => {
    const { keys, open, allow } = await keyed(record('u'))
    expect(await open()).toBeNull()
    expect(await keys.link(resumeId, record('u'), null)).toBeNull()
    expect((await open())?.id).toBe(id('u'))
    expect(await open({ totalSize: 11 })).toBeNull()
    expect(await open({}, 'b')).toBeNull()
    expect(await open({ chunkSize: 5 })).toBeNull()
    expect(await open({ checksum: 'md5:x' })).toBeNull()
    expect(await open({ owner: 'ann' })).toBeNull()
    allow(false)
    expect(await open()).toBeNull()
  })

  it('leads to an upload with a chunk size for a client that asks for it, or that takes any', async () => {
    const { keys, open } = await keyed(record('u', { chunkSize: 5 }))
    await keys.link(resumeId, record('u'), null)
    expect((await open({ chunkSize: 5 }))?.id).toBe(id('u'))
    expect(await open({ chunkSize: 6 })).toBeNull()
    expect((await open({ chunkSize: 6, anyChunkSize: true }))?.id).toBe(id('u'))
    expect(await open({ anyChunkSize: true })).toBeNull()
    expect(await open()).toBeNull()
  })

  it('leads by the client’s own name of the file, when onCreate has given it another', async () => {
    const { keys, open } = await keyed(record('u', { fileName: 'renamed', clientName: 'a' }))
    await keys.link(resumeId, record('u'), null)
    expect((await open())?.id).toBe(id('u'))
    expect(await open({}, 'renamed')).toBeNull()
  })

  it('does not lead to an upload that has ended, but to a concatenation that is complete', async () => {
    for (const state of ['completing', 'completed', 'aborted', 'expired'] as const) {
      const one = await keyed(record('u', { state }))
      await one.keys.link(resumeId, record('u'), null)
      expect((await one.open())?.id, state).toBe(state === 'completing' ? id('u') : undefined)
      const composed = await keyed(record('u', { state, sources: [id('s')] }))
      await composed.keys.link(resumeId, record('u'), null)
      const isThere = state === 'completing' || state === 'completed'
      expect((await composed.open({ totalSize: 11 }, 'b'))?.id, state).toBe(isThere ? id('u') : undefined)
    }
  })

  it('is linked by one of several creations; the others drop theirs for the same file, and replace it for another', async () => {
    const { keys, store, open, allow } = await keyed(record('u'), record('v'), record('w', { totalSize: 11 }))
    expect(await keys.link(resumeId, record('u'), null)).toBeNull()
    expect((await keys.link(resumeId, record('v'), null))?.id).toBe(id('u'))
    expect(await store.get(id('v'))).toBeNull()
    allow(false)
    expect(await keys.link(resumeId, record('v'), null)).toBeNull()
    allow(true)
    expect((await open())?.id).toBe(id('u'))
    expect(await keys.link(resumeId, record('w', { totalSize: 11 }), null)).toBeNull()
    expect((await open({ totalSize: 11 }))?.id).toBe(id('w'))
    expect(await store.get(id('u'))).not.toBeNull()
    for (const changes of [{ chunkSize: 5 }, { fileName: 'b' }, { checksum: 'md5:x' }, { clientName: 'b' }]) {
      const other = await keyed(record('u'), record('v', changes))
      await other.keys.link(resumeId, record('u'), null)
      expect(await other.keys.link(resumeId, record('v', changes), null)).toBeNull()
      expect(await other.store.get(resumeId)).toMatchObject({ uploadId: id('v') })
    }
  })

  it('is one concatenation only of the same uploads in the same order', async () => {
    const sources = [id('s'), id('t')]
    const { keys, store } = await keyed(record('u', { sources }), record('v', { sources }), record('w'))
    await keys.link(resumeId, record('u', { sources }), null)
    expect((await keys.link(resumeId, record('v', { sources }), null))?.id).toBe(id('u'))
    expect(await keys.link(resumeId, record('w', { sources: sources.toReversed() }), null)).toBeNull()
    expect(await store.get(resumeId)).toMatchObject({ uploadId: id('w') })
  })

  it('is remembered for a day after its upload has gone, and as long as that is there', async () => {
    const { keys, store, at } = await keyed(record('u'))
    await keys.link(resumeId, record('u'), null)
    expect(await store.get(resumeId)).toMatchObject({ expiresAt: 1_000 + day, open: false, owner: null })
    const link = async () => {
      const found = await store.get(resumeId)
      if (found?.kind !== 'resume') throw new Error('no link')
      return found
    }
    at(5_000)
    await keys.sweep(await link())
    expect((await link()).expiresAt).toBe(5_000 + day)
    at(6_000)
    await keys.outlive(record('x'))
    await keys.outlive(record('u', { resumeId: null }))
    expect((await link()).expiresAt).toBe(5_000 + day)
    await keys.outlive(record('u'))
    expect((await link()).expiresAt).toBe(6_000 + day)
    await store.delete(id('u'))
    expect(await keys.find(request)).toEqual({ uploadId: id('u'), session: null })
    await keys.sweep(await link())
    expect(await store.get(resumeId)).toBeNull()
    expect(await keys.find(request)).toBeNull()
  })

  it('is free after it was released, by whoever still knows the upload that it leads to', async () => {
    const { keys, store, at, allow } = await keyed(record('u'))
    await keys.link(resumeId, record('u'), null)
    expect((await keys.find(request))?.session?.id).toBe(id('u'))
    allow(false)
    expect(await keys.find(request)).toBeNull()
    allow(true)
    await keys.release(request, id('x'))
    expect((await keys.find(request))?.uploadId).toBe(id('u'))
    at(7_000)
    await keys.release(request, id('u'))
    expect(await keys.find(request)).toBeNull()
    expect(await store.get(resumeId)).toMatchObject({ uploadId: null, expiresAt: 7_000 + day })
    const link = await store.get(resumeId)
    if (link?.kind === 'resume') await keys.sweep(link)
    expect(await store.get(resumeId)).toBeNull()
  })

  it('leads nowhere when the upload is another owner’s', async () => {
    const { keys } = await keyed(record('u', { owner: 'ann' }))
    await keys.link(resumeId, record('u'), null)
    expect(await keys.find(request)).toBeNull()
  })
})
