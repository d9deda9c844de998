/** Writes answers. Each says how far the upload has come, whether it is complete, and where it is. */
import { constants } from 'node:http2'
import type { StoredObject, UploadSession } from '../../types.ts'
import { closeAfterAnswer, drain, sendJson } from '../http.ts'
import { digestField } from './digests.ts'
import { type Exchange, limitOf, locationOfUpload } from './exchange.ts'
import { headerOf } from './fields.ts'
import { setCompleteness } from './interop.ts'
import { documentOf, type Problem, problemOf, whileRetrieving } from './problems.ts'

/** Most of a refused body that is read before the answer, bytes. */
const worthDraining = 256 * 1024

/** The upload is there but not complete. */
export function sendIncomplete(exchange: Exchange, session: UploadSession, offset: number, status: number): void {
  const { response, dialect } = exchange
  if (response.headersSent || response.destroyed) return
  response.statusCode = status
  response.setHeader('Upload-Offset', offset)
  response.setHeader('Location', locationOfUpload(session))
  response.setHeader('Cache-Control', 'no-store')
  setCompleteness(response, dialect.interop, false)
  setLimit(exchange, session)
  response.end()
}

/** The final answer. Everything in it can be told again from the record, so a lost one can be asked for again. */
export function sendFinal(exchange: Exchange, session: UploadSession, object: StoredObject): void {
  const { request, response, dialect } = exchange
  if (response.headersSent || response.destroyed) return
  const { url, key, size } = object
  setCompleteness(response, dialect.interop, true)
  response.setHeader('Upload-Offset', size)
  if (dialect.standing !== 'unknown') response.setHeader('Location', locationOfUpload(session))
  setContentLocation(exchange, url)
  const digest = digestField(object.checksum, headerOf(request, 'Want-Repr-Digest'))
  if (digest !== undefined) response.setHeader('Repr-Digest', digest)
  sendJson(response, 200, { url, key, size, uploadId: session.id })
}

export function setLimit(exchange: Exchange, session?: UploadSession): void {
  const limit = limitOf(exchange, session)
  if (limit !== undefined) exchange.response.setHeader('Upload-Limit', limit)
}

/** Where the stored object is. What a header cannot hold is percent-encoded. */
export function setContentLocation({ response }: Exchange, url: string): void {
  response.setHeader('Content-Location', url.toWellFormed().replace(/[^!-~]+/gu, encodeURIComponent))
}

/**
 * Ends a request that failed. Nobody is there to be told when the client has gone; and one whose body stalls does not look
 * at answers, but finds out from the connection that it has to ask for the offset.
 */
export async function refuse(exchange: Exchange, thrown: unknown): Promise<void> {
  const { request, response, signal } = exchange
  const problem = problemOf(thrown)
  if (problem.code === 'INTERNAL_ERROR') warn(exchange, thrown)
  if (signal.aborted || response.headersSent || response.destroyed) return
  if (problem.code === 'BODY_INCOMPLETE' || problem.code === 'BODY_TIMEOUT') return cut(exchange)
  const isRead = !problem.superseded && (await drain(request, worthDraining, problem.code))
  if (response.headersSent || response.destroyed) return
  if (!isRead) endWithAnswer(exchange, problem.code)
  const isRetrieval = request.method === 'HEAD' || request.method === 'GET'
  sendProblem(exchange, isRetrieval ? whileRetrieving(problem) : problem)
}

function sendProblem(exchange: Exchange, problem: Problem): void {
  const { response, dialect } = exchange
  setCompleteness(response, dialect.interop, problem.final === true)
  if (problem.offset !== undefined) response.setHeader('Upload-Offset', problem.offset)
  if (problem.retryAfter !== undefined) response.setHeader('Retry-After', problem.retryAfter)
  if (problem.limits) setLimit(exchange)
  const text = JSON.stringify(documentOf(problem))
  response.statusCode = problem.status
  response.setHeader('Content-Type', 'application/problem+json')
  response.setHeader('Content-Length', Buffer.byteLength(text))
  response.setHeader('Cache-Control', 'no-store')
  response.setHeader('X-Content-Type-Options', 'nosniff')
  response.end(text)
}

function warn({ engine }: Exchange, error: unknown): void {
  try {
    engine.events.emit('warning', { code: 'REQUEST_FAILED', message: 'A request failed unexpectedly.', error })
  } catch {
    // A listener that throws must not keep the client from its answer.
  }
}

interface Http2Stream {
  close(code: number): void
}

/** Over HTTP/2 the connection is not this request's alone; the stream is. */
function streamOf(response: object): Http2Stream | undefined {
  return (response as { stream?: Http2Stream }).stream
}

function cut({ request, response }: Exchange): void {
  if (request.httpVersionMajor >= 2) streamOf(response)?.close(constants.NGHTTP2_CANCEL)
  else request.socket.destroy()
}

function endWithAnswer({ request, response }: Exchange, code = ''): void {
  if (request.httpVersionMajor < 2) closeAfterAnswer(request, response, code)
  else response.once('finish', () => streamOf(response)?.close(constants.NGHTTP2_NO_ERROR))
}
