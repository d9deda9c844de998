/** What this process has sent of open multipart uploads, and S3 has confirmed byte for byte. */
import type { StoredPart } from '../types.ts'

/** In all uploads together; some 150 bytes each. */
const most = 20_000

export class SentParts {
  /** By id of the multipart upload, in the order in which they were begun here. */
  readonly #uploads = new Map<string, Map<number, StoredPart>>()
  #count = 0

  /** In order; none when the upload is not known (any more). */
  of(multipartId: string): readonly StoredPart[] {
    const parts = [...(this.#uploads.get(multipartId)?.values() ?? [])]
    return parts.sort((a, b) => a.partNumber - b.partNumber)
  }

  add(multipartId: string, part: StoredPart): void {
    const parts = this.#uploads.get(multipartId) ?? new Map<number, StoredPart>()
    this.#uploads.set(multipartId, parts)
    if (!parts.has(part.partNumber)) this.#count += 1
    parts.set(part.partNumber, part)
    for (const [oldest] of this.#uploads) {
      if (this.#count <= most) return
      this.forget(oldest)
    }
  }

  /** From when it may be replaced until its successor is confirmed, nobody knows which of them S3 has. */
  remove(multipartId: string, partNumber: number): void {
    if (this.#uploads.get(multipartId)?.delete(partNumber)) this.#count -= 1
  }

  forget(multipartId: string): void {
    this.#count -= this.#uploads.get(multipartId)?.size ?? 0
    this.#uploads.delete(multipartId)
  }
}
