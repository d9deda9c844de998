/** How many requests at a time, and how long to wait after a failure. */
import type { UploadOptions } from './types.ts'
import { UploadError } from './upload-error.ts'
import { orAborted } from './waiting.ts'

/** How much faster one more chunk at a time has to make the whole before the next is added. */
const worthwhile = 1.05
/** How long to wait when somebody will call, ms. */
const long = 60_000

interface Network {
  readonly navigator?: { readonly onLine?: boolean }
  addEventListener?(type: 'online', listener: () => void, options: { once: boolean }): void
}

const network = globalThis as unknown as Network

export type Pace = ReturnType<typeof createPace>

export function createPace(
  { parallel = 6, retries = 10, retryDelay = 1000, maxRetryDelay = 30_000 }: UploadOptions,
  onChange: () => void,
) {
  let limit = Math.min(3, parallel)
  let running = 0
  let sleepers: (() => void)[] = []
  let failure: UploadError | null = null
  let failures = 0
  let failedAt = 0
  let notBefore = 0
  /** What has arrived since the begin of this round. */
  let round = newRound()
  /** The most in a round so far, bytes per ms. */
  let bestRate = 0

  /** Only a failure makes the browser's word count: some say they are offline and are not. */
  const isOffline = () => failures > 0 && network.navigator?.onLine === false
  const mustWait = () => isOffline() || performance.now() < notBefore

  const wake = () => {
    const woken = sleepers
    sleepers = []
    for (const resolve of woken) resolve()
  }

  async function sleep(signal: AbortSignal): Promise<void> {
    if (isOffline()) network.addEventListener?.('online', wake, { once: true })
    // Time has passed since it was found that there is something to wait for: this may be negative.
    const ms = running >= limit || isOffline() ? long : notBefore - performance.now()
    let timer: ReturnType<typeof setTimeout> | undefined
    const over = new Promise<void>((resolve) => {
      sleepers.push(resolve)
      timer = setTimeout(resolve, ms)
    })
    await orAborted(over, signal).finally(() => clearTimeout(timer))
  }

  /** Resolves when the next request may start. @throws the signal's reason */
  async function enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    while (running >= limit || mustWait()) await sleep(signal)
    running += 1
    onChange()
  }

  /** Requests that were under way together fail together: that is one failure. `false`: it is time to give up. */
  function mayRepeat(error: UploadError, startedAt: number): boolean {
    const now = performance.now()
    notBefore = Math.max(notBefore, now + error.retryAfter)
    if (startedAt < failedAt) return true
    failedAt = now
    limit = Math.max(1, limit >> 1)
    bestRate = 0
    round = newRound()
    // Clients that were thrown out together must not come back together.
    const share = 0.5 + Math.random() / 2
    notBefore = Math.max(notBefore, now + share * Math.min(maxRetryDelay, retryDelay * 2 ** failures))
    failures += 1
    if (failures <= retries) return true
    // Should somebody start it again, it is from the beginning.
    failures = 0
    notBefore = 0
    return false
  }

  return {
    /** Why nothing is done for now; `null` when it is. */
    get waitsFor(): UploadError | null {
      return running === 0 && mustWait() ? failure : null
    },

    /** Makes a request when its turn has come, again and again while it may pass. @throws the signal's reason */
    async repeat<Result>(request: () => Promise<Result>, signal: AbortSignal): Promise<Result> {
      for (;;) {
        await enter(signal)
        const startedAt = performance.now()
        try {
          const result = await request()
          failures = 0
          return result
        } catch (error) {
          signal.throwIfAborted()
          if (!(error instanceof UploadError && error.retryable && mayRepeat(error, startedAt))) throw error
          failure = error
        } finally {
          running -= 1
          onChange()
          wake()
        }
      }
    },

    /** A chunk of so many bytes has arrived. */
    arrived(bytes: number): void {
      round.chunks += 1
      round.bytes += bytes
      if (round.chunks < 2 * limit) return
      const rate = round.bytes / (performance.now() - round.start)
      if (rate > bestRate * worthwhile) {
        bestRate = rate
        limit = Math.min(limit + 1, parallel)
      }
      round = newRound()
    },
  }
}

function newRound() {
  return { start: performance.now(), chunks: 0, bytes: 0 }
}
