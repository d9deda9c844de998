/** Answers that are lost: what was done is found out, never guessed. And calls of many at once, in an order that fits. */
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { RedisSessionStore } from '../../src/redis.ts'
import { cuttingProxy } from '../support/cutting-proxy.ts'
import { survived } from '../support/fault-points.ts'
import { losingProxy } from '../support/losing-proxy.ts'
import {
  clientKinds,
  describeRedis,
  newPrefix,
  openClient,
  type RedisServer,
  startRedis,
} from '../support/redis-server.ts'
import { type Call, isLinearizable, type Recorded, type State } from './linearizable.ts'
import { failureOf, unavailable } from './redis-support.ts'
import { keyOf, newRecord, randomFrom, someId } from './session-store-support.ts'

const firstSeed = Number(process.env.FIRST_SEED ?? Date.now() % 1_000_000)
const seeds = Number(process.env.SEEDS ?? 15)

describeRedis.each(clientKinds)('RedisSessionStore with the client %s', (kind) => {
  let server: RedisServer
  let prefix: string

  const open = async (port: number, commandTimeout = 3_000) =>
    new RedisSessionStore(await openClient(kind, { port }), { prefix, commandTimeout })

  beforeAll(async () => {
    server = await startRedis()
  })
  afterAll(() => server.stop())
  beforeEach(() => {
    prefix = newPrefix()
  })

  test('finds out that a change was stored whose answer was lost [G09]', async () => {
    const proxy = await losingProxy(server.port)
    const store = await open(proxy.port)
    await store.create(newRecord({ id: `${someId}-0` }))
    proxy.loseNextAnswer()
    expect(await store.create(newRecord())).toBe(true)
    proxy.loseNextAnswer()
    expect(await store.replace(newRecord({ version: 2, key: 'second' }), 1)).toBe(true)
    expect(proxy.lost).toBe(2)
    expect(keyOf(await store.get(someId))).toBe('second')
    expect(await store.countOpen()).toBe(2)
    survived('redis', `${kind}: the answer to a creation and to a change lost`, 2)
  })

  test('finds out that a change was stored, or not, also when others have gone on from there [G09]', async () => {
    const proxy = await losingProxy(server.port)
    const [store, other] = [await open(proxy.port), await open(server.port)]
    const change = async (from: number, to: number) => {
      for (let version = from; version <= to; version++) {
        expect(await other.replace(newRecord({ version, key: 'other' }), version - 1)).toBe(true)
      }
    }
    await store.create(newRecord())
    proxy.loseNextAnswer(() => change(3, 9))
    expect(await store.replace(newRecord({ version: 2, key: 'mine' }), 1)).toBe(true)
    // The same, but this time the other one was first.
    await change(10, 10)
    proxy.loseNextAnswer(() => change(11, 16))
    expect(await store.replace(newRecord({ version: 10, key: 'mine' }), 9)).toBe(false)
    expect(await store.get(someId)).toMatchObject({ version: 16, key: 'other' })
  })

  test('says that it cannot say when others have gone on too far [G09]', async () => {
    const proxy = await losingProxy(server.port)
    const [store, other] = [await open(proxy.port), await open(server.port)]
    await store.create(newRecord())
    proxy.loseNextAnswer(async () => {
      for (let version = 3; version < 20; version++) await other.replace(newRecord({ version }), version - 1)
    })
    const failure = await failureOf(store.replace(newRecord({ version: 2, key: 'mine' }), 1))
    expect(failure).toMatchObject({ ...unavailable, cause: 'LOST_ANSWER' })
    proxy.loseNextAnswer(() => other.delete(someId))
    expect(await failureOf(store.replace(newRecord({ version: 20 }), 19))).toMatchObject({ cause: 'LOST_ANSWER' })
    // Without a lost answer there is no doubt.
    expect(await store.replace(newRecord({ version: 21 }), 20)).toBe(false)
  })

  test(`what clients with breaking connections see of one record fits one order of calls, ${seeds} times`, async () => {
    let [calls, failures, cuts] = [0, 0, 0]
    for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
      const random = randomFrom(seed)
      const history: Recorded[] = []
      const id = `${someId}-${seed}`
      const watch = async (call: Call, run: () => Promise<unknown>) => {
        const recorded: Recorded = { call, start: performance.now(), end: Number.POSITIVE_INFINITY }
        history.push(recorded)
        try {
          const result = await run()
          recorded.end = performance.now()
          return result
        } catch {
          // It may have happened, and may still.
          failures += 1
          return undefined
        }
      }
      const clients = Array.from({ length: 3 }, async (_, n) => {
        const proxy = await cuttingProxy(server.port, {
          seed: seed * 10 + n,
          cutAfter: (from) => from.integer(1_000, 5_000),
          atAnswer: (from) => from.integer(3, 9),
        })
        const store = await open(proxy.port, 2_000)
        // At most 30 calls: the checker counts in bits.
        for (let n = 0; n < 5; n++) {
          await pause(random() * 3)
          await act(store, watch, id, random)
        }
        await store.close()
        cuts += proxy.cuts
      })
      await Promise.all(clients)
      calls += history.length
      expect(isLinearizable(history), `seed ${seed}\n${JSON.stringify(history, null, 1)}`).toBe(true)
    }
    expect(cuts).toBeGreaterThan(seeds)
    console.info(`${kind}: ${calls} calls, ${cuts} cuts, ${failures} failed calls (seeds from ${firstSeed})`)
  })
})

let keys = 0

async function act(
  store: RedisSessionStore,
  watch: (call: Call, run: () => Promise<unknown>) => Promise<unknown>,
  id: string,
  random: () => number,
): Promise<void> {
  const key = `key-${++keys}`
  const dice = random()
  if (dice < 0.2) {
    const call: Call = { kind: 'create', key }
    await watch(call, async () => {
      call.result = await store.create(newRecord({ id, key }))
    })
  } else if (dice < 0.25) {
    await watch({ kind: 'delete' }, () => store.delete(id))
  } else {
    const get: Call = { kind: 'get' }
    const seen = (await watch(get, async () => {
      const record = await store.get(id)
      const state: State = record && { version: record.version, key: keyOf(record) ?? '' }
      get.result = state
      return state
    })) as State | undefined
    if (!seen || dice < 0.45) return
    const call: Call = { kind: 'replace', expected: seen.version, key }
    await watch(call, async () => {
      call.result = await store.replace(newRecord({ id, key, version: seen.version + 1 }), seen.version)
    })
  }
}
