/** Bodies that are exactly as long as announced, or an error: S3 would wait for the rest, or store too little. */
import { addAbortSignal, pipeline, type Readable, Transform } from 'node:stream'
import { isNexusUploaderError } from '../errors.ts'
import type { PartBody } from '../types.ts'
import { SourceError } from './s3-errors.ts'

/** Counts what passes. */
export class CountedBody extends Transform {
  /** Bytes so far. */
  seen = 0
  readonly #size: number | null

  /** `onError` hears whatever goes wrong with the source or its length; both streams are destroyed by then. */
  constructor(source: Readable, size: number | null, onError: (error: unknown) => void) {
    super()
    this.#size = size
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
    if (this.#size !== null && this.seen > this.#size) done(wrongSize(this.seen, this.#size))
    else done(null, chunk)
  }

  override _flush(done: (error: Error | null) => void): void {
    done(this.#size !== null && this.seen < this.#size ? wrongSize(this.seen, this.#size) : null)
  }
}

export function wrongSize(seen: number, size: number): SourceError {
  if (seen > size) return new SourceError(`the data has more than the announced ${size} bytes`)
  return new SourceError(`the data has ${seen} of the announced ${size} bytes`)
}

/** One part or object to send. */
export type Body = Pick<PartBody, 'size' | 'path' | 'open'>

/** All of it, as it comes, and exactly as much as was announced. @throws SourceError */
export async function* piecesOf({ open, size }: Body, signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  let seen = 0
  try {
    for await (const data of addAbortSignal(signal, open()) as AsyncIterable<Buffer | string>) {
      const piece = typeof data === 'string' ? Buffer.from(data) : data
      seen += piece.length
      if (seen > size) break
      yield piece
    }
  } catch (error) {
    throw asSourceError(error)
  }
  if (seen !== size) throw wrongSize(seen, size)
}

/** All of it in memory. @throws SourceError */
export async function bytesOf(body: Body, signal: AbortSignal): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of piecesOf(body, signal)) pieces.push(piece)
  const [first] = pieces
  return first && pieces.length === 1 ? first : Buffer.concat(pieces)
}

/**
 * Sends a fresh stream, and destroys it when the sending is over or `signal` is aborted. Its errors end the request;
 * the SDK by itself would leave it waiting for the rest.
 */
export async function withBody<T>(
  { open, size }: Body,
  signal: AbortSignal,
  send: (stream: Readable) => Promise<T>,
): Promise<T> {
  let fail: (error: unknown) => void = () => {}
  const broken = new Promise<never>((_, reject) => {
    fail = reject
  })
  broken.catch(() => {})
  const source = opened(open)
  const body = new CountedBody(source, size, fail)
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
