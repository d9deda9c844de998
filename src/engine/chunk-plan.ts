/** Where a chunk may go and how large it may be, from what is known of its upload. Pure. */
import {
  ChunkSizeExceededError,
  FileSizeExceededError,
  InvalidRequestError,
  type NexusUploaderError,
  UploadClosedError,
} from '../errors.ts'
import type { UploadLimits, UploadSession, WriteChunk } from '../types.ts'
import {
  type ByteRange,
  type Chunk,
  findChunk,
  firstOccupied,
  receivedBytes,
  trueOffset,
  withChunk,
} from './chunk-map.ts'

export interface ChunkPlan {
  /** Most bytes this chunk may have. */
  readonly maxSize: number
  readonly tooLarge: () => NexusUploaderError
  /** The bytes of the staging it may be written to right away; `null`: to a file of its own. */
  readonly inPlace: ByteRange | null
  /** What is stored under this index already. */
  readonly existing: Chunk | null
}

/** @throws InvalidRequestError when no chunk can have this index */
export function planChunk(session: UploadSession, index: number, limits: UploadLimits, maxSize?: number): ChunkPlan {
  if (!Number.isSafeInteger(index) || index < 0 || index >= limits.maxChunks) {
    throw new InvalidRequestError(`chunkIndex must be a whole number from 0 to ${limits.maxChunks - 1}.`, {
      code: 'INVALID_CHUNK_INDEX',
      details: { limit: limits.maxChunks },
    })
  }
  const existing = findChunk(session.chunks, index)
  return session.chunkSize === null
    ? planUndeclared(session, index, existing, maxSize ?? limits.maxChunkSize, limits)
    : planDeclared(session, session.chunkSize, index, existing, limits)
}

/** The plan of a chunk whose size the wire may tell. @throws NexusUploaderError when a chunk of that size cannot be */
export function planSizedChunk(session: UploadSession, request: WriteChunk, limits: UploadLimits): ChunkPlan {
  const plan = planChunk(session, request.index, limits, request.maxSize)
  if (request.size === undefined) return plan
  if (request.size > plan.maxSize) throw plan.tooLarge()
  checkSize(session, request.index, request.size, limits)
  return plan
}

function planDeclared(
  session: UploadSession,
  chunkSize: number,
  index: number,
  existing: Chunk | null,
  limits: UploadLimits,
): ChunkPlan {
  const offset = index * chunkSize
  const total = session.totalSize ?? limits.maxFileSize
  if (offset >= total && !(index === 0 && total === 0)) {
    throw new InvalidRequestError('This chunk begins after the end of the file.', {
      code: 'CHUNK_OUT_OF_RANGE',
      details: { totalSize: total, chunkSize },
    })
  }
  const rest = total - offset
  // The last chunk may carry the remainder as well: Resumable.js sends up to twice the chunk size.
  const maxSize = session.totalSize !== null && rest < 2 * chunkSize ? rest : Math.min(rest, chunkSize)
  const range = { start: offset, end: offset + maxSize }
  const free = existing === null && firstOccupied(session.chunks, range, index) === range.end
  return { maxSize, tooLarge: () => new ChunkSizeExceededError(maxSize), inPlace: free ? range : null, existing }
}

function planUndeclared(
  session: UploadSession,
  index: number,
  existing: Chunk | null,
  maxChunkSize: number,
  limits: UploadLimits,
): ChunkPlan {
  const total = session.totalSize ?? limits.maxFileSize
  const room = total - receivedBytes(session.chunks) + (existing?.size ?? 0)
  const maxSize = Math.min(maxChunkSize, room)
  const tooLarge = () =>
    room <= maxChunkSize ? fileTooLarge(session, total) : new ChunkSizeExceededError(maxChunkSize)
  return { maxSize, tooLarge, inPlace: existing ? null : placeOf(session, index, maxSize, total), existing }
}

function fileTooLarge(session: UploadSession, total: number): FileSizeExceededError {
  if (session.totalSize === null) return new FileSizeExceededError(total)
  const message = 'The chunks have more bytes than the size declared for the file.'
  return new FileSizeExceededError(total, { message })
}

/** The true place when all lower chunks are known; else the place it has if every chunk is as large as the first. */
function placeOf(session: UploadSession, index: number, maxSize: number, total: number): ByteRange | null {
  const known = trueOffset(session, index)
  const start = known ?? (session.stride === null ? null : index * session.stride)
  if (start === null || start >= total) return null
  // Only as far as the next chunk's place, so that parallel neighbours do not shut each other out.
  const step = session.stride !== null && total - start >= 2 * session.stride ? session.stride : maxSize
  const end = firstOccupied(session.chunks, { start, end: start + Math.min(maxSize, step) }, index)
  return end > start ? { start, end } : null
}

/** @throws InvalidRequestError when a chunk of this size cannot be part of the file */
export function checkSize(session: UploadSession, index: number, size: number, limits: UploadLimits): void {
  const mayBeEmpty = session.totalSize === 0 || (session.totalSize === null && index === 0)
  // A completion that failed has said how large the file is; what was stored before is still welcome again.
  const isStored = () => findChunk(session.chunks, index)?.size === 0
  if (size === 0 && !mayBeEmpty && !isStored()) {
    throw new InvalidRequestError('The chunk is empty.', { code: 'EMPTY_CHUNK' })
  }
  if (session.chunkSize === null || session.totalSize === null) return
  const { maxSize } = planChunk(session, index, limits)
  if (size === session.chunkSize || size === maxSize) return
  throw new InvalidRequestError(`Chunk ${index} has ${size} bytes; this upload's chunks have ${session.chunkSize}.`, {
    code: 'CHUNK_SIZE_MISMATCH',
    details: { expected: Math.min(maxSize, session.chunkSize), received: size },
  })
}

/** The body is not as long as its request said. */
export function otherSize(expected: number, received: number): InvalidRequestError {
  return new InvalidRequestError(`The chunk has ${received} bytes instead of ${expected}.`, {
    code: 'CHUNK_SIZE_MISMATCH',
    details: { expected, received },
  })
}

export function chunkConflict(): UploadClosedError {
  return new UploadClosedError('Other bytes were stored for this chunk and cannot be replaced any more.', {
    code: 'CHUNK_CONFLICT',
  })
}

/**
 * The session with the chunk counted, once, in the place of what its index held.
 * @throws NexusUploaderError when that would make the upload contradict itself
 */
export function addChunk(session: UploadSession, chunk: Chunk, limits: UploadLimits): UploadSession {
  checkSize(session, chunk.index, chunk.size, limits)
  const plan = planChunk(session, chunk.index, limits, Number.MAX_SAFE_INTEGER)
  if (chunk.size > plan.maxSize) throw plan.tooLarge()
  if (chunk.offset !== null || session.chunkSize !== null) {
    const start = chunk.offset ?? chunk.index * (session.chunkSize ?? 0)
    const end = start + chunk.size
    if (firstOccupied(session.chunks, { start, end }, chunk.index) < end) {
      throw new UploadClosedError('This chunk overlaps another one that is already stored.', { code: 'CHUNK_OVERLAP' })
    }
  }
  const chunks = withChunk(session.chunks, chunk)
  return { ...session, chunks, stride: session.stride ?? learnStride(session, chunk) }
}

/** The first chunk tells the size of all; so do two equal ones elsewhere, when the first comes late. */
function learnStride(session: UploadSession, chunk: Chunk): number | null {
  if (session.chunkSize !== null || chunk.size === 0) return null
  const repeated = session.chunks.some((run) => run.size === chunk.size && run.index !== chunk.index)
  return chunk.index === 0 || repeated ? chunk.size : null
}
