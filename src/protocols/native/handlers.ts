/** The documented routes: init, chunk, complete, progress; and abort. */
import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { InvalidRequestError, UnsupportedMediaTypeError } from '../../errors.ts'
import type { ChunkWritten, UploadEngine } from '../../types.ts'
import { fromFile, readChunkForm } from '../chunk-form.ts'
import {
  alreadyRead,
  contentLength,
  integerField,
  jsonBody,
  mediaType,
  type OwnerOf,
  refuseConsumed,
  refuseEncoding,
  sendJson,
  textField,
  type UploadHandler,
  type UploadRequest,
} from '../http.ts'
import { warnAboutRequestTimeout } from '../request-timeout.ts'
import { type Exchange, respond } from './exchange.ts'
import { progressOf, uploadOf } from './progress.ts'

export const protocol = 'native'

/** Longest file name and media type that are read at all, characters. */
const maxName = 4096
const maxKey = 512
/** Longer than any id that fits into a request: whatever it is, it is not there. */
const maxId = 64 * 1024

export function initHandler(engine: UploadEngine, ownerOf: OwnerOf): UploadHandler {
  return respond(engine, ownerOf, async ({ request, response, signal, owner }) => {
    const body = await jsonBody(request, signal)
    const fileName = textField(body, 'fileName', maxName)
    const totalSize = integerField(body, 'totalSize')
    if (!fileName) throw new InvalidRequestError('fileName is missing.')
    if (totalSize === undefined) throw new InvalidRequestError('totalSize is missing.')
    const { session, resumed } = await engine.create({
      fileName,
      totalSize,
      mimeType: textField(body, 'mimeType', maxName),
      chunkSize: integerField(body, 'chunkSize'),
      anyChunkSize: (body as { anyChunkSize?: unknown } | null)?.anyChunkSize === true,
      checksum: textField(body, 'checksum', maxKey),
      resumeKey: textField(body, 'resumeKey', maxKey),
      protocol,
      owner,
      context: request,
    })
    sendJson(response, 200, uploadOf(session, engine.limits, resumed))
  })
}

export function chunkHandler(engine: UploadEngine, ownerOf: OwnerOf): UploadHandler {
  return respond(engine, ownerOf, async (exchange) => {
    const { request, response } = exchange
    warnAboutRequestTimeout(request, engine.limits.maxChunkSize)
    refuseEncoding(request)
    const { duplicate } = await receiveChunk(engine, exchange)
    sendJson(response, 200, duplicate ? { success: true, duplicate } : { success: true })
  })
}

function receiveChunk(engine: UploadEngine, exchange: Exchange): Promise<ChunkWritten> {
  const { request } = exchange
  const parsed = (request as { file?: { buffer?: Buffer; path?: string } }).file
  if (parsed) return writeParsed(engine, exchange, parsed)
  const type = mediaType(request)
  if (type !== 'multipart/form-data' && type !== 'application/octet-stream') {
    throw new UnsupportedMediaTypeError('Send chunks as multipart/form-data or as application/octet-stream.')
  }
  refuseConsumed(request)
  if (type === 'multipart/form-data') return writeForm(engine, exchange)
  return engine.writeChunk({ ...chunkRef(request.query, exchange), body: request, size: contentLength(request) })
}

/** Where the chunk belongs; `uploadId` and `chunkIndex` come as form fields or in the query. */
function chunkRef(fields: unknown, { request, owner, signal }: Exchange) {
  const uploadId = textField(fields, 'uploadId', maxId)
  const index = integerField(fields, 'chunkIndex')
  if (!uploadId) throw new InvalidRequestError('uploadId is missing.')
  if (index === undefined) throw new InvalidRequestError('chunkIndex is missing.')
  const checksum = textField(fields, 'checksum', maxKey)
  return { uploadId, index, checksum, protocol, owner, signal, context: request }
}

async function writeForm(engine: UploadEngine, exchange: Exchange): Promise<ChunkWritten> {
  const query = exchange.request.query as object | undefined
  const { fields, used, written } = await readChunkForm({
    ...{ engine, request: exchange.request, response: exchange.response, signal: exchange.signal },
    fieldName: 'chunk',
    isPlaced(before) {
      const known = { ...query, ...before }
      return 'uploadId' in known && 'chunkIndex' in known
    },
    write: (known, { body, size, signal }) =>
      engine.writeChunk({ ...chunkRef({ ...query, ...known }, exchange), body, size, signal }),
  })
  if (!written) throw new InvalidRequestError('The form has no file part named chunk.', { code: 'MISSING_CHUNK' })
  if ('checksum' in fields && !('checksum' in { ...query, ...used })) {
    throw new InvalidRequestError('checksum must come before the file part.', { code: 'CHECKSUM_AFTER_DATA' })
  }
  return written
}

/** A multer of the app was here first and has the chunk in memory or on disk. */
function writeParsed(engine: UploadEngine, exchange: Exchange, file: { buffer?: Buffer; path?: string }) {
  const ref = chunkRef({ ...(exchange.request.query as object), ...(exchange.request.body as object) }, exchange)
  if (Buffer.isBuffer(file.buffer)) {
    const { buffer } = file
    return engine.writeChunk({ ...ref, body: Readable.from([buffer], { objectMode: false }), size: buffer.length })
  }
  if (typeof file.path !== 'string') throw alreadyRead()
  return fromFile(createReadStream(file.path), (body) => engine.writeChunk({ ...ref, body }))
}

export function completeHandler(engine: UploadEngine, ownerOf: OwnerOf): UploadHandler {
  return respond(engine, ownerOf, async ({ request, response, signal, owner }) => {
    const body = await jsonBody(request, signal)
    const uploadId = textField(body, 'uploadId', maxId)
    if (!uploadId) throw new InvalidRequestError('uploadId is missing.')
    const checksum = textField(body, 'checksum', maxKey)
    const object = await engine.complete({ uploadId, checksum, protocol, owner, context: request })
    sendJson(response, 200, { ...object, uploadId })
  })
}

export function progressHandler(engine: UploadEngine, ownerOf: OwnerOf): UploadHandler {
  return respond(engine, ownerOf, async ({ request, response, owner }) => {
    const session = await engine.get({ uploadId: idParameter(request), protocol, owner, context: request })
    sendJson(response, 200, progressOf(session, engine.limits))
  })
}

export function abortHandler(engine: UploadEngine, ownerOf: OwnerOf): UploadHandler {
  return respond(engine, ownerOf, async ({ request, response, owner }) => {
    await engine.abort({ uploadId: idParameter(request), protocol, owner, context: request })
    response.statusCode = 204
    response.end()
  })
}

function idParameter(request: UploadRequest): string {
  return textField(request.params, 'uploadId', maxId) ?? ''
}
