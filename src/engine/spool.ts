/** Bodies that arrive before it is known which chunk they are. */
import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { ChunkSizeExceededError, fromFileSystemError } from '../errors.ts'
import type { SpooledBody } from '../types.ts'
import { receiveBody, type Sink } from './body.ts'
import type { EngineParts } from './engine-options.ts'
import type { PositionalFile } from './staging.ts'

export async function spoolBody(
  parts: EngineParts,
  source: Readable,
  options: { maxSize: number; signal: AbortSignal },
): Promise<SpooledBody> {
  const release = await parts.space.reserve(options.maxSize)
  try {
    const file = await parts.staging.openTemporary(null)
    return await fill(parts, file, source, options)
  } catch (error) {
    throw fromFileSystemError(error)
  } finally {
    release()
  }
}

async function fill(
  parts: EngineParts,
  file: PositionalFile & { readonly path: string },
  source: Readable,
  options: { maxSize: number; signal: AbortSignal },
): Promise<SpooledBody> {
  const { path } = file
  const discard = () =>
    parts.staging.discard(path).catch((error) => {
      const message = 'A body that is no longer needed is removed later.'
      parts.emit('warning', { code: 'CLEANUP_FAILED', message, error })
    })
  const sink: Sink = (buffers, position) => file.write(buffers, position)
  try {
    const { size } = await receiveBody(source, sink, {
      maxSize: options.maxSize,
      tooLarge: () => new ChunkSizeExceededError(options.maxSize),
      idleTimeout: parts.options.limits.bodyIdleTimeout,
      signal: options.signal,
      crc: false,
    }).finally(() => file.close())
    return { size, discard, open: () => Readable.from(readBack(path), { objectMode: false }) }
  } catch (error) {
    await discard()
    throw error
  }
}

/** A disk that cannot be read is not a client that has gone. */
async function* readBack(path: string): AsyncGenerator<Buffer> {
  try {
    yield* createReadStream(path, { highWaterMark: 256 * 1024 })
  } catch (error) {
    throw fromFileSystemError(error)
  }
}
