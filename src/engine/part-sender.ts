/** Sends whole parts on to the storage while the client is still sending the next ones. */
import { UploadExpiredError, UploadNotFoundError } from '../errors.ts'
import type { MultipartStorage, PartBody, UploadSession } from '../types.ts'
import { settledRanges } from './chunk-map.ts'
import type { EngineParts } from './engine-options.ts'
import { mayLeave } from './first-bytes.ts'
import type { MultipartOpening } from './multipart-opening.ts'
import { readyParts, usesParts } from './part-plan.ts'
import { DiskParts, type PartSource, StoredParts, takesParts } from './part-sources.ts'
import { sendsParts } from './piece-map.ts'
import type { Pieces } from './pieces.ts'
import { spansInclude } from './ranges.ts'
import { bounded, inTime, withDeadline } from './waiting.ts'

/** A client waits with its next chunk while this many whole parts of its upload are queued on disk. */
const maxQueuedParts = 5
const perUploadConcurrency = 4
const firstPause = 1_000
const longestPause = 30_000

interface Sending {
  running: Promise<void> | null
  /** Of pieces in the storage: the parts that became whole here. What became whole with others is theirs to send. */
  readonly own: Set<number>
  again: boolean
  /** Tells the run under way that there is more to send. */
  wake: () => void
  failures: number
  retryAt: number
}

export class PartSender {
  readonly #parts: EngineParts
  readonly #sending = new Map<string, Sending>()
  #free: number
  readonly #waiting: (() => void)[] = []
  readonly #opening: MultipartOpening
  readonly #disk: PartSource
  readonly #stored: PartSource

  constructor(parts: EngineParts, pieces: Pieces, opening: MultipartOpening) {
    this.#parts = parts
    this.#free = parts.options.partConcurrency
    this.#opening = opening
    this.#disk = new DiskParts(parts)
    this.#stored = new StoredParts(parts, pieces)
  }

  sourceOf(session: UploadSession): PartSource {
    return session.staged === 'storage' ? this.#stored : this.#disk
  }

  /**
   * Starts sending whatever is whole, in the background; of an upload that is staged in the storage, what became whole
   * `since` that record. A failure is told by an event and tried again later.
   */
  poke(session: UploadSession, since: UploadSession = session): void {
    if (!this.#sendsEarly(session)) return
    const ready = readyParts(session, settledRanges(session))
    const state = this.#stateOf(session.id)
    if (session.staged === 'storage') {
      const before = new Set(readyParts(since, settledRanges(since)))
      for (const part of ready) if (!before.has(part)) state.own.add(part)
    }
    if (!ready.some((part) => isOwn(session, state, part))) {
      this.forget(session.id)
      return
    }
    if (state.running) {
      state.again = true
      state.wake()
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
      if (!current) return
      const queued = readyParts(current, settledRanges(current)).filter((part) => isOwn(current, state, part))
      if (queued.length <= maxQueuedParts) return
      await withDeadline(new Promise((resolve) => setTimeout(resolve, 50)), signal)
    }
  }

  /** Sends everything that is left, for a completion. @throws what the storage throws */
  async sendAll(uploadId: string, signal: AbortSignal): Promise<UploadSession> {
    await this.#sending.get(uploadId)?.running
    return this.#sendReady(uploadId, signal, true)
  }

  /** Sends one part whose bytes are at hand, at once; counting it is the caller's. @throws what the storage throws */
  async send(opened: UploadSession, partNumber: number, body: PartBody): Promise<void> {
    const { multipart } = this.#parts.options.storage
    const ref = { fileKey: opened.key, multipartId: opened.multipartId ?? '' }
    try {
      await bounded(this.#parts, async (signal) => multipart?.uploadPart(ref, partNumber, body, signal))
    } catch (error) {
      throw await this.explain(opened, error)
    }
  }

  /** Resolves when nothing of this upload is under way. */
  async idle(uploadId?: string): Promise<void> {
    const states = uploadId === undefined ? [...this.#sending.values()] : [this.#sending.get(uploadId)]
    await Promise.all(states.map((state) => state?.running))
  }

  forget(uploadId: string): void {
    const state = this.#sending.get(uploadId)
    if (!state?.running) this.#sending.delete(uploadId)
  }

  /** With a whole-file checksum nothing leaves before it has been verified. */
  #sendsEarly(session: UploadSession): boolean {
    const { multipart } = this.#parts.options.storage
    if (!usesParts(multipart, session)) return false
    return session.staged === 'storage' ? sendsParts(multipart, session) : session.checksum === null
  }

  #stateOf(uploadId: string): Sending {
    const state = this.#sending.get(uploadId) ?? {
      ...{ running: null, own: new Set<number>(), again: false, wake: () => {}, failures: 0, retryAt: 0 },
    }
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
    if (!storage || !takesParts(session, completing)) return session
    if (this.#readyOf(session, completing).length === 0) return session
    const opened = await this.#opening.open(session)
    const send = (part: number) =>
      this.#withSlot(signal, () => this.#sendPart(storage, opened, part, signal, completing))
    const failures = await this.#sendEach(session, completing, send)
    if (failures.length > 0) throw await this.explain(opened, failures[0])
    return this.#current(uploadId)
  }

  /** Some at a time, each once, also those that become whole meanwhile: a slow part holds up no others. */
  async #sendEach(
    session: UploadSession,
    completing: boolean,
    send: (partNumber: number) => Promise<boolean>,
  ): Promise<readonly unknown[]> {
    const first = new Set(this.#readyOf(session, completing))
    const begun = new Set<number>()
    const under = new Set<Promise<void>>()
    const failures: unknown[] = []
    // Somebody was still at them. Whoever it was pokes when they are done.
    const skipped = new Set<number>()
    const again = () => {
      for (const part of skipped) begun.delete(part)
      skipped.clear()
    }
    const isFull = () => under.size + failures.length >= perUploadConcurrency
    try {
      for (let latest = session, poked = this.#poked(session.id, again); ; latest = await this.#current(session.id)) {
        for (const part of this.#readyOf(latest, completing)) {
          if (isFull()) break
          // After a failure the run comes to its end, and tells of it; what is whole since then is for the next.
          if (begun.has(part) || (failures.length > 0 && !first.has(part))) continue
          begun.add(part)
          const sending = send(part)
            .then(
              (isSent) => (isSent ? again() : void skipped.add(part)),
              (error: unknown) => void failures.push(error),
            )
            .finally(() => under.delete(sending))
          under.add(sending)
        }
        if (under.size === 0) return failures
        await Promise.race(isFull() ? under : [...under, poked])
        // Before the record is read: what comes in between must not be missed.
        poked = this.#poked(session.id, again)
      }
    } finally {
      // Also when one fails: none may go on behind the caller's back.
      await Promise.all(under)
    }
  }

  #poked(uploadId: string, then: () => void): Promise<void> {
    return new Promise((resolve) => {
      const state = this.#sending.get(uploadId)
      if (!state) return
      state.wake = () => {
        then()
        resolve()
      }
    })
  }

  #readyOf(session: UploadSession, completing: boolean): number[] {
    const state = this.#sending.get(session.id)
    const isTurn = (part: number) => completing || (state !== undefined && isOwn(session, state, part))
    return readyParts(session, settledRanges(session)).filter(
      (part) => isTurn(part) && mayLeave(this.#parts, session, part),
    )
  }

  /** `false` when it could not be sent now, or the record does not count it. */
  async #sendPart(
    storage: MultipartStorage,
    opened: UploadSession,
    partNumber: number,
    signal: AbortSignal,
    completing: boolean,
  ): Promise<boolean> {
    const { id, key, multipartId } = opened
    const taken = await this.sourceOf(opened).take(id, partNumber, signal, completing)
    if (!taken) return false
    try {
      const { body } = taken
      const ref = { fileKey: key, multipartId: multipartId ?? '' }
      await this.#call(signal, (limit) => storage.uploadPart(ref, partNumber, body, limit))
      const stored = await this.#parts.sessions.update(id, (current) =>
        current.multipartId === multipartId ? taken.count(current) : current,
      )
      if (!stored || !spansInclude(stored.sentParts, partNumber)) return false
      await taken.sent()
      this.#parts.emit('part', { session: stored, partNumber, size: body.size })
      return true
    } finally {
      await taken.release()
    }
  }

  /**
   * A storage may have dropped the multipart upload by itself (a lifecycle rule). While every byte is still here it is
   * begun anew; when parts are gone with it, so is the upload.
   */
  async explain(opened: UploadSession, cause: unknown): Promise<unknown> {
    const storage = this.#parts.options.storage.multipart
    const ref = { fileKey: opened.key, multipartId: opened.multipartId ?? '' }
    const gone = await bounded(this.#parts, async (limit) => (await storage?.listParts(ref, limit)) === null).catch(
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
    return inTime(signal, this.#parts.options.storageTimeout, call)
  }

  async #withSlot<Result>(signal: AbortSignal, task: () => Promise<Result>): Promise<Result> {
    if (this.#free === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    else this.#free -= 1
    try {
      signal.throwIfAborted()
      return await task()
    } finally {
      const next = this.#waiting.shift()
      if (next) next()
      else this.#free += 1
    }
  }
}

function isOwn(session: UploadSession, state: Sending, part: number): boolean {
  return session.staged !== 'storage' || state.own.has(part)
}
