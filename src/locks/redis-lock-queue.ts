/**
 * Everybody in this process who wants one lock, in line. The line as a whole gets the lock from Redis, and passes it on
 * within; when another node has asked for it, it goes back to Redis after the present holder.
 */
import { type StorageUnavailableError, UploadLockedError } from '../errors.ts'
import type { Lock, LockRequest } from '../types.ts'
import type { RedisLease } from './redis-lease.ts'

/** A lock of `RedisLocker`. */
export interface RedisLock extends Lock {
  /**
   * Grows with every lease of any lock, also when Redis has lost its data: a storage that remembers the largest it has seen can
   * refuse whoever comes late with a smaller one. Holders in one process that follow one another may share one.
   */
  readonly fence: number
}

interface Holder {
  readonly onReleaseRequested: () => void
  readonly lost: AbortController
  asked: boolean
}

interface Waiter {
  readonly request: LockRequest
  readonly grant: (lock: RedisLock) => void
  readonly refuse: (reason: unknown) => void
}

export interface LeaseSource {
  /** A lease, or after how many ms to try again, unless woken before. */
  acquire(onLost: () => void): Promise<RedisLease | number>
  /** Whether other nodes wait. */
  isWanted(): Promise<boolean>
  /** Nobody here waits any more. */
  leave(): void
  /** Nobody here waits or holds. */
  idle(): void
}

/** How long other nodes come first after they had asked, ms: several times what a message and a command take. */
const headStart = 25

export class RedisLockQueue {
  readonly #source: LeaseSource
  // A set: thousands may wait, and each may give up at any place.
  readonly #waiters = new Set<Waiter>()
  #holder: Holder | null = null
  #lease: RedisLease | null = null
  #seeking = false
  /** Another node wants it. */
  #wanted = false
  #sought: Promise<void> = Promise.resolve()
  #wakes = 0
  #wakeUp: () => void = () => {}

  constructor(source: LeaseSource) {
    this.#source = source
  }

  acquire(request: LockRequest): Promise<RedisLock> {
    const { signal } = request
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiters.delete(waiter)
        signal.removeEventListener('abort', abort)
      }
      const waiter: Waiter = {
        request,
        grant: (lock) => {
          leave()
          resolve(lock)
        },
        refuse: (reason) => {
          leave()
          reject(reason)
        },
      }
      const abort = () => {
        waiter.refuse(signal.reason)
        if (this.#waiters.size === 0) this.wake()
      }
      signal.addEventListener('abort', abort)
      this.#waiters.add(waiter)
      if (this.#holder) this.#askToRelease()
      else this.#seek()
    })
  }

  /** Another node wants the lock. */
  yieldRequested(): void {
    this.#wanted = true
    this.#askToRelease()
  }

  /** The lock may be free. */
  wake(): void {
    this.#wakes += 1
    this.#wakeUp()
  }

  /** Messages may have been missed. */
  async catchUp(): Promise<void> {
    if (!this.#holder) return this.wake()
    if (await this.#source.isWanted()) this.yieldRequested()
  }

  /** Refuses everybody who waits, and gives back what is held. */
  async close(reason: StorageUnavailableError): Promise<void> {
    for (const waiter of [...this.#waiters]) waiter.refuse(reason)
    this.wake()
    await this.#sought
    this.#holder?.lost.abort(reason)
    this.#holder = null
    await this.#letGo()
  }

  #seek(pause = 0): void {
    if (this.#seeking) return
    this.#seeking = true
    this.#sought = this.#search(pause)
  }

  async #search(pause: number): Promise<void> {
    try {
      if (pause > 0) await this.#sleep(pause)
      while (this.#waiters.size > 0 && !this.#lease) await this.#attempt()
    } catch (error) {
      for (const waiter of [...this.#waiters]) waiter.refuse(error)
    }
    this.#seeking = false
    if (this.#lease) return this.#pass()
    this.#source.leave()
    this.#rest()
  }

  async #attempt(): Promise<void> {
    const wakes = this.#wakes
    this.#wanted = false
    const result = await this.#source.acquire(() => this.#lost())
    if (typeof result !== 'number') {
      this.#lease = result
      if (result.othersWait) this.#wanted = true
      return
    }
    // The news that it is free may have overtaken the news that it is not.
    if (wakes === this.#wakes && this.#waiters.size > 0) await this.#sleep(result)
  }

  #sleep(time: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#wakeUp(), time).unref()
      this.#wakeUp = () => {
        clearTimeout(timer)
        this.#wakeUp = () => {}
        resolve()
      }
    })
  }

  /** Gives the lease to the next in line, or back. */
  #pass(): void | Promise<void> {
    for (const waiter of this.#waiters) {
      const { signal, onReleaseRequested } = waiter.request
      // Its signal may be calling others' listeners, and one of them has called this, before it calls the waiter's own.
      if (signal.aborted) {
        waiter.refuse(signal.reason)
        continue
      }
      const holder = { onReleaseRequested, lost: new AbortController(), asked: false }
      this.#holder = holder
      waiter.grant(this.#lockOf(holder))
      this.#askToRelease()
      return
    }
    return this.#letGo()
  }

  #lockOf(holder: Holder): RedisLock {
    let released: Promise<void> | undefined
    const release = async () => {
      if (this.#holder !== holder) return
      this.#holder = null
      // Nobody else may take over what has run out, although nobody has noticed yet.
      if (this.#waiters.size > 0 && !this.#wanted && this.#lease?.isOver === false) return this.#pass()
      await this.#letGo()
    }
    return {
      fence: this.#lease?.fence ?? 0,
      lost: holder.lost.signal,
      release: () => {
        released ??= release()
        return released
      },
    }
  }

  async #letGo(): Promise<void> {
    const lease = this.#lease
    const wanted = this.#wanted
    // While it is being given back, newcomers wait for that, not for an answer that would say it is taken.
    this.#seeking = true
    await lease?.release(wanted && this.#waiters.size > 0)
    this.#seeking = false
    this.#lease = null
    if (this.#waiters.size > 0) this.#seek(wanted ? headStart : 0)
    else this.#rest()
  }

  #rest(): void {
    if (!this.#seeking && !this.#holder && this.#waiters.size === 0) this.#source.idle()
    else if (!this.#seeking && !this.#holder) this.#seek()
  }

  #lost(): void {
    this.#holder?.lost.abort(new UploadLockedError())
  }

  /** Once per holder, and not before its own `await acquire()` has gone on: it may need the lock to answer. */
  #askToRelease(): void {
    const holder = this.#holder
    if (!holder || holder.asked || (this.#waiters.size === 0 && !this.#wanted)) return
    holder.asked = true
    queueMicrotask(() => process.nextTick(() => void this.#deliver(holder)))
  }

  async #deliver(holder: Holder): Promise<void> {
    if (this.#holder !== holder) return
    if (this.#waiters.size === 0 && !this.#wanted) {
      // Whoever wanted it has given up meanwhile.
      holder.asked = false
      return
    }
    try {
      await holder.onReleaseRequested()
    } catch {
      // How a holder takes the request is its own affair; the line goes on when it releases.
    }
  }
}
