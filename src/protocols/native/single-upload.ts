/** The main uploader: one multipart/form-data request with one file part becomes one stored file. */
import { FileSizeExceededError, InvalidRequestError } from '../../errors.ts'
import type { UploadEngine } from '../../types.ts'
import { readForm } from '../chunk-body.ts'
import { contentLength, mediaType, type OwnerOf, refuseEncoding, sendJson, type UploadHandler } from '../http.ts'
import { respond } from './exchange.ts'
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
    const announced = contentLength(request)
    if ((announced ?? 0) > maxFileSize + formOverhead) throw new FileSizeExceededError(maxFileSize)
    // A form cannot have a file that is longer than itself, so less room than `maxFileSize` will do.
    const maxSize = Math.min(maxFileSize, announced ?? maxFileSize)
    const ref = { protocol, owner: exchange.owner, context: request }
    let uploadId: string | null = null
    try {
      const { file } = await readForm(request, response, null, async (part, _before, stop) => {
        const { fileName, mimeType, stream } = part
        const { session } = await engine.create({ ...ref, fileName: fileName || 'file', mimeType, totalSize: null })
        uploadId = session.id
        const signal = AbortSignal.any([exchange.signal, stop])
        // One chunk that is the whole file: stored whole or not at all, like every chunk.
        await engine.writeChunk({ ...ref, uploadId, index: 0, body: stream, maxSize, signal })
        return session.id
      })
      if (!file) throw new InvalidRequestError('The form has no file part.', { code: 'MISSING_FILE' })
      // Only now: a form that is no good after its file must not leave one behind.
      sendJson(response, 200, await engine.complete({ ...ref, uploadId: file }))
    } catch (error) {
      // Nobody can come back for this upload: its id was never told.
      if (uploadId !== null) await engine.abort({ ...ref, uploadId }).catch(() => {})
      throw error
    }
  })
}
