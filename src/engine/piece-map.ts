/**
 * Uploads whose bytes wait in the storage: which of its chunks lie in private objects there (*pieces*), and which are in
 * parts already. Pure functions over the record; `ChunkRun` says how it tells the two apart.
 */
import type { ChunkRun, MultipartStorage, StoredPart, UploadSession } from '../types.ts'
import { type ByteRange, merged, trueOffset } from './chunk-map.ts'
import { chunkConflict } from './chunk-plan.ts'
import { crc32Combine } from './crc32-combine.ts'
import { isSent, partNumberAt, partRange, usesParts } from './part-plan.ts'
import { addToSpans, spansInclude } from './ranges.ts'

/** Bytes of one piece. */
export interface PieceRef {
  readonly uploadId: string
  readonly generation: number
  /** From where in the piece. */
  readonly start: number
  readonly size: number
}

/** A changed record, and the pieces that it no longer names. */
export interface Freed {
  readonly session: UploadSession
  readonly freed: readonly number[]
}

/**
 * The session with every piece at the place that is known by now, also when it was another before lower chunks were taken
 * back, or at none.
 * @throws UploadClosedError when bytes that have left would have another place
 */
export function placed(session: UploadSession): UploadSession {
  let next = 0
  let offset = 0
  let isChanged = false
  const chunks = session.chunks.map((run) => {
    if (session.chunkSize !== null) offset = run.index * session.chunkSize
    const place = session.chunkSize !== null || run.index === next ? offset : null
    if (place !== null) {
      next = run.index + run.count
      offset += run.count * run.size
    }
    if (run.offset === place) return run
    if (hasLeft(session, run)) {
      if (place === null) return run
      throw chunkConflict()
    }
    isChanged = true
    return { ...run, offset: place }
  })
  return isChanged ? { ...session, chunks } : session
}

/** Whether any byte of the run is in a part. */
function hasLeft(session: UploadSession, { offset, count, size, loose }: ChunkRun): boolean {
  return loose === 0 || (offset !== null && isSent(session, { start: offset, end: offset + count * size }))
}

/** The pieces that make up the range, in order; `null` when not all of it lies in pieces. */
export function piecesIn(session: UploadSession, range: ByteRange): PieceRef[] | null {
  const pieces: PieceRef[] = []
  let at = range.start
  for (const { offset, size, loose } of session.chunks) {
    if (offset === null || loose === 0 || offset + size <= range.start || offset >= range.end || size === 0) continue
    const from = Math.max(offset, range.start)
    const to = Math.min(offset + size, range.end)
    if (from !== at) return null
    pieces.push({ uploadId: session.id, generation: loose, start: from - offset, size: to - from })
    at = to
  }
  return at === range.end ? pieces : null
}

export function allPieces({ chunks }: UploadSession): number[] {
  return chunks.filter(({ loose }) => loose > 0).map(({ loose }) => loose)
}

/** Whether parts may leave before the completion: a checksum of the whole file is verified first, and partial uploads stay. */
export function sendsParts(storage: MultipartStorage | undefined, session: UploadSession): boolean {
  if (!storage || session.checksum !== null || session.partial) return false
  return session.totalSize === null || usesParts(storage, session)
}

/** The part that the chunk is; `null` when it is not exactly one, or not known to be. */
export function directPart(
  storage: MultipartStorage | undefined,
  session: UploadSession,
  { index, size }: { readonly index: number; readonly size: number },
): number | null {
  const start = trueOffset(session, index)
  if (start === null || size === 0 || session.totalSize === null || !sendsParts(storage, session)) return null
  const part = partNumberAt(session, start)
  const range = partRange(session, part)
  return range.start === start && range.end === start + size ? part : null
}

/** The session with the part counted as sent, so that chunks which lie in sent parts altogether need no piece any more. */
export function withPart(session: UploadSession, partNumber: number): Freed {
  const next = { ...session, sentParts: addToSpans(session.sentParts, partNumber) }
  const freed: number[] = []
  const chunks = next.chunks.map((run) => {
    if (run.loose === 0 || run.offset === null || !isAllSent(next, run.offset, run.size)) return run
    freed.push(run.loose)
    return { ...run, loose: 0 }
  })
  return { session: { ...next, chunks: session.appended ? joined(chunks) : merged(chunks) }, freed }
}

function isAllSent(session: UploadSession, offset: number, size: number): boolean {
  if (size === 0) return false
  const last = partNumberAt(session, offset + size - 1)
  for (let part = partNumberAt(session, offset); part <= last; part++) {
    if (!spansInclude(session.sentParts, part)) return false
  }
  return true
}

/** What was appended is numbered by us: all that has left from the start is one chunk, and the pieces behind it follow. */
function joined(chunks: readonly ChunkRun[]): ChunkRun[] {
  const firstPiece = chunks.findIndex(({ loose }) => loose > 0)
  const sent = firstPiece < 0 ? chunks : chunks.slice(0, firstPiece)
  const size = sent.reduce((sum, run) => sum + run.count * run.size, 0)
  const rest = firstPiece < 0 ? [] : chunks.slice(firstPiece)
  const result: ChunkRun[] = size > 0 ? [{ index: 0, count: 1, size, offset: 0, loose: 0 }] : []
  let index = result.length
  for (const run of rest) {
    result.push(run.index === index ? run : { ...run, index })
    index += run.count
  }
  return result
}

/**
 * The session without these parts and without every chunk that has bytes in them: other bytes may have been sent in
 * their place. They have to be sent again, and until then nobody knows where the pieces behind them belong.
 */
export function withoutParts(session: UploadSession, partNumbers: readonly number[]): Freed {
  const gone = new Set(partNumbers)
  let chunks = session.chunks
  const freed: number[] = []
  for (let before = -1; before !== gone.size; ) {
    before = gone.size
    chunks = chunks
      .flatMap((run) => singles(run))
      .filter((run) => {
        const parts = partsOf(session, run)
        if (!parts.some((part) => gone.has(part))) return true
        for (const part of parts) if (spansInclude(session.sentParts, part)) gone.add(part)
        if (run.loose > 0) freed.push(run.loose)
        return false
      })
  }
  const kept = session.sentParts.flatMap(([first, last]) =>
    Array.from({ length: last - first + 1 }, (_, i) => first + i).filter((part) => !gone.has(part)),
  )
  const sentParts = kept.reduce<UploadSession['sentParts']>(addToSpans, [])
  return { session: placed({ ...session, chunks: merged(chunks), sentParts }), freed }
}

/** The parts that are whole chunks, one or several, and do not have the CRC-32 that was recorded with these. */
export function otherParts(
  session: UploadSession,
  listed: readonly StoredPart[],
  crcOf: (index: number, size: number) => number | null,
): number[] {
  const found: number[] = []
  const held = new Map(listed.map((part) => [part.partNumber, part.crc32]))
  /** Of the part from its start up to here. */
  let sum = 0
  let at = 0
  for (const { index, offset, size } of session.chunks.flatMap((run) => singles(run))) {
    if (offset === null || size === 0) continue
    const part = partNumberAt(session, offset)
    const { start, end } = partRange(session, part)
    const crc = crcOf(index, size)
    if (crc === null || offset + size > end || (offset !== start && offset !== at)) continue
    sum = offset === start ? crc : crc32Combine(sum, crc, size)
    at = offset + size
    if (at === end && (held.get(part) ?? sum) !== sum) found.push(part)
  }
  return found
}

function singles(run: ChunkRun): ChunkRun[] {
  if (run.count === 1) return [run]
  return Array.from({ length: run.count }, (_, i) => {
    const offset = run.offset === null ? null : run.offset + i * run.size
    return { ...run, index: run.index + i, count: 1, offset }
  })
}

function partsOf(session: UploadSession, { offset, size }: ChunkRun): number[] {
  if (offset === null || size === 0) return []
  const first = partNumberAt(session, offset)
  return Array.from({ length: partNumberAt(session, offset + size - 1) - first + 1 }, (_, i) => first + i)
}

/** Whether a part of the upload still lies in pieces. */
export function holdsPart(session: UploadSession, partNumber: number): boolean {
  return piecesIn(session, partRange(session, partNumber)) !== null
}
