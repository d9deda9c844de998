/** The main uploader: one multipart/form-data request with one file part becomes one stored file. */
import { FileSizeExceededError, InvalidRequestError } from '../../errors.ts'
import type { UploadEngine } from '../../types.ts'
import { type FormFields, type FormFile, readForm } from '../chunk-body.ts'
import { contentLength, mediaType, refuseEncoding, sendJson, type UploadHandler } from '../http.ts'
import { type Exchange, type OwnerOf, respond } from './exchange.ts'
import { protocol } from './handlers.ts'

/** Room for the boundaries, headers and fields of the form, bytes. */
const formOverhead = 64 * 1024

export function singleUploadHandler(engine: UploadEngine, ownerOf: OwnerOf): UploadHandler {
  return respond(engine, ownerOf, async (exchange) => {
    const { request, response } = exchange
    refuseEncoding(request)
    if (mediaType(request) !== 'multipart/form-data') {
      throw new InvalidRequestError('Send the file as multipart/form-data.', { code: 'INVALID_FORM' })
    }
    const { maxFileSize } = engine.limits
    if ((contentLength(request) ?? 0) > maxFileSize + formOverhead) throw new FileSizeExceededError(maxFileSize)
    const takeFile = (file: FormFile, _before: FormFields, stop: AbortSignal) => storeFile(engine, exchange, file, stop)
    const { file } = await readForm(request, response, null, takeFile)
    if (!file) throw new InvalidRequestError('The form has no file part.', { code: 'MISSING_FILE' })
    sendJson(response, 200, file)
  })
}

/** One chunk that is the whole file: stored whole or not at all, like every chunk. */
async function storeFile(engine: UploadEngine, exchange: Exchange, file: FormFile, stop: AbortSignal) {
  const { request, owner } = exchange
  const signal = AbortSignal.any([exchange.signal, stop])
  const { fileName, mimeType, stream } = file
  const ref = { protocol, owner, context: request }
  const { session } = await engine.create({ ...ref, fileName: fileName || 'file', mimeType, totalSize: null })
  const uploadId = session.id
  try {
    const maxSize = engine.limits.maxFileSize
    await engine.writeChunk({ ...ref, uploadId, index: 0, body: stream, maxSize, signal })
    return await engine.complete({ ...ref, uploadId })
  } catch (error) {
    // Nobody can come back for this upload: its id was never told.
    await engine.abort({ ...ref, uploadId }).catch(() => {})
    throw error
  }
}
