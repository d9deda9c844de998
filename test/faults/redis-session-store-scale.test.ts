/** What the store costs, and whether its counts are right, with many chunks, many records, and many stores. */
import { randomUUID } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { RedisSessionStore } from '../../src/redis.ts'
import type { ChunkRun, UploadSession } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'
import {
  clientKinds,
  describeRedis,
  newPrefix,
  openClient,
  type RedisServer,
  startRedis,
} from '../support/redis-server.ts'
import { newRecord, randomFrom, someId } from './session-store-support.ts'

const sessions = Number(process.env.SESSIONS ?? 10_000)

describeRedis('RedisSessionStore', () => {
  let server: RedisServer

  beforeAll(async () => {
    server = await startRedis()
  })
  afterAll(() => server.stop())

  async function info(section: string, name: string): Promise<number> {
    const text = String(await server.command('INFO', section))
    return Number(new RegExp(`^${name}:(?:calls=)?(\\d+)`, 'm').exec(text)?.[1] ?? 0)
  }

  describe.each(clientKinds)('with the client %s', (kind) => {
    /** What `work` sends to Redis and gets back, without what asking costs. */
    async function traffic(work: () => Promise<unknown>) {
      const read = async () => [
        await info('stats', 'total_net_input_bytes'),
        await info('stats', 'total_net_output_bytes'),
        await info('commandstats', 'cmdstat_evalsha'),
      ]
      const idle = [await read(), await read()]
      await work()
      const after = await read()
      const [sent = 0, received = 0, commands = 0] = after.map(
        (value, n) => value - (idle[1]?.[n] ?? 0) - ((idle[1]?.[n] ?? 0) - (idle[0]?.[n] ?? 0)),
      )
      return { sent, received, commands }
    }

    test('sends as few bytes for a chunk of an upload of 10 000 gaps as for one of 10', async () => {
      const prefix = newPrefix()
      const store = new RedisSessionStore(await openClient(kind, server), { prefix })
      const costs = []
      for (const count of [10, 10_000]) {
        const runOf = (index: number): ChunkRun => ({ index, count: 1, size: 5_000_000, offset: null, loose: 1 })
        const id = `${someId}-${count}`
        await store.create(newRecord({ id, chunks: Array.from({ length: count }, (_, n) => runOf(4 * n)) }))
        let record = (await store.get(id)) as UploadSession
        // The three shapes of change: one more run, a run that grows, and a gap that closes.
        const middle = count / 2
        const changes = [
          (runs: readonly ChunkRun[]) => runs.toSpliced(middle, 0, runOf(4 * middle - 2)),
          (runs: readonly ChunkRun[]) => runs.with(middle, { ...runOf(4 * middle - 2), count: 2 }),
          (runs: readonly ChunkRun[]) => runs.toSpliced(middle, 2, { ...runOf(4 * middle - 2), count: 3 }),
        ]
        costs.push(
          await traffic(async () => {
            for (const change of changes) {
              const current = (await store.get(id)) as UploadSession
              const { version, chunks, updatedAt } = current
              record = { ...current, version: version + 1, chunks: change(chunks), updatedAt: updatedAt + 1 }
              expect(await store.replace(record, version)).toBe(true)
            }
          }),
        )
        const other = new RedisSessionStore(await openClient(kind, server), { prefix })
        expect(await other.get(id)).toEqual(record)
      }
      const [few, lots] = costs as [(typeof costs)[0], (typeof costs)[0]]
      console.info(
        `${kind}: 3 chunks, get and replace each: ${JSON.stringify(few)}; of 10 000: ${JSON.stringify(lots)}`,
      )
      expect([few.commands, lots.commands]).toEqual([6, 6])
      expect(Math.abs(lots.sent - few.sent)).toBeLessThan(300)
      expect(Math.abs(lots.received - few.received)).toBeLessThan(300)
      expect(lots.sent).toBeLessThan(6_000)
    })

    test('a chunk of an upload costs three commands, and the last of 200 no more bytes than the first', async () => {
      const client = await openClient(kind, server)
      const { client: uploads } = testEngine({ sessions: new RedisSessionStore(client, { prefix: newPrefix() }) })
      const id = await uploads.create(200_000, { chunkSize: 1_000 })
      const send = async (from: number) => {
        for (let index = from; index < from + 20; index++) await uploads.write(id, index, bytes(1_000, index))
      }
      const first = await traffic(() => send(0))
      for (let from = 20; from < 180; from += 20) await send(from)
      const last = await traffic(() => send(180))
      console.info(`${kind}: 20 chunks, one after the other: ${JSON.stringify(first)}, ${JSON.stringify(last)}`)
      for (const { commands, sent, received } of [first, last]) {
        expect(commands).toBe(60)
        expect(sent / 20).toBeLessThan(1_500)
        expect(received / 20).toBeLessThan(100)
      }
      await uploads.complete(id)
    })

    test('another store reads what was stored as differences, run by run', async () => {
      const prefix = newPrefix()
      const [store, reader] = [
        new RedisSessionStore(await openClient(kind, server), { prefix }),
        new RedisSessionStore(await openClient(kind, server), { prefix }),
      ]
      const random = randomFrom(7)
      await store.create(newRecord({ chunks: [] }))
      for (let n = 0; n < 300; n++) {
        const current = (await (n % 7 === 0 ? reader : store).get(someId)) as UploadSession
        const { version } = current
        const chunks = randomRuns(current.chunks, random)
        const sentParts: [number, number][] =
          n % 3 === 0 ? [[1, n + 1]] : [...(current.sentParts as [number, number][])]
        const metadata = n % 50 === 0 ? { n: `${n}` } : current.metadata
        const next = { ...current, version: version + 1, chunks, sentParts, metadata, open: n % 5 !== 0 }
        expect(await (n % 11 === 0 ? reader : store).replace(next, version)).toBe(true)
        expect(await reader.get(someId)).toEqual(next)
        expect(JSON.stringify(await reader.get(someId))).toBe(JSON.stringify(next))
      }
    })

    test('warns once for each client of a Redis that may throw records away, if it may ask [G05]', async () => {
      const warnings: string[] = []
      const listener = (warning: Error & { code?: string }) => warnings.push(`${warning.code} ${warning.message}`)
      process.on('warning', listener)
      try {
        for (const [policy, count] of [
          ['noeviction', 0],
          ['allkeys-lru', 1],
          ['volatile-ttl', 2],
        ] as const) {
          await server.command('CONFIG', 'SET', 'maxmemory-policy', policy)
          const client = await openClient(kind, server)
          const stores = [new RedisSessionStore(client), new RedisSessionStore(client)]
          await stores[1]?.get(someId)
          await pause(50)
          expect(warnings).toHaveLength(count)
        }
        expect(warnings[0]).toMatch(/^NEXUS_REDIS_EVICTION .*allkeys-lru.*noeviction/)
        await server.command('ACL', 'SETUSER', 'limited', 'on', '>word', '~*', '&*', '+@all', '-config')
        const client = await openClient(kind, { port: server.port, username: 'limited', password: 'word' })
        expect(await new RedisSessionStore(client).get(someId)).toBeNull()
        await pause(50)
        expect(warnings).toHaveLength(2)
      } finally {
        process.off('warning', listener)
        await server.command('CONFIG', 'SET', 'maxmemory-policy', 'noeviction')
      }
    })
  })

  test(`lists the expired of ${sessions} records in pages, without KEYS or SCAN, while Redis answers others [G07]`, async () => {
    const store = new RedisSessionStore(await openClient('redis', server), { prefix: newPrefix() })
    const probe = await openClient('ioredis', server)
    for (let n = 0; n < sessions; n += 500) {
      const batch = Array.from({ length: 500 }, (_, k) => newRecord({ id: randomUUID(), expiresAt: (n + k) >> 2 }))
      await Promise.all(batch.map((record) => store.create(record)))
    }
    expect(await store.countOpen()).toBe(sessions)
    await server.command('CONFIG', 'RESETSTAT')
    const latencies: number[] = []
    let over = false
    const probing = (async () => {
      while (!over) {
        const start = performance.now()
        await (probe as unknown as { call(name: string): Promise<unknown> }).call('PING')
        latencies.push(performance.now() - start)
        await pause(1)
      }
    })()
    const start = performance.now()
    const half = sessions >> 3
    const listed = new Set<string>()
    for await (const id of store.listExpired(half - 1)) {
      expect(listed.has(id)).toBe(false)
      listed.add(id)
      // A sweeper deletes most of what it is given.
      if (listed.size % 8 !== 0) await store.delete(id)
    }
    const time = performance.now() - start
    over = true
    await probing
    latencies.sort((a, b) => a - b)
    const slow = latencies[Math.floor(latencies.length * 0.99)] ?? 0
    console.info(
      `${listed.size} of ${sessions} listed and deleted in ${time.toFixed(0)} ms; PING p99 ${slow.toFixed(1)} ms`,
    )
    expect(listed.size).toBe(4 * half)
    expect(await store.countOpen()).toBe(sessions - 4 * half + Math.floor((4 * half) / 8))
    expect(await info('commandstats', 'cmdstat_zrangebyscore')).toBeLessThan((4 * half) / 256 + 5)
    for (const name of ['keys', 'scan', 'smembers', 'zrange'])
      expect(await info('commandstats', `cmdstat_${name}`)).toBe(0)
    expect(slow).toBeLessThan(50)
  })

  test('counts right whatever three stores do at the same time', async () => {
    const prefix = newPrefix()
    const stores = await Promise.all(
      [0, 1, 2].map(
        async (n) => new RedisSessionStore(await openClient(clientKinds[n % 2] ?? 'redis', server), { prefix }),
      ),
    )
    const ids = Array.from({ length: 12 }, () => randomUUID())
    const owners = ['ann', 'bob', null]
    const work = stores.map(async (store, n) => {
      const random = randomFrom(n + 100)
      const any = <Item>(items: readonly Item[]) => items[Math.floor(random() * items.length)] as Item
      for (let k = 0; k < 400; k++) {
        const id = any(ids)
        const changes = { owner: any(owners), open: random() < 0.6 }
        const record = await store.get(id)
        if (!record) await store.create(newRecord({ id, ...changes }))
        else if (random() < 0.2) await store.delete(id)
        else await store.replace({ ...record, ...changes, version: record.version + 1 }, record.version)
      }
    })
    await Promise.all(work)
    const records = (await Promise.all(ids.map((id) => stores[0]?.get(id)))).filter((record) => record?.open)
    expect(records.length).toBeGreaterThan(0)
    const real = [undefined, 'ann', 'bob'].map(
      (owner) => records.filter((record) => owner === undefined || record?.owner === owner).length,
    )
    for (const store of stores) {
      expect([await store.countOpen(), await store.countOpen('ann'), await store.countOpen('bob')]).toEqual(real)
    }
  })
})

/** Adds, drops or grows some runs at random, in order of their indexes. */
function randomRuns(runs: readonly ChunkRun[], random: () => number): ChunkRun[] {
  const kept = runs.filter(() => random() > 0.05).map((run) => (random() < 0.1 ? { ...run, size: run.size + 1 } : run))
  const index = Math.floor(random() * 1_000_000)
  const added: ChunkRun[] = kept.some((run) => run.index === index)
    ? []
    : [{ index, count: 1, size: 1, offset: 0, loose: 0 }]
  return [...kept, ...added].sort((a, b) => a.index - b.index)
}
