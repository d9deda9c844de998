/** One node's hold on one lock: renewed while it lasts, over at the latest when it would have run out in Redis. */
import type { RedisCommands } from '../redis/redis-commands.ts'
import { releaseScript, renewScript } from './redis-lock-scripts.ts'

export interface LockKeys {
  readonly lock: string
  readonly waiting: string
  readonly fence: string
  /** What channels begin with; a locker's id follows. */
  readonly channels: string
  /** The lock's name in messages. */
  readonly name: string
  /** The id of this process' locker. */
  readonly locker: string
}

/** What Redis has answered to whoever got the lock. */
export interface Granted {
  readonly value: string
  readonly othersWait: boolean
  readonly ttl: number
  /** When the command was sent, so that the lease ends here before it ends there. */
  readonly since: number
}

export class RedisLease {
  /** Larger than that of every lease of any lock before. */
  readonly fence: number
  /** Whether other nodes waited when it began. */
  readonly othersWait: boolean
  readonly #commands: RedisCommands
  readonly #keys: LockKeys
  readonly #value: string
  readonly #ttl: number
  readonly #onLost: () => void
  /** By this process' monotonic clock, ms. */
  #validUntil: number
  #renewal: NodeJS.Timeout | undefined
  #expiry: NodeJS.Timeout | undefined
  #ended = false

  constructor(commands: RedisCommands, keys: LockKeys, granted: Granted, onLost: () => void) {
    const { value, ttl, since } = granted
    this.othersWait = granted.othersWait
    this.fence = Number(value.split(':')[0])
    this.#commands = commands
    this.#keys = keys
    this.#value = value
    this.#ttl = ttl
    this.#onLost = onLost
    this.#validUntil = since + ttl
    this.#arm()
    this.#renewIn(ttl / 3)
  }

  get isOver(): boolean {
    return this.#ended || performance.now() >= this.#validUntil
  }

  /** Gives it back. When Redis cannot be told, it runs out there. `comeBack`: this process wants it again, after others. */
  async release(comeBack: boolean): Promise<void> {
    const { isOver } = this
    this.#end()
    if (isOver) return
    const { lock, waiting, channels, name, locker } = this.#keys
    const left = Math.max(1, Math.ceil(this.#validUntil - performance.now()))
    const args = [this.#value, channels, name, comeBack ? locker : '', `${this.#ttl}`]
    await this.#commands.run(releaseScript, [lock, waiting], args, left).catch(() => {})
  }

  #end(): void {
    this.#ended = true
    clearTimeout(this.#renewal)
    clearTimeout(this.#expiry)
  }

  #lose(): void {
    if (this.#ended) return
    this.#end()
    this.#onLost()
  }

  #arm(): void {
    clearTimeout(this.#expiry)
    const left = Math.max(0, this.#validUntil - performance.now())
    this.#expiry = setTimeout(() => this.#lose(), left).unref()
  }

  #renewIn(time: number): void {
    this.#renewal = setTimeout(() => void this.#renew(), time).unref()
  }

  async #renew(): Promise<void> {
    const since = performance.now()
    const left = Math.max(1, Math.ceil(this.#validUntil - since))
    try {
      const { reply } = await this.#commands.run(renewScript, [this.#keys.lock], [this.#value, `${this.#ttl}`], left)
      if (this.#ended) return
      if (reply !== 1) return this.#lose()
      this.#validUntil = since + this.#ttl
      this.#arm()
      this.#renewIn(this.#ttl / 3)
    } catch {
      // Redis is away. Until the lease runs out, it may come back.
      if (!this.#ended) this.#renewIn(this.#ttl / 10)
    }
  }
}
