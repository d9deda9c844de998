/** Makes the object of an upload: one winner, one object, one URL, however often and from wherever it is asked for. */
import { setTimeout as wait } from 'node:timers/promises'
import {
  fromFileSystemError,
  InvalidRequestError,
  isNexusUploaderError,
  type NexusUploaderError,
  ProcessingError,
  UploadClosedError,
  UploadExpiredError,
  UploadIncompleteError,
  UploadLockedError,
  UploadNotFoundError,
} from '../errors.ts'
import type { CompleteUpload, StoredObject, UploadSession } from '../types.ts'
import { parseChecksum } from './body.ts'
import { countChunks, receivedBytes, receivedIndexes } from './chunk-map.ts'
import type { EngineParts } from './engine-options.ts'
import { ObjectStorer } from './object-storer.ts'
import type { PartSender } from './part-sender.ts'
import { dropToken, isDead, takeToken } from './processes.ts'
import { gapsBelow } from './ranges.ts'
import type { Settler } from './settler.ts'
import { withDeadline } from './waiting.ts'

/** A completer that is not known to be dead, but has not renewed its lease for this long, is taken for dead, ms. */
const leaseTime = 30_000
const renewEvery = 10_000
const pollEvery = 100

export class Completion {
  readonly #parts: EngineParts
  readonly #sender: PartSender
  readonly #storer: ObjectStorer
  readonly #running = new Map<string, Promise<StoredObject>>()

  constructor(parts: EngineParts, sender: PartSender, settler: Settler) {
    this.#parts = parts
    this.#sender = sender
    this.#storer = new ObjectStorer(parts, sender, settler)
  }

  isRunning(uploadId: string): boolean {
    return this.#running.has(uploadId)
  }

  async idle(): Promise<void> {
    await Promise.allSettled(this.#running.values())
  }

  /** `session` has been authorised. */
  async complete(session: UploadSession, request: CompleteUpload): Promise<StoredObject> {
    const { id } = session
    // Whoever finds a run of its own or of another has the same result; a request's own demands are checked before.
    const prepared = this.#checkRequest(session, request)
    const running = this.#running.get(id)
    if (running) return running
    const run = this.#run(id, prepared, request.context).finally(() => this.#running.delete(id))
    this.#running.set(id, run)
    return run
  }

  #checkRequest(session: UploadSession, request: CompleteUpload): Change {
    if (request.checksum !== undefined) parseChecksum(request.checksum)
    if (request.totalSize !== undefined && session.totalSize !== null && request.totalSize !== session.totalSize) {
      throw new InvalidRequestError('totalSize differs from the size that was declared.', { code: 'SIZE_MISMATCH' })
    }
    return (current) => {
      const totalSize = current.totalSize ?? request.totalSize ?? receivedBytes(current.chunks)
      if (request.checksum === undefined || request.checksum === current.checksum) return { ...current, totalSize }
      if (current.checksum !== null || current.sentParts.length > 0) {
        throw new InvalidRequestError('The checksum of the whole file must be given when the upload is created.', {
          code: 'CHECKSUM_TOO_LATE',
        })
      }
      return { ...current, totalSize, checksum: request.checksum }
    }
  }

  async #run(id: string, prepared: Change, context: unknown): Promise<StoredObject> {
    const by = takeToken()
    try {
      const won = await this.#win(id, by, prepared)
      return 'url' in won ? won : await this.#lead(won.session, won.before, by, context)
    } finally {
      dropToken(by)
    }
  }

  async #lead(won: UploadSession, before: UploadSession, by: string, context: unknown): Promise<StoredObject> {
    const { id } = won
    const lost = new AbortController()
    const renewal = this.#renew(id, by, lost)
    try {
      const signal = AbortSignal.any([lost.signal, this.#parts.closing])
      return await this.#finish(won, by, signal, context)
    } catch (error) {
      await this.#giveBack(before, by)
      throw isNexusUploaderError(error) ? error : fromFileSystemError(error)
    } finally {
      clearInterval(renewal)
    }
  }

  /** Takes the session from `active` to `completing`, or waits for the result of whoever has it. */
  async #win(id: string, by: string, prepared: Change): Promise<Won | StoredObject> {
    const deadline = this.#parts.clock() + this.#parts.options.storageTimeout
    for (;;) {
      const now = this.#parts.clock()
      let before: UploadSession | null = null
      const session = await this.#parts.sessions.update(id, (current) => {
        before = current
        if (current.state !== 'active' && !isStale(current, now)) return current
        const next = prepared(current)
        if (!current.object) requireWhole(next)
        const expiresAt = now + this.#parts.options.sessionTtl
        return { ...next, state: 'completing', completing: { by, until: now + leaseTime }, updatedAt: now, expiresAt }
      })
      if (!session) throw new UploadNotFoundError()
      if (session.state === 'completed' && session.object) return session.object
      if (session.state === 'aborted' || session.state === 'expired') {
        throw new UploadExpiredError({ aborted: session.state === 'aborted' })
      }
      if (session.completing?.by === by) return { session, before: before ?? session }
      if (now >= deadline) throw new UploadLockedError()
      await wait(pollEvery, undefined, { signal: this.#parts.closing })
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

  async #finish(won: UploadSession, by: string, signal: AbortSignal, context: unknown): Promise<StoredObject> {
    const stored = won.object ?? (await this.#storer.store(won, signal))
    const recorded = await this.#swap(won.id, by, (current) => ({ ...current, object: current.object ?? stored }))
    const object = recorded.object ?? stored
    await this.#tellHook(recorded, object, by, context)
    const completed = await this.#swap(won.id, by, (current) => ({
      ...current,
      state: 'completed',
      open: false,
      completing: null,
      updatedAt: this.#parts.clock(),
      expiresAt: this.#parts.clock() + this.#parts.options.completedTtl,
    }))
    await this.#cleanUp(completed)
    this.#parts.emit('completed', { session: completed, object })
    return object
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
      const told = Promise.resolve(hooks.onComplete?.(session, object, context))
      await withDeadline(told, AbortSignal.any([this.#parts.closing, AbortSignal.timeout(storageTimeout)]))
    } catch (cause) {
      if (isNexusUploaderError(cause) && isVerdict(cause)) await this.#refuse(session, by)
      throw isNexusUploaderError(cause) ? cause : hookFailed(cause)
    }
  }

  /** The application does not want the file: it goes away, for good. */
  async #refuse(session: UploadSession, by: string): Promise<void> {
    const { storage, completedTtl } = this.#parts.options
    await storage.remove?.(session.key)
    const now = this.#parts.clock()
    const refused = await this.#swap(session.id, by, (current) => ({
      ...current,
      state: 'aborted',
      open: false,
      completing: null,
      object: null,
      multipartId: null,
      updatedAt: now,
      expiresAt: now + completedTtl,
    }))
    await this.#cleanUp(refused)
    this.#parts.emit('aborted', { session: refused })
  }

  async #cleanUp(session: UploadSession): Promise<void> {
    this.#sender.forget(session.id)
    // What cannot be removed now is an orphan for the sweeper; the result stands.
    await this.#parts.staging.remove(session.id).catch((error) => {
      this.#parts.emit('warning', { code: 'CLEANUP_FAILED', message: 'Staged files are removed later.', error })
    })
  }

  /** Nothing was lost: the upload is as before, what this call demanded is forgotten, and it can be called again. */
  async #giveBack({ id, checksum, totalSize }: UploadSession, by: string): Promise<void> {
    await this.#parts.sessions
      .update(id, (current) =>
        current.completing?.by === by && current.state === 'completing'
          ? { ...current, state: 'active', completing: null, checksum, totalSize }
          : current,
      )
      // Then the lease runs out by itself.
      .catch(() => {})
  }
}

type Change = (session: UploadSession) => UploadSession

interface Won {
  readonly session: UploadSession
  /** As it was before this completion. */
  readonly before: UploadSession
}

function isStale(session: UploadSession, now: number): boolean {
  const { state, completing } = session
  return state === 'completing' && (completing === null || completing.until <= now || isDead(completing.by))
}

function hookFailed(cause: unknown): ProcessingError {
  const message = 'The file is stored, but the application could not take it over yet. Try again.'
  return new ProcessingError(message, { code: 'COMPLETION_HOOK_FAILED', status: 503, cause })
}

/** 4xx that no retry mends: the application looked at the file and refused it. */
function isVerdict(error: NexusUploaderError): boolean {
  return error.status < 500 && !error.retryable
}

/** @throws UploadIncompleteError unless the chunks are 0..n−1 and their sizes add up */
export function requireWhole(session: UploadSession): void {
  const total = session.totalSize ?? 0
  const received = receivedBytes(session.chunks)
  const indexes = receivedIndexes(session.chunks)
  const count = countChunks(session.chunks)
  const gaps = gapsBelow(indexes, (indexes.at(-1)?.[1] ?? -1) + 1)
  if (received === total && gaps.length === 0) return
  if (received > total) {
    throw new UploadClosedError('The chunks have more bytes than the file. Abort this upload and start a new one.', {
      code: 'SIZE_MISMATCH',
      details: { receivedBytes: received, totalSize: total },
    })
  }
  const missing = [...gaps]
  const size = session.chunkSize ?? session.stride
  const next = (indexes.at(-1)?.[1] ?? -1) + 1
  const expected = size ? Math.max(next, Math.ceil(total / size)) : next
  if (size && expected > next && received + gapBytes(gaps, size) < total) missing.push([next, expected - 1])
  const text = `${count} chunks with ${received} of ${total} bytes have arrived. Send what is missing, then complete again.`
  throw new UploadIncompleteError(missing, text, { details: { receivedBytes: received, totalSize: total } })
}

function gapBytes(gaps: readonly (readonly [number, number])[], size: number): number {
  return gaps.reduce((sum, [first, last]) => sum + (last - first + 1) * size, 0)
}
