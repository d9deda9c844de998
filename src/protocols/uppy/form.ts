/** Files in one request: where to post the form, and the form itself. Empty files always come like this. */
import {
  FileSizeExceededError,
  InvalidRequestError,
  isNexusUploaderError,
  UploadClosedError,
  UploadLockedError,
  UploadNotFoundError,
} from '../../errors.ts'
import type { StoredObject, UploadEngine, UploadSession, WriteChunk } from '../../types.ts'
import { readForm } from '../chunk-body.ts'
import { contentLength, mediaType, refuseConsumed, refuseEncoding, sendJson, textField } from '../http.ts'
import { metadataOf } from '../metadata.ts'
import { etagOf } from './etags.ts'
import { type Exchange, refOf } from './exchange.ts'
import { grantFor, proofOf } from './grants.ts'
import { createSession } from './multipart.ts'

/** Room for the boundaries, headers and fields of the form, bytes. */
const formOverhead = 64 * 1024
const formFields = { fields: 16, fieldNameSize: 64, fieldSize: 4096, fieldNestingDepth: 0 }

/** `GET s3/params?filename=&type=&metadata[name]=` */
export async function params(exchange: Exchange): Promise<void> {
  const { query } = exchange
  const fileName = query.get('filename')
  if (!fileName) throw new InvalidRequestError('filename is missing.')
  const mimeType = query.get('type') ?? undefined
  const session = await createSession(exchange, { fileName, mimeType, metadata: metadataOf(metadataIn(query)) })
  sendJson(exchange.response, 200, { method: 'POST', ...formFor(exchange, session) })
}

function metadataIn(query: URLSearchParams): [string, string][] {
  return [...query].flatMap(([name, value]) => {
    const [, key] = /^metadata\[(.{1,256})\]$/s.exec(name) ?? []
    return key === undefined ? [] : [[key, value] satisfies [string, string]]
  })
}

/** The answer of S3 to whoever wants to post a form. */
export function formFor({ formUrl, urlTtl }: Exchange, session: UploadSession) {
  const { expires, signature } = grantFor(session, 'form', urlTtl)
  const token = [session.id, expires, signature].join('.')
  return { url: formUrl, fields: { key: session.key, token }, expires: Math.ceil(urlTtl / 1000) }
}

/** `POST` of that form: the fields, then the file. */
export async function postForm(exchange: Exchange): Promise<void> {
  const { engine, request, response } = exchange
  refuseEncoding(request)
  refuseConsumed(request)
  if (mediaType(request) !== 'multipart/form-data') {
    throw new InvalidRequestError('Send the file as multipart/form-data.', { code: 'INVALID_FORM' })
  }
  const { maxFileSize, bodyIdleTimeout: idleTimeout } = engine.limits
  const announced = contentLength(request)
  if ((announced ?? 0) > maxFileSize + formOverhead) throw new FileSizeExceededError(maxFileSize)
  // A form cannot have a file that is longer than itself, so less room than `maxFileSize` will do.
  const maxSize = Math.min(maxFileSize, announced ?? maxFileSize)
  const stored = await readForm(
    request,
    response,
    { fieldName: 'file', maxBytes: maxFileSize + formOverhead, idleTimeout, limits: formFields },
    async ({ stream }, fields, stop) => {
      const ref = grantedUpload(exchange, fields)
      const session = await engine.get(ref)
      if (session.key !== textField(fields, 'key', 4096)) throw new UploadNotFoundError()
      const signal = AbortSignal.any([exchange.signal, stop])
      const object = session.state === 'completing' ? await engine.complete(ref) : session.object
      if (object) return { ref, etag: await repeated(engine, object, { ...ref, body: stream, signal }) }
      const written = await engine.writeChunk({ ...ref, index: 0, body: stream, maxSize, signal }).catch(overtaken)
      return { ref, etag: etagOf({ size: written.size, crc32: written.crc32 ?? null }) }
    },
  )
  if (!stored.file) throw new InvalidRequestError('The form has no file part named file.', { code: 'MISSING_FILE' })
  const object = await engine.complete(stored.file.ref)
  sendStored(exchange, object, stored.file.etag)
}

/** Fields come before the file; the token says which upload it is and that it may be sent. */
function grantedUpload(exchange: Exchange, fields: unknown) {
  const [uploadId = '', expires = '', signature = ''] = (textField(fields, 'token', 4096) ?? '').split('.')
  return { ...refOf(exchange, uploadId), proof: proofOf('form', { expires, signature }) }
}

/** The form comes again, since its answer was lost: the file it brings must be the one that is stored. */
async function repeated(
  engine: UploadEngine,
  { size }: StoredObject,
  form: Omit<WriteChunk, 'index'>,
): Promise<string> {
  const isSame = size === 0 ? await isEmpty(engine, form) : await engine.matchesChunk({ ...form, index: 0 })
  if (isSame) return etagOf({ size })
  const message = 'The form has brought another file already. Ask for a new one.'
  throw new UploadClosedError(message, { code: 'FILE_CHANGED' })
}

/** The same form has come twice at a time, and the other is being stored: the next try will tell whether it was this file. */
function overtaken(error: unknown): never {
  throw isNexusUploaderError(error) && error.code === 'UPLOAD_CLOSED' ? new UploadLockedError({ cause: error }) : error
}

async function isEmpty(engine: UploadEngine, { body, signal }: Omit<WriteChunk, 'index'>): Promise<boolean> {
  const spooled = await engine.spool(body, { maxSize: 1, ...(signal && { signal }) })
  await spooled.discard()
  return spooled.size === 0
}

/** Uppy 5 hangs without an ETag, and takes Location for the URL of the file. */
function sendStored({ response }: Exchange, { url, key, size }: StoredObject, etag: string): void {
  response.setHeader('ETag', etag)
  // A URL may hold anything that its storage says; a header may not.
  response.setHeader('Location', encodeURI(url).replace(/%25(?=[0-9A-Fa-f]{2})/g, '%'))
  sendJson(response, 201, { location: url, key, size })
}
