/**
 * What every locker must do, as tests. The test function comes from the caller, so the suite runs under vitest, jest and
 * `node:test`.
 */
import assert from 'node:assert/strict'
import { setTimeout as pause } from 'node:timers/promises'
import type { Locker } from '../types.ts'
import { type Attempt, Client, interleave, numbers, within } from './locker-conformance-support.ts'
import type { ConformanceTest } from './storage-conformance-support.ts'

/** A fresh locker that holds no locks. */
export interface LockerFixture {
  readonly locker: Locker
  /** Called after the test, after `locker.close`. */
  cleanup?(): unknown
}

export interface LockerConformanceOptions {
  /** Waiters in the test of many waiters. Default 500. */
  readonly waiters?: number
  /** Most CPU time the process may use while they wait for 300 ms, ms. Default 100. */
  readonly waitingCpu?: number
  /** Seeds of the test of random interleavings. Default 100. */
  readonly interleavings?: number
  /** Longest time until a call that is due must have settled, ms. Default 5000. */
  readonly settleTime?: number
}

type Check = (name: string, run: (client: Client) => Promise<void>) => void

/**
 * Registers the tests.
 *
 * @param test `test` of vitest, jest or `node:test`
 * @param createLocker makes a fresh locker for every test
 */
export function lockerConformance(
  test: ConformanceTest,
  createLocker: () => LockerFixture | Promise<LockerFixture>,
  { waiters = 500, waitingCpu = 100, interleavings = 100, settleTime = 5000 }: LockerConformanceOptions = {},
): void {
  const check: Check = (name, run) => {
    test(name, async () => {
      const fixture = await createLocker()
      try {
        await run(new Client(fixture.locker, settleTime))
      } finally {
        await fixture.locker.close?.()
        await fixture.cleanup?.()
      }
    })
  }
  testExclusion(check)
  testRequests(check)
  testAborting(check)
  testReleasing(check)
  testManyWaiters(check, waiters, waitingCpu)
  testRaces(check)
  testInterleavings(check, interleavings)
}

function testExclusion(check: Check): void {
  check('says whether other machines see its locks', async ({ locker }) => {
    assert.equal(typeof locker.shared, 'boolean')
  })
  check('gives a free lock at once, not lost, and asks nobody to release it', async (client) => {
    const holder = await client.hold()
    await pause(20)
    assert.equal(holder.lost.aborted, false)
    assert.equal(holder.requests, 0)
    await holder.release()
  })
  check('lets the second wait until the first releases', async (client) => {
    const first = await client.hold()
    const second = client.attempt()
    await pause(50)
    assert.equal(second.state, 'waiting')
    await first.release()
    await second.held()
    await second.release()
  })
  check('serves waiters in order of arrival', async (client) => {
    const order: number[] = []
    const first = await client.hold()
    const waiters = numbers(20).map((n) => client.attempt('upload', { onHeld: () => order.push(n) }))
    await first.release()
    for (const waiter of waiters) {
      await waiter.held()
      await waiter.release()
    }
    assert.deepEqual(order, numbers(20))
  })
  check('keeps keys apart, whatever they look like', async (client) => {
    const keys = ['a', 'A', 'a:', 'a/../b', '', ' ', '*', '__proto__', 'constructor', 'é', 'x'.repeat(500)]
    const holders = await Promise.all(keys.map((key) => client.hold(key)))
    const waiter = client.attempt('a')
    await client.until(() => holders[0]?.requests === 1, 'the request to release')
    await pause(20)
    assert.deepEqual(
      holders.map(({ requests }) => requests),
      keys.map((key) => (key === 'a' ? 1 : 0)),
    )
    await Promise.all(holders.map((holder) => holder.release()))
    await waiter.held()
    await waiter.release()
  })
}

function testRequests(check: Check): void {
  check('asks the holder to release once, however many come', async (client) => {
    const holder = await client.hold()
    const waiters = numbers(10).map(() => client.attempt())
    await client.until(() => holder.requests > 0, 'the request to release')
    waiters.push(client.attempt())
    await pause(20)
    assert.equal(holder.requests, 1)
    await holder.release()
    for (const waiter of waiters) {
      await waiter.held()
      await waiter.release()
    }
    assert.equal(holder.requests, 1)
  })
  check('asks each successor as long as others wait behind it, after its acquire has resolved', async (client) => {
    const events: string[] = []
    const watch = (name: string) =>
      client.attempt('upload', {
        onHeld: () => events.push(`${name} held`),
        onRequest: () => events.push(`${name} asked`),
      })
    const attempts = ['first', 'second', 'third', 'fourth'].map(watch)
    for (const [index, attempt] of attempts.entries()) {
      await attempt.held()
      if (index < 3) await client.until(() => attempt.requests === 1, 'the request to release')
      await attempt.release()
    }
    await pause(20)
    const asked = ['first', 'second', 'third'].flatMap((name) => [`${name} held`, `${name} asked`])
    assert.deepEqual(events, [...asked, 'fourth held'])
  })
  check('does not ask a waiter, nor anybody who has released', async (client) => {
    const holder = await client.hold()
    const waiter = client.attempt()
    const last = client.attempt()
    await client.until(() => holder.requests === 1, 'the request to release')
    await pause(20)
    assert.equal(waiter.requests, 0)
    await holder.release()
    await waiter.held()
    await waiter.release()
    await last.held()
    await last.release()
    const alone = await client.hold()
    await pause(20)
    assert.deepEqual([holder.requests, last.requests, alone.requests], [1, 0, 0])
    await alone.release()
  })
  check('goes on when the callbacks throw', async (client) => {
    const onRequest = () => {
      throw new Error('from the callback')
    }
    const attempts = numbers(4).map(() => client.attempt('upload', { onRequest }))
    for (const [index, attempt] of attempts.entries()) {
      await attempt.held()
      if (index < 3) await client.until(() => attempt.requests === 1, 'the request to release')
      await attempt.release()
    }
  })
  check('lets a holder release from within the callback', async (client) => {
    const first: Attempt = client.attempt('upload', { onRequest: () => void first.release() })
    await first.held()
    const second = client.attempt()
    await second.held()
    await second.release()
  })
}

function testAborting(check: Check): void {
  check('rejects a waiter with the reason when its signal aborts, and serves the others', async (client) => {
    for (const which of [0, 1, 2]) {
      const holder = await client.hold()
      const waiters = numbers(3).map(() => client.attempt())
      const [reason, leaver] = [new Error('enough'), waiters[which]]
      leaver?.controller.abort(reason)
      await leaver?.refused(reason)
      assert.equal(waiters.filter(({ state }) => state === 'waiting').length, 2)
      await holder.release()
      for (const waiter of waiters) {
        if (waiter === leaver) continue
        await waiter.held()
        await waiter.release()
      }
      assert.equal(leaver?.state, 'refused')
    }
  })
  check('rejects at once when the signal is aborted already, and asks nobody', async (client) => {
    const reason = new Error('too late')
    const request = { signal: AbortSignal.abort(reason), onReleaseRequested: () => {} }
    await assert.rejects(client.locker.acquire('upload', request), reason)
    const holder = await client.hold()
    await assert.rejects(client.locker.acquire('upload', request), reason)
    await pause(20)
    assert.equal(holder.requests, 0)
    await holder.release()
  })
  check('is free after the holder released and every waiter gave up', async (client) => {
    const holder = await client.hold()
    const waiters = numbers(5).map(() => client.attempt())
    const reason = new Error('enough')
    for (const waiter of waiters) waiter.controller.abort(reason)
    for (const waiter of waiters) await waiter.refused(reason)
    await holder.release()
    const next = await client.hold()
    assert.equal(next.requests, 0)
    await next.release()
  })
  check('a signal that aborts once the lock is held changes nothing', async (client) => {
    const holder = await client.hold()
    holder.controller.abort(new Error('unheard'))
    const waiter = client.attempt()
    await pause(20)
    assert.deepEqual([holder.state, holder.lost.aborted, waiter.state], ['held', false, 'waiting'])
    await holder.release()
    await waiter.held()
    await waiter.release()
  })
  check('leaves no listener on a signal, whether the lock was got or not', async (client) => {
    const holder = await client.hold()
    const [leaver, waiter] = [client.attempt(), client.attempt()]
    const reason = new Error('enough')
    leaver.controller.abort(reason)
    await leaver.refused(reason)
    await holder.release()
    await waiter.held()
    await waiter.release()
    assert.deepEqual([holder.listeners(), leaver.listeners(), waiter.listeners()], [0, 0, 0])
  })
}

function testReleasing(check: Check): void {
  check('a second release is no error and takes the lock from nobody', async (client) => {
    const first = await client.hold()
    const [second, third] = [client.attempt(), client.attempt()]
    await Promise.all([first.release(), first.release()])
    await second.held()
    await first.release()
    await pause(20)
    assert.equal(third.state, 'waiting')
    await second.release()
    await third.held()
    await third.release()
    const alone = await client.hold()
    for (const old of [first, second, third]) await old.release()
    const waiter = client.attempt()
    await pause(20)
    assert.equal(waiter.state, 'waiting')
    await alone.release()
    await waiter.held()
    await waiter.release()
  })
}

function testManyWaiters(check: Check, count: number, waitingCpu: number): void {
  check(`${count} waiters on one key use next to no CPU and are all served`, async (client) => {
    const holder = await client.hold()
    const waiters = numbers(count).map(() => client.attempt())
    await client.until(() => holder.requests === 1, 'the request to release')
    // What queueing them has cost is not waiting.
    await pause(50)
    const before = process.cpuUsage()
    await pause(300)
    const { user, system } = process.cpuUsage(before)
    assert.ok(waiters.every(({ state }) => state === 'waiting'))
    const used = (user + system) / 1000
    assert.ok(used <= waitingCpu, `waiting took ${used} ms of CPU time in 300 ms`)
    await holder.release()
    for (const waiter of waiters) {
      await waiter.held()
      await waiter.release()
    }
  })
}

function testRaces(check: Check): void {
  check('a hand-over that meets an abort gives the lock to one: who has it, or who comes next', async (client) => {
    for (const abortFirst of [true, false]) {
      for (const distance of numbers(8)) {
        const holder = await client.hold()
        const [early, late] = [client.attempt(), client.attempt()]
        const reason = new Error('enough')
        const acts = [() => holder.release(), async () => early.controller.abort(reason)]
        const [first, second] = abortFirst ? acts.reverse() : acts
        const begun = first?.()
        for (let tick = 0; tick < distance; tick++) await null
        await Promise.all([begun, second?.()])
        if (abortFirst) await early.refused(reason)
        await within(5000, early.outcome, 'acquire did not settle')
        if (early.state === 'held') {
          await pause(1)
          assert.equal(late.state, 'waiting')
          await early.release()
        }
        await late.held()
        await late.release()
      }
    }
  })
  check('an aborted waiter is not handed the lock, even if its signal releases the lock first', async (client) => {
    const holder = await client.hold()
    const [leaver, next] = [new AbortController(), new Error('enough')]
    leaver.signal.addEventListener('abort', () => void holder.release())
    const refused = client.locker.acquire('upload', { signal: leaver.signal, onReleaseRequested: () => {} })
    const last = client.attempt()
    leaver.abort(next)
    await assert.rejects(refused, next)
    await last.held()
    await last.release()
  })
}

function testInterleavings(check: Check, seeds: number): void {
  check(`has one holder at a time and loses nobody in ${seeds} random interleavings`, async (client) => {
    for (let seed = 1; seed <= seeds; seed++) {
      try {
        await interleave(client, seed)
      } catch (cause) {
        throw new Error(`seed ${seed}: ${(cause as Error).message}`, { cause })
      }
    }
  })
}
