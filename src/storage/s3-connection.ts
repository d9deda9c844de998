/** The one place that talks to S3: loads the SDK when it is first needed, bounds every attempt, repeats what may pass. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3'
import { BodySums } from './body-sums.ts'
import { limitAnswers } from './s3-answer-limit.ts'
import { CallAbortedError, classify, DeadlineError, passes, s3Error, toS3Error } from './s3-errors.ts'
import { encodeKey } from './s3-headers.ts'
import type { S3Credentials, S3Settings } from './s3-options.ts'
import { type Held, type Receipt, Receipts } from './s3-receipt.ts'

/** The slowest line to S3 that a deadline allows for, bytes per second. */
const SLOWEST_RATE = 64 * 1024
const LONGEST_PAUSE = 5_000

export interface S3Api {
  readonly sdk: typeof import('@aws-sdk/client-s3')
  readonly client: S3Client
}

export interface CallOptions {
  /** Gives the call up. */
  signal?: AbortSignal | undefined
  /** Deadline of one attempt, ms; default `attemptTimeout`. */
  timeout?: number
  /** The body is a stream, which the SDK never repeats: we do, with a fresh one for every attempt. */
  streamed?: boolean
  /** `false`: one attempt only. */
  repeat?: boolean
}

export interface Delivered<T extends Receipt> {
  readonly receipt: T
  /** The receipt itself says that S3 has exactly these bytes. */
  readonly isProven: boolean
}

export class S3Connection {
  readonly settings: S3Settings
  readonly sums = new BodySums()
  /** Whether an MD5 may go ahead of a body. */
  takesMd5 = true
  /** Of each request, whether it is answered with the CRC-32 that went ahead: then S3 looks at it. Once it was not, never again. */
  readonly knowsCrc32 = new Map<string, boolean>()
  readonly #receipts = new Receipts()
  readonly #credentials: S3Credentials | null
  readonly #given: S3Client | null
  readonly #slots: Slots
  #api: Promise<S3Api> | null = null
  #closed = false

  constructor(settings: S3Settings, credentials: S3Credentials | null, client: S3Client | null) {
    this.settings = settings
    this.#credentials = credentials
    this.#given = client
    this.#slots = new Slots(settings.maxSockets)
  }

  /** Whether the client is one of the application, which repeats by itself what it has in memory. */
  get hasOwnRepetition(): boolean {
    return this.#given !== null
  }

  /** How often we repeat a request whose body is not a stream: a client of the application does that by itself. */
  get attempts(): number {
    return this.hasOwnRepetition ? 1 : this.settings.maxAttempts
  }

  /** The deadline of an attempt that sends this many bytes, ms. */
  timeoutFor(bytes: number): number {
    return Math.min(this.settings.attemptTimeout + Math.ceil(bytes / SLOWEST_RATE) * 1000, 2 ** 31 - 1)
  }

  /** Runs one S3 call. What it throws is an `S3UploadError`, or an error of ours that came with the data. */
  async call<T>(
    operation: string,
    run: (api: S3Api, signal: AbortSignal) => Promise<T>,
    options: CallOptions = {},
  ): Promise<T> {
    const { signal, timeout = this.settings.attemptTimeout, streamed = false, repeat = true } = options
    const attempts = !repeat ? 1 : streamed ? this.settings.maxAttempts : this.attempts
    for (let attempt = 1; ; attempt++) {
      try {
        const api = await this.api()
        return await this.#slots.use(signal, () => withDeadline(timeout, signal, (cut) => run(api, cut)))
      } catch (error) {
        if (!passes(classify(error), attempt) || attempt >= attempts) throw toS3Error(error, operation)
        await this.pause(attempt, signal)
      }
    }
  }

  /**
   * Sends bytes until S3 confirms that it has them. `send` makes one call, and tells the MD5 of what it sent, or `null` where
   * the receipt is not to be compared with it; `look` asks S3 what it holds. Not inside that `call`: a look takes a slot of its own.
   */
  async deliver<T extends Receipt>(
    size: number,
    signal: AbortSignal | undefined,
    send: () => Promise<{ readonly receipt: T; readonly md5: string | null }>,
    look: () => Promise<Held>,
  ): Promise<Delivered<T>> {
    for (let attempt = 1; ; attempt++) {
      const { receipt, md5 } = await send()
      try {
        const isProven = await this.#receipts.check(receipt, size, md5, look)
        return { receipt, isProven }
      } catch (error) {
        if (classify(error) !== 'unconfirmed' || attempt >= this.settings.maxAttempts) throw toS3Error(error, 'receipt')
      }
      await this.pause(attempt, signal)
    }
  }

  /** Waits before repetition number `attempt`: longer each time, and never two callers in step. */
  async pause(attempt: number, signal?: AbortSignal): Promise<void> {
    const longest = Math.min(this.settings.retryDelay * 2 ** (attempt - 1), LONGEST_PAUSE)
    try {
      await sleep(longest * (0.5 + Math.random() / 2), undefined, { ...(signal ? { signal } : {}), ref: false })
    } catch {
      throw s3Error('aborted', new CallAbortedError('given up while waiting to repeat'))
    }
  }

  /** The SDK and the client, made on the first call. */
  api(): Promise<S3Api> {
    if (this.#closed) return Promise.reject(s3Error('transient', new Error('the S3 storage is closed')))
    this.#api ??= this.#open().catch((error: unknown) => {
      this.#api = null
      throw error
    })
    return this.#api
  }

  /** Whether the client adds checksums to bodies, which then have to be named again when the object is completed. */
  async addsChecksums(): Promise<boolean> {
    try {
      const { client } = await this.api()
      return (await client.config.requestChecksumCalculation()) === 'WHEN_SUPPORTED'
    } catch (error) {
      throw toS3Error(error, 'configuration')
    }
  }

  /** Whether the client sends a request again by itself, to another region: a stream would have been read by then. */
  async followsRegions(): Promise<boolean> {
    try {
      const { client } = await this.api()
      return client.config.followRegionRedirects === true
    } catch (error) {
      throw toS3Error(error, 'configuration')
    }
  }

  /** The URL under which the object is reached. */
  async url(key: string): Promise<string> {
    const { publicUrl } = this.settings
    try {
      if (typeof publicUrl === 'function') return publicUrl(key)
      return `${publicUrl ?? (await this.#bucketUrl())}/${encodeKey(key)}`
    } catch (error) {
      throw toS3Error(error, 'publicUrl')
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    const api = await this.#api?.catch(() => null)
    if (api && api.client !== this.#given) api.client.destroy()
  }

  async #open(): Promise<S3Api> {
    const sdk = await import('@aws-sdk/client-s3')
    if (this.#given) return { sdk, client: this.#given }
    const client = new sdk.S3Client(this.#config())
    limitAnswers(client)
    return { sdk, client }
  }

  #config(): S3ClientConfig {
    const { endpoint, region, forcePathStyle, connectTimeout } = this.settings
    const agent = { keepAlive: true, maxSockets: Number.POSITIVE_INFINITY }
    const config: S3ClientConfig = {
      // We repeat, with deadlines of our own; two layers of repetition would multiply.
      maxAttempts: 1,
      followRegionRedirects: false,
      // The SDK opens a new connection for every request that expects 100-continue.
      expectContinueHeader: false,
      // `#slots` bounds the sockets; an agent's queue would count as time to connect.
      requestHandler: { connectionTimeout: connectTimeout, httpAgent: agent, httpsAgent: agent },
      // Otherwise the SDK warns on the console about every streamed request that fails.
      logger: { debug() {}, info() {}, warn() {}, error() {} },
    }
    if (region) config.region = region
    if (this.#credentials) config.credentials = { ...this.#credentials }
    if (forcePathStyle !== undefined) config.forcePathStyle = forcePathStyle
    if (endpoint !== null) {
      config.endpoint = endpoint
      // Many servers refuse streams in aws-chunked framing, some store the framing as content.
      config.requestChecksumCalculation = 'WHEN_REQUIRED'
      config.responseChecksumValidation = 'WHEN_REQUIRED'
    }
    return config
  }

  /** The SDK's own rules decide on addressing style and partition, so the URL is the one that requests go to. */
  async #bucketUrl(): Promise<string> {
    const { client } = await this.api()
    const { config } = client
    const custom = await config.endpoint?.()
    const { url } = config.endpointProvider({
      Bucket: this.settings.bucket,
      Region: await config.region(),
      ForcePathStyle: config.forcePathStyle === true,
      ...(custom
        ? { Endpoint: `${custom.protocol}//${custom.hostname}${custom.port ? `:${custom.port}` : ''}${custom.path}` }
        : {}),
    })
    return url.href.replace(/(?<!\/)\/+$/, '')
  }
}

/** Made once: an error collects its stack, which costs more than all the rest of a deadline. */
const over = new CallAbortedError('the call is over')

/** Cuts `work` off when the time is up or the caller gives up, whether or not it listens to its signal. */
async function withDeadline<T>(
  milliseconds: number,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  let cut: (error: Error) => void = () => {}
  const end = new Promise<never>((_, reject) => {
    cut = reject
  })
  end.catch(() => {})
  const giveUp = () => cut(new CallAbortedError('given up by the caller'))
  const timer = setTimeout(() => cut(new DeadlineError(milliseconds)), milliseconds)
  timer.unref()
  signal?.addEventListener('abort', giveUp, { once: true })
  if (signal?.aborted) giveUp()
  try {
    return await Promise.race([end, work(controller.signal)])
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', giveUp)
    // Also after a failure: a request whose body is half sent must not keep its socket.
    controller.abort(over)
  }
}

/** At most so many at a time; the rest waits in order, until its signal is aborted. */
class Slots {
  #free: number
  readonly #waiting = new Set<() => void>()

  constructor(size: number) {
    this.#free = size
  }

  async use<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    await this.#take(signal)
    try {
      return await work()
    } finally {
      this.#give()
    }
  }

  async #take(signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) throw new CallAbortedError('given up by the caller')
    if (this.#free > 0) {
      this.#free -= 1
      return
    }
    await new Promise<void>((resolve, reject) => {
      const enter = () => {
        signal?.removeEventListener('abort', leave)
        resolve()
      }
      const leave = () => {
        this.#waiting.delete(enter)
        reject(new CallAbortedError('given up by the caller'))
      }
      this.#waiting.add(enter)
      signal?.addEventListener('abort', leave, { once: true })
    })
  }

  #give(): void {
    const [next] = this.#waiting
    if (next) {
      this.#waiting.delete(next)
      next()
    } else this.#free += 1
  }
}
