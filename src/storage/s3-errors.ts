/** What a failed S3 call means: whether to try again, and what a client may hear of it. */
import { isNexusUploaderError, type NexusUploaderError, S3UploadError, type StorageErrorDetails } from '../errors.ts'

/**
 * - `transient`: throttled, overloaded, or the network broke: repeat
 * - `unconfirmed`: a success that does not say what it must, or S3 holds other bytes than were sent: repeat
 * - `timeout`: our own deadline passed
 * - `gone`: no such multipart upload (any more)
 * - `missing`: no such object
 * - `clock`: the clocks differ; the SDK corrects its own from the answer, so one repetition helps
 * - `denied`: credentials, policy or bucket are wrong
 * - `quota`: no room
 * - `aborted`: the caller no longer wants it
 * - `source`: the bytes to send could not be read
 * - `refused`: everything else
 */
export type FailureKind =
  | 'transient'
  | 'unconfirmed'
  | 'timeout'
  | 'gone'
  | 'missing'
  | 'clock'
  | 'denied'
  | 'quota'
  | 'aborted'
  | 'source'
  | 'refused'

/** Our own deadline for one attempt has passed. */
export class DeadlineError extends Error {
  override readonly name = 'DeadlineError'
  constructor(milliseconds: number) {
    super(`S3 gave no answer within ${milliseconds} ms`)
  }
}

/** S3 answered with a success, and yet does not have what was sent, or is no S3. */
export class ReceiptError extends Error {
  override readonly name = 'ReceiptError'
}

/** The caller's signal was aborted. */
export class CallAbortedError extends Error {
  override readonly name = 'CallAbortedError'
}

/** The bytes to send ended early, were too many, or could not be read. */
export class SourceError extends Error {
  override readonly name = 'SourceError'
}

const byName: Readonly<Record<string, FailureKind>> = {
  DeadlineError: 'timeout',
  ReceiptError: 'unconfirmed',
  CallAbortedError: 'aborted',
  SourceError: 'source',
  NoSuchUpload: 'gone',
  // Ceph's word for a multipart upload that is gone; HeadObject says `NotFound`, so the two never mix.
  NoSuchKey: 'gone',
  NotFound: 'missing',
  RequestTimeTooSkewed: 'clock',
  RequestExpired: 'clock',
  RequestInTheFuture: 'clock',
  NoSuchBucket: 'denied',
  CredentialsProviderError: 'denied',
  QuotaExceeded: 'quota',
  InsufficientCapacity: 'quota',
  XMinioStorageFull: 'quota',
  TimeoutError: 'transient',
  RequestTimeout: 'transient',
  SlowDown: 'transient',
  Throttling: 'transient',
  ThrottlingException: 'transient',
  TooManyRequests: 'transient',
  RequestLimitExceeded: 'transient',
  OperationAborted: 'transient',
  InternalError: 'transient',
  ServiceUnavailable: 'transient',
  // The network damaged or cut the body on its way.
  IncompleteBody: 'transient',
  BadDigest: 'transient',
  // Of a sum that we made: other words for the same.
  InvalidDigest: 'transient',
  XAmzContentChecksumMismatch: 'transient',
  XAmzContentSHA256Mismatch: 'transient',
}

const byStatus: Readonly<Record<number, FailureKind>> = {
  401: 'denied',
  403: 'denied',
  429: 'transient',
  500: 'transient',
  502: 'transient',
  503: 'transient',
  504: 'transient',
  507: 'quota',
}

const networkCodes = new Set(
  'ECONNRESET ECONNREFUSED ECONNABORTED EPIPE ETIMEDOUT ENOTFOUND EAI_AGAIN EHOSTUNREACH ENETUNREACH EHOSTDOWN'.split(
    ' ',
  ),
)

interface Shape {
  readonly name?: unknown
  readonly message?: unknown
  readonly Header?: unknown
  readonly stack?: unknown
  readonly code?: unknown
  readonly $metadata?: { readonly httpStatusCode?: number; readonly requestId?: string; readonly attempts?: number }
}

/** The server knows no `Content-MD5`: S3's words for it name the header, or tell it beside the message. */
export function refusesMd5(error: unknown): boolean {
  const { name, message, Header } = shapeOf(error)
  return name === 'NotImplemented' && /content.?md5/i.test(`${message} ${Header}`)
}

export function classify(error: unknown): FailureKind {
  const { name, code, $metadata } = shapeOf(error)
  const named = typeof name === 'string' && Object.hasOwn(byName, name) ? byName[name] : undefined
  if (named) return named
  const status = $metadata?.httpStatusCode
  const byCode = status === undefined ? undefined : byStatus[status]
  if (byCode) return byCode
  if (typeof code === 'string' && (networkCodes.has(code) || code.startsWith('HPE_'))) return 'transient'
  // A successful status with an answer that cannot be read: cut on its way, or no S3 at all.
  return status !== undefined && status < 300 ? 'transient' : 'refused'
}

const answers: Readonly<
  Record<FailureKind, { readonly status: number; readonly code?: string; readonly message?: string }>
> = {
  transient: { status: 503, message: 'The storage is not available right now. Nothing was lost; try again.' },
  unconfirmed: { status: 502 },
  timeout: { status: 504, message: 'The storage did not answer in time. Nothing was lost; try again.' },
  gone: { status: 502, code: 'MULTIPART_GONE', message: 'The storage no longer knows this upload.' },
  missing: { status: 502 },
  clock: { status: 502, code: 'S3_CLOCK_SKEW' },
  denied: { status: 502 },
  quota: { status: 507, message: 'There is no room for this upload right now. Try again later.' },
  aborted: { status: 503, code: 'S3_ABORTED', message: 'The storage call was given up. Try again.' },
  source: { status: 503, code: 'S3_SOURCE_FAILED', message: 'The data could not be read. Try again.' },
  refused: { status: 502 },
}

const kinds = new WeakMap<object, FailureKind>()

/** Whether the same request may succeed when it is sent again; different clocks are corrected by the first answer. */
export function passes(kind: FailureKind, attempt: number): boolean {
  return kind === 'transient' || kind === 'unconfirmed' || (kind === 'clock' && attempt === 1)
}

/** The error that leaves the adapter. An error of ours (a size limit hit while reading, say) stays what it is. */
export function toS3Error(error: unknown, operation: string): NexusUploaderError {
  if (isNexusUploaderError(error)) return error
  return s3Error(classify(error), summary(error, operation))
}

/** An `S3UploadError` of the given kind. */
export function s3Error(kind: FailureKind, cause: Error): S3UploadError {
  const { status, code, message } = answers[kind]
  const details: StorageErrorDetails = { status, cause }
  if (code) details.code = code
  const error = new S3UploadError(message, details)
  kinds.set(error, kind)
  return error
}

/** Which kind an error of `toS3Error` is; anything else counts as `source`: it came from the data's side. */
export function kindOf(error: unknown): FailureKind {
  return (typeof error === 'object' && error !== null ? kinds.get(error) : undefined) ?? 'source'
}

/**
 * A copy with the parts that help. The SDK's own error carries the whole answer and request along, and with them
 * access key ids and session tokens, which must not come into logs.
 */
function summary(error: unknown, operation: string): Error {
  const { name, message, stack, code, $metadata } = shapeOf(error)
  const copy = new Error(
    `${operation}: ${typeof message === 'string' && message !== '' ? message : String(name ?? error)}`,
  )
  if (typeof name === 'string') copy.name = name
  if (typeof stack === 'string')
    Object.defineProperty(copy, 'stack', { value: stack, configurable: true, writable: true })
  return Object.assign(copy, {
    operation,
    ...(typeof code === 'string' ? { code } : {}),
    ...($metadata?.httpStatusCode === undefined ? {} : { httpStatus: $metadata.httpStatusCode }),
    ...($metadata?.requestId === undefined ? {} : { requestId: $metadata.requestId }),
  })
}

function shapeOf(error: unknown): Shape {
  return typeof error === 'object' && error !== null ? error : { message: String(error) }
}
