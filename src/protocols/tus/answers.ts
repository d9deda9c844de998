/** What tus clients are told of an upload, and of an error. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { isNexusUploaderError, type NexusUploaderError, OffsetMismatchError } from '../../errors.ts'
import type { UploadEngine, UploadSession } from '../../types.ts'
import { closeAfterAnswer, drain, sendJson } from '../http.ts'
import { checksumList } from './headers.ts'

export const version = '1.0.0'
/** What is read of a refused body, so that the client gets to see the answer, bytes. */
const drainable = 256 * 1024
const retryAfter = 2

const extensions = [
  'creation',
  'creation-with-upload',
  'creation-defer-length',
  'expiration',
  'checksum',
  'checksum-trailer',
  'termination',
  'concatenation',
  'concatenation-unfinished',
]

/** The answer to OPTIONS (tus 1.0.0, "OPTIONS"). */
export function sendDiscovery(engine: UploadEngine, response: ServerResponse): void {
  response.setHeader('Tus-Version', version)
  response.setHeader('Tus-Extension', extensions.join(','))
  response.setHeader('Tus-Max-Size', engine.limits.maxFileSize)
  response.setHeader('Tus-Checksum-Algorithm', checksumList)
  sendEmpty(response, 204)
}

export function sendEmpty(response: ServerResponse, status: number): void {
  if (response.headersSent || response.destroyed) return
  response.statusCode = status
  response.end()
}

/** Until when the upload can be gone on with; nothing for one that has ended. */
export function setExpires(response: ServerResponse, session: UploadSession): void {
  if (session.open) response.setHeader('Upload-Expires', new Date(session.expiresAt).toUTCString())
}

/** A URL may hold anything that its storage says; a header may not. */
export function setOutcome(response: ServerResponse, url: string): void {
  response.setHeader('Content-Location', encodeURI(url).replace(/%25(?=[0-9A-Fa-f]{2})/g, '%'))
}

/** The status that makes tus clients do the right thing: 429 and 422 would be final for them. */
function statusOf(error: NexusUploaderError): number {
  if (error.code === 'CHECKSUM_MISMATCH') return 460
  if (error.code === 'COMPOSED') return 403
  return error.status === 429 ? 503 : error.status
}

/** Answers a refused request so that a client which is still sending gets to see it. */
export async function sendFailure(
  request: IncomingMessage,
  response: ServerResponse,
  error: NexusUploaderError,
): Promise<void> {
  // Who is silent, or is sending for an upload that is somebody else's now, is not waited for.
  const isOver = error.status === 423 || error.status === 410
  const isRead = request.complete || (!isOver && (await drain(request, drainable, error.code)))
  if (!isRead) closeAfterAnswer(request, response, error.code)
  const status = statusOf(error)
  const { code, message, retryable } = error
  if (status === 460) response.statusMessage = 'Checksum Mismatch'
  if (error instanceof OffsetMismatchError) response.setHeader('Upload-Offset', error.offset)
  if (error.retryAfter !== undefined) response.setHeader('Retry-After', error.retryAfter)
  sendJson(response, status, { ...error.details, error: error.name, code, message, retryable })
}

/**
 * HEAD is where clients decide whether their upload still exists: every answer but 423 makes them forget it and begin
 * anew, so 423 is for whatever may pass.
 */
export function sendHeadFailure(response: ServerResponse, error: NexusUploaderError): void {
  response.removeHeader('Upload-Offset')
  response.setHeader('Cache-Control', 'no-store')
  const passes = error.retryable || error.status >= 500 || error.status === 429
  if (passes) response.setHeader('Retry-After', error.retryAfter ?? retryAfter)
  sendEmpty(response, passes ? 423 : error.status)
}

/** Nobody is left to be told, or the line is better cut: a status would be final where a lost connection is not. */
export function isInterruption(error: unknown): boolean {
  return isNexusUploaderError(error) && (error.code === 'BODY_INCOMPLETE' || error.code === 'BODY_TIMEOUT')
}
