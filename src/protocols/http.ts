/** What every protocol needs of HTTP, without Express: requests, answers, bodies that nobody wants. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { constants, type ServerHttp2Stream } from 'node:http2'
import {
  BodyIncompleteError,
  BodyTimeoutError,
  InvalidRequestError,
  NexusUploaderError,
  UnsupportedMediaTypeError,
} from '../errors.ts'

/** The request as Express 4 and 5 (and anything shaped like them) hand it over. */
export interface UploadRequest extends IncomingMessage {
  body?: unknown
  params?: Record<string, string | string[]>
  query?: unknown
}

/** Works as an Express route handler, and wherever `(req, res, next)` is understood. */
export type UploadHandler = (request: UploadRequest, response: ServerResponse, next: (error?: unknown) => void) => void

/** Who the upload belongs to: a stable id of the user, or `null` for everybody who knows the upload's id. */
export type OwnerOf = (request: UploadRequest) => string | null | undefined | Promise<string | null | undefined>

/** An error handler in Express' form: four parameters. */
export type UploadErrorHandler = (
  error: unknown,
  request: IncomingMessage,
  response: ServerResponse,
  next: (error?: unknown) => void,
) => void

const maxJsonBytes = 16 * 1024
/** Longest time for a JSON body, ms. */
const jsonTimeout = 30_000
/** What is read of a body that was refused, so that the client, still sending, gets to see the answer. */
const drainAllowance = 64 * 1024
const drainTimeout = 5_000
const lingerTimeout = 2_000
/** Of a server that is shutting down, instead of both: its time is up, and who is silent must not keep it. */
const closingTimeout = 300

/**
 * Aborted when the client has gone before the answer was complete. Call it before the first `await`: from then on no
 * byte of the body goes by to somebody who was listening before, until it is read here.
 */
export function signalOf(request: IncomingMessage, response: ServerResponse): AbortSignal {
  if (request.readableFlowing) request.pause()
  const controller = new AbortController()
  const gone = () => {
    if (!response.writableFinished) controller.abort(new BodyIncompleteError())
  }
  request.on('error', gone)
  request.on('aborted', gone)
  response.on('close', gone)
  if (request.destroyed && !request.complete) gone()
  return controller.signal
}

export function sendJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  type = 'application/json; charset=utf-8',
): void {
  if (response.headersSent || response.destroyed) return
  const text = JSON.stringify(body)
  response.statusCode = status
  response.setHeader('Content-Type', type)
  response.setHeader('Content-Length', Buffer.byteLength(text))
  response.setHeader('Cache-Control', 'no-store')
  response.setHeader('X-Content-Type-Options', 'nosniff')
  response.end(text)
}

/** The one form of an error answer: `{ error, code, message, retryable, … }`. */
export function sendError(response: ServerResponse, error: NexusUploaderError): void {
  if (response.headersSent || response.destroyed) return
  if (error.retryAfter !== undefined) response.setHeader('Retry-After', error.retryAfter)
  const { code, message, retryable } = error
  sendJson(response, error.status, { ...error.details, error: error.name, code, message, retryable })
}

/** A string field of a body or a query that somebody else parsed; arrays and objects are not strings. */
export function fieldOf(source: unknown, name: string): string | number | undefined {
  if (typeof source !== 'object' || source === null || !Object.hasOwn(source, name)) return undefined
  const value = (source as Record<string, unknown>)[name]
  if (value === undefined || value === null) return undefined
  if (typeof value === 'string' || typeof value === 'number') return value
  throw new InvalidRequestError(`${name} must be a single value.`)
}

export function textField(source: unknown, name: string, maxLength: number): string | undefined {
  const value = fieldOf(source, name)
  if (value === undefined) return undefined
  if (typeof value !== 'string') throw new InvalidRequestError(`${name} must be a string.`)
  if (value.length > maxLength) throw new InvalidRequestError(`${name} is longer than ${maxLength} characters.`)
  return value
}

/** The query of the URL, whatever parser the app has set. */
export function queryOf(request: IncomingMessage): URLSearchParams {
  const url = request.url ?? ''
  const at = url.indexOf('?')
  return new URLSearchParams(at < 0 ? '' : url.slice(at + 1))
}

/** A whole number, as a number or in plain decimal digits. @throws InvalidRequestError for anything else */
export function integerField(source: unknown, name: string): number | undefined {
  const value = fieldOf(source, name)
  if (value === undefined) return undefined
  const number = typeof value === 'number' ? value : /^(0|[1-9]\d{0,15})$/.test(value) ? Number(value) : Number.NaN
  if (Number.isSafeInteger(number) && number >= 0 && !Object.is(number, -0)) return number
  throw new InvalidRequestError(`${name} must be a whole number, 0 or more.`)
}

/**
 * The JSON body: what a body parser of the app left in `request.body`, or parsed here (at most `maxBytes`, 16 KiB by
 * default) when there was none. @throws InvalidRequestError
 */
export async function jsonBody(
  request: UploadRequest,
  signal: AbortSignal,
  maxBytes: number = maxJsonBytes,
): Promise<unknown> {
  const parsed = request.body
  if (parsed !== undefined && (request.readableEnded || hasKeys(parsed))) return requireObject(parsed)
  if (request.readableEnded) throw new InvalidRequestError('The body was read by something else before this route.')
  const type = mediaType(request)
  if (
    type !== '' &&
    type !== 'application/json' &&
    type !== 'text/plain' &&
    type !== 'application/x-www-form-urlencoded'
  ) {
    throw new UnsupportedMediaTypeError('Send this request as application/json.')
  }
  refuseEncoding(request)
  const text = await textBody(request, signal, maxBytes)
  if (type === 'application/x-www-form-urlencoded') return Object.fromEntries(new URLSearchParams(text))
  try {
    return requireObject(JSON.parse(text))
  } catch (cause) {
    throw new InvalidRequestError('The body is not a JSON object.', { cause })
  }
}

function hasKeys(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length > 0
}

function requireObject(value: unknown): unknown {
  if (typeof value === 'object' && value !== null && !Array.isArray(value) && !Buffer.isBuffer(value)) return value
  throw new InvalidRequestError('The body is not a JSON object.')
}

export function mediaType(request: IncomingMessage): string {
  return (request.headers['content-type'] ?? '').split(';')[0]?.trim().toLowerCase() ?? ''
}

/** @throws UnsupportedMediaTypeError for a compressed body: what it unpacks to cannot be bounded in advance */
export function refuseEncoding(request: IncomingMessage): void {
  const encoding = request.headers['content-encoding']
  if (encoding === undefined || encoding.trim().toLowerCase() === 'identity') return
  throw new UnsupportedMediaTypeError('Content-Encoding is not accepted here. Send the bytes as they are.')
}

/** `Content-Length` as a number; `undefined` for a chunked body. */
export function contentLength(request: IncomingMessage): number | undefined {
  const header = request.headers['content-length']
  return header === undefined ? undefined : Number(header)
}

/** @throws NexusUploaderError (500) when a body parser of the app was here first and took the bytes */
export function refuseConsumed(request: UploadRequest): void {
  const isTouched = request.readableEnded || request.readableDidRead
  if (isTouched || (request as { _body?: unknown })._body) throw alreadyRead()
}

export function alreadyRead(): NexusUploaderError {
  const message = 'The body was read before it reached the upload route. Mount the route before body parsers.'
  return new NexusUploaderError('BODY_ALREADY_READ', 500, message)
}

/** A short body as text. @throws NexusUploaderError (413) when it is longer than `maxBytes` */
export async function textBody(request: IncomingMessage, signal: AbortSignal, maxBytes: number): Promise<string> {
  return (await readAll(request, signal, maxBytes)).toString('utf8')
}

/** Leaves the request undestroyed when it fails, so that the client can still be answered. */
function readAll(request: IncomingMessage, signal: AbortSignal, maxBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const buffers: Buffer[] = []
    let size = 0
    const settle = (finish: () => void) => {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      request.off('data', onData).off('end', onEnd)
      request.pause()
      finish()
    }
    const fail = (error: unknown) => settle(() => reject(error))
    const onAbort = () => fail(signal.reason)
    const onEnd = () => settle(() => resolve(Buffer.concat(buffers)))
    const onData = (data: Buffer) => {
      size += data.length
      buffers.push(data)
      if (size > maxBytes) fail(bodyTooLarge(maxBytes))
    }
    const timer = setTimeout(() => fail(new BodyTimeoutError(jsonTimeout)), jsonTimeout).unref()
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    else request.on('end', onEnd).on('data', onData).resume()
  })
}

export function bodyTooLarge(maxBytes: number): NexusUploaderError {
  return new NexusUploaderError('BODY_TOO_LARGE', 413, `The body is larger than ${maxBytes} bytes.`)
}

/**
 * Brings a refused request to an end at which an answer arrives: a client that is still sending does not look. Reads
 * what is left when that is little; `false` when it is not, or does not come.
 * @param code of the error that the answer is about
 */
export async function drain(request: IncomingMessage, maxBytes: number, code: string): Promise<boolean> {
  if (request.complete && request.readableEnded) return true
  if (request.destroyed) return request.complete
  const announced = contentLength(request)
  if (announced !== undefined && announced > maxBytes + drainAllowance) return false
  return new Promise((resolve) => {
    let left = maxBytes + drainAllowance
    const finish = (ended: boolean) => {
      clearTimeout(timer)
      request.off('data', onData).off('end', onEnd).off('close', onClose)
      resolve(ended)
    }
    const onData = (data: Buffer) => {
      left -= data.length
      if (left < 0) finish(false)
    }
    const onEnd = () => finish(true)
    const onClose = () => finish(request.complete)
    const timer = setTimeout(() => finish(false), isClosing(code) ? closingTimeout : drainTimeout).unref()
    request.unpipe()
    request.on('data', onData).on('end', onEnd).on('close', onClose)
    request.resume()
  })
}

function isClosing(code: string): boolean {
  return code === 'CLOSING'
}

/**
 * Prepares an answer while the body is still coming: reading stops, the client gets the answer and some time to see it,
 * then the socket goes. Call it before the answer is written.
 * @param code of the error that the answer is about, if it is one
 */
export function closeAfterAnswer(request: IncomingMessage, response: ServerResponse, code = ''): void {
  request.unpipe()
  if (request.httpVersionMajor > 1) {
    closeStream(response)
    return
  }
  request.pause()
  const { socket } = request
  response.shouldKeepAlive = false
  // Node would destroy the socket as soon as the answer is written; with unread data in it that is a reset, which
  // can overtake the answer. Ending it lets the client read first.
  socket.destroySoon = () => socket.end()
  const linger = isClosing(code) ? closingTimeout : lingerTimeout
  response.once('finish', () => {
    // Node has just begun to read and throw away whatever still comes of a body that nobody had asked for, as fast as it comes.
    setImmediate(() => socket.pause())
    setTimeout(() => socket.destroy(), linger).unref()
  })
}

/** The connection has other requests as well; `NO_ERROR` tells the client to read the answer and send no more (RFC 9113, 8.1). */
function closeStream(response: ServerResponse): void {
  const { stream } = response as unknown as { stream?: ServerHttp2Stream }
  response.once('finish', () => stream?.close(constants.NGHTTP2_NO_ERROR))
}

export function sendErrorAndClose(request: IncomingMessage, response: ServerResponse, error: NexusUploaderError): void {
  closeAfterAnswer(request, response, error.code)
  sendError(response, error)
}
