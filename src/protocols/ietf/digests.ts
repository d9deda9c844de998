/** Digest fields (RFC 9530) to the checksums of the engine and back. Unknown algorithms are ignored. Pure. */
import { serializeDictionary } from 'structured-headers'
import { dictionaryOf } from './fields.ts'

/** Registered names to ours, strongest first. */
const algorithms: readonly (readonly [registered: string, own: string])[] = [
  ['sha-512', 'sha512'],
  ['sha-256', 'sha256'],
  ['sha', 'sha1'],
  ['md5', 'md5'],
]

/** `<algorithm>:<base64>` of the strongest digest in a `Content-Digest` or `Repr-Digest` that can be checked here. */
export function checksumOf(field: string | undefined): string | undefined {
  const digests = dictionaryOf(field)
  for (const [registered, own] of algorithms) {
    const value = digests?.get(registered)?.[0]
    if (value instanceof ArrayBuffer) return `${own}:${Buffer.from(value).toString('base64')}`
  }
  return undefined
}

/**
 * The `Repr-Digest` for an answer: when the client wants one (`Want-Repr-Digest`, 0 meaning "not this one") and the
 * checksum is known. Another algorithm than the wanted one is better than none.
 */
export function digestField(checksum: string | undefined, wanted: string | undefined): string | undefined {
  const wishes = dictionaryOf(wanted)
  if (checksum === undefined || wishes === undefined) return undefined
  const [own, digest = ''] = checksum.split(':')
  const [registered] = algorithms.find((names) => names[1] === own) ?? []
  if (registered === undefined || wishes.get(registered)?.[0] === 0) return undefined
  return serializeDictionary({ [registered]: Buffer.from(digest, 'base64') })
}
