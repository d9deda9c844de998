/** What IETF clients are told: final responses, limits, and problem documents (RFC 9457). */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http'
import {
  InvalidRequestError,
  isNexusUploaderError,
  type NexusUploaderError,
  OffsetMismatchError,
} from '../../errors.ts'
import type { StoredObject, UploadEngine, UploadSession } from '../../types.ts'
import { closeAfterAnswer, drain, sendJson } from '../http.ts'
import { locationOf } from '../resource.ts'
import type { Exchange } from './exchange.ts'
import { digestField } from './fields.ts'
import type { Interop } from './interop.ts'

const problems = 'https://iana.org/assignments/http-problem-types#'
/** What is read of a refused body, so that the client gets to see the answer, bytes. */
const drainable = 256 * 1024
const retryAfter = 2

/** 400 with one of the problem types that the draft registers. */
export class ProblemError extends InvalidRequestError {
  readonly problem: 'inconsistent-upload-length' | 'completed-upload'

  constructor(problem: ProblemError['problem'], message: string) {
    super(message, { code: problem === 'completed-upload' ? 'UPLOAD_COMPLETED' : 'INCONSISTENT_LENGTH' })
    this.problem = problem
  }
}

export function sendEmpty(response: ServerResponse, status: number): void {
  if (response.headersSent || response.destroyed) return
  response.statusCode = status
  response.end()
}

export function setComplete(response: ServerResponse, interop: Interop, complete: boolean): void {
  const inverted = interop.completeness === 'upload-incomplete'
  response.setHeader(inverted ? 'Upload-Incomplete' : 'Upload-Complete', complete === inverted ? '?0' : '?1')
}

/** `Upload-Limit`; of an upload also how many seconds it has left. */
export function limitsOf(engine: UploadEngine, interop: Interop, session?: UploadSession): string {
  const limits = [`max-size=${engine.limits.maxFileSize}`]
  if (session && interop.ageKey !== null) {
    limits.push(`${interop.ageKey}=${Math.max(0, Math.floor((session.expiresAt - Date.now()) / 1000))}`)
  }
  return limits.join(', ')
}

/** The one final response of a complete upload, the same however often it is asked for. */
export function sendFinal(exchange: Exchange, uploadId: string, object: StoredObject): void {
  const { request, response, interop, resource } = exchange
  const { url, key, size, checksum } = object
  setComplete(response, interop, true)
  response.setHeader('Upload-Offset', size)
  if (request.method !== 'PATCH') response.setHeader('Location', locationOf(request, uploadId, resource))
  response.setHeader('Content-Location', headerUrl(url))
  const digest = request.headers['want-repr-digest'] !== undefined && checksum ? digestField(checksum) : undefined
  if (digest) response.setHeader('Repr-Digest', digest)
  sendJson(response, 200, { url, key, size, uploadId })
}

export function headerUrl(url: string): string {
  return encodeURI(url).replace(/%25(?=[0-9A-Fa-f]{2})/g, '%')
}

/** Whether the answer is the last word on the upload, although it is an error. */
function isFinal(error: NexusUploaderError): boolean {
  return refusalOf(error) !== undefined || error.details.final === true
}

interface Refusal {
  readonly code: string
  readonly status: number
  readonly message: string
}

/** What the application said when it refused the file, also when it is asked again. */
function refusalOf({ code, details }: NexusUploaderError): Refusal | undefined {
  return code === 'UPLOAD_ABORTED' ? (details.refusal as Refusal | undefined) : undefined
}

export async function sendFailure(
  exchange: Pick<Exchange, 'request' | 'response' | 'interop' | 'engine'>,
  error: NexusUploaderError,
): Promise<void> {
  const { request, response, interop, engine } = exchange
  await answerable(request, response)
  setComplete(response, interop, isFinal(error))
  if (error.retryAfter !== undefined) response.setHeader('Retry-After', error.retryAfter)
  if (error.status === 413 && interop.ageKey !== null) response.setHeader('Upload-Limit', limitsOf(engine, interop))
  if (error instanceof OffsetMismatchError) response.setHeader('Upload-Offset', error.offset)
  const { code, message, retryable } = error
  const { status, ...said } = refusalOf(error) ?? { code, status: statusOf(error), message }
  sendJson(
    response,
    status,
    {
      type: typeOf(error),
      title: STATUS_CODES[status] ?? 'Error',
      status,
      detail: said.message,
      code: said.code,
      retryable,
      ...(error instanceof OffsetMismatchError && {
        'expected-offset': error.offset,
        'provided-offset': error.details.provided,
      }),
    },
    'application/problem+json',
  )
}

/** A client that is still sending must get to see the answer. */
export async function answerable(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (!(await drain(request, drainable))) closeAfterAnswer(request, response)
}

function statusOf(error: NexusUploaderError): number {
  if (error.code === 'CHECKSUM_MISMATCH') return 400
  return error.status === 423 ? 503 : error.status
}

function typeOf(error: NexusUploaderError): string {
  if (error instanceof OffsetMismatchError) return `${problems}mismatching-upload-offset`
  if (error instanceof ProblemError) return `${problems}${error.problem}`
  return error.code === 'INCONSISTENT_LENGTH' ? `${problems}inconsistent-upload-length` : 'about:blank'
}

/** Whatever may pass is 423: a client must neither forget its upload nor take it for failed. */
export function sendHeadFailure(response: ServerResponse, error: NexusUploaderError): void {
  response.removeHeader('Upload-Offset')
  response.setHeader('Cache-Control', 'no-store')
  const passes = error.retryable || error.status >= 500 || error.status === 429
  if (passes) response.setHeader('Retry-After', error.retryAfter ?? retryAfter)
  sendEmpty(response, passes ? 423 : error.status)
}

export function isInterruption(error: unknown): boolean {
  return isNexusUploaderError(error) && (error.code === 'BODY_INCOMPLETE' || error.code === 'BODY_TIMEOUT')
}
