/** The CRC-32s of recorded chunks: beside the bytes in `tempDir`, or beside the record where every node sees them. */
import type { UploadSession } from '../types.ts'
import type { EngineParts } from './engine-options.ts'

/** `null` when it is not known. */
export async function sumOf(
  parts: EngineParts,
  session: UploadSession,
  index: number,
  size: number,
): Promise<number | null> {
  if (session.staged !== 'storage') return parts.staging.sums.read(session.id, index, size)
  const sums = await parts.options.sessions.chunkSums?.read(session.id, index)
  return sums?.get(index) ?? null
}

/** The same for all chunks, from one read. */
export async function sumsOf(
  parts: EngineParts,
  session: UploadSession,
): Promise<(index: number, size: number) => number | null> {
  if (session.staged !== 'storage') return parts.staging.sums.all(session.id)
  const sums = await parts.options.sessions.chunkSums?.read(session.id)
  return (index) => sums?.get(index) ?? null
}
