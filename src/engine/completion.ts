/** Makes the object of an upload: one winner, one object, one URL, however often and from wherever it is asked for. */
import { setTimeout as wait } from 'node:timers/promises'
import {
  ChecksumMismatchError,
  FileSizeExceededError,
  fromFileSystemError,
  InvalidRequestError,
  isNexusUploaderError,
  type NexusUploaderError,
  ProcessingError,
  UploadLockedError,
  UploadNotFoundError,
} from '../errors.ts'
import type { CompleteUpload, StoredObject, UploadSession } from '../types.ts'
import { requireOpen } from './authorization.ts'
import { parseChecksum } from './body.ts'
import { receivedBytes } from './chunk-map.ts'
import { keepSources, totalOf, wholeSources } from './composer.ts'
import type { DirectUploads } from './direct-uploads.ts'
import type { EngineParts } from './engine-options.ts'
import { isLeased, leaseTime } from './lease.ts'
import { ObjectStorer } from './object-storer.ts'
import type { PartSender } from './part-sender.ts'
import type { Pieces } from './pieces.ts'
import { dropToken, isDead, takeToken } from './processes.ts'
import type { Change } from './session-updates.ts'
import type { Settler } from './settler.ts'
import { inTime, withDeadline } from './waiting.ts'
import { requireWhole } from './wholeness.ts'

const renewEvery = 10_000
const pollEvery = 100

/** Removes everything of an upload that has ended, but for its object. */
type Discard = (session: UploadSession) => Promise<void>

export interface CompletionHelpers {
  readonly pieces: Pieces
  readonly sender: PartSender
  readonly settler: Settler
  readonly direct: DirectUploads
  readonly discard: Discard
}

export class Completion {
  readonly #parts: EngineParts
  readonly #sender: PartSender
  readonly #storer: ObjectStorer
  readonly #discard: Discard
  readonly #direct: DirectUploads
  readonly #running = new Map<string, Promise<StoredObject>>()

  constructor(parts: EngineParts, { pieces, sender, settler, direct, discard }: CompletionHelpers) {
    this.#parts = parts
    this.#sender = sender
    this.#discard = discard
    this.#direct = direct
    this.#storer = new ObjectStorer(parts, pieces, sender, settler)
  }

  async idle(): Promise<void> {
    await Promise.allSettled(this.#running.values())
  }

  /** `session` has been authorised. */
  async complete(session: UploadSession, request: CompleteUpload): Promise<StoredObject> {
    const { id } = session
    const { checksum, totalSize } = request
    if (checksum !== undefined) parseChecksum(checksum)
    if (totalSize !== undefined && session.totalSize !== null && totalSize !== session.totalSize) {
      throw sizeMismatch()
    }
    const running = this.#running.get(id) ?? this.#start(session, request).finally(() => this.#running.delete(id))
    this.#running.set(id, running)
    const object = await running
    // Joined a completion that somebody else had begun with another size in mind.
    if (totalSize !== undefined && totalSize !== object.size) throw sizeMismatch()
    if (checksum === undefined || checksum === object.checksum) return object
    // Stored for another caller, who asked for something else or for nothing: this one's demand was never checked.
    throw object.checksum === undefined ? checksumTooLate() : new ChecksumMismatchError({ wholeFile: true })
  }

  async #start(session: UploadSession, request: CompleteUpload): Promise<StoredObject> {
    if (session.direct && session.state === 'active' && !session.object) {
      const totalSize = await this.#checkDirect(session, request)
      return this.#run(session.id, { ...request, totalSize })
    }
    if (!session.sources || session.state !== 'active') return this.#run(session.id, request)
    const totalSize = totalOf(await wholeSources(this.#parts, session))
    const { maxFileSize } = this.#parts.options.limits
    if (totalSize > maxFileSize) throw new FileSizeExceededError(maxFileSize)
    await keepSources(this.#parts, session)
    return this.#run(session.id, { ...request, totalSize })
  }

  /** Nobody could stop the client from sending too much; but it does not become a file. */
  async #checkDirect(session: UploadSession, request: CompleteUpload): Promise<number> {
    try {
      return await this.#direct.check(session, request)
    } catch (error) {
      if (error instanceof FileSizeExceededError) await this.#abortLarge(session)
      throw error
    }
  }

  async #abortLarge({ id }: UploadSession): Promise<void> {
    const now = this.#parts.clock()
    const expiresAt = now + this.#parts.options.completedTtl
    const aborted = await this.#parts.sessions.update(id, (current) =>
      current.state === 'active' && !current.object
        ? { ...current, state: 'aborted', open: false, updatedAt: now, expiresAt }
        : current,
    )
    if (aborted?.state !== 'aborted') return
    await this.#cleanUp(aborted)
    this.#parts.emit('aborted', { session: aborted })
  }

  async #run(id: string, request: CompleteUpload): Promise<StoredObject> {
    const by = takeToken()
    try {
      const won = await this.#win(id, by, request)
      return 'url' in won ? won : await this.#lead(won, by, request)
    } finally {
      dropToken(by)
    }
  }

  async #lead(won: UploadSession, by: string, request: CompleteUpload): Promise<StoredObject> {
    const lost = new AbortController()
    const renewal = this.#renew(won.id, by, lost)
    try {
      const signal = AbortSignal.any([lost.signal, this.#parts.closing])
      return await this.#finish(won, by, signal, request)
    } catch (error) {
      await this.#giveBack(won.id, by)
      const made = await this.#madeByAnother(won.id)
      if (made) return made
      throw isNexusUploaderError(error) ? error : fromFileSystemError(error)
    } finally {
      clearInterval(renewal)
    }
  }

  /** While this process was asleep, somebody may have gone past it. */
  async #madeByAnother(id: string): Promise<StoredObject | null> {
    const session = await this.#parts.sessions.get(id).catch(() => null)
    return session?.state === 'completed' ? session.object : null
  }

  /** Takes the session from `active` to `completing`, or waits for the result of whoever has it. */
  async #win(id: string, by: string, request: CompleteUpload): Promise<UploadSession | StoredObject> {
    const { sessions, clock, uptime, closing, options } = this.#parts
    const deadline = uptime() + options.storageTimeout
    for (;;) {
      const now = clock()
      const session = await sessions.update(id, (current) => {
        if (current.state !== 'active' && !isStale(current, now)) return current
        const totalSize = current.totalSize ?? request.totalSize ?? receivedBytes(current.chunks)
        const next = { ...current, totalSize, updatedAt: now, expiresAt: now + options.sessionTtl }
        if (!current.object && !current.sources && !current.direct) requireWhole(next)
        return { ...next, state: 'completing', completing: { by, until: now + leaseTime } }
      })
      if (!session) throw new UploadNotFoundError()
      if (session.state === 'completed' && session.object) return session.object
      requireOpen(session)
      if (session.completing?.by === by) return session
      if (uptime() >= deadline) throw new UploadLockedError()
      await withDeadline(wait(pollEvery), closing)
    }
  }

  #renew(id: string, by: string, lost: AbortController): NodeJS.Timeout {
    const renew = async () => {
      const session = await this.#parts.sessions.update(id, (current) =>
        current.completing?.by === by
          ? { ...current, completing: { by, until: this.#parts.clock() + leaseTime } }
          : current,
      )
      if (session?.completing?.by !== by) lost.abort(new UploadLockedError())
    }
    // A renewal that fails is tried again; the lease outlives two of them.
    return setInterval(() => renew().catch(() => {}), renewEvery).unref()
  }

  async #finish(won: UploadSession, by: string, signal: AbortSignal, request: CompleteUpload): Promise<StoredObject> {
    const checksum = request.checksum ?? won.checksum
    // The last moment to look at a file that is not published yet.
    const refusal = won.object ? null : await this.#parts.firstBytes.refusalOf(won, request)
    if (refusal) {
      await this.#refuse(won, by, refusal)
      throw refusal
    }
    const stored = won.object ?? (await this.#storer.store(won, checksum, request.parts ?? [], signal))
    const end: Change = (current) => ({
      ...current,
      state: 'completed',
      open: false,
      completing: null,
      updatedAt: this.#parts.clock(),
      expiresAt: this.#parts.clock() + this.#parts.options.completedTtl,
    })
    const told = this.#parts.options.hooks.onComplete !== undefined
    const recorded = await this.#record(won, by, stored, told ? (current) => current : end)
    const object = recorded.object ?? stored
    if (told) await this.#tellHook(recorded, object, by, request.context)
    const completed = told ? await this.#swap(won.id, by, end) : recorded
    await this.#cleanUp(completed)
    this.#parts.emit('completed', { session: completed, object })
    return object
  }

  /** An upload that was aborted meanwhile has nobody left who would remove its object. */
  async #record(won: UploadSession, by: string, stored: StoredObject, more: Change): Promise<UploadSession> {
    try {
      return await this.#swap(won.id, by, (current) => more({ ...current, object: current.object ?? stored }))
    } catch (error) {
      const current = await this.#parts.sessions.get(won.id)
      const hasEnded = current?.state === 'aborted' || current?.state === 'expired'
      if (hasEnded && !current.object && !current.forgotten) await this.#parts.options.storage.remove?.(won.key)
      throw error
    }
  }

  /** A change that only the holder of the lease may make. */
  async #swap(id: string, by: string, change: Change): Promise<UploadSession> {
    const session = await this.#parts.sessions.update(id, (current) => {
      if (current.completing?.by !== by) throw new UploadLockedError()
      return change(current)
    })
    if (!session) throw new UploadNotFoundError()
    return session
  }

  async #tellHook(session: UploadSession, object: StoredObject, by: string, context: unknown): Promise<void> {
    try {
      const { hooks, storageTimeout } = this.#parts.options
      await inTime(this.#parts.closing, storageTimeout, async () => hooks.onComplete?.(session, object, context))
    } catch (cause) {
      if (isNexusUploaderError(cause) && isVerdict(cause)) await this.#refuse(session, by, cause)
      throw isNexusUploaderError(cause) ? cause : hookFailed(cause)
    }
  }

  /**
   * The application does not want the file: it goes away, for good. First the record says so, which only the holder of
   * the lease can make it say; an object that is not removed now is removed when the record is swept.
   */
  async #refuse(session: UploadSession, by: string, reason: NexusUploaderError): Promise<void> {
    const now = this.#parts.clock()
    const refused = await this.#swap(session.id, by, (current) => ({
      ...current,
      state: 'aborted',
      open: false,
      completing: null,
      refusal: { code: reason.code, status: reason.status, message: reason.message },
      updatedAt: now,
      expiresAt: now + this.#parts.options.completedTtl,
    }))
    await this.#discard(refused).catch((error) => {
      this.#parts.emit('warning', { code: 'CLEANUP_FAILED', message: 'The refused file is removed later.', error })
    })
    this.#parts.emit('aborted', { session: refused })
  }

  async #cleanUp(session: UploadSession): Promise<void> {
    this.#sender.forget(session.id)
    // What cannot be removed now is an orphan for the sweeper; the result stands.
    await this.#discard(session).catch((error) => {
      this.#parts.emit('warning', {
        code: 'CLEANUP_FAILED',
        message: 'What is left of an upload is removed later.',
        error,
      })
    })
  }

  /** Nothing was lost: the upload is as before, and `complete` can be called again. */
  async #giveBack(id: string, by: string): Promise<void> {
    await this.#parts.sessions
      .update(id, (current) =>
        current.completing?.by === by && current.state === 'completing'
          ? { ...current, state: 'active', completing: null }
          : current,
      )
      // Then the lease runs out by itself.
      .catch(() => {})
  }
}

function isStale(session: UploadSession, now: number): boolean {
  const { state, completing } = session
  if (state !== 'completing') return false
  return completing === null || !isLeased(session, now) || isDead(completing.by, now + leaseTime - completing.until)
}

function sizeMismatch(): InvalidRequestError {
  return new InvalidRequestError('totalSize differs from the size of the upload.', { code: 'SIZE_MISMATCH' })
}

function checksumTooLate(): InvalidRequestError {
  const message = 'The checksum of the whole file must be given when the upload is created.'
  return new InvalidRequestError(message, { code: 'CHECKSUM_TOO_LATE' })
}

function hookFailed(cause: unknown): ProcessingError {
  const message = 'The file is stored, but the application could not take it over yet. Try again.'
  return new ProcessingError(message, { code: 'COMPLETION_HOOK_FAILED', status: 503, cause })
}

/** 4xx that no retry mends: the application looked at the file and refused it. */
function isVerdict(error: NexusUploaderError): boolean {
  return error.status < 500 && !error.retryable
}
