/** The errors of S3 by code, and the faults that a test can order. */

const statuses: Readonly<Record<string, number>> = {
  AccessDenied: 403,
  AuthorizationHeaderMalformed: 400,
  BadDigest: 400,
  BucketAlreadyExists: 409,
  BucketNotEmpty: 409,
  EntityTooSmall: 400,
  ExpiredToken: 400,
  IncompleteBody: 400,
  InternalError: 500,
  InvalidAccessKeyId: 403,
  InvalidArgument: 400,
  InvalidDigest: 400,
  InvalidPart: 400,
  InvalidPartOrder: 400,
  InvalidRange: 416,
  InvalidRequest: 400,
  InvalidURI: 400,
  MalformedXML: 400,
  MetadataTooLarge: 400,
  MethodNotAllowed: 405,
  MissingContentLength: 411,
  NoSuchBucket: 404,
  NoSuchKey: 404,
  NoSuchLifecycleConfiguration: 404,
  NoSuchUpload: 404,
  NotImplemented: 501,
  OperationAborted: 409,
  PreconditionFailed: 412,
  QuotaExceeded: 403,
  RequestTimeTooSkewed: 403,
  RequestTimeout: 400,
  ServiceUnavailable: 503,
  SignatureDoesNotMatch: 403,
  SlowDown: 503,
  TooManyRequests: 429,
  XAmzContentSHA256Mismatch: 400,
}

/** An answer with an S3 error code. */
export class S3Fault extends Error {
  readonly code: string
  readonly status: number

  constructor(code: string, message = code) {
    super(message)
    this.code = code
    this.status = statuses[code] ?? 400
  }
}

/** A fault for the next requests of one operation. */
export interface OrderedFault {
  /** How many requests get it. Default 1. */
  times?: number
  /** How many requests go through before. Default 0. */
  skip?: number
  /**
   * - a number: that status, with `SlowDown`, `InternalError` … as code, and nothing done
   * - a code: that S3 error, and nothing done
   * - `reset`: the connection is reset, and nothing done
   * - `hang`: no answer ever, and nothing done
   * - `html`: 503 with a proxy's web page
   * - `error-in-200`: 200, white space, then an `<Error>` body, and nothing done
   * - `drip`: done; 200 at once, white space for `delayMs`, then the real body
   * - `lost-response`: done, then the connection is reset
   * - `empty-200`: 200 without a body, and nothing done
   * - `drip-error`: 200 at once, white space for `delayMs`, then an `<Error>` body, and nothing done
   * - `no-etag`, `wrong-etag`: done, but the answer has no ETag, or that of other bytes
   * - `no-checksum`: done, but the answer does not have the CRC-32 that was declared
   * - `truncated`, `damaged`: 200, but half of the body is missing, or one of its bytes is another
   * - `close`: the connection is closed without an answer, as when a kept-alive one has been idle for too long
   * - `redirect-301`, `redirect-307`: to `location`, and nothing done
   * - `reply`: whatever `reply` says, and nothing done
   * - `ok`: done and answered; with `delayMs` that is a slow server
   */
  status:
    | number
    | 'reset'
    | 'hang'
    | 'html'
    | 'error-in-200'
    | 'drip'
    | 'lost-response'
    | 'empty-200'
    | 'drip-error'
    | 'no-etag'
    | 'wrong-etag'
    | 'no-checksum'
    | 'truncated'
    | 'damaged'
    | 'close'
    | 'redirect-301'
    | 'redirect-307'
    | 'reply'
    | 'ok'
    | (string & {})
  /** Waits before it answers, ms. */
  delayMs?: number
  /** Where a redirect leads. */
  location?: string
  /** The answer of `reply`. */
  reply?: { readonly status: number; readonly headers?: Record<string, string>; readonly body: string }
}

/** The code that a bare status stands for. */
export function codeOfStatus(status: number): string {
  return (
    { 404: 'NotFound', 429: 'TooManyRequests', 500: 'InternalError', 503: 'SlowDown' }[status] ?? 'ServiceUnavailable'
  )
}

/** Orders of faults by operation, each used up as it is served. */
export class FaultOrders {
  readonly #orders = new Map<string, { fault: OrderedFault; skip: number; times: number }[]>()

  add(operation: string, fault: OrderedFault): void {
    const list = this.#orders.get(operation) ?? []
    list.push({ fault, skip: fault.skip ?? 0, times: fault.times ?? 1 })
    this.#orders.set(operation, list)
  }

  clear(): void {
    this.#orders.clear()
  }

  /** Those for `*` come after the ones for the operation itself. */
  take(operation: string): OrderedFault | undefined {
    return this.#takeOf(operation) ?? this.#takeOf('*')
  }

  #takeOf(operation: string): OrderedFault | undefined {
    for (const order of this.#orders.get(operation) ?? []) {
      if (order.times === 0) continue
      if (order.skip > 0) {
        order.skip -= 1
        return undefined
      }
      order.times -= 1
      return order.fault
    }
    return undefined
  }
}
