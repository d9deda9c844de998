/** What the tests of lockers are made of. */
import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises'
import type { Lock, Locker } from '../types.ts'

/** One call of `acquire`, watched. */
export class Attempt {
  readonly controller = new AbortController()
  readonly outcome: Promise<unknown>
  state: 'waiting' | 'held' | 'refused' = 'waiting'
  requests = 0
  #lock: Lock | null = null
  readonly #settleTime: number

  constructor(locker: Locker, key: string, settleTime: number, onRequest: () => void, onHeld: () => void) {
    this.#settleTime = settleTime
    const onReleaseRequested = () => {
      this.requests += 1
      onRequest()
    }
    this.outcome = locker.acquire(key, { signal: this.controller.signal, onReleaseRequested }).then(
      (lock) => {
        this.#lock = lock
        this.state = 'held'
        onHeld()
      },
      (reason: unknown) => {
        this.state = 'refused'
        return reason
      },
    )
  }

  get lost(): AbortSignal {
    assert.ok(this.#lock, 'the lock is not held')
    return this.#lock.lost
  }

  /** Resolves once the lock is held. */
  async held(): Promise<void> {
    await within(this.#settleTime, this.outcome, 'acquire did not settle')
    assert.equal(this.state, 'held')
  }

  /** Resolves once `acquire` has rejected with this reason. */
  async refused(reason: unknown): Promise<void> {
    const actual = await within(this.#settleTime, this.outcome, 'acquire did not settle')
    assert.equal(this.state, 'refused')
    assert.equal(actual, reason)
  }

  async release(): Promise<void> {
    assert.ok(this.#lock, 'the lock is not held')
    await this.#lock.release()
  }

  listeners(): number {
    return getEventListeners(this.controller.signal, 'abort').length
  }
}

export class Client {
  readonly locker: Locker
  readonly #settleTime: number

  constructor(locker: Locker, settleTime: number) {
    this.locker = locker
    this.#settleTime = settleTime
  }

  attempt(key = 'upload', { onRequest = () => {}, onHeld = () => {} } = {}): Attempt {
    return new Attempt(this.locker, key, this.#settleTime, onRequest, onHeld)
  }

  async hold(key = 'upload', hooks = {}): Promise<Attempt> {
    const attempt = this.attempt(key, hooks)
    await attempt.held()
    return attempt
  }

  async until(condition: () => boolean, what: string): Promise<void> {
    const deadline = Date.now() + this.#settleTime
    while (!condition()) {
      assert.ok(Date.now() < deadline, `${what} did not happen`)
      await pause(2)
    }
  }
}

/** Ten clients come, wait, give up, hold on or let go when asked, on two keys, each at a random moment. */
export async function interleave(client: Client, seed: number): Promise<void> {
  const random = generator(seed)
  const holding = new Map<string, number>()
  const wait = async () => {
    for (let tick = random(4); tick > 0; tick--) await (random(3) === 0 ? nextTurn() : null)
  }
  const visit = async (key: string) => {
    let asked = () => {}
    const request = new Promise<void>((resolve) => {
      asked = resolve
    })
    await wait()
    const attempt = client.attempt(key, { onRequest: asked })
    const [reason, impatient] = [new Error('enough'), random(3) === 0]
    if (impatient) void wait().then(() => attempt.controller.abort(reason))
    const outcome = await within(5000, attempt.outcome, 'acquire did not settle')
    if (attempt.state === 'refused') {
      assert.ok(impatient && outcome === reason, 'refused without being aborted')
      return
    }
    const others = holding.get(key) ?? 0
    assert.equal(others, 0, 'two hold the lock')
    holding.set(key, 1)
    await (random(2) === 0 ? Promise.race([request, pause(2)]) : wait())
    assert.equal(attempt.lost.aborted, false)
    holding.set(key, 0)
    await attempt.release()
    if (random(4) === 0) await attempt.release()
  }
  await Promise.all(numbers(10).map(async (n) => visit(`key-${n % 2}`)))
  for (const key of ['key-0', 'key-1']) await (await client.hold(key)).release()
}

/** Park and Miller's minimal standard generator: the seed in a failure's message repeats it. */
function generator(seed: number): (below: number) => number {
  let state = seed * 16_807
  return (below) => {
    state = (state * 16_807) % 2_147_483_647
    return state % below
  }
}

export function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, n) => n)
}

/** A call that comes too late is a failure of its own, not a test that hangs. */
export async function within<Result>(ms: number, call: Promise<Result>, message: string): Promise<Result> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new assert.AssertionError({ message: `${message} within ${ms} ms` })), ms)
  })
  try {
    return await Promise.race([call, late])
  } finally {
    clearTimeout(timer)
  }
}
