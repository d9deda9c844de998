/** A client for Redis whose n-th command goes wrong. */
import type { Redis } from 'ioredis'

/**
 * `error`: Redis refuses it. `unsent`: the line breaks before it is sent. `lost`: it is carried out, and the line breaks before
 * its answer. `late`: it is carried out, and its answer comes when nobody waits any more.
 */
export type RedisFault = 'error' | 'unsent' | 'lost' | 'late'

/** Counts the commands of all clients that have it. */
export class RedisFaults {
  #count = 0
  #order: { readonly fault: RedisFault; readonly at: number; readonly isLasting: boolean } | null = null

  /** From now on: the command with this number, or that and all that follow. */
  order(fault: RedisFault, at: number, isLasting: boolean): void {
    this.#count = 0
    this.#order = { fault, at, isLasting }
  }

  lift(): void {
    this.#order = null
  }

  /** How many commands there were since the last order. */
  get count(): number {
    return this.#count
  }

  /** `delay`: how late a late answer is, ms. */
  client(redis: Redis, delay: number): Redis {
    const call = async (command: string, args: string[]) => {
      const fault = this.#next()
      if (fault === 'error') throw new Error('ERR ordered by the test')
      if (fault === 'unsent') throw new Error('Connection is closed.')
      const answer = await redis.call(command, args)
      if (fault === 'lost') throw new Error('Connection is closed.')
      if (fault === 'late') await new Promise((resolve) => setTimeout(resolve, delay))
      return answer
    }
    return new Proxy(redis, {
      get(target, name) {
        if (name === 'call') return call
        const value: unknown = Reflect.get(target, name, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
  }

  #next(): RedisFault | null {
    this.#count += 1
    if (!this.#order) return null
    const { fault, at, isLasting } = this.#order
    return this.#count === at || (isLasting && this.#count > at) ? fault : null
  }
}
