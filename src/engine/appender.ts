/** Adds to the end of an upload, one writer at a time. How bytes become recorded ones is up to where they wait. */
import {
  FileSizeExceededError,
  fromFileSystemError,
  InvalidRequestError,
  type NexusUploaderError,
  OffsetMismatchError,
  UploadClosedError,
  UploadLockedError,
  UploadNotFoundError,
} from '../errors.ts'
import type { AppendBytes, Appended, UploadSession } from '../types.ts'
import { type AppendLock, acquireAppendLock } from './append-lock.ts'
import { parseChecksum, receiveBody } from './body.ts'
import { receivedBytes } from './chunk-map.ts'
import { requireActive, touch } from './chunk-writer.ts'
import type { EngineParts } from './engine-options.ts'
import { whenQuiet } from './quiet.ts'
import { follow } from './waiting.ts'

/**
 * A newcomer mostly means that this append's line is dead. What had come over it by then may still be on its way from the
 * socket to us; it is taken in until the line is quiet, and this long at most, ms.
 */
const yieldAfter = 100

/** Takes in the body of an append. The lock is held, the offset is right, and so is the length. */
export interface AppendReceiver {
  /** Before the lock is taken. */
  prepare(session: UploadSession): Promise<void>
  /** Most bytes that it has in `tempDir` at once, of a body of at most `size`. */
  roomFor(session: UploadSession, request: AppendBytes, size: number): number
  receive(session: UploadSession, request: AppendBytes, room: AppendRoom): Promise<Appended>
}

export interface AppendRoom {
  /** Most bytes that fit. */
  readonly size: number
  readonly tooLarge: () => NexusUploaderError
  /** Ends the append, with what has arrived kept. */
  readonly signal: AbortSignal
  /** The reason of `signal` when somebody else wants the upload. */
  readonly superseded: UploadLockedError
}

export class Appender {
  readonly #parts: EngineParts
  readonly #disk: AppendReceiver
  readonly #shared: AppendReceiver

  constructor(parts: EngineParts, disk: AppendReceiver, shared: AppendReceiver) {
    this.#parts = parts
    this.#disk = disk
    this.#shared = shared
  }

  /** `session` has been authorised; aborting `stop` ends the append, with what has arrived kept. */
  async append(session: UploadSession, request: AppendBytes, stop: AbortController): Promise<Appended> {
    if (typeof request.checksum === 'string') parseChecksum(request.checksum)
    if (session.sources) throw composed()
    if (isEnding(session)) return this.#atTheEnd(session, request, stop.signal)
    await this.#receiverOf(session).prepare(session)
    /** Why this append ends when somebody else wants the upload. */
    const superseded = new UploadLockedError()
    let endYielding: (() => void) | undefined
    const onYield = () => {
      endYielding ??= whenQuiet(request.body, yieldAfter, () => stop.abort(superseded))
    }
    const lock = await this.#lock(session.id, onYield)
    const onLost = () => stop.abort(new UploadLockedError())
    lock.lost.addEventListener('abort', onLost, { once: true })
    try {
      return await this.#withLock(session.id, request, stop.signal, superseded)
    } catch (error) {
      throw await this.#explain(error, session.id)
    } finally {
      endYielding?.()
      lock.lost.removeEventListener('abort', onLost)
      await lock.release()
    }
  }

  /** Also for a caller that is gone already: what it had sent is still to be taken in. */
  async #lock(uploadId: string, onYield: () => void): Promise<AppendLock> {
    const closing = new AbortController()
    const unlink = follow(this.#parts.closing, closing)
    try {
      return await acquireAppendLock(this.#parts, uploadId, onYield, closing.signal)
    } finally {
      unlink()
    }
  }

  async #withLock(
    uploadId: string,
    request: AppendBytes,
    signal: AbortSignal,
    superseded: UploadLockedError,
  ): Promise<Appended> {
    const seen = await this.#current(uploadId)
    if (isEnding(seen)) return this.#atTheEnd(seen, request, signal)
    requireActive(seen)
    requireOffset(seen, request.offset)
    const session = await this.#setLength(seen, request.totalSize)
    const room = (session.totalSize ?? this.#parts.options.limits.maxFileSize) - request.offset
    if ((request.size ?? 0) > room) throw this.#tooLarge(session)
    const receiver = this.#receiverOf(session)
    const free = await this.#parts.space.reserve(receiver.roomFor(session, request, request.size ?? room))
    const tooLarge = () => this.#tooLarge(session)
    try {
      return await receiver.receive(session, request, { size: room, tooLarge, signal, superseded })
    } finally {
      free()
    }
  }

  #receiverOf(session: UploadSession): AppendReceiver {
    return session.staged === 'storage' ? this.#shared : this.#disk
  }

  /** Nothing is added to a complete upload; but the last append may be repeated when its answer was lost. */
  async #atTheEnd(session: UploadSession, request: AppendBytes, signal: AbortSignal): Promise<Appended> {
    requireOffset(session, request.offset)
    const tooLarge = () => this.#tooLarge(session)
    const { bodyIdleTimeout: idleTimeout } = this.#parts.options.limits
    if ((request.size ?? 0) > 0) throw tooLarge()
    if (request.size === undefined) {
      await receiveBody(request.body, async () => {}, { maxSize: 0, tooLarge, idleTimeout, signal, crc: false })
    }
    return { session, offset: request.offset, size: 0, interrupted: false }
  }

  /** The length of an upload that was created without one; once it is known it does not change. */
  async #setLength(session: UploadSession, totalSize: number | undefined): Promise<UploadSession> {
    if (totalSize === undefined || totalSize === session.totalSize) return session
    const { maxFileSize } = this.#parts.options.limits
    if (session.totalSize !== null) throw inconsistent('The upload has another length already.')
    if (!Number.isSafeInteger(totalSize) || totalSize < receivedBytes(session.chunks)) {
      throw inconsistent('The upload is longer than that already.')
    }
    if (totalSize > maxFileSize) throw new FileSizeExceededError(maxFileSize)
    const stored = await this.#parts.sessions.update(session.id, (current) => {
      requireActive(current)
      if (current.totalSize !== null) return current
      return { ...touch(current, this.#parts), totalSize }
    })
    if (!stored) throw new UploadNotFoundError()
    if (stored.totalSize !== totalSize) throw inconsistent('The upload has another length already.')
    return stored
  }

  #tooLarge(session: UploadSession): FileSizeExceededError {
    if (session.totalSize === null) return new FileSizeExceededError(this.#parts.options.limits.maxFileSize)
    const message = 'There are more bytes than the length declared for the upload.'
    return new FileSizeExceededError(session.totalSize, { message })
  }

  async #current(uploadId: string): Promise<UploadSession> {
    const session = await this.#parts.sessions.get(uploadId)
    if (!session) throw new UploadNotFoundError()
    return session
  }

  /** An upload that ended meanwhile takes its folder with it; then that is the reason, not the missing file. */
  async #explain(error: unknown, uploadId: string): Promise<unknown> {
    const { code } = error as { code?: unknown }
    if (code !== 'ENOENT' && code !== 'STAGING_LOST') return fromFileSystemError(error)
    try {
      requireActive(await this.#current(uploadId))
    } catch (reason) {
      return reason
    }
    return fromFileSystemError(error)
  }
}

function isEnding(session: UploadSession): boolean {
  return session.state === 'completing' || session.state === 'completed' || session.object !== null
}

function requireOffset(session: UploadSession, offset: number): void {
  if (session.staged === 'storage' ? isNumbered(session) : isChunked(session)) throw chunked()
  const actual = receivedBytes(session.chunks)
  if (offset !== actual) throw new OffsetMismatchError(actual, offset)
}

/** Whether there is more than the one chunk that grows. */
function isChunked({ chunks: [first, ...more] }: UploadSession): boolean {
  return more.length > 0 || (first !== undefined && (first.index !== 0 || first.count !== 1 || first.offset !== 0))
}

/** Whether chunks have numbers that the client gave them. */
function isNumbered({ appended, chunks }: UploadSession): boolean {
  return chunks.length > 0 && !appended
}

function inconsistent(message: string): InvalidRequestError {
  return new InvalidRequestError(message, { code: 'INCONSISTENT_LENGTH' })
}

function composed(): UploadClosedError {
  const message = 'This upload is made of others and takes no bytes of its own.'
  return new UploadClosedError(message, { code: 'COMPOSED' })
}

function chunked(): UploadClosedError {
  const message = 'This upload arrives in numbered chunks; nothing can be added to its end.'
  return new UploadClosedError(message, { code: 'CHUNKED' })
}
