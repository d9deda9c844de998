/** POST on the folder: new uploads, with their first bytes, partial ones, and the concatenation of those. */
import { InvalidRequestError, isNexusUploaderError, NexusUploaderError, toNexusUploaderError } from '../../errors.ts'
import type { UploadSession } from '../../types.ts'
import { contentLength, mediaType, refuseConsumed, refuseEncoding } from '../http.ts'
import { locationOf } from '../resource.ts'
import { isInterruption, sendEmpty, setExpires, setOutcome } from './answers.ts'
import { type Exchange, isDue, protocol, refOf } from './exchange.ts'
import { type Concat, concatOf, headerOf, lengthOf, type Metadata, metadataOf } from './headers.ts'
import { appendBody, bodyType } from './uploads.ts'

export async function create(exchange: Exchange): Promise<void> {
  const { headers } = exchange.request
  const concat = concatOf(headers)
  const metadata = metadataOf(headers)
  if (concat?.kind === 'final') return concatenate(exchange, concat, metadata)
  const { engine, request } = exchange
  const totalSize = lengthOf(headers)
  const { session } = await engine.create({
    ...about(exchange, metadata),
    totalSize,
    partial: concat !== undefined,
    context: request,
  })
  if (hasBody(exchange)) return createWithBody(exchange, session)
  if (isDue(session, 0)) setOutcome(exchange.response, (await engine.complete(refOf(exchange, session.id))).url)
  sendCreated(exchange, session, 0)
}

/** Name, type and metadata of the file, as far as the client tells. */
function about({ owner, request }: Exchange, metadata: Metadata | undefined) {
  const values = metadata?.values ?? {}
  const field = (name: string) => (Object.hasOwn(values, name) ? values[name] : undefined)
  const concat = headerOf(request.headers, 'upload-concat')
  return {
    fileName: field('filename') || field('name') || 'file',
    mimeType: field('filetype') || field('type'),
    metadata: values,
    wire: { ...(metadata && { metadata: metadata.raw }), ...(concat !== undefined && { concat }) },
    protocol,
    owner,
  }
}

/** The body of another media type is none of the upload (creation-with-upload). */
function hasBody({ request }: Exchange): boolean {
  if (mediaType(request) !== bodyType) return false
  return contentLength(request) !== 0 && (contentLength(request) !== undefined || isChunked(request.headers))
}

function isChunked(headers: { 'transfer-encoding'?: string | undefined }): boolean {
  return headers['transfer-encoding'] !== undefined
}

async function createWithBody(exchange: Exchange, session: UploadSession): Promise<void> {
  const { engine } = exchange
  const ref = refOf(exchange, session.id)
  let offset: number
  try {
    refuseEncoding(exchange.request)
    refuseConsumed(exchange.request)
    offset = (await appendBody(exchange, session.id, 0)).offset
  } catch (error) {
    if (isInterruption(error)) throw error
    const failure = toNexusUploaderError(error)
    if (!failure.retryable || failure.code === 'CHECKSUM_MISMATCH') {
      // Its URL was never told.
      await engine.abort(ref).catch(() => {})
      throw failure
    }
    // Created it is; the client goes on from wherever that left it.
    offset = (await engine.retrieveOffset(ref).catch(() => Promise.reject(failure))).offset
  }
  if (isDue(session, offset)) return completeCreated(exchange, session, offset)
  sendCreated(exchange, session, offset)
}

/**
 * All bytes came with the creation. If the object cannot be made right now, the client must neither take the upload for
 * done (an offset at the end) nor send everything again (an error): without an offset it asks, and HEAD tries again.
 */
async function completeCreated(exchange: Exchange, session: UploadSession, offset: number): Promise<void> {
  try {
    const { url } = await exchange.engine.complete(refOf(exchange, session.id))
    setOutcome(exchange.response, url)
    sendCreated(exchange, session, offset)
  } catch (error) {
    if (isNexusUploaderError(error) && !error.retryable) throw error
    sendCreated(exchange, session, null)
  }
}

function sendCreated(exchange: Exchange, session: UploadSession, offset: number | null): void {
  const { request, response, resource } = exchange
  if (response.headersSent) return
  response.setHeader('Location', locationOf(request, session.id, resource))
  if (offset !== null) response.setHeader('Upload-Offset', offset)
  setExpires(response, session)
  sendEmpty(response, 201)
}

async function concatenate(exchange: Exchange, concat: Concat, metadata: Metadata | undefined): Promise<void> {
  const { engine, request, response } = exchange
  const { headers } = request
  if (concat.kind !== 'final') return
  if (headers['upload-length'] !== undefined || headers['upload-defer-length'] !== undefined) {
    throw new InvalidRequestError('The length of a concatenation is that of its parts; do not send one.')
  }
  if ((contentLength(request) ?? 0) > 0 || isChunked(headers)) {
    throw new NexusUploaderError('BODY_NOT_ALLOWED', 403, 'A concatenation takes no bytes of its own.')
  }
  const { sources } = concat
  const { session } = await engine.compose({ ...about(exchange, metadata), sources, context: request })
  try {
    const { url, size } = await engine.complete(refOf(exchange, session.id))
    setOutcome(response, url)
    sendCreated(exchange, session, size)
  } catch (error) {
    if ((error as NexusUploaderError).code !== 'UPLOAD_INCOMPLETE') throw error
    sendCreated(exchange, session, null)
  }
}
