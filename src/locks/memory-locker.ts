/** Locks for one process. */
import type { Lock, Locker, LockRequest } from '../types.ts'

interface Holder {
  readonly onReleaseRequested: () => void
  asked: boolean
}

interface Waiter {
  readonly request: LockRequest
  /** Hands the lock over. */
  readonly grant: (lock: Lock) => void
  readonly refuse: () => void
}

interface Queue {
  /** `null` once the queue is gone. */
  holder: Holder | null
  /** In order of arrival. A set: thousands may wait, and each may give up at any place. */
  readonly waiters: Set<Waiter>
}

/**
 * Locks within this process, first come first served. Waiting costs nothing: no timers, no polling. A key that nobody
 * holds takes no memory. `lost` never aborts.
 */
export class MemoryLocker implements Locker {
  readonly shared = false
  readonly #queues = new Map<string, Queue>()

  /** @throws the signal's reason when `signal` aborts before the lock is held */
  acquire(key: string, request: LockRequest): Promise<Lock> {
    const { signal } = request
    if (signal.aborted) return Promise.reject(signal.reason)
    const queue = this.#queues.get(key)
    if (queue) return wait(queue, request)
    const created: Queue = { holder: null, waiters: new Set() }
    this.#queues.set(key, created)
    return Promise.resolve(this.#hold(created, key, request))
  }

  #hold(queue: Queue, key: string, { onReleaseRequested }: LockRequest): Lock {
    const holder = { onReleaseRequested, asked: false }
    queue.holder = holder
    return {
      lost: new AbortController().signal,
      release: async () => {
        if (queue.holder === holder) this.#pass(queue, key)
      },
    }
  }

  #pass(queue: Queue, key: string): void {
    for (const waiter of queue.waiters) {
      // Its signal may be calling others' listeners, and one of them has called this, before it calls the waiter's own.
      if (waiter.request.signal.aborted) {
        waiter.refuse()
        continue
      }
      waiter.grant(this.#hold(queue, key, waiter.request))
      if (queue.waiters.size > 0) askToRelease(queue)
      return
    }
    queue.holder = null
    this.#queues.delete(key)
  }
}

function wait(queue: Queue, request: LockRequest): Promise<Lock> {
  const { signal } = request
  return new Promise((resolve, reject) => {
    const leave = () => {
      queue.waiters.delete(waiter)
      signal.removeEventListener('abort', waiter.refuse)
    }
    const waiter: Waiter = {
      request,
      grant: (lock) => {
        leave()
        resolve(lock)
      },
      refuse: () => {
        leave()
        reject(signal.reason)
      },
    }
    signal.addEventListener('abort', waiter.refuse)
    queue.waiters.add(waiter)
    askToRelease(queue)
  })
}

/** Once per holder, and not before its own `await acquire()` has gone on: it may need the lock to answer. */
function askToRelease(queue: Queue): void {
  const { holder } = queue
  if (!holder || holder.asked) return
  holder.asked = true
  queueMicrotask(() => process.nextTick(deliver, queue, holder))
}

async function deliver(queue: Queue, holder: Holder): Promise<void> {
  if (queue.holder !== holder) return
  if (queue.waiters.size === 0) {
    // Whoever wanted it has given up meanwhile.
    holder.asked = false
    return
  }
  try {
    await holder.onReleaseRequested()
  } catch {
    // How a holder takes the request is its own affair; the queue goes on when it releases.
  }
}
