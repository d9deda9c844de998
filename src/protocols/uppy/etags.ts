/** ETags of parts, and whether the parts that a client names are the ones that are stored. Pure. */
import { InvalidRequestError } from '../../errors.ts'
import type { ListedChunk, NamedPart } from '../../types.ts'
import { fieldOf, integerField } from '../http.ts'

/** `"<CRC-32>-<size>"`; `"<size>"` when this server does not know the checksum of a part that it has. */
export function etagOf({ size, crc32 }: { size: number; crc32?: number | null }): string {
  return typeof crc32 === 'number' ? `"${crc32.toString(16).padStart(8, '0')}-${size}"` : `"${size}"`
}

/**
 * The list of a complete request, in the order of the parts: `{ parts: [{ PartNumber, ETag }] }`.
 * @throws InvalidRequestError unless it names the parts 1 to n once each
 */
export function partsOf(body: unknown, maxParts: number): NamedPart[] {
  const list: unknown = Object.hasOwn(body as object, 'parts') ? (body as { parts: unknown }).parts : undefined
  if (!Array.isArray(list) || list.length === 0) throw mismatch('Send the list of all parts.')
  if (list.length > maxParts) throw mismatch(`There are more than ${maxParts} parts.`)
  return inOrder(
    list.map((part) => {
      const etag = fieldOf(part, 'ETag')
      if (typeof etag !== 'string') throw mismatch('A part has no ETag.')
      return { partNumber: integerField(part, 'PartNumber') ?? 0, etag }
    }),
  )
}

/** @throws InvalidRequestError unless these are the parts 1 to n, once each */
export function inOrder(parts: readonly NamedPart[]): NamedPart[] {
  const sorted = parts.map(({ partNumber, etag }) => ({ partNumber, etag: etag.replaceAll('"', '') }))
  sorted.sort((a, b) => a.partNumber - b.partNumber)
  if (sorted.length > 0 && sorted.every(({ partNumber }, i) => partNumber === i + 1)) return sorted
  throw mismatch('The parts must be numbered from 1, each once.')
}

/** @throws InvalidRequestError unless the parts are the stored chunks, no more and no less */
export function requireSame(parts: readonly NamedPart[], chunks: readonly ListedChunk[]): void {
  const wrong = parts.find(({ partNumber, etag }, i) => {
    const chunk = chunks[i]
    return chunk?.index !== partNumber - 1 || !matches(etag, chunk)
  })
  if (wrong) throw mismatch(`Part ${wrong.partNumber} is not stored as it is named. Send it again, then complete.`)
  if (parts.length === chunks.length) return
  throw mismatch(`${chunks.length} parts are stored, but ${parts.length} are named. Name them all, then complete.`)
}

/** What either side does not know of the checksum says nothing; the size must always be right. */
function matches(etag: string, chunk: ListedChunk): boolean {
  const [size, crc32] = etag.split('-').reverse()
  if (size !== String(chunk.size)) return false
  return crc32 === undefined || chunk.crc32 === null || etag === etagOf(chunk).replaceAll('"', '')
}

function mismatch(message: string): InvalidRequestError {
  return new InvalidRequestError(message, { code: 'PARTS_MISMATCH' })
}
