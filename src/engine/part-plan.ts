/** How a file is cut into the parts the storage receives. Pure. */
import { FileSizeExceededError } from '../errors.ts'
import type { MultipartStorage, UploadSession } from '../types.ts'
import { type ByteRange, type Chunk, receivedBytes, trueOffset } from './chunk-map.ts'
import { countSpans, spansInclude } from './ranges.ts'

export interface PartPlanRequest {
  readonly totalSize: number | null
  readonly chunkSize: number | null
  readonly maxFileSize: number
}

type PartSizes = Pick<MultipartStorage, 'minPartSize' | 'maxPartSize' | 'maxParts' | 'partSize'>

/**
 * The part size of an upload, in bytes: all parts are equal and only the last may be smaller (R2 wants it so), a
 * multiple of the declared chunk size where that fits, so that a chunk seldom lies across two parts.
 * A storage without multipart gets one part, the whole file.
 */
export function planPartSize(storage: PartSizes | undefined, request: PartPlanRequest): number {
  const largest = request.totalSize ?? request.maxFileSize
  if (!storage) return Math.max(1, largest)
  const needed = Math.max(storage.minPartSize, storage.partSize, Math.ceil(largest / storage.maxParts))
  const chunk = request.chunkSize ?? 1
  const aligned = Math.ceil(needed / chunk) * chunk
  const size = aligned <= storage.maxPartSize ? aligned : needed
  if (size > storage.maxPartSize) throw new FileSizeExceededError(storage.maxPartSize * storage.maxParts)
  return size
}

/**
 * The part size of an upload whose bytes wait in the storage: a chunk should be a part, because smaller ones are stored
 * twice. So the declared chunk size, where parts may be that small; else no more than the largest chunk.
 */
export function planSharedPartSize(
  { minPartSize, maxPartSize, maxParts, partSize: usual }: PartSizes,
  request: PartPlanRequest & { readonly maxChunkSize: number },
): number {
  const largest = request.totalSize ?? request.maxFileSize
  const needed = Math.max(minPartSize, Math.ceil(largest / maxParts))
  const { chunkSize } = request
  const isPart = chunkSize !== null && chunkSize >= needed && chunkSize <= maxPartSize
  const partSize = isPart ? chunkSize : Math.max(needed, Math.min(usual, request.maxChunkSize))
  return planPartSize({ minPartSize, maxPartSize, maxParts, partSize }, request)
}

/**
 * Whether the file goes to the storage in several parts. A single part is stored by one plain `upload`. While the size
 * is not known, it does as soon as more than one part has arrived, or one has left.
 */
export function usesParts(storage: MultipartStorage | undefined, session: UploadSession): boolean {
  if (storage === undefined) return false
  return session.sentParts.length > 0 || (session.totalSize ?? receivedBytes(session.chunks)) > session.partSize
}

/** Whether size and CRC-32 of each chunk are kept: it may come again when its bytes have left, or the upload has ended. */
export function keepsSums(storage: MultipartStorage | undefined, session: UploadSession): boolean {
  // Of an upload whose size is not known yet, the first chunks may leave as well.
  const maySend = storage !== undefined && session.totalSize === null
  return session.recognizable === true || maySend || usesParts(storage, session)
}

/** How many parts there are; of an upload whose size is not known, how many are whole. */
export function partCount(session: UploadSession): number {
  const { totalSize, partSize } = session
  if (totalSize === null) return Math.floor(receivedBytes(session.chunks) / partSize)
  return Math.max(1, Math.ceil(totalSize / partSize))
}

export function partNumberAt(session: UploadSession, offset: number): number {
  return Math.floor(offset / session.partSize) + 1
}

export function partRange(session: UploadSession, partNumber: number): ByteRange {
  const start = (partNumber - 1) * session.partSize
  const end = Math.min(start + session.partSize, session.totalSize ?? Number.MAX_SAFE_INTEGER)
  return { start, end }
}

/** Whether recorded chunks have bytes in this part of the staging: then its file must exist. */
export function holdsBytes(session: UploadSession, partNumber: number): boolean {
  const start = (partNumber - 1) * session.partSize
  return session.chunks.some((run) => {
    if (run.offset === null || run.size === 0) return false
    return run.offset < start + session.partSize && run.offset + run.count * run.size > start
  })
}

/** Whether any byte of the range has already left for the storage. */
export function isSent(session: UploadSession, range: ByteRange): boolean {
  if (session.sentParts.length === 0 || range.start >= range.end) return false
  const last = partNumberAt(session, range.end - 1)
  for (let part = partNumberAt(session, range.start); part <= last; part++) {
    if (spansInclude(session.sentParts, part)) return true
  }
  return false
}

/** Whether bytes that have left would have another place in the file, were this chunk, in front of them, of that size. */
export function movesSent(session: UploadSession, chunk: Chunk, size: number): boolean {
  if (session.chunkSize !== null || size === chunk.size) return false
  const start = trueOffset(session, chunk.index)
  return start !== null && session.sentParts.some(([, last]) => partRange(session, last).end > start)
}

/** Whole parts that lie in the settled ranges and have not been sent. */
export function readyParts(session: UploadSession, settled: readonly ByteRange[]): number[] {
  const ready: number[] = []
  const count = partCount(session)
  if (countSpans(session.sentParts) === count) return ready
  for (const range of settled) {
    const first = Math.ceil(range.start / session.partSize) + 1
    for (let part = first; part <= count && partRange(session, part).end <= range.end; part++) {
      if (!spansInclude(session.sentParts, part)) ready.push(part)
    }
  }
  return ready
}
