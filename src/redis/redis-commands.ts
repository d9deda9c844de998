/** Runs scripts: with a deadline, with a limit on how many may wait, and again when the connection broke. */
import { createHash } from 'node:crypto'
import type { RedisConnection } from './redis-client.ts'
import { isErrorReply, isMissingScript, RedisTrouble, redisUnavailable } from './redis-errors.ts'

/** Lua that may run twice without doing harm: a command whose answer was lost is sent again. */
export interface Script {
  readonly text: string
  readonly sha1: string
}

export function script(text: string): Script {
  return { text, sha1: createHash('sha1').update(text).digest('hex') }
}

export interface Answer {
  readonly reply: unknown
  /** The script may have run before this run of it, unseen. */
  readonly repeated: boolean
}

export interface RedisCommandOptions {
  /** Longest time for one command, with waiting for a connection and repetition, ms. */
  readonly timeout: number
  /** Most commands that wait for an answer, those nobody is interested in any more among them. */
  readonly maxPending: number
}

const maxAttempts = 3

export class RedisCommands {
  readonly #connection: RedisConnection
  readonly #options: RedisCommandOptions
  readonly #unwatch: () => void
  /** Called when the connection may have become ready. */
  readonly #waiting = new Set<() => void>()
  #losses = 0
  #pending = 0
  #closed = false

  constructor(connection: RedisConnection, options: RedisCommandOptions) {
    this.#connection = connection
    this.#options = options
    this.#unwatch = connection.watch({
      changed: () => this.#wake(),
      lost: () => {
        this.#losses += 1
        this.#wake()
      },
    })
  }

  /** @throws StorageUnavailableError when there is no answer in time, or an error for an answer */
  async run(script: Script, keys: string[], args: readonly string[], timeout = this.#options.timeout): Promise<Answer> {
    const { maxPending } = this.#options
    if (this.#closed) throw redisUnavailable(new RedisTrouble('CLOSED', 'It was closed.'))
    if (this.#pending >= maxPending) {
      throw redisUnavailable(new RedisTrouble('BACKLOG', `${maxPending} commands wait for an answer already.`))
    }
    const stop = new AbortController()
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      const trouble = new RedisTrouble('TIMEOUT', `Redis did not answer within ${timeout} ms.`)
      timer = setTimeout(() => {
        stop.abort(trouble)
        reject(trouble)
      }, timeout).unref()
    })
    try {
      return await Promise.race([this.#attempts(script, [`${keys.length}`, ...keys, ...args], stop.signal), late])
    } catch (error) {
      throw redisUnavailable(error)
    } finally {
      clearTimeout(timer)
    }
  }

  /** Calls back at once or when the connection is ready, unless it is closed before. */
  whenReady(call: () => void): void {
    const look = () => {
      if (!this.#connection.isReady()) return
      this.#waiting.delete(look)
      call()
    }
    this.#waiting.add(look)
    look()
  }

  /** Ends nothing that is under way; the connection is the caller's. */
  close(): void {
    this.#closed = true
    if (this.#pending === 0) this.#unwatch()
    this.#waiting.clear()
  }

  async #attempts(script: Script, rest: string[], signal: AbortSignal): Promise<Answer> {
    this.#pending += 1
    try {
      let repeated = false
      for (let attempt = 1; ; attempt++) {
        await this.#ready(signal)
        const losses = this.#losses
        try {
          const reply = await this.#send(script, rest, signal)
          // A client may send again by itself what was under way when its connection broke.
          return { reply, repeated: repeated || losses !== this.#losses }
        } catch (error) {
          if (isErrorReply(error) || signal.aborted || attempt === maxAttempts) throw error
          repeated = true
        }
      }
    } finally {
      this.#pending -= 1
      if (this.#closed && this.#pending === 0) this.#unwatch()
    }
  }

  async #send({ text, sha1 }: Script, rest: string[], signal: AbortSignal): Promise<unknown> {
    const key = rest[1] ?? ''
    try {
      return await this.#connection.send(['EVALSHA', sha1, ...rest], key, signal)
    } catch (error) {
      if (!isMissingScript(error)) throw error
      return await this.#connection.send(['EVAL', text, ...rest], key, signal)
    }
  }

  /** Nothing is handed to a client that is away: it would queue it, and send it when nobody waits any more. */
  #ready(signal: AbortSignal): Promise<void> {
    const connection = this.#connection
    if (connection.isReady()) return Promise.resolve()
    if (connection.isClosed()) return Promise.reject(notConnected())
    connection.open()
    return new Promise((resolve, reject) => {
      const end = () => {
        this.#waiting.delete(look)
        signal.removeEventListener('abort', abort)
      }
      const abort = () => {
        end()
        reject(signal.reason)
      }
      const look = () => {
        if (connection.isReady()) resolve()
        else if (connection.isClosed()) reject(notConnected())
        else return
        end()
      }
      signal.addEventListener('abort', abort)
      this.#waiting.add(look)
    })
  }

  #wake(): void {
    for (const look of [...this.#waiting]) look()
  }
}

function notConnected(): RedisTrouble {
  return new RedisTrouble('NOT_CONNECTED', 'The client is not connected: it was closed, or connect() was not called.')
}
