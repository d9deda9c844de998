/**
 * Appends into `tempDir`. Bytes are written behind the recorded end, where nobody looks; they count when the record
 * says so: now and then while the body comes in, and when it ends or breaks off. So a crash loses what came since the
 * last record at most, and what lies behind the recorded end is overwritten by the next append.
 *
 * All bytes are one chunk, index 0, that grows: the record stays small however often the line breaks.
 */
import { fromFileSystemError, UploadLockedError, UploadNotFoundError } from '../errors.ts'
import type { AppendBytes, Appended, UploadSession } from '../types.ts'
import type { AppendReceiver, AppendRoom } from './appender.ts'
import { parseChecksum, receiveBody } from './body.ts'
import { receivedBytes } from './chunk-map.ts'
import { requireActive, touch } from './chunk-writer.ts'
import { keepFinals } from './composer.ts'
import type { EngineParts } from './engine-options.ts'
import { holdsBytes } from './part-plan.ts'
import type { PartSender } from './part-sender.ts'
import type { Change } from './session-updates.ts'
import type { PositionalFile } from './staging.ts'

/** What comes in between two records at most, unless parts are smaller, bytes and ms. */
const recordEvery = 16 * 1024 * 1024
const recordAfter = 500
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

export class DiskAppending implements AppendReceiver {
  readonly #parts: EngineParts
  readonly #sender: PartSender

  constructor(parts: EngineParts, sender: PartSender) {
    this.#parts = parts
    this.#sender = sender
  }

  async prepare(session: UploadSession): Promise<void> {
    // A folder that ought to hold bytes of ours is missed when they are looked for; an empty one is nothing to miss.
    if (holdsBytes(session, Math.floor(receivedBytes(session.chunks) / session.partSize) + 1)) return
    await this.#parts.staging.createFolder(session.id).catch((error) => {
      throw fromFileSystemError(error)
    })
  }

  roomFor(_session: UploadSession, _request: AppendBytes, size: number): number {
    return size
  }

  async receive(session: UploadSession, request: AppendBytes, room: AppendRoom): Promise<Appended> {
    const { staging, options } = this.#parts
    const mustExist = (partNumber: number) => holdsBytes(session, partNumber)
    const target = staging.openParts(session.id, session.partSize, mustExist)
    const written = request.offset
    const { signal, superseded } = room
    const run: Run = { request, signal, target, session, written, torn: false, ...now() }
    const { checksum } = request
    const staged = checksum !== undefined
    try {
      const failure = await receiveBody(request.body, (buffers, at) => this.#write(run, buffers, at, staged), {
        maxSize: room.size,
        tooLarge: room.tooLarge,
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
    const current = await this.#parts.sessions.get(run.session.id)
    if (!current) throw new UploadNotFoundError()
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
      // Somebody else has been here although we held the lock, or has said meanwhile where the file ends: theirs counts.
      const isOver = run.written > (current.totalSize ?? run.written)
      if (isOver || receivedBytes(current.chunks) !== before) throw new UploadLockedError()
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
    const { checks, staging } = this.#parts
    const { id, partSize } = run.session
    const { offset } = run.request
    await run.target.sync()
    const pieces = staging.segments(id, partSize, offset, run.written - offset)
    await checks.verify(pieces, [parseChecksum(expected)])
  }
}

function torn(run: Run, error: unknown): never {
  run.torn = true
  throw error
}

function now(): Pick<Run, 'recordedAt' | 'seenAt'> {
  return { recordedAt: performance.now(), seenAt: Date.now() }
}
