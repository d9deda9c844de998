/** Bodies that are exactly as long as announced, or an error: S3 would wait for the rest, or store too little. */
import type { Hash } from 'node:crypto'
import { pipeline, type Readable, Transform } from 'node:stream'
import { isNexusUploaderError } from '../errors.ts'
import { SourceError } from './s3-errors.ts'

/** Counts what passes. */
export class CountedBody extends Transform {
  /** Bytes so far. */
  seen = 0
  readonly #size: number | null
  readonly #hash: Hash | null

  /** `onError` hears whatever goes wrong with the source or its length; both streams are destroyed by then. */
  constructor(source: Readable, size: number | null, onError: (error: unknown) => void, hash: Hash | null = null) {
    super()
    this.#size = size
    this.#hash = hash
    pipeline(source, this, (error) => {
      if (error) onError(asSourceError(error))
    })
  }

  override _transform(
    chunk: Buffer,
    _encoding: BufferEncoding,
    done: (error: Error | null, chunk?: Buffer) => void,
  ): void {
    this.seen += chunk.length
    if (this.#size !== null && this.seen > this.#size) {
      done(new SourceError(`the data has more than the announced ${this.#size} bytes`))
      return
    }
    this.#hash?.update(chunk)
    done(null, chunk)
  }

  override _flush(done: (error: Error | null) => void): void {
    const short = this.#size !== null && this.seen !== this.#size
    done(short ? new SourceError(`the data has ${this.seen} of the announced ${this.#size} bytes`) : null)
  }
}

/** One part or object to send. */
export interface Body {
  readonly size: number
  open(): Readable
}

/**
 * Sends a fresh stream, past `hash`, and destroys it when the sending is over or `signal` is aborted. Its errors end the request;
 * the SDK by itself would leave it waiting for the rest.
 */
export async function withBody<T>(
  { open, size }: Body,
  hash: Hash | null,
  signal: AbortSignal,
  send: (stream: Readable) => Promise<T>,
): Promise<T> {
  let fail: (error: unknown) => void = () => {}
  const broken = new Promise<never>((_, reject) => {
    fail = reject
  })
  broken.catch(() => {})
  const source = opened(open)
  const body = new CountedBody(source, size, fail, hash)
  const close = () => {
    source.destroy()
    body.destroy()
  }
  signal.addEventListener('abort', close, { once: true })
  try {
    return await Promise.race([broken, send(body)])
  } finally {
    signal.removeEventListener('abort', close)
    close()
  }
}

function opened(open: () => Readable): Readable {
  try {
    return open()
  } catch (error) {
    throw asSourceError(error)
  }
}

/** An error of the source is not S3's; ours (a size limit hit while reading, say) keep their meaning. */
export function asSourceError(error: unknown): unknown {
  if (isNexusUploaderError(error) || error instanceof SourceError) return error
  return new SourceError(error instanceof Error ? error.message : String(error), { cause: error })
}
