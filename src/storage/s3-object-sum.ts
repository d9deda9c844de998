/** What S3 calls an object that was made of parts: the MD5 of their MD5s, and how many there are. */
import { createHash } from 'node:crypto'

const sum = /^[0-9a-f]{32}$/

/**
 * Whether the ETag of an object says that it consists of exactly these parts. `false` also where ETags are nothing of
 * the kind: with keys of one's own, or on servers that leave them empty.
 */
export function isNamedBy(etag: string | undefined, parts: readonly { readonly ETag?: string | undefined }[]): boolean {
  const tags = parts.map(({ ETag }) => bare(ETag))
  if (!etag || tags.length === 0 || !tags.every((tag) => sum.test(tag))) return false
  try {
    const hash = createHash('md5')
    for (const tag of tags) hash.update(tag, 'hex')
    const name = `${hash.digest('hex')}-${tags.length}`
    return bare(etag) === name
  } catch {
    // No MD5 is to be had here.
    return false
  }
}

function bare(etag = ''): string {
  return etag.replaceAll('"', '').toLowerCase()
}
