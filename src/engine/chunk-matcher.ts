/** Recognises a chunk that comes again after its bytes have left for the storage. */
import { ChunkSizeExceededError } from '../errors.ts'
import type { UploadSession, WriteChunk } from '../types.ts'
import { type ReceivedBody, receiveBody } from './body.ts'
import { findChunk } from './chunk-map.ts'
import type { EngineParts } from './engine-options.ts'
import { sumOf } from './known-sums.ts'

/** `session` has been authorised. Reads the body; `false` when there is nothing to compare it with. */
export async function matchesChunk(
  parts: EngineParts,
  session: UploadSession,
  request: WriteChunk,
  signal: AbortSignal,
): Promise<boolean> {
  const chunk = findChunk(session.chunks, request.index)
  if (!chunk || (request.size !== undefined && request.size !== chunk.size)) return false
  const sum = await sumOf(parts, session, chunk.index, chunk.size)
  if (sum === null) return false
  const body = await receive(parts, request, chunk.size, signal)
  return body?.size === chunk.size && body.crc === sum
}

/** `null` when there is more than `size`. */
async function receive(
  parts: EngineParts,
  request: WriteChunk,
  size: number,
  signal: AbortSignal,
): Promise<ReceivedBody | null> {
  const tooLarge = new ChunkSizeExceededError(size)
  try {
    return await receiveBody(request.body, async () => {}, {
      maxSize: size,
      tooLarge: () => tooLarge,
      idleTimeout: parts.options.limits.bodyIdleTimeout,
      signal,
      crc: true,
    })
  } catch (error) {
    if (error === tooLarge) return null
    throw error
  }
}
