/** HEAD, PATCH and DELETE on an upload. */
import {
  InvalidRequestError,
  isNexusUploaderError,
  UnsupportedMediaTypeError,
  UploadLockedError,
} from '../../errors.ts'
import type { Appended, UploadSession } from '../../types.ts'
import { closeAfterAnswer, contentLength, mediaType, refuseConsumed, refuseEncoding } from '../http.ts'
import { sendEmpty, setExpires, setOutcome } from './answers.ts'
import { completeWithin, type Exchange, isDue, refOf } from './exchange.ts'
import { checksumOf, headerOf, numberHeader } from './headers.ts'

export const bodyType = 'application/offset+octet-stream'

/** How long HEAD waits for an object to be made, ms. */
const completionPatience = 5_000

/** tus 1.0.0, "HEAD". Also drives a completion that failed or was cut off: only an object is a success. */
export async function head(exchange: Exchange, uploadId: string): Promise<void> {
  const { engine, response } = exchange
  const { session, offset } = await engine.retrieveOffset(refOf(exchange, uploadId))
  const isCompleted = session.state === 'completed'
  const outcome = isCompleted ? session.object?.url : await outcomeOf(exchange, session, offset)
  if (outcome === undefined) return describe(exchange, session, session.sources ? null : offset)
  setOutcome(response, outcome)
  const latest = isCompleted ? session : await engine.get(refOf(exchange, uploadId))
  describe(exchange, latest, latest.totalSize)
}

async function outcomeOf(exchange: Exchange, session: UploadSession, offset: number): Promise<string | undefined> {
  if (!isDue(session, offset) && !session.sources) return undefined
  try {
    return (await completeWithin(exchange, session.id, completionPatience)).url
  } catch (error) {
    if (session.sources && isNexusUploaderError(error) && error.code === 'UPLOAD_INCOMPLETE') return undefined
    throw error
  }
}

function describe({ response }: Exchange, session: UploadSession, offset: number | null): void {
  const { totalSize, wire } = session
  response.setHeader('Cache-Control', 'no-store')
  if (offset !== null) response.setHeader('Upload-Offset', offset)
  if (totalSize === null) response.setHeader('Upload-Defer-Length', '1')
  else response.setHeader('Upload-Length', totalSize)
  if (wire?.metadata !== undefined) response.setHeader('Upload-Metadata', wire.metadata)
  if (wire?.concat !== undefined) response.setHeader('Upload-Concat', wire.concat)
  setExpires(response, session)
  sendEmpty(response, 200)
}

/** tus 1.0.0, "PATCH". */
export async function patch(exchange: Exchange, uploadId: string): Promise<void> {
  const { engine, request, response } = exchange
  if (mediaType(request) !== bodyType) throw new UnsupportedMediaTypeError(`Send the bytes as ${bodyType}.`)
  refuseEncoding(request)
  refuseConsumed(request)
  const at = numberHeader(request.headers, 'upload-offset')
  if (at === undefined) throw new InvalidRequestError('Upload-Offset is missing.')
  const { session, offset, size, interrupted } = await appendBody(exchange, uploadId, at)
  if (interrupted) {
    if (size === 0) throw new UploadLockedError()
    // What came is kept; the rest is still on the line.
    closeAfterAnswer(request, response)
  } else if (isDue(session, offset)) {
    setOutcome(response, (await engine.complete(refOf(exchange, uploadId))).url)
  } else if (session.state === 'completed' && session.object) {
    setOutcome(response, session.object.url)
  } else if (session.partial && session.totalSize === offset) {
    await completeFinals(exchange, session)
  }
  response.setHeader('Upload-Offset', offset)
  if (session.totalSize !== offset || session.partial) setExpires(response, session)
  sendEmpty(response, 204)
}

/** The body of a PATCH, or of a creation. */
export function appendBody(exchange: Exchange, uploadId: string, offset: number): Promise<Appended> {
  const { engine, request } = exchange
  const { headers } = request
  const isTrailer = /\bupload-checksum\b/i.test(headerOf(headers, 'trailer') ?? '')
  const announced = checksumOf(headerOf(headers, 'upload-checksum'))
  const trailing = () => checksumOf(request.trailers['upload-checksum']) ?? announced
  return engine.append({
    ...refOf(exchange, uploadId),
    offset,
    body: request,
    size: headers['transfer-encoding'] === undefined ? (contentLength(request) ?? 0) : undefined,
    totalSize: numberHeader(headers, 'upload-length'),
    checksum: isTrailer ? trailing : announced,
  })
}

/** The concatenations that waited for this one. What hinders them is told by HEAD on them, which tries again. */
async function completeFinals(exchange: Exchange, session: UploadSession): Promise<void> {
  await Promise.allSettled((session.finals ?? []).map((id) => completeWithin(exchange, id, completionPatience)))
}

/** Termination. */
export async function terminate(exchange: Exchange, uploadId: string): Promise<void> {
  const { engine, response, removeCompleted } = exchange
  const ref = refOf(exchange, uploadId)
  // What has ended, or has been complete for long, is gone already.
  if ((await engine.get(ref)).state === 'completed') await engine.retrieveOffset(ref)
  await engine.abort({ ...ref, completed: removeCompleted ? 'remove' : 'forget' })
  sendEmpty(response, 204)
}
