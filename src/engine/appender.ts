/**
 * Adds to the end of an upload. Bytes are written behind the recorded end, where nobody looks; they count when the record
 * says so: now and then while the body comes in, and when it ends or breaks off. So a crash loses what came since the
 * last record at most, and what lies behind the recorded end is overwritten by the next append.
 *
 * All bytes are one chunk, index 0, that grows: the record stays small however often the line breaks.
 */
import {
  FileSizeExceededError,
  fromFileSystemError,
  InvalidRequestError,
  OffsetMismatchError,
  UploadClosedError,
  UploadLockedError,
  UploadNotFoundError,
} from '../errors.ts'
import type { AppendBytes, Appended, UploadSession } from '../types.ts'
import { type AppendLock, acquireAppendLock } from './append-lock.ts'
import { parseChecksum, RunningChecksum, receiveBody } from './body.ts'
import { receivedBytes } from './chunk-map.ts'
import { requireActive, touch } from './chunk-writer.ts'
import { keepFinals } from './composer.ts'
import type { EngineParts } from './engine-options.ts'
import { holdsBytes } from './part-plan.ts'
import type { PartSender } from './part-sender.ts'
import type { Change } from './session-updates.ts'
import type { PositionalFile } from './staging.ts'
import { follow } from './waiting.ts'

/** What comes in between two records at most, unless parts are smaller, bytes and ms. */
const recordEvery = 16 * 1024 * 1024
const recordAfter = 500
/**
 * A newcomer mostly means that this append's line is dead. What had come over it by then may still be on its way from the
 * socket to us; this long it is taken in, ms.
 */
const yieldAfter = 100

/** Without a look at the record for this long, the process may have been asleep, ms. */
const awayAfter = 5_000

interface Run {
  readonly request: AppendBytes
  readonly signal: AbortSignal
  readonly target: PositionalFile
  /** The record as this append last wrote or read it. */
  session: UploadSession
  /** Where the written bytes end. */
  written: number
  /** By a clock that nobody sets. */
  recordedAt: number
  /** When the record was last known to be this append's own, by the clock that also goes on while the machine sleeps. */
  seenAt: number
  /** The disk refused bytes, or the record a change: what they say of this append from now on is not to be believed. */
  torn: boolean
}

export class Appender {
  readonly #parts: EngineParts
  readonly #sender: PartSender

  constructor(parts: EngineParts, sender: PartSender) {
    this.#parts = parts
    this.#sender = sender
  }

  /** `session` has been authorised; aborting `stop` ends the append, with what has arrived kept. */
  async append(session: UploadSession, request: AppendBytes, stop: AbortController): Promise<Appended> {
    if (typeof request.checksum === 'string') parseChecksum(request.checksum)
    if (session.sources) throw composed()
    if (isEnding(session)) return this.#atTheEnd(session, request, stop.signal)
    if (session.chunks.length === 0) await this.#createFolder(session.id)
    /** Why this append ends when somebody else wants the upload. */
    const superseded = new UploadLockedError()
    let yielding: NodeJS.Timeout | undefined
    const onYield = () => {
      yielding ??= setTimeout(() => stop.abort(superseded), yieldAfter).unref()
    }
    const lock = await this.#lock(session.id, onYield)
    const onLost = () => stop.abort(new UploadLockedError())
    lock.lost.addEventListener('abort', onLost, { once: true })
    try {
      return await this.#withLock(session.id, request, stop.signal, superseded)
    } catch (error) {
      throw await this.#explain(error, session.id)
    } finally {
      clearTimeout(yielding)
      lock.lost.removeEventListener('abort', onLost)
      await lock.release()
    }
  }

  async #createFolder(uploadId: string): Promise<void> {
    await this.#parts.staging.createFolder(uploadId).catch((error) => {
      throw fromFileSystemError(error)
    })
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
    const free = await this.#parts.space.reserve(request.size ?? room)
    try {
      return await this.#receive(session, request, room, { signal, superseded })
    } finally {
      free()
    }
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

  async #receive(
    session: UploadSession,
    request: AppendBytes,
    room: number,
    { signal, superseded }: { signal: AbortSignal; superseded: UploadLockedError },
  ): Promise<Appended> {
    const { staging, options } = this.#parts
    const mustExist = (partNumber: number) => holdsBytes(session, partNumber)
    const target = staging.openParts(session.id, session.partSize, mustExist)
    const written = request.offset
    const run: Run = { request, signal, target, session, written, torn: false, ...now() }
    const { checksum } = request
    const staged = checksum !== undefined
    try {
      const failure = await receiveBody(request.body, (buffers, at) => this.#write(run, buffers, at, staged), {
        maxSize: room,
        tooLarge: () => this.#tooLarge(session),
        idleTimeout: options.limits.bodyIdleTimeout,
        signal,
        checksum: typeof checksum === 'string' ? parseChecksum(checksum) : undefined,
        crc: false,
        keep: !staged,
        flushAfter: recordAfter,
      }).then(
        () => null,
        (error: unknown) => ({ error }),
      )
      if (failure && (staged || run.torn)) throw failure.error
      if (!failure && typeof checksum === 'function') await this.#verify(run, checksum())
      await this.#record(run)
      if (failure && failure.error !== superseded) throw failure.error
      const size = run.written - request.offset
      const isWhole = size === request.size || run.written === run.session.totalSize
      return { session: run.session, offset: run.written, size, interrupted: failure !== null && !isWhole }
    } finally {
      await target.close()
    }
  }

  async #write(run: Run, buffers: Buffer[], at: number, staged: boolean): Promise<void> {
    if (Math.abs(Date.now() - run.seenAt) > awayAfter) await this.#stillOurs(run)
    const size = buffers.reduce((sum, buffer) => sum + buffer.length, 0)
    await run.target.write(buffers, run.request.offset + at).catch((error) => torn(run, error))
    run.written = run.request.offset + at + size
    if (staged) return
    const open = run.written - receivedBytes(run.session.chunks)
    const due = open >= Math.min(recordEvery, run.session.partSize) || performance.now() - run.recordedAt >= recordAfter
    if (!due && !this.#parts.firstBytes.isDue(run.session, run.written)) return
    await this.#record(run)
    run.request.onProgress?.(run.written)
    // A storage that is slower than the client slows the client.
    await this.#sender.capacity(run.session, run.signal).catch((error) => {
      if (!run.signal.aborted) throw error
    })
  }

  /** After a pause: whoever took this process for dead has gone on where the record ends, and those are their bytes now. */
  async #stillOurs(run: Run): Promise<void> {
    const current = await this.#current(run.session.id)
    requireActive(current)
    if (receivedBytes(current.chunks) !== receivedBytes(run.session.chunks)) throw new UploadLockedError()
    run.seenAt = Date.now()
  }

  /** Makes what has been written count. */
  async #record(run: Run): Promise<void> {
    const before = receivedBytes(run.session.chunks)
    if (run.written === before) return
    await run.target.sync().catch((error) => torn(run, error))
    const change: Change = (current) => {
      requireActive(current)
      // Somebody else has been here although we held the lock: theirs counts.
      if (receivedBytes(current.chunks) !== before) throw new UploadLockedError()
      const chunks = [{ index: 0, count: 1, size: run.written, offset: 0, loose: 0 }]
      return { ...touch(current, this.#parts), chunks }
    }
    // Refused or failed: it may have been stored all the same, so that a second try would meet its own record.
    const stored = await this.#parts.sessions.update(run.session.id, change).catch((error) => torn(run, error))
    if (!stored) throw new UploadNotFoundError()
    run.session = stored
    Object.assign(run, now())
    run.session = await this.#parts.firstBytes.check(stored, run.request)
    if (stored.finals) await keepFinals(this.#parts, stored)
    this.#parts.emit('appended', { session: stored, offset: before, size: run.written - before })
    this.#sender.poke(run.session)
  }

  async #verify(run: Run, expected: string | undefined): Promise<void> {
    if (expected === undefined) return
    const checksum = new RunningChecksum(parseChecksum(expected))
    const { id, partSize } = run.session
    const { offset } = run.request
    await run.target.sync()
    const pieces = this.#parts.staging.segments(id, partSize, offset, run.written - offset)
    await this.#parts.staging.digest(pieces, (data) => checksum.update(data))
    checksum.verify()
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

function now(): Pick<Run, 'recordedAt' | 'seenAt'> {
  return { recordedAt: performance.now(), seenAt: Date.now() }
}

function isEnding(session: UploadSession): boolean {
  return session.state === 'completing' || session.state === 'completed' || session.object !== null
}

function requireOffset(session: UploadSession, offset: number): void {
  const [first, ...more] = session.chunks
  if (more.length > 0 || (first && (first.index !== 0 || first.count !== 1 || first.offset !== 0))) throw chunked()
  const actual = receivedBytes(session.chunks)
  if (offset !== actual) throw new OffsetMismatchError(actual, offset)
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

function torn(run: Run, error: unknown): never {
  run.torn = true
  throw error
}
