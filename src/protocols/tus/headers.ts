/** The headers of tus 1.0.0, read strictly. Pure. */
import type { IncomingHttpHeaders } from 'node:http'
import { InvalidRequestError, UploadNotFoundError } from '../../errors.ts'
import { uploadIdInUrl } from '../resource.ts'

const maxMetadataBytes = 8 * 1024
const maxMetadataKeys = 64
const checksumAlgorithms = ['sha1', 'sha256', 'md5', 'crc32c']
export const checksumList = checksumAlgorithms.join(',')

export interface Metadata {
  /** As it was sent. */
  readonly raw: string
  /** Decoded, as far as it is UTF-8. */
  readonly values: Readonly<Record<string, string>>
}

/** A single header; Node joins repeated ones with a comma, which no number survives. */
export function headerOf(headers: IncomingHttpHeaders, name: string): string | undefined {
  const value = headers[name]
  return Array.isArray(value) ? value.join(', ') : value
}

/** `Upload-Length`, `Upload-Offset`: digits, at most 2^53 − 1. @throws InvalidRequestError */
export function numberHeader(headers: IncomingHttpHeaders, name: string): number | undefined {
  const value = headerOf(headers, name)
  if (value === undefined) return undefined
  const number = /^\d{1,16}$/.test(value) ? Number(value) : Number.NaN
  if (Number.isSafeInteger(number)) return number
  throw new InvalidRequestError(`${titleOf(name)} must be a whole number of bytes, 0 or more.`)
}

function titleOf(name: string): string {
  return name.replace(/(^|-)[a-z]/g, (letter) => letter.toUpperCase())
}

/** The length of a new upload; `null` when it is told later. @throws InvalidRequestError */
export function lengthOf(headers: IncomingHttpHeaders): number | null {
  const length = numberHeader(headers, 'upload-length')
  const defer = headerOf(headers, 'upload-defer-length')
  if (defer !== undefined && defer !== '1') throw new InvalidRequestError('Upload-Defer-Length must be 1.')
  if ((length === undefined) === (defer === undefined)) {
    throw new InvalidRequestError('Send either Upload-Length or Upload-Defer-Length.')
  }
  return length ?? null
}

/** `Upload-Metadata`: `key base64,key base64,…`. @throws InvalidRequestError */
export function metadataOf(headers: IncomingHttpHeaders): Metadata | undefined {
  const raw = headerOf(headers, 'upload-metadata')
  if (raw === undefined || raw.trim() === '') return undefined
  if (raw.length > maxMetadataBytes) throw invalidMetadata(`is longer than ${maxMetadataBytes} bytes`)
  const entries = new Map<string, string | null>()
  for (const element of raw.split(',')) {
    const [key = '', value = '', ...rest] = element.trim().split(' ')
    if (key === '' || rest.length > 0) throw invalidMetadata('has a pair that is not "key base64"')
    if (entries.has(key)) throw invalidMetadata('has a key twice')
    entries.set(key, decode(value))
  }
  if (entries.size > maxMetadataKeys) throw invalidMetadata(`has more than ${maxMetadataKeys} keys`)
  const text = [...entries].filter((entry): entry is [string, string] => entry[1] !== null)
  // fromEntries makes own properties, whatever they are called.
  return { raw, values: Object.fromEntries(text) }
}

function invalidMetadata(problem: string): InvalidRequestError {
  return new InvalidRequestError(`Upload-Metadata ${problem}.`, { code: 'INVALID_METADATA' })
}

/** `null` for bytes that are no text. */
function decode(value: string): string | null {
  if (!isBase64(value)) throw invalidMetadata('has a value that is not base64')
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.from(value, 'base64'))
  } catch {
    return null
  }
}

function isBase64(value: string): boolean {
  return value.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(value)
}

/** `Upload-Checksum` as `<algorithm>:<base64>`. @throws InvalidRequestError */
export function checksumOf(header: string | undefined): string | undefined {
  if (header === undefined) return undefined
  const [algorithm = '', digest = '', ...rest] = header.trim().split(' ')
  const valid = checksumAlgorithms.includes(algorithm) && digest !== '' && isBase64(digest) && rest.length === 0
  if (valid) return `${algorithm}:${digest}`
  const message = `Upload-Checksum must be an algorithm (${checksumList}) and a base64 digest.`
  throw new InvalidRequestError(message, { code: 'INVALID_CHECKSUM' })
}

export type Concat = { readonly kind: 'partial' } | { readonly kind: 'final'; readonly sources: readonly string[] }

/** `Upload-Concat`: `partial`, or `final;` and URLs. @throws InvalidRequestError; UploadNotFoundError for a URL of nothing */
export function concatOf(headers: IncomingHttpHeaders): Concat | undefined {
  const value = headerOf(headers, 'upload-concat')?.trim()
  if (value === undefined) return undefined
  if (value === 'partial') return { kind: 'partial' }
  const urls = value.startsWith('final;') ? value.slice('final;'.length).trim().split(/ +/) : []
  if (urls.length === 0 || urls[0] === '') {
    throw new InvalidRequestError('Upload-Concat must be "partial", or "final;" and the URLs of partial uploads.')
  }
  return { kind: 'final', sources: urls.map(idOf) }
}

function idOf(url: string): string {
  const id = uploadIdInUrl(url)
  if (id === null) throw new UploadNotFoundError()
  return id
}
