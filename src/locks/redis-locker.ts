/** Locks among all nodes that share a Redis. */
import { createHash, randomBytes } from 'node:crypto'
import { StorageUnavailableError } from '../errors.ts'
import { connectionOf, type RedisClient } from '../redis/redis-client.ts'
import type { RedisCommands } from '../redis/redis-commands.ts'
import { commandsOf, keyspaceOf, type RedisOptions, wholeNumber } from '../redis/redis-options.ts'
import type { Locker, LockRequest } from '../types.ts'
import { type LockKeys, RedisLease } from './redis-lease.ts'
import { type RedisLock, RedisLockQueue } from './redis-lock-queue.ts'
import { acquireScript, leaveScript, waitingScript } from './redis-lock-scripts.ts'
import { RedisMessages } from './redis-messages.ts'

export interface RedisLockerOptions extends RedisOptions {
  /**
   * How long a lock outlives a node that was killed, ms. It is renewed three times in that time; a node that could not, loses
   * it. Default 10 000.
   */
  ttl?: number
}

/**
 * Locks among all nodes that share a Redis 7 or newer, or Valkey. Whoever waits, waits for a message, without polling; the
 * holder hears of it over the same way, on whichever node it is. Within a process the line is first come first served; a
 * lock that another node has asked for leaves the process after the present holder.
 *
 * A lock is a lease: `lost` aborts when it could not be renewed in time, or is gone from Redis. A process that was stopped
 * for longer than `ttl` learns it when it goes on; until then it may believe to hold what others have. That is why sessions
 * change by compare-and-swap and do not rely on it.
 */
export class RedisLocker implements Locker {
  readonly shared = true
  readonly #id = randomBytes(9).toString('base64url')
  readonly #commands: RedisCommands
  readonly #messages: RedisMessages
  readonly #keyspace: string
  readonly #ttl: number
  readonly #queues = new Map<string, RedisLockQueue>()
  #closed = false

  /**
   * @param client of the package `redis` or `ioredis`, connected. It is duplicated for messages, and stays the caller's:
   *   `close` leaves it open
   * @throws TypeError when the client or an option is not usable
   */
  constructor(client: RedisClient, options: RedisLockerOptions = {}) {
    const connection = connectionOf(client)
    this.#keyspace = keyspaceOf(options)
    this.#ttl = wholeNumber('ttl', options.ttl ?? 10_000, 100)
    this.#commands = commandsOf(connection, options)
    this.#messages = new RedisMessages(connection, `${this.#channels}${this.#id}`, {
      onMessage: (kind, name) => {
        if (kind === 'yield') this.#queues.get(name)?.yieldRequested()
        if (kind === 'free') this.#queues.get(name)?.wake()
      },
      onSubscribed: () => {
        for (const queue of this.#queues.values()) void queue.catchUp()
      },
    })
  }

  /**
   * @throws the signal's reason when `signal` aborts before the lock is held
   * @throws StorageUnavailableError (503) when Redis is away, full, read-only or slow
   */
  acquire(key: string, request: LockRequest): Promise<RedisLock> {
    if (request.signal.aborted) return Promise.reject(request.signal.reason)
    if (this.#closed) return Promise.reject(closing())
    this.#messages.start()
    const name = createHash('sha256').update(key).digest('base64url')
    const queue = this.#queues.get(name) ?? this.#newQueue(name)
    return queue.acquire(request)
  }

  /** Gives back every lock, refuses who waits, and ends the connection for messages. The client stays open. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await Promise.all([...this.#queues.values()].map((queue) => queue.close(closing())))
    this.#messages.close()
    this.#commands.close()
  }

  get #channels(): string {
    return `${this.#keyspace}locker:`
  }

  #newQueue(name: string): RedisLockQueue {
    const keys = {
      ...{ lock: `${this.#keyspace}l:${name}`, waiting: `${this.#keyspace}w:${name}` },
      ...{ fence: `${this.#keyspace}fence`, channels: this.#channels, name, locker: this.#id },
    }
    const queue = new RedisLockQueue({
      acquire: (onLost) => this.#acquire(keys, onLost),
      isWanted: () => this.#isWanted(keys),
      leave: () => this.#leave(keys),
      idle: () => {
        if (this.#queues.get(name) === queue) this.#queues.delete(name)
      },
    })
    this.#queues.set(name, queue)
    return queue
  }

  async #acquire(keys: LockKeys, onLost: () => void): Promise<RedisLease | number> {
    const { lock, waiting, fence, channels, name } = keys
    const since = performance.now()
    const args = [this.#id, randomBytes(9).toString('base64url'), `${this.#ttl}`, channels, name]
    const { reply } = await this.#commands.run(acquireScript, [lock, waiting, fence], args)
    const [got, rest, others] = Array.isArray(reply) ? reply : []
    if (got === 1) {
      const granted = { value: String(rest), othersWait: Number(others) > 0, ttl: this.#ttl, since }
      return new RedisLease(this.#commands, keys, granted, onLost)
    }
    // Redis removes a key up to a millisecond after its time.
    return Math.min(Math.max(Number(rest), 0), this.#ttl) + 2
  }

  async #isWanted({ waiting }: LockKeys): Promise<boolean> {
    const answer = await this.#commands.run(waitingScript, [waiting], []).catch(() => null)
    return answer?.reply === 1
  }

  #leave({ waiting }: LockKeys): void {
    // Whoever cannot be told that nobody waits here any more, sends a message for nothing.
    this.#commands.run(leaveScript, [waiting], [this.#id]).catch(() => {})
  }
}

function closing(): StorageUnavailableError {
  return new StorageUnavailableError('The server is shutting down. Try again.', { code: 'CLOSING' })
}
