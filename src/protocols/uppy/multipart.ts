/** Files in parts: create, sign, put, list, complete, abort. Part n is chunk n − 1. */
import { InvalidRequestError } from '../../errors.ts'
import type { NamedPart, StoredObject, UploadRef, UploadSession } from '../../types.ts'
import { contentLength, jsonBody, refuseConsumed, refuseEncoding, sendJson, textField } from '../http.ts'
import { metadataOf } from '../metadata.ts'
import { etagOf, partsOf, requireSame } from './etags.ts'
import { type Exchange, grantedRef, protocol, refOf, signedUrl, uploadOf } from './exchange.ts'
import { newSecret } from './grants.ts'

/** Longest file name and media type that are read at all, characters. */
export const maxName = 4096
/** What one part takes in the list of a complete request, at most, bytes. */
const listedPart = 160

/** What a client says of a file before it sends it. */
export interface FileDescription {
  readonly fileName: string
  readonly mimeType: string | undefined
  readonly metadata: Readonly<Record<string, string>>
  /** Bytes, when it is told otherwise than by the metadata. */
  readonly totalSize?: number | undefined
}

/** `direct`: its parts are to go straight to the storage. */
export async function createSession(
  { engine, request, owner }: Exchange,
  file: FileDescription,
  more: { direct?: boolean } = {},
): Promise<UploadSession> {
  const wire = newSecret()
  const totalSize = file.totalSize ?? sizeIn(file.metadata)
  const caller = { protocol, owner, context: request }
  return (await engine.create({ ...file, ...more, ...caller, totalSize, wire, recognizable: !more.direct })).session
}

/** Uppy does not tell the size of a file, but an app can: a meta field `fileSize`. */
function sizeIn({ fileSize = '' }: Readonly<Record<string, string>>): number | null {
  return /^(0|[1-9]\d{0,15})$/.test(fileSize) ? Number(fileSize) : null
}

/** `POST s3/multipart` */
export async function create(exchange: Exchange): Promise<void> {
  const body = await jsonBody(exchange.request, exchange.signal)
  const fileName = textField(body, 'filename', maxName)
  if (!fileName) throw new InvalidRequestError('filename is missing.')
  const mimeType = textField(body, 'type', maxName)
  const metadata = metadataOf(entriesOf((body as { metadata?: unknown }).metadata))
  const { id, key } = await createSession(exchange, { fileName, mimeType, metadata }, { direct: exchange.direct })
  sendJson(exchange.response, 200, { key, uploadId: id })
}

export function entriesOf(metadata: unknown): [string, unknown][] {
  if (metadata === undefined || metadata === null) return []
  if (typeof metadata === 'object' && !Array.isArray(metadata)) return Object.entries(metadata)
  throw new InvalidRequestError('metadata must be an object.')
}

/** `GET s3/multipart/:uploadId/:partNumber?key=` */
export async function sign(exchange: Exchange, uploadId: string, partNumber: number): Promise<void> {
  const session = await uploadOf(exchange, uploadId, exchange.query.get('key'))
  const url = await partUrl(exchange, session, partNumber)
  sendJson(exchange.response, 200, { method: 'PUT', url, expires: Math.ceil(exchange.urlTtl / 1000) })
}

export async function partUrl(exchange: Exchange, session: UploadSession, partNumber: number): Promise<string> {
  const { maxChunks } = exchange.engine.limits
  if (partNumber < 1 || partNumber > maxChunks) {
    throw new InvalidRequestError(`The part number must be a whole number from 1 to ${maxChunks}.`)
  }
  if (session.direct) {
    return exchange.engine.signPart({ ...refOf(exchange, session.id), partNumber, lifetime: exchange.urlTtl })
  }
  return signedUrl(exchange, `/multipart/${session.id}/${partNumber}`, session, `part ${partNumber}`)
}

/** `PUT s3/multipart/:uploadId/:partNumber?expires=&signature=` */
export async function put(exchange: Exchange, uploadId: string, partNumber: number): Promise<void> {
  const { engine, request, response } = exchange
  refuseEncoding(request)
  refuseConsumed(request)
  const { size, crc32 } = await engine.writeChunk({
    ...grantedRef(exchange, uploadId, `part ${partNumber}`),
    index: partNumber - 1,
    body: request,
    size: contentLength(request),
  })
  response.setHeader('ETag', etagOf({ size, ...(crc32 !== undefined && { crc32 }) }))
  sendJson(response, 200, { size })
}

export interface ListedPart {
  readonly PartNumber: number
  readonly ETag: string
  readonly Size: number
}

/** `GET s3/multipart/:uploadId?key=` */
export async function list(exchange: Exchange, uploadId: string): Promise<void> {
  const session = await uploadOf(exchange, uploadId, exchange.query.get('key'))
  sendJson(exchange.response, 200, await listedParts(exchange, session, refOf(exchange, uploadId)))
}

export async function listedParts(
  { engine }: Exchange,
  { direct }: UploadSession,
  ref: UploadRef,
): Promise<ListedPart[]> {
  if (direct) {
    const parts = await engine.listParts(ref)
    return parts.map(({ partNumber, etag, size }) => ({ PartNumber: partNumber, ETag: etag, Size: size }))
  }
  const { chunks } = await engine.listChunks(ref)
  return chunks.map((chunk) => ({ PartNumber: chunk.index + 1, ETag: etagOf(chunk), Size: chunk.size }))
}

/** `POST s3/multipart/:uploadId/complete?key=` */
export async function complete(exchange: Exchange, uploadId: string): Promise<void> {
  const { engine, request, response, signal } = exchange
  const { maxChunks } = engine.limits
  const session = await uploadOf(exchange, uploadId, exchange.query.get('key'))
  const body = await jsonBody(request, signal, listLimit(exchange))
  const { url, key, size } = await completeWith(exchange, session, refOf(exchange, uploadId), partsOf(body, maxChunks))
  sendJson(response, 200, { location: url, key, size })
}

/** Longest list of parts, bytes. */
export function listLimit({ engine }: Exchange): number {
  return 16 * 1024 + engine.limits.maxChunks * listedPart
}

export async function completeWith(
  { engine }: Exchange,
  { direct }: UploadSession,
  ref: UploadRef,
  parts: readonly NamedPart[],
): Promise<StoredObject> {
  if (direct) return engine.complete({ ...ref, parts })
  const { chunks } = await engine.listChunks(ref)
  requireSame(parts, chunks)
  // A part that comes in between would make another size.
  const totalSize = chunks.reduce((sum, { size }) => sum + size, 0)
  return engine.complete({ ...ref, totalSize })
}

/** `DELETE s3/multipart/:uploadId?key=` */
export async function abort(exchange: Exchange, uploadId: string): Promise<void> {
  await uploadOf(exchange, uploadId, exchange.query.get('key'))
  await exchange.engine.abort(refOf(exchange, uploadId))
  sendJson(exchange.response, 200, {})
}
