/** Whether an upload has all its bytes. Pure. */
import { UploadClosedError, UploadIncompleteError } from '../errors.ts'
import type { UploadSession } from '../types.ts'
import { countChunks, receivedBytes, receivedIndexes } from './chunk-map.ts'
import { gapsBelow } from './ranges.ts'

/** @throws UploadIncompleteError unless the chunks are 0..n−1 and their sizes add up */
export function requireWhole(session: UploadSession): void {
  const total = session.totalSize ?? 0
  const received = receivedBytes(session.chunks)
  const indexes = receivedIndexes(session.chunks)
  const count = countChunks(session.chunks)
  const gaps = gapsBelow(indexes, (indexes.at(-1)?.[1] ?? -1) + 1)
  if (received === total && gaps.length === 0) {
    if (session.chunkSize === null || isRegular(session, session.chunkSize)) return
    throw new UploadClosedError('The chunks do not have the declared chunk size.', { code: 'SIZE_MISMATCH' })
  }
  if (received > total) {
    throw new UploadClosedError('The chunks have more bytes than the file. Abort this upload and start a new one.', {
      code: 'SIZE_MISMATCH',
      details: { receivedBytes: received, totalSize: total },
    })
  }
  const missing = [...gaps]
  const size = session.chunkSize ?? session.stride
  const next = (indexes.at(-1)?.[1] ?? -1) + 1
  const expected = size ? Math.max(next, Math.ceil(total / size)) : next
  if (size && expected > next && received + gapBytes(gaps, size) < total) missing.push([next, expected - 1])
  const text = `${count} chunks with ${received} of ${total} bytes have arrived. Send what is missing, then complete again.`
  throw new UploadIncompleteError(missing, text, { details: { receivedBytes: received, totalSize: total } })
}

function gapBytes(gaps: readonly (readonly [number, number])[], size: number): number {
  return gaps.reduce((sum, [first, last]) => sum + (last - first + 1) * size, 0)
}

/** Whether every chunk but the last has the declared size, so that each lies right behind the one before it. */
function isRegular(session: UploadSession, chunkSize: number): boolean {
  const last = session.chunks.at(-1)
  return session.chunks.every((run) => run.size === chunkSize || (run === last && run.count === 1))
}
