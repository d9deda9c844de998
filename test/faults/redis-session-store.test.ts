/** A Redis that is killed, hangs, is full, read-only, locked, emptied, or holds what we did not write. */
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type RedisClient, RedisSessionStore, type RedisSessionStoreOptions } from '../../src/redis.ts'
import type { SessionRecord } from '../../src/types.ts'
import { survived } from '../support/fault-points.ts'
import {
  type ClientKind,
  clientKinds,
  describeRedis,
  newPrefix,
  openClient,
  type RedisServer,
  startRedis,
} from '../support/redis-server.ts'
import { eventually, everythingOf, failureOf, newer, unavailable, unreadable } from './redis-support.ts'
import { keyOf, newRecord, someId } from './session-store-support.ts'

const changed = (changes: object = {}): SessionRecord => newRecord({ version: 2, key: 'second', ...changes })
const many = (count: number) => Array.from({ length: count }, (_, n) => newRecord({ id: `${someId}-${n}` }))

describeRedis.each(clientKinds)('RedisSessionStore with the client %s', (kind: ClientKind) => {
  let server: RedisServer
  let prefix: string
  let store: RedisSessionStore

  async function open(options: RedisSessionStoreOptions = {}): Promise<RedisSessionStore> {
    return new RedisSessionStore(await openClient(kind, server), { prefix, ...options })
  }

  beforeAll(async () => {
    server = await startRedis('--appendonly', 'yes', '--appendfsync', 'always')
  })
  afterAll(() => server.stop())
  beforeEach(async () => {
    // A test that failed half way may have left it stopped or killed.
    server.signal('SIGCONT')
    await server.start()
    prefix = newPrefix()
    store = await open({ commandTimeout: 1_000, maxPendingCommands: 100 })
  })

  test('has every acknowledged record after Redis was killed in the middle of the work [G01]', async () => {
    const acknowledged: string[] = []
    const work = Promise.all(
      many(60).map(async (record, n) => {
        await pause(n)
        await store.create(record)
        acknowledged.push(record.id)
      }),
    ).catch(() => {})
    await eventually(() => expect(acknowledged.length).toBeGreaterThan(10))
    await server.kill()
    await work
    expect(await failureOf(store.get(someId))).toMatchObject(unavailable)
    expect(await failureOf(store.countOpen())).toMatchObject(unavailable)
    await server.start()
    await eventually(() => store.get(someId))
    for (const id of acknowledged) expect((await store.get(id))?.id).toBe(id)
    expect(await store.countOpen()).toBeGreaterThanOrEqual(acknowledged.length)
    survived('redis', `${kind}: killed while records are created`)
  })

  test('hands no command to a client that is away, and so none is carried out when nobody waits any more [G01, G02]', async () => {
    await server.kill()
    await pause(50)
    const failures = await Promise.all(many(1000).map((record) => failureOf(store.create(record))))
    expect(failures.every((failure) => failure?.status === 503)).toBe(true)
    expect(failures.filter((failure) => failure?.cause === 'BACKLOG')).toHaveLength(900)
    expect(Math.max(...failures.map((failure) => failure?.time ?? 0))).toBeLessThan(5_000)
    await server.start()
    await eventually(() => store.get(someId))
    await pause(100)
    expect(await store.countOpen()).toBe(0)
  })

  test.each([
    ['is stopped', async () => server.signal('SIGSTOP'), async () => server.signal('SIGCONT')],
    ['pauses its clients', () => server.command('CLIENT', 'PAUSE', '6000'), () => pause(4_000)],
    ['sleeps', async () => void server.command('DEBUG', 'SLEEP', '6').catch(() => {}), () => pause(4_000)],
  ])('answers 503 in time, and to all beyond the limit at once, when Redis %s [G02]', async (what, begin, end) => {
    await store.create(newRecord())
    await begin()
    await pause(20)
    for (let round = 0; round < 3; round++) {
      const start = performance.now()
      const failures = await Promise.all(Array.from({ length: 1000 }, () => failureOf(store.get(someId))))
      expect(failures.every((failure) => failure?.status === 503)).toBe(true)
      expect(failures.filter((failure) => failure?.cause === 'TIMEOUT').length).toBe(round === 0 ? 100 : 0)
      expect(performance.now() - start).toBeLessThan(5_000)
    }
    await end()
    await eventually(() => store.get(someId))
    expect(await Promise.all(Array.from({ length: 100 }, () => store.get(someId)))).toHaveLength(100)
    survived('redis', `${kind}: 3000 reads while Redis ${what}`)
  })

  test('refuses changes with 503 while the memory of Redis is full, changes nothing, and still deletes [G05]', async () => {
    await store.create(newRecord({ owner: 'ann' }))
    await store.create(newRecord({ id: `${someId}-2`, expiresAt: 1 }))
    const other = await open()
    await server.command('CONFIG', 'SET', 'maxmemory', '1')
    try {
      expect(await failureOf(store.create(newRecord({ id: `${someId}-3` })))).toMatchObject({
        cause: 'OOM',
        status: 503,
      })
      expect(await failureOf(store.replace(changed(), 1))).toMatchObject({ cause: 'OOM', status: 503 })
      // A store that does not know the record sends all of it.
      expect(await failureOf(other.replace(changed(), 1))).toMatchObject({ cause: 'OOM', status: 503 })
      expect(await store.get(someId)).toEqual(newRecord({ owner: 'ann' }))
      for await (const id of store.listExpired(1)) await store.delete(id)
      expect([await store.countOpen(), await store.countOpen('ann')]).toEqual([1, 1])
    } finally {
      await server.command('CONFIG', 'SET', 'maxmemory', '0')
    }
    expect(await store.replace(changed(), 1)).toBe(true)
  })

  test('refuses changes with 503 while Redis is a replica [G06]', async () => {
    await store.create(newRecord())
    await server.command('REPLICAOF', '127.0.0.1', '1')
    try {
      expect(await failureOf(store.replace(changed(), 1))).toMatchObject({ ...unavailable, cause: 'READONLY' })
      expect(await failureOf(store.create(newRecord({ id: `${someId}-2` })))).toMatchObject({ cause: 'READONLY' })
    } finally {
      await server.command('REPLICAOF', 'NO', 'ONE')
    }
    expect(await store.replace(changed(), 1)).toBe(true)
  })

  test('never takes a foreign value for a missing or an own record, and leaves it alone [G06, A14]', async () => {
    const key = `{${prefix}}:s:${someId}`
    const foreign = [
      ['SET', key, 'something'],
      ['RPUSH', key, 'something'],
      ['HSET', key, 'something', 'else'],
      ['HSET', key, 'v', '1'],
      ['HSET', key, 'v', '1', 'w', 'x', 'x', '1 0'],
      ['HSET', key, 'v', 'NaN'],
    ]
    for (const command of foreign) {
      await server.command('DEL', key)
      await server.command(...(command as [string, ...string[]]))
      const before = await server.command('DUMP', key)
      expect(await failureOf(store.get(someId)), `${command}`).toMatchObject(unreadable)
      expect(await failureOf(store.delete(someId)), `${command}`).toMatchObject(unreadable)
      if (!command.includes('1')) {
        expect(await failureOf(store.create(newRecord())), `${command}`).toMatchObject(unreadable)
        expect(await failureOf(store.replace(changed(), 1)), `${command}`).toMatchObject(unreadable)
      }
      expect(await server.command('DUMP', key)).toEqual(before)
      survived('redis', `${kind}: a foreign value, ${command.slice(2).join(' ')}`)
    }
  })

  test('takes a record with any field changed, lost or added for damaged, not for missing [A14]', async () => {
    const key = `{${prefix}}:s:${someId}`
    const run = (index: number) => ({ index, count: 1, size: 5, offset: null, loose: 1 })
    await store.create(newRecord({ chunks: [run(0), run(2), run(10)] }))
    const flat = (await server.command('HGETALL', key)) as string[]
    const fields = new Map(
      Array.from({ length: flat.length / 2 }, (_, n) => [flat[2 * n] ?? '', flat[2 * n + 1] ?? '']),
    )
    expect([...fields.keys()].sort()).toEqual(['c0', 'c10', 'c2', 'h', 't', 'v', 'w', 'x'])
    const client = await openClient(kind, server)
    // One that knows nothing yet: what a store has read before, it does not read again.
    const fresh = async <Result>(call: (store: RedisSessionStore) => Promise<Result>) => {
      const store = new RedisSessionStore(client, { prefix })
      return call(store).finally(() => store.close())
    }
    for (const [field, value] of fields) {
      // Who wrote it has no part in what it says.
      if (field === 'w') continue
      for (let at = 0; at < value.length; at += Math.ceil(value.length / 12)) {
        const flipped = value.slice(0, at) + (value[at] === '0' ? '1' : '0') + value.slice(at + 1)
        await server.command('HSET', key, field, flipped)
        const failure = await failureOf(fresh((own) => own.get(someId)))
        expect(failure && [503, failure.code.startsWith('STATE_')], `${field} ${flipped}`).toEqual([503, true])
      }
      await server.command('HDEL', key, field)
      expect(await failureOf(fresh((own) => own.get(someId))), field).toMatchObject(unreadable)
      expect(await failureOf(fresh((own) => own.delete(someId))), field).toMatchObject(unreadable)
      await server.command('HSET', key, field, value)
      expect((await fresh((own) => own.get(someId)))?.id).toBe(someId)
      survived('redis', `${kind}: field ${field} of a record changed or lost`)
    }
    await server.command('HSET', key, 'c5', JSON.stringify(run(5)))
    expect(await failureOf(fresh((own) => own.get(someId)))).toMatchObject(unreadable)
  })

  test('refuses what a newer release wrote, and leaves it alone', async () => {
    await store.create({ ...newRecord(), format: 2 } as never)
    await store.create(newRecord({ id: `${someId}-2` }))
    const key = `{${prefix}}:s:${someId}-2`
    await server.command('HSET', key, 'x', '2 abc')
    const fresh = await open()
    for (const id of [someId, `${someId}-2`]) {
      expect(await failureOf(fresh.get(id))).toMatchObject(newer)
      expect(await failureOf(fresh.delete(id))).toMatchObject(newer)
    }
    expect(await server.command('EXISTS', key, `{${prefix}}:s:${someId}`)).toBe(2)
  })

  test('goes on with an empty Redis after FLUSHALL, and counts from zero [G06]', async () => {
    await Promise.all(many(20).map((record) => store.create(record)))
    const changes = many(20).map((record) => failureOf(store.replace({ ...record, version: 2 }, 1)))
    await server.command('FLUSHALL')
    await Promise.all(changes)
    expect(await store.get(`${someId}-1`)).toBeNull()
    expect(await store.replace(changed({ id: `${someId}-1` }), 1)).toBe(false)
    expect(await store.countOpen()).toBe(0)
    expect(await store.create(newRecord())).toBe(true)
    expect(await store.replace(changed(), 1)).toBe(true)
    expect(await store.countOpen()).toBe(1)
  })

  test('forgets in its counts and lists what was removed by hand', async () => {
    await store.create(newRecord({ owner: 'ann', expiresAt: 5 }))
    await store.create(newRecord({ id: `${someId}-2`, owner: 'ann' }))
    await server.command('DEL', `{${prefix}}:s:${someId}`)
    for await (const id of store.listExpired(10)) expect(await store.get(id)).toBeNull()
    expect([await store.countOpen(), await store.countOpen('ann')]).toEqual([1, 1])
    for await (const id of store.listExpired(10)) throw new Error(`${id} is still listed`)
  })

  test('stores a record whole when another has taken its place under the same version', async () => {
    const [here, there] = [await open(), await open()]
    const run = (index: number) => ({ index, count: 1, size: 5, offset: null, loose: 1 })
    await here.create(newRecord({ chunks: [run(1), run(3)] }))
    await there.delete(someId)
    await there.create(newRecord({ chunks: [run(7)], fileName: 'other' }))
    const next = newRecord({ version: 2, chunks: [run(1), run(3), run(5)], key: 'third' })
    expect(await here.replace(next, 1)).toBe(true)
    expect(await there.get(someId)).toEqual(next)
    expect(await (await open()).get(someId)).toEqual(next)
  })

  test('knows only what is under its own prefix, whatever the prefix looks like [G08]', async () => {
    const prefixes = [`${prefix}a`, `${prefix}a:s`, `${prefix}*`, `${prefix}[a]`, `${prefix}ü`]
    const stores = await Promise.all(prefixes.map((own) => open({ prefix: own })))
    for (const [n, own] of stores.entries()) await own.create(newRecord({ key: `${n}`, expiresAt: 1, owner: 'ann' }))
    await stores[2]?.delete(someId)
    const keys = await Promise.all(stores.map(async (own) => keyOf(await own.get(someId))))
    expect(keys).toEqual(['0', '1', null, '3', '4'])
    expect(await Promise.all(stores.map((own) => own.countOpen('ann')))).toEqual([1, 1, 0, 1, 1])
    const client = await openClient(kind, server)
    for (const bad of ['', 'a{b}', 'a b', '\n', 'x'.repeat(101)]) {
      expect(() => new RedisSessionStore(client, { prefix: bad })).toThrow(TypeError)
    }
  })

  test('works with a client that puts a prefix before every key itself', async () => {
    const client = await openClient(kind, { port: server.port, keyPrefix: 'app:' })
    const own = new RedisSessionStore(client, { prefix })
    await own.create(newRecord({ expiresAt: 1, owner: 'ann' }))
    await own.replace(changed({ expiresAt: 2, owner: 'ann' }), 1)
    expect(await own.get(someId)).toEqual(changed({ expiresAt: 2, owner: 'ann' }))
    expect(await own.countOpen('ann')).toBe(1)
    for await (const id of own.listExpired(2)) await own.delete(id)
    expect(await own.countOpen()).toBe(0)
  })

  test('refuses what is no client, with a message that holds no secret', () => {
    const values = [undefined, null, {}, 'redis://user:very-secret@localhost', { url: 'very-secret' }]
    for (const value of values) {
      const make = () => new RedisSessionStore(value as unknown as RedisClient)
      expect(make).toThrow(/^client must be a client of the package redis/)
    }
  })
})

describeRedis.each(clientKinds)('RedisSessionStore with the client %s and a Redis with a password', (kind) => {
  let server: RedisServer

  beforeAll(async () => {
    server = await startRedis('--requirepass', 'the-right-one')
  })
  afterAll(() => server.stop())

  test.each([{}, { password: 'very-secret' }, { username: 'nobody', password: 'very-secret' }])(
    'answers 503 without the right one, and shows it nowhere (%j) [G06]',
    async (credentials) => {
      const client = await openClient(kind, { port: server.port, ...credentials })
      const store = new RedisSessionStore(client, { commandTimeout: 300 })
      const error = await store.create(newRecord()).catch((caught: unknown) => caught)
      expect(await failureOf(Promise.reject(error))).toMatchObject(unavailable)
      for (const value of [error, store, [store]]) {
        expect(everythingOf(value)).not.toMatch(/very-secret|the-right-one/)
        expect(everythingOf(value)).not.toContain(newRecord().id)
      }
    },
  )

  test('works with the right one', async () => {
    const client = await openClient(kind, { port: server.port, password: 'the-right-one' })
    const store = new RedisSessionStore(client)
    expect(await store.create(newRecord())).toBe(true)
    expect(everythingOf(store)).not.toContain('the-right-one')
  })
})
