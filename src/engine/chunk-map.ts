/**
 * Which chunks have arrived, how large they are and where their bytes lie. Pure functions over the runs of a session.
 *
 * A chunk is *settled* when it lies in the staging at its true offset. It is not while it waits in a loose file,
 * or lies where a guess of its offset put it that turned out wrong.
 */
import type { ChunkRun, Span, UploadSession } from '../types.ts'

export interface Chunk {
  readonly index: number
  readonly size: number
  /** Offset in the staging; `null` for a loose file. */
  readonly offset: number | null
  /** Generation of the loose file, from 1; 0 when the chunk lies in the staging. */
  readonly loose: number
}

type Runs = readonly ChunkRun[]

/** Half-open byte range. */
export interface ByteRange {
  readonly start: number
  readonly end: number
}

export function findChunk(runs: Runs, index: number): Chunk | null {
  const run = runs.find((candidate) => candidate.index <= index && index < candidate.index + candidate.count)
  return run ? chunkOf(run, index) : null
}

function chunkOf(run: ChunkRun, index: number): Chunk {
  const offset = run.offset === null ? null : run.offset + (index - run.index) * run.size
  return { index, size: run.size, offset, loose: run.loose }
}

/** The runs with this chunk added, or put in the place of the one with its index. */
export function withChunk(runs: Runs, chunk: Chunk): ChunkRun[] {
  const result: ChunkRun[] = []
  const added: ChunkRun = { ...chunk, count: 1 }
  let placed = false
  for (const run of runs) {
    if (!placed && run.index > chunk.index) {
      append(result, added)
      placed = true
    }
    const end = run.index + run.count
    if (chunk.index < run.index || chunk.index >= end) {
      append(result, run)
      continue
    }
    if (chunk.index > run.index) append(result, { ...run, count: chunk.index - run.index })
    append(result, added)
    placed = true
    if (chunk.index + 1 < end) append(result, slice(run, chunk.index + 1))
  }
  if (!placed) append(result, added)
  return result
}

function slice(run: ChunkRun, from: number): ChunkRun {
  const offset = run.offset === null ? null : run.offset + (from - run.index) * run.size
  return { ...run, index: from, count: run.index + run.count - from, offset }
}

function append(runs: ChunkRun[], run: ChunkRun): void {
  const last = runs.at(-1)
  if (last && follows(last, run)) runs[runs.length - 1] = { ...last, count: last.count + run.count }
  else runs.push(run)
}

function follows(last: ChunkRun, run: ChunkRun): boolean {
  if (last.index + last.count !== run.index || last.size !== run.size || last.loose !== run.loose) return false
  if (last.offset === null || run.offset === null) return last.offset === run.offset
  return last.offset + last.count * last.size === run.offset
}

/** The same runs, neighbours that belong together as one. */
export function merged(runs: Runs): ChunkRun[] {
  const result: ChunkRun[] = []
  for (const run of runs) append(result, run)
  return result
}

export function allChunks(runs: Runs): Chunk[] {
  return runs.flatMap((run) => Array.from({ length: run.count }, (_, i) => chunkOf(run, run.index + i)))
}

export function countChunks(runs: Runs): number {
  return runs.reduce((sum, run) => sum + run.count, 0)
}

export function receivedBytes(runs: Runs): number {
  return runs.reduce((sum, run) => sum + run.count * run.size, 0)
}

export function receivedIndexes(runs: Runs): Span[] {
  const spans: Span[] = []
  for (const run of runs) {
    const last = spans.at(-1)
    if (last && last[1] + 1 === run.index) spans[spans.length - 1] = [last[0], run.index + run.count - 1]
    else spans.push([run.index, run.index + run.count - 1])
  }
  return spans
}

/** The chunks 0, 1, … without a gap: how many, and how many bytes. */
export function prefix(runs: Runs): { chunks: number; bytes: number } {
  let chunks = 0
  let bytes = 0
  for (const run of runs) {
    if (run.index !== chunks) break
    chunks += run.count
    bytes += run.count * run.size
  }
  return { chunks, bytes }
}

/** Where the chunk belongs: by the declared size, or by the sizes of all lower chunks once they are known. */
export function trueOffset(session: UploadSession, index: number): number | null {
  if (session.chunkSize !== null) return index * session.chunkSize
  let next = 0
  let offset = 0
  for (const run of session.chunks) {
    if (run.index !== next || run.index >= index) break
    const count = Math.min(run.count, index - run.index)
    offset += count * run.size
    next += count
  }
  return next === index ? offset : null
}

/** Where the chunk begins; while that is not known, what it cannot begin before. */
export function leastOffset(session: UploadSession, index: number): number {
  return trueOffset(session, index) ?? prefix(session.chunks).bytes
}

/** The first chunk that is not where it belongs although that place is known, with that place. */
export function firstUnsettled(
  session: UploadSession,
  skip?: ReadonlySet<number>,
): { chunk: Chunk; offset: number } | null {
  let next = 0
  let offset = 0
  for (const run of session.chunks) {
    const declared = session.chunkSize
    if (declared === null && run.index !== next) return null
    if (declared !== null) offset = run.index * declared
    if (run.offset !== offset) {
      for (let i = 0; i < run.count; i++) {
        if (!skip?.has(run.index + i)) {
          return { chunk: chunkOf(run, run.index + i), offset: offset + i * run.size }
        }
      }
    }
    next = run.index + run.count
    offset += run.count * run.size
  }
  return null
}

/** Bytes of the file that are settled, as merged ranges. */
export function settledRanges(session: UploadSession): ByteRange[] {
  if (session.sources) return session.totalSize === null ? [] : [{ start: 0, end: session.totalSize }]
  const ranges: ByteRange[] = []
  let next = 0
  let offset = 0
  for (const run of session.chunks) {
    if (session.chunkSize === null && run.index !== next) break
    if (session.chunkSize !== null) offset = run.index * session.chunkSize
    const end = offset + run.count * run.size
    if (run.offset === offset) {
      const last = ranges.at(-1)
      if (last && last.end === offset) ranges[ranges.length - 1] = { start: last.start, end }
      else ranges.push({ start: offset, end })
    }
    next = run.index + run.count
    offset = end
  }
  return ranges
}

export function isSettled(session: UploadSession, range: ByteRange): boolean {
  return range.start >= range.end || settledRanges(session).some((r) => r.start <= range.start && range.end <= r.end)
}

/** Where in the staging chunks other than `exceptIndex` lie, within `range`; their first byte, or `range.end`. */
export function firstOccupied(runs: Runs, range: ByteRange, exceptIndex: number): number {
  let first = range.end
  for (const run of runs) {
    if (run.offset === null || run.size === 0) continue
    const end = run.offset + run.count * run.size
    if (end <= range.start || run.offset >= first) continue
    const from = Math.max(0, Math.floor((range.start - run.offset) / run.size))
    for (let i = from; i < run.count; i++) {
      const start = run.offset + i * run.size
      if (start >= first) break
      if (start + run.size <= range.start || run.index + i === exceptIndex) continue
      first = Math.max(range.start, start)
      break
    }
  }
  return first
}

/** The size of chunks that make the fewest storage calls: a part, or a whole fraction of one. */
export function partSizedChunk(partSize: number, maxChunkSize: number): number {
  return Math.floor(partSize / Math.ceil(partSize / maxChunkSize))
}
