/** The messages for one locker, over a connection of its own. */
import type { RedisConnection } from '../redis/redis-client.ts'

export interface MessageListener {
  /** `yield`: another node wants a lock that this one has. `free`: a lock that this one waits for was released. */
  onMessage(kind: string, name: string): void
  /** From now on messages arrive; what came before may have been missed. */
  onSubscribed(): void
}

const restartAfter = 1_000

export class RedisMessages {
  readonly #main: RedisConnection
  readonly #channel: string
  readonly #listener: MessageListener
  #connection: RedisConnection | null = null
  #unwatch: () => void = () => {}
  #startedAt = Number.NEGATIVE_INFINITY
  #closed = false

  constructor(main: RedisConnection, channel: string, listener: MessageListener) {
    this.#main = main
    this.#channel = channel
    this.#listener = listener
  }

  /** Connects, if it is not connected or connecting. A client that has given up is replaced, not more than once a second. */
  start(): void {
    const now = performance.now()
    if (this.#closed || (this.#connection && !this.#connection.isClosed()) || now < this.#startedAt + restartAfter)
      return
    this.#startedAt = now
    this.#drop()
    const connection = this.#main.duplicate()
    this.#connection = connection
    this.#unwatch = connection.watch({
      changed: () => {
        if (connection === this.#connection && connection.isReady()) void this.#subscribe(connection)
      },
      lost: () => {},
    })
    connection.open()
  }

  close(): void {
    this.#closed = true
    this.#drop()
  }

  async #subscribe(connection: RedisConnection): Promise<void> {
    try {
      await connection.subscribe(this.#channel, (message) => {
        const [kind = '', name = ''] = message.split(' ')
        this.#listener.onMessage(kind, name)
      })
      if (connection === this.#connection) this.#listener.onSubscribed()
    } catch {
      // Without messages, waiting ends when the holder's lease would have run out.
    }
  }

  #drop(): void {
    const connection = this.#connection
    this.#connection = null
    if (!connection) return
    connection.disconnect()
    this.#unwatch()
    // Whatever it still reports must not end the process.
    connection.watch({ changed: () => {}, lost: () => {} })
  }
}
