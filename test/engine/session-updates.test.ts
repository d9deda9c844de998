import { expect, it, vi } from 'vitest'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { SessionStore, UploadSession } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'
import { uploadRecord } from '../support/records.ts'

/** Two processes on one store that counts what it is asked. */
async function shared() {
  const store = new MemorySessionStore()
  const { engine } = testEngine({ sessions: store })
  const { session } = await engine.create({ fileName: 'a', totalSize: 1, protocol: 'native' })
  const calls: string[] = []
  const counting = new Proxy(store, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      return (...given: unknown[]) => {
        calls.push(String(name))
        return Reflect.apply(value, target, given)
      }
    },
  })
  return { id: session.id, calls, here: new SessionUpdates(counting), there: new SessionUpdates(store) }
}

const noted = (note: string) => (session: UploadSession) => ({ ...session, wire: { ...session.wire, [note]: note } })

it('a change to a record that this process has just seen is one swap', async () => {
  const { id, calls, here } = await shared()
  await here.get(id)
  calls.length = 0
  await here.update(id, noted('a'))
  await here.update(id, noted('b'))
  expect(calls).toEqual(['replace', 'replace'])
  expect((await here.get(id))?.wire).toEqual({ a: 'a', b: 'b' })
})

it('what another process has changed meanwhile is not lost', async () => {
  const { id, here, there } = await shared()
  await here.get(id)
  await there.update(id, noted('there'))
  expect((await here.update(id, noted('here')))?.wire).toEqual({ there: 'there', here: 'here' })
})

it('a change is neither refused nor left out because of what a record was before', async () => {
  const { id, here, there } = await shared()
  const onlyAfter = (session: UploadSession) => {
    if (!session.wire?.there) throw new Error('refused')
    return noted('here')(session)
  }
  const unlessThere = (session: UploadSession) => (session.wire?.there ? noted('seen')(session) : session)
  await here.get(id)
  await there.update(id, noted('there'))
  await expect(here.update(id, onlyAfter)).resolves.toMatchObject({ wire: { here: 'here' } })
  await there.update(id, ({ wire: _, ...session }) => session)
  await expect(here.update(id, onlyAfter)).rejects.toThrow('refused')
  await there.update(id, noted('there'))
  await expect(here.update(id, unlessThere)).resolves.toMatchObject({ wire: { seen: 'seen' } })
})

it('an unchanged record is the present one', async () => {
  const { id, here, there } = await shared()
  await here.get(id)
  await there.update(id, (session) => ({ ...session, open: false, state: 'aborted' }))
  await expect(here.update(id, (session) => session)).resolves.toMatchObject({ state: 'aborted' })
})

it('a change is not told of before the store has it', async () => {
  const store = new MemorySessionStore()
  const { engine } = testEngine({ sessions: store })
  const { session } = await engine.create({ fileName: 'a', totalSize: 1, protocol: 'native' })
  const slow = Object.create(store) as MemorySessionStore
  let answer: (error: Error) => void = () => {}
  slow.replace = () => new Promise((_, reject) => (answer = reject))
  slow.get = (id) => store.get(id)
  const told: string[] = []
  const change = new SessionUpdates(slow).update(session.id, noted('a'))
  void change.then(
    () => told.push('stored'),
    () => told.push('failed'),
  )
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(told).toEqual([])
  answer(new Error('the store is gone'))
  await expect(change).rejects.toMatchObject({ status: 503 })
})

it('a record that has ended, or of many runs of chunks, is read again before it is changed', async () => {
  const { id, calls, here } = await shared()
  const runs = (count: number) =>
    Array.from({ length: count }, (_, i) => ({ index: i * 2, count: 1, size: 1, offset: null, loose: 1 }))
  const change = async (next: Partial<UploadSession>) => {
    await here.update(id, (session) => ({ ...session, ...next }))
    calls.length = 0
    await here.update(id, noted(String(Math.random())))
    return calls.join()
  }
  expect(await change({ chunks: runs(16) })).toBe('replace')
  expect(await change({ chunks: runs(17) })).toBe('get,replace')
  expect(await change({ chunks: [] })).toBe('replace')
  expect(await change({ open: false })).toBe('get,replace')
})

it('the five hundred records that were seen last are known', async () => {
  const store = new MemorySessionStore()
  const updates = new SessionUpdates(store)
  const ids = Array.from({ length: 501 }, (_, i) => String(i).padStart(22, 'u'))
  for (const id of ids) await store.create(uploadRecord({ id }))
  for (const id of ids.slice(0, 500)) await updates.get(id)
  // Seen again, so it is not the oldest any more.
  await updates.get(ids[0] ?? '')
  await updates.get(ids[500] ?? '')
  let reads = 0
  const get = store.get.bind(store)
  store.get = (id) => {
    reads += 1
    return get(id)
  }
  const readsOf = async (id = '') => {
    reads = 0
    await updates.update(id, noted('a'))
    return reads
  }
  expect(await readsOf(ids[0])).toBe(0)
  expect(await readsOf(ids[2])).toBe(0)
  expect(await readsOf(ids[500])).toBe(0)
  expect(await readsOf(ids[1])).toBe(1)
})

it('changes that come together are one swap, and each has its own outcome', async () => {
  const { id, calls, here } = await shared()
  await here.get(id)
  calls.length = 0
  const refused = new Error('refused')
  const outcomes = await Promise.allSettled([
    here.update(id, noted('a')),
    here.update(id, noted('b')),
    here.update(id, () => {
      throw refused
    }),
    here.update(id, noted('c')),
  ])
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'fulfilled'])
  expect(outcomes[2]).toMatchObject({ reason: refused })
  expect((await here.get(id))?.wire).toEqual({ a: 'a', b: 'b', c: 'c' })
  expect(calls.filter((call) => call === 'replace')).toHaveLength(2)
})

it('sums are stored with the change by a store that can, and those of a change that is refused are not', async () => {
  const store = new MemorySessionStore()
  const record = uploadRecord()
  await store.create(record)
  const stored: unknown[] = []
  const keeping = {
    get: (id: string) => store.get(id),
    replace: (next: UploadSession, version: number) => store.replace(next, version),
    chunkSums: {
      replace: (next: UploadSession, version: number, sums: unknown) => {
        stored.push(sums)
        return store.replace(next, version)
      },
    },
  } as unknown as SessionStore
  const updates = new SessionUpdates(keeping)
  const sum = (index: number) => ({ index, size: 1, crc: index }) as never
  await updates.get(record.id)
  await updates.update(record.id, noted('a'), [sum(1), sum(2)])
  await updates.update(record.id, noted('b'))
  const refusal = updates.update(record.id, () => {
    throw new Error('refused')
  }, [sum(3)])
  await expect(refusal).rejects.toThrow('refused')
  expect(stored).toEqual([[sum(1), sum(2)]])
  await new SessionUpdates(store).update(record.id, noted('c'), [sum(4)])
  expect((await store.get(record.id))?.version).toBe(record.version + 3)
})

it('a record of a newer format, or one that is no upload, is not changed', async () => {
  const store = new MemorySessionStore()
  await store.create({ ...uploadRecord({ id: 'n'.repeat(22) }), format: 2 } as never)
  await store.create({ ...uploadRecord({ id: 'r'.repeat(22) }), kind: 'resume', uploadId: null } as never)
  const updates = new SessionUpdates(store)
  await expect(updates.get('n'.repeat(22))).rejects.toMatchObject({ code: 'STATE_NEWER', status: 503 })
  expect(await updates.get('r'.repeat(22))).toBeNull()
  expect(await updates.update('r'.repeat(22), noted('a'))).toBeNull()
  expect(await updates.update('none', noted('a'))).toBeNull()
})

it('a change that always loses against others is refused as locked', async () => {
  const store = new MemorySessionStore()
  await store.create(uploadRecord())
  let tries = 0
  store.replace = async () => {
    tries += 1
    return false
  }
  const timeout = vi
    .spyOn(globalThis, 'setTimeout')
    .mockImplementation(((run: () => void) => setImmediate(run)) as never)
  const change = new SessionUpdates(store).update(uploadRecord().id, noted('a'))
  await expect(change).rejects.toMatchObject({ code: 'UPLOAD_LOCKED', status: 423 })
  timeout.mockRestore()
  expect(tries).toBe(200)
})
