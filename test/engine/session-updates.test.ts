import { expect, it } from 'vitest'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { UploadSession } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'

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
