/** What the documented routes tell of an upload. Pure. */
import { countChunks, partSizedChunk, receivedBytes, receivedIndexes } from '../../engine/chunk-map.ts'
import { gapsBelow } from '../../engine/ranges.ts'
import type { UploadLimits, UploadSession } from '../../types.ts'

/** The answer of init: `uploadId` as documented, the rest for clients that want to know. */
export function uploadOf(session: UploadSession, limits: UploadLimits, resumed: boolean) {
  return {
    uploadId: session.id,
    chunkSize: session.chunkSize ?? bestChunkSize(session, limits),
    maxChunkSize: limits.maxChunkSize,
    totalChunks: totalChunks(session, limits),
    expiresAt: new Date(session.expiresAt).toISOString(),
    ...(resumed && {
      resumed,
      received: receivedIndexes(session.chunks),
      uploadedBytes: receivedBytes(session.chunks),
    }),
  }
}

/** The answer of progress: `uploadedChunks` and `totalChunks` as documented. Ranges are inclusive chunk indexes. */
export function progressOf(session: UploadSession, limits: UploadLimits) {
  const total = totalChunks(session, limits)
  const received = receivedIndexes(session.chunks)
  return {
    uploadedChunks: countChunks(session.chunks),
    totalChunks: total,
    received,
    missing: gapsBelow(received, total),
    uploadedBytes: receivedBytes(session.chunks),
    totalSize: session.totalSize,
    chunkSize: session.chunkSize ?? session.stride,
    state: session.state,
    expiresAt: new Date(session.expiresAt).toISOString(),
    ...(session.state === 'completed' && session.object && { url: session.object.url }),
  }
}

/**
 * For display only; nothing is decided by it. From the declared or the learned chunk size, else from the largest chunk
 * there can be; exact as soon as all bytes are there.
 */
export function totalChunks(session: UploadSession, limits: UploadLimits): number {
  const size = session.chunkSize ?? session.stride ?? largestChunk(session) ?? bestChunkSize(session, limits)
  const total = session.totalSize ?? 0
  const last = session.chunks.at(-1)
  const highest = last ? last.index + last.count : 0
  const isWhole = countChunks(session.chunks) === highest && receivedBytes(session.chunks) === total
  return isWhole ? highest : Math.max(Math.ceil(total / size), highest)
}

/** Of an upload that is staged in the storage, a chunk costs least when it is a part, or a whole fraction of one. */
function bestChunkSize({ staged, partSize }: UploadSession, { maxChunkSize }: UploadLimits): number {
  return staged === 'storage' ? partSizedChunk(partSize, maxChunkSize) : maxChunkSize
}

function largestChunk(session: UploadSession): number | null {
  return session.chunks.length === 0 ? null : Math.max(1, ...session.chunks.map((run) => run.size))
}
