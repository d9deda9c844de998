/** Creation, and HEAD, PATCH and DELETE on an upload resource. */
import {
  ChecksumMismatchError,
  FileSizeExceededError,
  InvalidRequestError,
  isNexusUploaderError,
  NexusUploaderError,
  OffsetMismatchError,
  UnsupportedMediaTypeError,
} from '../../errors.ts'
import type { UploadSession } from '../../types.ts'
import { contentLength, mediaType, refuseConsumed } from '../http.ts'
import { locationOf } from '../resource.ts'
import { answerable, headerUrl, limitsOf, ProblemError, sendEmpty, sendFinal, setComplete } from './answers.ts'
import { completeWithin, type Exchange, isImplied, protocol, refOf } from './exchange.ts'
import { digestOf, fileNameOf, integerOf, isLast, metadataValue } from './fields.ts'
import { sendInterim } from './interim.ts'

const appendType = 'application/partial-upload'
/** How long HEAD waits for an object to be made, ms. */
const completionPatience = 5_000

export async function create(exchange: Exchange, last: boolean, resumable: boolean): Promise<void> {
  const { engine, request, response, interop } = exchange
  const { headers } = request
  refuseConsumed(request)
  const type = mediaType(request)
  const { session } = await engine.create({
    fileName: fileNameOf(headers) || metadataValue(headers, 'filename') || 'file',
    mimeType: metadataValue(headers, 'filetype') ?? (type === appendType ? undefined : type),
    totalSize: announcedLength(exchange, 0, last) ?? null,
    checksum: digestOf(headers, 'repr-digest'),
    protocol,
    owner: exchange.owner,
    context: request,
  })
  if (resumable) announce(exchange, session)
  try {
    await receive(exchange, session.id, 0, last)
  } catch (error) {
    // Nobody has been told of it, or it can never be right.
    const isLost = isNexusUploaderError(error) && !error.retryable && error.status !== 409
    const isCut = isNexusUploaderError(error) && error.code === 'BODY_INCOMPLETE'
    if ((isLost && !isCut) || error instanceof ChecksumMismatchError) await discard(exchange, session.id)
    throw error
  }
  if (response.headersSent) return
  response.setHeader('Location', locationOf(request, session.id, exchange.resource))
  if (interop.ageKey !== null) response.setHeader('Upload-Limit', limitsOf(engine, interop, session))
  sendEmpty(response, 201)
}

/** The first interim response: where the client finds its upload when the line breaks. */
function announce(exchange: Exchange, session: UploadSession): void {
  const { engine, request, response, interop } = exchange
  if (!exchange.interim) return
  sendInterim(response, {
    Location: locationOf(request, session.id, exchange.resource),
    ...(interop.ageKey !== null && { 'Upload-Limit': limitsOf(engine, interop, session) }),
    'Upload-Draft-Interop-Version': String(interop.version),
  })
}

/** The whole length, from `Upload-Length` and from the end of a last request. @throws ProblemError when they differ */
function announcedLength({ request }: Exchange, offset: number, last: boolean): number | undefined {
  const declared = integerOf(request.headers, 'upload-length')
  const size = request.headers['transfer-encoding'] === undefined ? (contentLength(request) ?? 0) : undefined
  const implied = last && size !== undefined ? offset + size : undefined
  if (declared !== undefined && implied !== undefined && declared !== implied) {
    throw new ProblemError('inconsistent-upload-length', 'Upload-Length is not the length that this request ends at.')
  }
  return declared ?? implied
}

/** Takes the body; answers when the upload is complete, or sets the fields for the answer when it is not. */
async function receive(exchange: Exchange, uploadId: string, offset: number, last: boolean): Promise<void> {
  const { engine, request, response, interop } = exchange
  const { headers } = request
  const appended = await engine.append({
    ...refOf(exchange, uploadId),
    offset,
    body: request,
    size: headers['transfer-encoding'] === undefined ? (contentLength(request) ?? 0) : undefined,
    totalSize: announcedLength(exchange, offset, last),
    checksum: digestOf(headers, 'content-digest'),
    onProgress: (reached) => progress(exchange, reached),
  })
  if (appended.interrupted) throw new OffsetMismatchError(appended.offset, offset)
  const { session } = appended
  if (last) requireEnd(session, appended.offset)
  if (last || isImplied(exchange, session, appended.offset) || session.state === 'completed') {
    sendFinal(exchange, uploadId, await engine.complete({ ...refOf(exchange, uploadId), totalSize: appended.offset }))
    return
  }
  setComplete(response, interop, false)
  response.setHeader('Upload-Offset', appended.offset)
}

function requireEnd({ totalSize }: UploadSession, offset: number): void {
  if (totalSize === null || totalSize === offset) return
  throw new ProblemError(
    'inconsistent-upload-length',
    `The upload ends at ${totalSize}, but its last bytes at ${offset}.`,
  )
}

function progress({ response, interop, interim }: Exchange, offset: number): void {
  if (!interim || !interop.progress) return
  sendInterim(response, { 'Upload-Offset': String(offset), 'Upload-Draft-Interop-Version': String(interop.version) })
}

export async function append(exchange: Exchange, uploadId: string): Promise<void> {
  const { request, response, interop } = exchange
  if (interop.appendType && mediaType(request) !== appendType) {
    throw new UnsupportedMediaTypeError(`Send the bytes as ${appendType}.`)
  }
  refuseConsumed(request)
  const offset = integerOf(request.headers, 'upload-offset')
  const last = isLast(request.headers, interop)
  if (offset === undefined) throw new InvalidRequestError('Upload-Offset is missing.')
  if (last === undefined && interop.completenessRequired) throw new InvalidRequestError('Upload-Complete is missing.')
  try {
    await receive(exchange, uploadId, offset, last ?? false)
  } catch (error) {
    throw await judge(exchange, uploadId, error)
  }
  sendEmpty(response, interop.appended)
}

/** An upload that can never be right is given up: a client must not go on with it (draft, "Upload Append"). */
async function judge(exchange: Exchange, uploadId: string, error: unknown): Promise<unknown> {
  const { engine } = exchange
  if (error instanceof FileSizeExceededError) {
    const session = await engine.get(refOf(exchange, uploadId)).catch(() => null)
    if (session?.object || session?.state === 'completing') {
      return new ProblemError('completed-upload', 'The upload is complete and takes no more bytes.')
    }
    if (session?.totalSize === null || !session) return error
    await discard(exchange, uploadId)
    return new ProblemError('inconsistent-upload-length', 'There are more bytes than the upload has room for.')
  }
  if (error instanceof ChecksumMismatchError && !error.retryable) {
    await discard(exchange, uploadId)
    return new NexusUploaderError(error.code, 400, error.message, { details: { final: true } })
  }
  return error
}

async function discard(exchange: Exchange, uploadId: string): Promise<void> {
  await answerable(exchange.request, exchange.response)
  await exchange.engine.abort(refOf(exchange, uploadId)).catch(() => {})
}

export async function retrieve(exchange: Exchange, uploadId: string): Promise<void> {
  const { engine, response, interop } = exchange
  refuseFields(exchange)
  const { session, offset } = await engine.retrieveOffset(refOf(exchange, uploadId))
  const object = isImplied(exchange, session, offset)
    ? await completeWithin(exchange, uploadId, completionPatience)
    : session.state === 'completed'
      ? session.object
      : null
  response.setHeader('Cache-Control', 'no-store')
  response.setHeader('Upload-Offset', offset)
  setComplete(response, interop, object !== null)
  if (session.totalSize !== null) response.setHeader('Upload-Length', session.totalSize)
  if (interop.ageKey !== null) response.setHeader('Upload-Limit', limitsOf(engine, interop, session))
  if (object) response.setHeader('Content-Location', headerUrl(object.url))
  sendEmpty(response, 204)
}

export async function cancel(exchange: Exchange, uploadId: string): Promise<void> {
  refuseFields(exchange)
  await exchange.engine.get(refOf(exchange, uploadId))
  await exchange.engine.abort({ ...refOf(exchange, uploadId), completed: 'forget' })
  sendEmpty(exchange.response, 204)
}

/** Older drafts want a HEAD or DELETE that carries the fields of an append refused. */
function refuseFields({ request, interop }: Exchange): void {
  const fields = ['upload-offset', 'upload-complete', 'upload-incomplete', 'upload-length']
  if (!interop.strict || !fields.some((name) => request.headers[name] !== undefined)) return
  throw new InvalidRequestError('This request must not carry the fields of an upload.')
}
