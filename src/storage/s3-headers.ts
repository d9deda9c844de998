/** What is stored beside the bytes: type, disposition, metadata; and how a key becomes a URL. */
import type { CreateMultipartUploadCommandInput } from '@aws-sdk/client-s3'
import type { ObjectInfo } from '../types.ts'
import { s3Error } from './s3-errors.ts'
import type { S3Settings } from './s3-options.ts'

/** The user metadata by which we know an object as ours: the upload that made it. */
export const UPLOAD_ID_MARK = 'nexus-upload-id'
const USER_PREFIX = 'nexus-meta-'

/** AWS refuses more than this, names and values together, bytes. */
const MAX_METADATA = 2048

const mediaType = /^[\w!#$&^.+-]{1,127}\/[\w!#$&^.+-]{1,127}$/

export type ObjectParams = Omit<CreateMultipartUploadCommandInput, 'Bucket' | 'Key'>

/** The parameters that PutObject and CreateMultipartUpload have in common. */
export function objectParams(
  settings: S3Settings,
  mimeType: string,
  fileName: string,
  mark: string,
  info?: ObjectInfo,
): ObjectParams {
  const type = cleanType(mimeType)
  const params: ObjectParams = {
    ContentType: type,
    ContentDisposition: contentDisposition(isInline(type, settings.inlineTypes), fileName),
    Metadata: userMetadata(mark, info?.metadata ?? {}),
  }
  if (settings.cacheControl) params.CacheControl = settings.cacheControl
  if (settings.serverSideEncryption) params.ServerSideEncryption = settings.serverSideEncryption
  if (settings.sseKmsKeyId) params.SSEKMSKeyId = settings.sseKmsKeyId
  if (settings.storageClass) params.StorageClass = settings.storageClass
  if (settings.acl) params.ACL = settings.acl
  return params
}

/** @throws S3UploadError for a key among the private pieces, where no file may be */
export function refuseStagingKey({ prefix, stagingPrefix }: S3Settings, fileKey: string): void {
  if (!(prefix + fileKey).startsWith(stagingPrefix)) return
  throw s3Error('refused', new Error(`the key ${fileKey} lies under stagingPrefix`))
}

/** The media type without anything that is no media type; parameters other than a plain charset are dropped. */
export function cleanType(mimeType: string): string {
  const [type = '', ...parameters] = mimeType.toLowerCase().split(';')
  if (!mediaType.test(type.trim())) return 'application/octet-stream'
  const charset = parameters
    .map((parameter) => parameter.trim())
    .find((parameter) => /^charset=[\w-]{1,40}$/.test(parameter))
  return charset ? `${type.trim()}; ${charset}` : type.trim()
}

/** Whether a browser may show this type from the bucket's origin. A wildcard never covers XML: SVG runs scripts. */
export function isInline(mimeType: string, inlineTypes: readonly string[]): boolean {
  const type = mimeType.split(';', 1)[0]?.trim() ?? ''
  if (inlineTypes.includes(type)) return true
  return !/svg|xml/.test(type) && inlineTypes.includes(`${type.split('/', 1)[0]}/*`)
}

/** RFC 6266: a plain ASCII name for old readers, the real one percent-encoded. No input can leave the quotes. */
export function contentDisposition(inline: boolean, fileName: string): string {
  const name =
    [...wellFormed(fileName)]
      .slice(0, 255)
      .join('')
      .replace(/\p{Cc}+/gu, '_') || 'file'
  const ascii =
    name
      .replace(/[^\x20-\x7e]|["\\%]/gu, '_')
      .replace(/ {2,}/g, ' ')
      .trim() || 'file'
  return `${inline ? 'inline' : 'attachment'}; filename="${ascii}"; filename*=UTF-8''${encodeStrict(name)}`
}

/** Our mark, then the upload's metadata percent-encoded, as much of it as fits. */
export function userMetadata(mark: string, metadata: Readonly<Record<string, string>>): Record<string, string> {
  const result: Record<string, string> = { [UPLOAD_ID_MARK]: encodeMark(mark) }
  let size = entrySize(UPLOAD_ID_MARK, encodeMark(mark))
  for (const [key, value] of Object.entries(metadata)) {
    const name = USER_PREFIX + encodeName(key)
    const encoded = encodeStrict(String(value))
    size += entrySize(name, encoded)
    if (size > MAX_METADATA) break
    result[name] = encoded
  }
  return result
}

/** The mark as it is stored. */
export function encodeMark(uploadId: string): string {
  return encodeStrict(uploadId)
}

/** The key as a URL path: each segment encoded, also the characters that S3 wants encoded and JavaScript leaves. */
export function encodeKey(key: string): string {
  return key.split('/').map(encodeStrict).join('/')
}

function encodeStrict(value: string): string {
  return encodeURIComponent(wellFormed(value)).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  )
}

/** Header names have no case, and some servers read `_` as `-`: only what survives everywhere stays as it is. */
function encodeName(name: string): string {
  return [...Buffer.from(name)]
    .map((byte) =>
      /[a-z0-9.-]/.test(String.fromCharCode(byte))
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).padStart(2, '0')}`,
    )
    .join('')
}

function entrySize(name: string, value: string): number {
  return 'x-amz-meta-'.length + name.length + value.length
}

function wellFormed(value: string): string {
  return value.replace(/\p{Surrogate}/gu, '\ufffd')
}

/** A CRC-32 as S3 writes it. */
export function crc32Text(crc32: number): string {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(crc32)
  return bytes.toString('base64')
}
