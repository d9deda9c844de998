/**
 * The main uploader: one request with one file becomes one stored file. As multipart/form-data, what Uppy's XHRUpload and
 * any HTML form send; or, with `?fileName=`, as the plain bytes of the file.
 */
import type { Readable } from 'node:stream'
import { FileSizeExceededError, InvalidRequestError } from '../../errors.ts'
import type { StoredObject, UploadEngine } from '../../types.ts'
import { type FormLimits, readForm } from '../chunk-body.ts'
import {
  contentLength,
  mediaType,
  type OwnerOf,
  queryOf,
  refuseConsumed,
  refuseEncoding,
  sendJson,
  type UploadHandler,
} from '../http.ts'
import { metadataOf } from '../metadata.ts'
import { warnAboutRequestTimeout } from '../request-timeout.ts'
import { type Exchange, respond } from './exchange.ts'
import { protocol } from './handlers.ts'

/** Room for the boundaries, headers and fields of the form, bytes. */
const formOverhead = 64 * 1024
/** Uppy sends all meta data of a file as fields; `tags[]` is how lists are named. */
const formLimits: FormLimits = { fields: 64, fieldNameSize: 256, fieldSize: 4096, fieldNestingDepth: 1 }

interface NamedBody {
  readonly fileName: string
  readonly mimeType: string
  readonly metadata: Readonly<Record<string, string>>
  readonly stream: Readable
}

/** Stores the bytes of an upload that nobody has heard of yet, and returns its id. */
type Take = (file: NamedBody, signal: AbortSignal) => Promise<string>

export function singleUploadHandler(engine: UploadEngine, ownerOf: OwnerOf): UploadHandler {
  return respond(engine, ownerOf, async (exchange) => {
    const { request, response } = exchange
    warnAboutRequestTimeout(request, engine.limits.maxFileSize)
    refuseEncoding(request)
    const isForm = mediaType(request) === 'multipart/form-data'
    const fileName = isForm ? null : queryOf(request).get('fileName')
    if (!isForm && !fileName) {
      const message = 'Send the file as multipart/form-data, or as it is with ?fileName= in the URL.'
      throw new InvalidRequestError(message, { code: 'INVALID_FORM' })
    }
    refuseConsumed(request)
    const { maxFileSize } = engine.limits
    const announced = contentLength(request)
    if ((announced ?? 0) > maxFileSize + (isForm ? formOverhead : 0)) throw new FileSizeExceededError(maxFileSize)
    const object = await storeOnce(engine, exchange, (take) =>
      isForm ? takeForm(exchange, engine.limits, take) : takeBody(exchange, fileName ?? '', take),
    )
    sendJson(response, 200, object)
  })
}

/** Nobody can come back for an upload whose id was never told, so it is completed now or it is gone. */
async function storeOnce(
  engine: UploadEngine,
  { request, owner }: Exchange,
  receive: (take: Take) => Promise<string>,
): Promise<StoredObject> {
  const ref = { protocol, owner, context: request }
  const { maxFileSize } = engine.limits
  // A request cannot have a file that is longer than itself, so less room than `maxFileSize` will do.
  const maxSize = Math.min(maxFileSize, contentLength(request) ?? maxFileSize)
  let created: string | null = null
  try {
    const uploadId = await receive(async ({ stream, ...file }, signal) => {
      const { session } = await engine.create({ ...ref, ...file, totalSize: null })
      created = session.id
      // One chunk that is the whole file: stored whole or not at all, like every chunk.
      await engine.writeChunk({ ...ref, uploadId: session.id, index: 0, body: stream, maxSize, signal })
      return session.id
    })
    // Only now: a form that is no good after its file must not leave one behind.
    return await engine.complete({ ...ref, uploadId })
  } catch (error) {
    if (created !== null) await engine.abort({ ...ref, uploadId: created }).catch(() => {})
    throw error
  }
}

async function takeForm(
  { request, response, signal }: Exchange,
  { maxFileSize, bodyIdleTimeout: idleTimeout }: UploadEngine['limits'],
  take: Take,
): Promise<string> {
  const { file } = await readForm(
    request,
    response,
    { fieldName: null, maxBytes: maxFileSize + formOverhead, idleTimeout, limits: formLimits },
    ({ fileName, mimeType, stream }, before, stop) => {
      const metadata = metadataOf(Object.entries(before))
      const named = { fileName: fileName || 'file', mimeType, metadata, stream }
      return take(named, AbortSignal.any([signal, stop]))
    },
  )
  if (!file) throw new InvalidRequestError('The form has no file part.', { code: 'MISSING_FILE' })
  return file
}

function takeBody({ request, signal }: Exchange, fileName: string, take: Take): Promise<string> {
  return take({ fileName, mimeType: mediaType(request), metadata: {}, stream: request }, signal)
}
