/** What a creation says about the file: its name, its media type, what else it tells. All of it is hostile. Pure. */
import type { IncomingMessage } from 'node:http'
import { mediaType } from '../http.ts'
import { headerOf } from './fields.ts'

export interface FileDescription {
  /** Empty when there is none. */
  readonly fileName: string
  readonly mimeType: string
  readonly metadata: Readonly<Record<string, string>>
}

/** The media type of a piece of a file, never of the file. */
export const partialUpload = 'application/partial-upload'

/** Longest `Content-Disposition` and value of metadata that is read at all, characters. */
const maxText = 4096
const token = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y
const quoted = /"((?:[\t !#-[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*)"/y
const separator = /[ \t]*;[ \t]*/y

/**
 * `Content-Disposition` and `Content-Type` first; then `Upload-Metadata` as in tus, which tus-js-client sends in its
 * modes for this protocol too. A `Content-Encoding` is kept as metadata: the bytes are stored as they came.
 */
export function describeFile(request: IncomingMessage): FileDescription {
  const metadata = uploadMetadata(headerOf(request, 'Upload-Metadata'))
  const fileName = dispositionName(headerOf(request, 'Content-Disposition')) ?? metadata.filename ?? metadata.name ?? ''
  const isPiece = ['', partialUpload].includes(mediaType(request))
  const mimeType = isPiece ? (metadata.filetype ?? metadata.type ?? '') : (request.headers['content-type'] ?? '')
  const encoding = headerOf(request, 'Content-Encoding')?.trim().toLowerCase()
  const isEncoded = encoding !== undefined && encoding !== '' && encoding !== 'identity'
  return {
    fileName,
    mimeType,
    metadata: isEncoded ? { ...metadata, contentEncoding: encoding.slice(0, 100) } : metadata,
  }
}

/**
 * The file name in a `Content-Disposition` (RFC 6266), `filename*` (RFC 8187) before `filename`. `undefined` when there
 * is none, and for a header that is malformed anywhere.
 */
export function dispositionName(header: string | undefined): string | undefined {
  const parameters = header === undefined || header.length > maxText ? null : dispositionParameters(header)
  if (!parameters) return undefined
  const name = extendedValue(parameters.get('filename*')) ?? utf8(parameters.get('filename'))
  return name === '' ? undefined : name
}

function dispositionParameters(header: string): Map<string, string> | null {
  let position = 0
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = position
    const match = pattern.exec(header)
    if (match) position = pattern.lastIndex
    return match
  }
  const parameters = new Map<string, string>()
  if (!take(token)) return null
  while (position < header.length) {
    if (!take(separator)) return null
    const name = take(token)?.[0].toLowerCase()
    if (name === undefined || header[position] !== '=' || parameters.has(name)) return null
    position++
    const text = take(quoted)
    const value = text ? text[1]?.replace(/\\(.)/gs, '$1') : take(token)?.[0]
    if (value === undefined) return null
    parameters.set(name, value)
  }
  return parameters
}

/** `UTF-8'<language>'<percent-encoded>`. */
function extendedValue(value: string | undefined): string | undefined {
  const match = /^utf-8'[A-Za-z0-9-]*'((?:[A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-Fa-f]{2})*)$/i.exec(value ?? '')
  if (!match) return undefined
  try {
    return decodeURIComponent(match[1] ?? '')
  } catch {
    return undefined
  }
}

/** Headers arrive as one character for each byte; most senders mean UTF-8. */
function utf8(value: string | undefined): string | undefined {
  if (value === undefined) return undefined
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.from(value, 'latin1'))
  } catch {
    return value
  }
}

/** `key base64,key base64,key`: what is not well-formed is left out. */
export function uploadMetadata(header: string | undefined): Record<string, string> {
  const pairs: [string, string][] = []
  for (const element of (header ?? '').split(',')) {
    const match = /^([!-+\--~]{1,100})(?: ([A-Za-z0-9+/]*={0,2}))?$/.exec(element.trim())
    const [, key = '', encoded = ''] = match ?? []
    if (key !== '' && encoded.length <= maxText) pairs.push([key, Buffer.from(encoded, 'base64').toString('utf8')])
  }
  return Object.fromEntries(pairs)
}
