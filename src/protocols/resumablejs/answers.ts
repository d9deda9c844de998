/** What the clients are told: progress, the outcome, and errors with the status that makes each client do the right thing. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { setTimeout as wait } from 'node:timers/promises'
import { countChunks, receivedBytes } from '../../engine/chunk-map.ts'
import type { NexusUploaderError } from '../../errors.ts'
import type { UploadSession } from '../../types.ts'
import { closeAfterAnswer, drain, sendJson } from '../http.ts'
import type { DialectName, Plan } from './parameters.ts'

/** Resumable.js and Flow.js repeat a chunk at once, a hundred times: an answer that takes its time slows them down, ms. */
const transientDelay = 1_000

/** Whether all chunks are there. */
export function isAllThere({ chunks }: UploadSession, { totalChunks, totalSize }: Plan): boolean {
  return countChunks(chunks) === totalChunks && receivedBytes(chunks) === totalSize
}

/** `url`: of the object, once there is one. */
export function sendProgress(response: ServerResponse, session: UploadSession, plan: Plan, url?: string): void {
  sendJson(response, 200, {
    success: true,
    uploadId: session.id,
    uploadedChunks: countChunks(session.chunks),
    totalChunks: plan.totalChunks,
    complete: url !== undefined,
    ...(url !== undefined && { url }),
  })
}

/** Clients hand the body of the answer that came last to the application, so there is always one, except for this. */
export function sendMissing(response: ServerResponse): void {
  if (response.headersSent || response.destroyed) return
  response.statusCode = 204
  response.setHeader('Cache-Control', 'no-store')
  response.end()
}

/**
 * Each client gives up on a few statuses only, and sends the chunk again after all others: Resumable.js on 400, 404, 415,
 * 500 and 501, Flow.js on 404, 413, 415, 500 and 501. Dropzone looks at none.
 */
const permanent: Readonly<Record<DialectName | 'unknown', (status: number) => number>> = {
  resumable: (status) => (status === 410 ? 404 : [404, 415].includes(status) ? status : 400),
  flow: (status) => ([401, 403, 410].includes(status) ? 404 : [404, 413, 415].includes(status) ? status : 415),
  dropzone: (status) => status,
  // May be a form of Flow.js whose fields were not read.
  unknown: (status) => ([401, 403].includes(status) ? 404 : status),
}

export function statusOf(dialect: DialectName | 'unknown', { status, retryable }: NexusUploaderError): number {
  if (!retryable) return status >= 500 ? 500 : permanent[dialect](status)
  const isClear = dialect === 'dropzone' && status !== 423 && status !== 422
  return isClear ? status : 503
}

/** Answers a refused request so that a client which is still sending gets to see it. */
export async function sendFailure(
  request: IncomingMessage,
  response: ServerResponse,
  error: NexusUploaderError,
  { dialect, drainable, signal }: { dialect: DialectName | 'unknown'; drainable: number; signal: AbortSignal },
): Promise<void> {
  const isRead = await drain(request, drainable, error.code)
  if (error.retryable && request.method !== 'GET') {
    await wait(transientDelay, undefined, { signal, ref: false }).catch(() => {})
  }
  if (!isRead) closeAfterAnswer(request, response, error.code)
  if (response.headersSent || response.destroyed) return
  if (error.retryAfter !== undefined) response.setHeader('Retry-After', error.retryAfter)
  const { code, message, retryable } = error
  sendJson(response, statusOf(dialect, error), { ...error.details, error: error.name, code, message, retryable })
}
