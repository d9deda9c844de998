/**
 * The errors. Their `code` is stable, their `status` is what clients decide on whether to retry, their message may
 * be shown to a client. What really happened inside (paths, storage answers) is in `cause` only.
 */

const brand = Symbol.for('nexus-uploader.error')

export interface ErrorDetails {
  /** What really went wrong; for the server's eyes only. */
  cause?: unknown
  /** Extra keys for the client's JSON: limits, offsets, missing ranges. Never internals. */
  details?: Readonly<Record<string, unknown>>
  /** Seconds after which a retry makes sense, sent as `Retry-After`. */
  retryAfter?: number
  /** Default: by the status. */
  retryable?: boolean
}

/** The base of everything this library throws on purpose. */
export class NexusUploaderError extends Error {
  /** Stable, upper case: `UPLOAD_NOT_FOUND`. */
  readonly code: string
  /** HTTP status; `statusCode` is the same for frameworks that read that name. */
  readonly status: number
  readonly statusCode: number
  /** Whether the same request can succeed later without being changed. */
  readonly retryable: boolean
  readonly details: Readonly<Record<string, unknown>>
  readonly retryAfter: number | undefined
  /** The message is written for clients. */
  readonly expose = true
  readonly [brand] = true

  constructor(code: string, status: number, message: string, options: ErrorDetails = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = new.target.name
    this.code = code
    this.status = status
    this.statusCode = status
    this.retryable = options.retryable ?? [408, 423, 429, 502, 503, 504, 507].includes(status)
    this.details = options.details ?? {}
    this.retryAfter = options.retryAfter ?? (this.retryable && status > 408 && status !== 422 ? 2 : undefined)
    // Express' own error handler prints `stack` to the client outside production, and a stack holds paths. Where it
    // was thrown is in `cause`, which nobody prints to a client.
    Object.defineProperty(this, 'stack', {
      value: `${this.name} [${code}]: ${message}`,
      configurable: true,
      writable: true,
    })
  }
}

/** Whether `error` is one of ours, also across two copies of this package or its ESM and CJS builds. */
export function isNexusUploaderError(error: unknown): error is NexusUploaderError {
  return typeof error === 'object' && error !== null && (error as Record<symbol, unknown>)[brand] === true
}

/** 400: the request is malformed; sending it again does not help. */
export class InvalidRequestError extends NexusUploaderError {
  constructor(message: string, options?: ErrorDetails & { code?: string }) {
    super(options?.code ?? 'INVALID_REQUEST', 400, message, options)
  }
}

/** 408: no byte of the body came for `bodyIdleTimeout` ms. */
export class BodyTimeoutError extends NexusUploaderError {
  constructor(idleTimeout: number, options?: ErrorDetails) {
    super('BODY_TIMEOUT', 408, `No data arrived for ${idleTimeout} ms. Send the chunk again.`, options)
  }
}

/** 400: the connection ended before the body did. Nobody is left to read this answer; logs are. */
export class BodyIncompleteError extends NexusUploaderError {
  constructor(options?: ErrorDetails) {
    super('BODY_INCOMPLETE', 400, 'The request body ended too early. Nothing of it was kept; send it again.', options)
  }
}

/** 415: the file's media type is not accepted, or its bytes are of another type than it is declared as. */
export class InvalidFileTypeError extends NexusUploaderError {
  constructor(mimeType: string, allowed: readonly string[] = [], options?: ErrorDetails & { message?: string }) {
    super('INVALID_FILE_TYPE', 415, options?.message ?? `Files of type ${mimeType} are not accepted.`, {
      ...options,
      details: { allowed, ...options?.details },
    })
  }
}

/** 415: the request's Content-Type or Content-Encoding is not one this route reads. */
export class UnsupportedMediaTypeError extends NexusUploaderError {
  constructor(message: string, options?: ErrorDetails) {
    super('UNSUPPORTED_MEDIA_TYPE', 415, message, options)
  }
}

/** 413: the file is larger than `maxFileSize`, or than the size that was declared. */
export class FileSizeExceededError extends NexusUploaderError {
  constructor(limit: number, options?: ErrorDetails & { message?: string }) {
    super('FILE_SIZE_EXCEEDED', 413, options?.message ?? `The file is larger than the limit of ${limit} bytes.`, {
      ...options,
      details: { limit, ...options?.details },
    })
  }
}

/** 413: one chunk is larger than `maxChunkSize`, or than the chunk size that was declared. */
export class ChunkSizeExceededError extends NexusUploaderError {
  constructor(limit: number, options?: ErrorDetails) {
    super('CHUNK_SIZE_EXCEEDED', 413, `A chunk may have at most ${limit} bytes here. Send smaller chunks.`, {
      ...options,
      details: { limit, ...options?.details },
    })
  }
}

/** 422: the file arrived but the application refused it. */
export class ProcessingError extends NexusUploaderError {
  constructor(
    message = 'The file could not be processed.',
    options?: ErrorDetails & { code?: string; status?: number },
  ) {
    super(options?.code ?? 'PROCESSING_FAILED', options?.status ?? 422, message, options)
  }
}

/** 500: a defect, ours or a hook's. The real error is in `cause`. */
export class InternalError extends NexusUploaderError {
  constructor(options?: ErrorDetails) {
    super('INTERNAL_ERROR', 500, 'Something went wrong on the server.', options)
  }
}

/** 404: no such upload, or not this caller's: one answer for both. */
export class UploadNotFoundError extends NexusUploaderError {
  constructor(options?: ErrorDetails) {
    super('UPLOAD_NOT_FOUND', 404, 'There is no such upload. Start a new one.', options)
  }
}

/** 410: the upload was idle for too long, or was aborted. */
export class UploadExpiredError extends NexusUploaderError {
  constructor(options?: ErrorDetails & { aborted?: boolean }) {
    super(
      options?.aborted ? 'UPLOAD_ABORTED' : 'UPLOAD_EXPIRED',
      410,
      options?.aborted
        ? 'This upload was aborted. Start a new one.'
        : 'This upload was idle for too long and is gone. Start a new one.',
      options,
    )
  }
}

/** 409: `complete` was called before everything had arrived. */
export class UploadIncompleteError extends NexusUploaderError {
  /** Inclusive ranges of chunk indexes that are not there yet, when they can be told. */
  readonly missing: readonly (readonly [number, number])[]

  constructor(missing: readonly (readonly [number, number])[], message: string, options?: ErrorDetails) {
    super('UPLOAD_INCOMPLETE', 409, message, { ...options, details: { missing, ...options?.details } })
    this.missing = missing
  }
}

/** 409: the upload takes no more bytes, or these bytes contradict what is already stored. */
export class UploadClosedError extends NexusUploaderError {
  constructor(message: string, options?: ErrorDetails & { code?: string }) {
    super(options?.code ?? 'UPLOAD_CLOSED', 409, message, options)
  }
}

/** 409: the upload ends elsewhere than the request says. Ask where, and go on from there. */
export class OffsetMismatchError extends NexusUploaderError {
  /** Where the upload ends, bytes. */
  readonly offset: number

  constructor(offset: number, provided: number, options?: ErrorDetails) {
    super('OFFSET_MISMATCH', 409, `The upload is at byte ${offset}, not at ${provided}. Go on from there.`, {
      ...options,
      details: { offset, provided, ...options?.details },
    })
    this.offset = offset
  }
}

/**
 * 422: the bytes do not match the checksum that came with them. A chunk was discarded and can be sent again; of a whole
 * file nothing was discarded, and chunks can still be replaced.
 */
export class ChecksumMismatchError extends NexusUploaderError {
  constructor(options?: ErrorDetails & { wholeFile?: boolean }) {
    const message = options?.wholeFile
      ? 'The file does not match its checksum. Send the wrong chunks again, or abort the upload.'
      : 'The data does not match its checksum and was discarded. Send it again.'
    super('CHECKSUM_MISMATCH', 422, message, { retryable: !options?.wholeFile, ...options })
  }
}

/** 423: somebody else is working on this upload right now. */
export class UploadLockedError extends NexusUploaderError {
  constructor(options?: ErrorDetails) {
    super('UPLOAD_LOCKED', 423, 'Another request is working on this upload. Try again in a moment.', options)
  }
}

/** 429: `maxSessions` or `maxSessionsPerOwner` is reached. */
export class TooManyUploadsError extends NexusUploaderError {
  constructor(limit: number, options?: ErrorDetails) {
    super('TOO_MANY_UPLOADS', 429, 'Too many uploads are open. Finish or abort one, or try again later.', {
      retryAfter: 30,
      ...options,
      details: { limit, ...options?.details },
    })
  }
}

/** Something about storing bytes failed. 502: the storage gave a bad answer; nothing was lost, repeat the call. */
export class StorageError extends NexusUploaderError {
  constructor(message = 'The storage failed. Nothing was lost; try again.', options?: StorageErrorDetails) {
    super(options?.code ?? 'STORAGE_FAILED', options?.status ?? 502, message, options)
  }
}

export interface StorageErrorDetails extends ErrorDetails {
  code?: string
  status?: number
}

/** 502 (503, 504 by cause): S3 failed. */
export class S3UploadError extends StorageError {
  constructor(message?: string, options?: StorageErrorDetails) {
    super(message, { code: 'S3_UPLOAD_FAILED', ...options })
  }
}

/** 502 (503, 507 by cause): the local disk failed. */
export class LocalStorageError extends StorageError {
  constructor(message?: string, options?: StorageErrorDetails) {
    super(message, { code: 'LOCAL_STORAGE_FAILED', ...options })
  }
}

/** 503: storage, session store or temp folder cannot be reached now, or the server is closing. */
export class StorageUnavailableError extends StorageError {
  constructor(message = 'The upload service is not available right now. Try again.', options?: StorageErrorDetails) {
    super(message, { code: 'STORAGE_UNAVAILABLE', status: 503, ...options })
  }
}

/** 507: no room: the disk is full or `maxTempBytes` is reached. */
export class InsufficientStorageError extends StorageError {
  constructor(options?: StorageErrorDetails) {
    super('There is no room for this upload right now. Try again later.', {
      code: 'INSUFFICIENT_STORAGE',
      status: 507,
      retryAfter: 30,
      ...options,
    })
  }
}

/** What any thrown value becomes before a client sees it: ours stay, the rest is a 500 that tells nothing. */
export function toNexusUploaderError(error: unknown): NexusUploaderError {
  return isNexusUploaderError(error) ? error : new InternalError({ cause: error })
}

const byErrno: Readonly<Record<string, (cause: unknown) => NexusUploaderError>> = {
  ENOSPC: (cause) => new InsufficientStorageError({ cause }),
  EDQUOT: (cause) => new InsufficientStorageError({ cause }),
  EFBIG: (cause) => new InsufficientStorageError({ cause }),
}

/** What a failed file-system call means to a client: no room (507) or not available now (503). */
export function fromFileSystemError(cause: unknown): NexusUploaderError {
  if (isNexusUploaderError(cause)) return cause
  const errno = (cause as { code?: unknown } | null)?.code
  if (typeof errno !== 'string') return new InternalError({ cause })
  return byErrno[errno]?.(cause) ?? new StorageUnavailableError(undefined, { cause })
}
