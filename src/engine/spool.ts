/** Bodies that arrive before it is known which chunk they are. */
import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'
import { ChunkSizeExceededError, fromFileSystemError } from '../errors.ts'
import type { SpooledBody } from '../types.ts'
import { receiveBody } from './body.ts'
import type { EngineParts } from './engine-options.ts'

export async function spoolBody(
  parts: EngineParts,
  source: Readable,
  options: { maxSize: number; signal: AbortSignal },
): Promise<SpooledBody> {
  const { staging, space } = parts
  const release = await space.reserve(options.maxSize)
  const file = await staging.openTemporary(null)
  const discard = () => staging.discard(file.path)
  try {
    const { size } = await receiveBody(source, (buffers, position) => file.write(buffers, position), {
      maxSize: options.maxSize,
      tooLarge: () => new ChunkSizeExceededError(options.maxSize),
      idleTimeout: parts.options.limits.bodyIdleTimeout,
      signal: options.signal,
      crc: false,
    })
    await file.close()
    return { size, discard, open: () => createReadStream(file.path, { highWaterMark: 256 * 1024 }) }
  } catch (error) {
    await file.close()
    await discard()
    throw fromFileSystemError(error)
  } finally {
    release()
  }
}
