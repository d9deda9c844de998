/** Names that clients send: cleaned for display, and made harmless for keys. Pure. */
import { InvalidRequestError } from '../errors.ts'

const maxNameBytes = 200
const deviceName = /^(con|prn|aux|nul|(com|lpt)[\d¹²³])(\.|$)/i

/** The last component of the name, without control characters, at most 255 characters. `file` when nothing is left. */
export function displayName(name: string): string {
  const base = name.slice(-4096).split(/[/\\]/).at(-1) ?? ''
  const clean = base
    .toWellFormed()
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '')
    .normalize('NFC')
    .trim()
    .slice(0, 255)
  return clean.toWellFormed() || 'file'
}

/**
 * A name for use in a key: letters, digits, `.`, `_`, `-` of any script, no leading dot, no device name, at most 200
 * bytes with the extension kept. Applying it twice changes nothing.
 */
export function safeFileName(name: string): string {
  const clean = displayName(name)
    .replace(/[^\p{L}\p{N}._-]+/gu, '_')
    .replace(/^[.]+/, '_')
    .replace(/(?<![.])[.]+$/, '_')
  const named = deviceName.test(clean) ? `_${clean}` : clean
  return shorten(named)
}

function shorten(name: string): string {
  if (Buffer.byteLength(name) <= maxNameBytes) return name
  const dot = name.lastIndexOf('.')
  const extension = dot > 0 && Buffer.byteLength(name.slice(dot)) <= 20 ? name.slice(dot) : ''
  let stem = Array.from(extension ? name.slice(0, dot) : name)
  while (Buffer.byteLength(stem.join('')) + Buffer.byteLength(extension) > maxNameBytes) stem = stem.slice(0, -1)
  while (!extension && stem.at(-1) === '.') stem = stem.slice(0, -1)
  return stem.join('') + extension
}

/** A well-formed media type in lower case; anything else is `application/octet-stream`. */
export function cleanMimeType(mimeType: string | undefined): string {
  const type = (mimeType ?? '').slice(0, 255).trim()
  const match = /^([a-z0-9!#$&^_.+-]{1,64}\/[a-z0-9!#$&^_.+-]{1,64})\s*(;.*)?$/i.exec(type)
  return match?.[1]?.toLowerCase() ?? 'application/octet-stream'
}

export function mimeTypeMatches(mimeType: string, patterns: readonly string[]): boolean {
  if (patterns.length === 0) return true
  return patterns.some((pattern) =>
    pattern.endsWith('/*')
      ? mimeType.startsWith(pattern.slice(0, -1).toLowerCase())
      : mimeType === pattern.toLowerCase(),
  )
}

/**
 * Keys that a hook chose: a relative path of at most 1024 bytes, no part of it empty, `.`, `..`, longer than 255 bytes or
 * named like the staging folder, and no drive letter: what any storage of ours would refuse at the very end.
 */
export function checkKey(key: string): string {
  const parts = key.split('/')
  const bad = parts.some(
    (part) => /^(\.{0,2}|[a-z]:.*|\.nexus-uploader.*)$/i.test(part) || Buffer.byteLength(part) > 255,
  )
  if (bad || Buffer.byteLength(key) > 1024 || /[\p{Cc}\\]/u.test(key) || !key.isWellFormed()) {
    throw new InvalidRequestError('The key chosen for this file is not a safe relative path.', { code: 'INVALID_KEY' })
  }
  return key
}
