/** Sends whole parts on to the storage while the client is still sending the next ones. */
import { StorageUnavailableError, UploadExpiredError, UploadNotFoundError } from '../errors.ts'
import type { MultipartStorage, PartBody, UploadSession } from '../types.ts'
import { isSettled, settledRanges } from './chunk-map.ts'
import { composedPieces } from './composer.ts'
import type { EngineParts } from './engine-options.ts'
import { mayLeave } from './first-bytes.ts'
import { objectInfo, openMultipart } from './multipart-opening.ts'
import { partRange, readyParts, usesParts } from './part-plan.ts'
import { addToSpans, spansInclude } from './ranges.ts'
import { withDeadline } from './waiting.ts'

/** A client waits with its next chunk while this many whole parts of its upload are queued on disk. */
const maxQueuedParts = 8
const perUploadConcurrency = 4
const firstPause = 1_000
const longestPause = 30_000
const claimPatience = 30_000

interface Sending {
  running: Promise<void> | null
  again: boolean
  failures: number
  retryAt: number
}

export class PartSender {
  readonly #parts: EngineParts
  readonly #sending = new Map<string, Sending>()
  #free: number
  readonly #waiting: (() => void)[] = []

  constructor(parts: EngineParts) {
    this.#parts = parts
    this.#free = parts.options.partConcurrency
  }

  /** Starts sending whatever is whole, in the background. A failure is told by an event and tried again later. */
  poke(session: UploadSession): void {
    if (!this.#sendsEarly(session) || readyParts(session, settledRanges(session)).length === 0) return
    const state = this.#stateOf(session.id)
    if (state.running) {
      state.again = true
      return
    }
    if (this.#parts.uptime() < state.retryAt) return
    state.running = this.#run(session.id, state)
  }

  /** Waits while too many whole parts are queued and the storage is taking them: a slow storage slows the client. */
  async capacity(session: UploadSession, signal: AbortSignal): Promise<void> {
    if (!this.#sendsEarly(session)) return
    for (;;) {
      const state = this.#sending.get(session.id)
      if (!state?.running) return
      const current = await this.#parts.sessions.get(session.id)
      if (!current || readyParts(current, settledRanges(current)).length <= maxQueuedParts) return
      await withDeadline(new Promise((resolve) => setTimeout(resolve, 50)), signal)
    }
  }

  /** Sends everything that is left, for a completion. @throws what the storage throws */
  async sendAll(uploadId: string, signal: AbortSignal): Promise<UploadSession> {
    await this.#sending.get(uploadId)?.running
    return this.#sendReady(uploadId, signal, true)
  }

  /** Resolves when nothing of this upload is under way. */
  async idle(uploadId?: string): Promise<void> {
    const states = uploadId === undefined ? [...this.#sending.values()] : [this.#sending.get(uploadId)]
    await Promise.all(states.map((state) => state?.running))
  }

  forget(uploadId: string): void {
    if (!this.#sending.get(uploadId)?.running) this.#sending.delete(uploadId)
  }

  /** With a whole-file checksum nothing leaves before it has been verified. */
  #sendsEarly(session: UploadSession): boolean {
    return usesParts(this.#parts.options.storage.multipart, session) && session.checksum === null
  }

  #stateOf(uploadId: string): Sending {
    const state = this.#sending.get(uploadId) ?? { running: null, again: false, failures: 0, retryAt: 0 }
    this.#sending.set(uploadId, state)
    return state
  }

  async #run(uploadId: string, state: Sending): Promise<void> {
    try {
      do {
        state.again = false
        await this.#sendReady(uploadId, this.#parts.closing, false)
      } while (state.again)
      state.failures = 0
    } catch (error) {
      if (!this.#parts.closing.aborted && !(error instanceof UploadNotFoundError)) {
        this.#parts.emit('storageError', { uploadId, operation: 'uploadPart', error })
      }
      state.retryAt = this.#parts.uptime() + Math.min(firstPause * 2 ** state.failures, longestPause)
      state.failures += 1
    } finally {
      state.running = null
      if (state.failures === 0) this.#sending.delete(uploadId)
    }
  }

  async #sendReady(uploadId: string, signal: AbortSignal, completing: boolean): Promise<UploadSession> {
    const storage = this.#parts.options.storage.multipart
    const session = await this.#current(uploadId)
    if (!storage || !isAt(session, completing)) return session
    const settled = readyParts(session, settledRanges(session))
    const ready = settled.filter((partNumber) => mayLeave(this.#parts, session, partNumber))
    if (ready.length === 0) return session
    const opened = await this.#open(storage, session, signal)
    const queue = ready.values()
    const worker = async () => {
      for (const partNumber of queue) {
        await this.#withSlot(signal, () => this.#sendPart(storage, opened, partNumber, signal, completing))
      }
    }
    const workers = Array.from({ length: Math.min(perUploadConcurrency, ready.length) }, worker)
    // All are awaited even when one fails: none may go on behind the caller's back.
    const failed = (await Promise.allSettled(workers)).find((result) => result.status === 'rejected')
    if (failed) throw await this.#explain(storage, opened, failed.reason, signal)
    return this.#current(uploadId)
  }

  #open(storage: MultipartStorage, session: UploadSession, signal: AbortSignal): Promise<UploadSession> {
    return openMultipart(this.#parts, storage, session, () =>
      this.#call(signal, (limit) => storage.create(session.key, objectInfo(session, limit))),
    )
  }

  async #sendPart(
    storage: MultipartStorage,
    opened: UploadSession,
    partNumber: number,
    signal: AbortSignal,
    completing: boolean,
  ): Promise<void> {
    const { id, key, multipartId } = opened
    const { claims, staging } = this.#parts
    const range = partRange(opened, partNumber)
    const claim = completing ? await claims.insist(id, range, claimPatience, signal) : await claims.claim(id, range)
    if (!claim) return
    try {
      const session = await this.#current(id)
      if (!isAt(session, completing) || spansInclude(session.sentParts, partNumber)) return
      if (!isSettled(session, range) || !mayLeave(this.#parts, session, partNumber)) return
      const size = range.end - range.start
      const body = session.sources
        ? staging.joinedBody(await composedPieces(this.#parts, session, range))
        : await this.#stagedPart(id, partNumber, size)
      const ref = { fileKey: key, multipartId: multipartId ?? '' }
      await this.#call(signal, (limit) => storage.uploadPart(ref, partNumber, body, limit))
      const stored = await this.#parts.sessions.update(id, (current) => {
        const unchanged = current.multipartId === multipartId && isSettled(current, range)
        return unchanged ? { ...current, sentParts: addToSpans(current.sentParts, partNumber) } : current
      })
      if (!stored || !spansInclude(stored.sentParts, partNumber)) return
      await staging.removePart(id, partNumber)
      this.#parts.emit('part', { session: stored, partNumber, size })
    } finally {
      await claim.release()
    }
  }

  async #stagedPart(id: string, partNumber: number, size: number): Promise<PartBody> {
    const { staging } = this.#parts
    if (((await staging.sizeOf(staging.partPath(id, partNumber))) ?? -1) < size) {
      throw new StorageUnavailableError(undefined, { code: 'STAGING_LOST' })
    }
    return staging.partBody(id, partNumber, size)
  }

  /**
   * A storage may have dropped the multipart upload by itself (a lifecycle rule). While every byte is still here it is
   * begun anew; when parts are gone with it, so is the upload.
   */
  async #explain(storage: MultipartStorage, opened: UploadSession, cause: unknown, signal: AbortSignal) {
    const ref = { fileKey: opened.key, multipartId: opened.multipartId ?? '' }
    const gone = await this.#call(signal, (limit) => storage.listParts(ref, limit)).then(
      (parts) => parts === null,
      () => false,
    )
    if (!gone) return cause
    const lost = await this.#parts.sessions.update(opened.id, (current) => {
      if (current.multipartId !== opened.multipartId || current.object) return current
      // While somebody completes the upload, a closed multipart upload may mean that they have succeeded.
      if (current.state !== 'active' && current.completing?.by !== opened.completing?.by) return current
      if (current.state !== 'active' && opened.completing === null) return current
      if (current.sentParts.length === 0 || current.sources) return { ...current, multipartId: null, sentParts: [] }
      return { ...current, state: 'expired', open: false, completing: null }
    })
    return lost?.state === 'expired' ? new UploadExpiredError({ cause }) : cause
  }

  async #current(uploadId: string): Promise<UploadSession> {
    const session = await this.#parts.sessions.get(uploadId)
    if (!session) throw new UploadNotFoundError()
    return session
  }

  #call<Result>(signal: AbortSignal, call: (signal: AbortSignal) => Promise<Result>): Promise<Result> {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(this.#parts.options.storageTimeout)])
    return withDeadline(call(limit), limit)
  }

  async #withSlot(signal: AbortSignal, task: () => Promise<void>): Promise<void> {
    if (this.#free === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    else this.#free -= 1
    try {
      signal.throwIfAborted()
      await task()
    } finally {
      const next = this.#waiting.shift()
      if (next) next()
      else this.#free += 1
    }
  }
}

function isAt(session: UploadSession, completing: boolean): boolean {
  if (session.object) return false
  return completing ? session.state === 'completing' : session.state === 'active' || session.state === 'completing'
}
