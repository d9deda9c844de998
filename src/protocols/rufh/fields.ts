/** Header fields of the IETF protocol: structured fields (RFC 9651). A field of another type counts as missing. Pure. */
import type { IncomingHttpHeaders } from 'node:http'
import { type BareItem, parseDictionary, parseItem } from 'structured-headers'
import type { Interop } from './interop.ts'

function itemOf(headers: IncomingHttpHeaders, name: string): BareItem | undefined {
  const value = headers[name]
  if (typeof value !== 'string') return undefined
  try {
    return parseItem(value)[0]
  } catch {
    return undefined
  }
}

/** A non-negative Integer. Decimals are another type, although JavaScript has one for both. */
export function integerOf(headers: IncomingHttpHeaders, name: string): number | undefined {
  const item = itemOf(headers, name)
  if (typeof item !== 'number' || !Number.isSafeInteger(item) || item < 0) return undefined
  return /^\s*-?\d+\s*(;|$)/.test(String(headers[name])) ? item : undefined
}

/** Whether this request brings the last bytes; `undefined` when it does not say. */
export function isLast(headers: IncomingHttpHeaders, interop: Interop): boolean | undefined {
  const item = itemOf(headers, interop.completeness)
  if (typeof item !== 'boolean') return undefined
  return interop.completeness === 'upload-incomplete' ? !item : item
}

const digestNames: Readonly<Record<string, string>> = {
  'sha-512': 'sha512',
  'sha-256': 'sha256',
  sha: 'sha1',
  md5: 'md5',
}

/** `Content-Digest`, `Repr-Digest` (RFC 9530) as `<algorithm>:<base64>`: the strongest that is known here. */
export function digestOf(headers: IncomingHttpHeaders, name: string): string | undefined {
  const value = headers[name]
  if (typeof value !== 'string') return undefined
  try {
    const digests = parseDictionary(value)
    for (const [theirs, ours] of Object.entries(digestNames)) {
      const item = digests.get(theirs)?.[0]
      if (item instanceof ArrayBuffer) return `${ours}:${Buffer.from(item).toString('base64')}`
    }
  } catch {
    // Not a dictionary: as good as missing.
  }
  return undefined
}

/** `<algorithm>:<base64>` as a digest field; `undefined` for an algorithm without a name there. */
export function digestField(checksum: string): string | undefined {
  const [algorithm, digest] = checksum.split(':')
  const name = Object.keys(digestNames).find((theirs) => digestNames[theirs] === algorithm)
  return name && `${name}=:${digest}:`
}

/** The file name in `Content-Disposition` (RFC 6266, RFC 8187); `filename*` counts more. */
export function fileNameOf(headers: IncomingHttpHeaders): string | undefined {
  const value = headers['content-disposition']
  if (value === undefined || value.length > 4096) return undefined
  const extended = /;\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]+)/i.exec(value)?.[1]
  if (extended !== undefined) {
    try {
      return decodeURIComponent(extended)
    } catch {
      return undefined
    }
  }
  const plain = /;\s*filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))/i.exec(value)
  const name = plain?.[1]?.replace(/\\(.)/g, '$1') ?? plain?.[2]
  // Header values arrive as Latin-1; many clients put UTF-8 there.
  return name === undefined ? undefined : fromUtf8(name)
}

function fromUtf8(text: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.from(text, 'latin1'))
  } catch {
    return text
  }
}

/** A value of tus' `Upload-Metadata`, which tus-js-client sends in its IETF modes too. */
export function metadataValue(headers: IncomingHttpHeaders, key: string): string | undefined {
  const value = headers['upload-metadata']
  if (typeof value !== 'string' || value.length > 8192) return undefined
  for (const pair of value.split(',')) {
    const [name, encoded] = pair.trim().split(' ')
    if (name === key && encoded) return Buffer.from(encoded, 'base64').toString('utf8')
  }
  return undefined
}
