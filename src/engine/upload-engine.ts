import { EventEmitter, setMaxListeners } from 'node:events'
import type { Readable } from 'node:stream'
import {
  isNexusUploaderError,
  StorageUnavailableError,
  UploadClosedError,
  UploadExpiredError,
  UploadLockedError,
  UploadNotFoundError,
} from '../errors.ts'
import type {
  ChunkWritten,
  CompleteUpload,
  CreateUpload,
  Durability,
  SpooledBody,
  StoredObject,
  SweepReport,
  UploadAction,
  UploadEngine,
  UploadEvents,
  UploadLimits,
  UploadOffset,
  UploadRef,
  UploadSession,
  WriteChunk,
} from '../types.ts'
import { authorize } from './authorization.ts'
import { parseChecksum } from './body.ts'
import { firstUnsettled, prefix } from './chunk-map.ts'
import { ChunkWriter, requireActive } from './chunk-writer.ts'
import { Claims } from './claims.ts'
import { Completion } from './completion.ts'
import { Creation } from './creation.ts'
import type { EngineOptions, EngineParts } from './engine-options.ts'
import { PartSender } from './part-sender.ts'
import { SessionUpdates } from './session-updates.ts'
import { Settler } from './settler.ts'
import { spoolBody } from './spool.ts'
import { Staging } from './staging.ts'
import { Sweeper } from './sweeper.ts'
import { TempSpace } from './temp-space.ts'

const uploadIdPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

export class Engine implements UploadEngine {
  readonly limits: UploadLimits
  readonly events = new EventEmitter<UploadEvents>({ captureRejections: true })
  readonly #parts: EngineParts
  readonly #creation: Creation
  readonly #writer: ChunkWriter
  readonly #sender: PartSender
  readonly #settler: Settler
  readonly #completion: Completion
  readonly #sweeper: Sweeper
  readonly #cut = new AbortController()
  readonly #work = new Set<Promise<unknown>>()
  #ready: Promise<void> | null = null
  #closed = false

  constructor(options: EngineOptions & { readonly durability: Durability; readonly clock: () => number }) {
    this.limits = options.limits
    // Every body under way listens to it.
    setMaxListeners(0, this.#cut.signal)
    const staging = new Staging(options)
    // A listener that returns a rejecting promise is reported like one that throws.
    Object.defineProperty(this.events, Symbol.for('nodejs.rejection'), {
      value: (error: unknown) =>
        this.#emit('warning', { code: 'LISTENER_FAILED', message: 'A listener rejected.', error }),
    })
    this.#parts = {
      options,
      sessions: new SessionUpdates(options.sessions),
      staging,
      claims: new Claims((uploadId) => staging.claimsOf(uploadId)),
      space: new TempSpace(staging, options.limits.maxTempBytes),
      events: this.events,
      clock: options.clock,
      closing: this.#cut.signal,
      emit: (name, event) => this.#emit(name, event),
    }
    this.#creation = new Creation(this.#parts)
    this.#writer = new ChunkWriter(this.#parts)
    this.#sender = new PartSender(this.#parts)
    this.#settler = new Settler(this.#parts)
    this.#sweeper = new Sweeper(this.#parts)
    const discard = (session: UploadSession) => this.#sweeper.discard(session)
    this.#completion = new Completion(this.#parts, this.#sender, this.#settler, discard)
    this.#sweeper.start()
  }

  create(request: CreateUpload): Promise<{ session: UploadSession; resumed: boolean }> {
    return this.#track(() => this.#creation.create(request))
  }

  writeChunk(request: WriteChunk): Promise<ChunkWritten> {
    // A body that fails while we are still looking must not be an unhandled error.
    request.body.on('error', () => {})
    const stop = new AbortController()
    return this.#track(() => this.#writeChunk(request, stop))
  }

  spool(body: Readable, options: { maxSize: number; signal?: AbortSignal }): Promise<SpooledBody> {
    body.on('error', () => {})
    const signal = AbortSignal.any(options.signal ? [options.signal, this.#cut.signal] : [this.#cut.signal])
    return this.#track(() => spoolBody(this.#parts, body, { maxSize: options.maxSize, signal }))
  }

  async retrieveOffset(request: UploadRef): Promise<UploadOffset> {
    const session = await this.get(request)
    return { offset: prefix(session.chunks).bytes, session }
  }

  get(request: UploadRef): Promise<UploadSession> {
    return this.#track(async () => {
      const session = await this.#load(request, 'read')
      if (session.state === 'aborted' || session.state === 'expired') {
        throw new UploadExpiredError({ aborted: session.state === 'aborted' })
      }
      return session
    })
  }

  complete(request: CompleteUpload): Promise<StoredObject> {
    return this.#track(async () => {
      const session = await this.#load(request, 'complete')
      return this.#completion.complete(session, request)
    })
  }

  abort(request: UploadRef): Promise<void> {
    return this.#track(async () => {
      const session = await this.#load(request, 'abort')
      await this.#abort(session)
    })
  }

  sweep(): Promise<SweepReport> {
    return this.#track(() => this.#sweeper.sweep())
  }

  async close(options: { timeout?: number } = {}): Promise<void> {
    this.#closed = true
    this.#sweeper.stop()
    const cut = setTimeout(() => this.#cutOff(), options.timeout ?? 10_000)
    await Promise.allSettled(this.#work)
    await Promise.allSettled([this.#sender.idle(), this.#settler.idle(), this.#completion.idle(), this.#sweeper.idle()])
    clearTimeout(cut)
    this.#cutOff()
    await this.#parts.options.sessions.close?.()
    await this.#parts.options.storage.close?.()
  }

  #cutOff(): void {
    this.#cut.abort(new StorageUnavailableError('The server is shutting down. Try again.', { code: 'CLOSING' }))
  }

  /** Every verb: refused after `close`, waited for by it, and only begun when the temp folder is known to be ours. */
  #track<Result>(task: () => Promise<Result>): Promise<Result> {
    const work = this.#prepared().then(task)
    this.#work.add(work)
    const forget = () => this.#work.delete(work)
    work.then(forget, forget)
    return work
  }

  async #prepared(): Promise<void> {
    if (this.#closed) throw new StorageUnavailableError('The server is shutting down. Try again.', { code: 'CLOSING' })
    this.#ready ??= this.#parts.staging.prepare(this.#parts.options.tempDir)
    try {
      await this.#ready
    } catch (cause) {
      this.#ready = null
      throw isNexusUploaderError(cause) ? cause : new StorageUnavailableError(undefined, { cause })
    }
  }

  async #writeChunk(request: WriteChunk, stop: AbortController): Promise<ChunkWritten> {
    if (request.checksum !== undefined) parseChecksum(request.checksum)
    const unlink = [follow(request.signal, stop), follow(this.#cut.signal, stop)]
    try {
      const session = await this.#load(request, 'write')
      requireActive(session)
      await this.#sender.capacity(session, stop.signal)
      const written = await this.#writer.write(session, request, stop)
      const { size, duplicate } = written
      this.#emit('chunk', { session: written.session, index: request.index, size, duplicate })
      this.#moveOn(written.session)
      return written
    } finally {
      for (const end of unlink) end()
    }
  }

  /** After a chunk: settle what has found its place, send what has become whole. Neither keeps the client waiting. */
  #moveOn(session: UploadSession): void {
    if (!firstUnsettled(session)) {
      this.#sender.poke(session)
      return
    }
    this.#settler
      .settle(session.id)
      .then(() => this.#parts.sessions.get(session.id))
      .then((settled) => settled && this.#sender.poke(settled))
      .catch((error) => {
        if (isNexusUploaderError(error) && error.status < 500) return
        this.#emit('warning', { code: 'SETTLE_FAILED', message: 'Chunks are moved into place later.', error })
      })
  }

  async #abort(session: UploadSession): Promise<void> {
    const now = this.#parts.clock()
    const aborted = await this.#parts.sessions.update(session.id, (current) => {
      if (!current.open) return current
      if (current.object) throw new UploadClosedError('The file is already stored.')
      if (current.state === 'completing' && (current.completing?.until ?? 0) > now) throw new UploadLockedError()
      const expiresAt = now + this.#parts.options.completedTtl
      return { ...current, state: 'aborted', open: false, completing: null, updatedAt: now, expiresAt }
    })
    if (!aborted) throw new UploadNotFoundError()
    if (aborted.state === 'completed') throw new UploadClosedError('The upload is complete; the file is stored.')
    await this.#parts.claims.requestYield(session.id)
    await this.#sender.idle(session.id)
    await this.#sweeper.discard(aborted).catch((error) => {
      this.#emit('warning', { code: 'CLEANUP_FAILED', message: 'What is left of the upload is removed later.', error })
    })
    if (session.state !== 'aborted') this.#emit('aborted', { session: aborted })
  }

  /** Unknown, of another protocol, of another owner, hidden by `authorize`: one answer for all. */
  async #load(request: UploadRef, action: UploadAction): Promise<UploadSession> {
    if (!uploadIdPattern.test(request.uploadId)) throw new UploadNotFoundError()
    const session = await this.#parts.sessions.get(request.uploadId)
    const foreign = !session || (session.owner !== null && session.owner !== (request.owner ?? null))
    if (foreign || session.protocol !== request.protocol) throw new UploadNotFoundError()
    await authorize(this.#parts, action, session, request.context)
    return session
  }

  #emit<Name extends keyof UploadEvents>(name: Name, event: UploadEvents[Name][0]): void {
    if (name === 'expired' || name === 'aborted') this.#sender.forget((event as { session: UploadSession }).session.id)
    try {
      // The emitter's own types cannot follow a generic name.
      ;(this.events as EventEmitter).emit(name, event)
    } catch (error) {
      if (name !== 'warning')
        this.#emit('warning', { code: 'LISTENER_FAILED', message: `A ${name} listener threw.`, error })
    }
  }
}

/** `AbortSignal.any` would leave something behind in a long-lived signal with every chunk; this does not. */
function follow(signal: AbortSignal | undefined, controller: AbortController): () => void {
  const onAbort = () => controller.abort(signal?.reason)
  if (signal?.aborted) onAbort()
  signal?.addEventListener('abort', onAbort, { once: true })
  return () => signal?.removeEventListener('abort', onAbort)
}
