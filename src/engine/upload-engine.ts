import { EventEmitter, setMaxListeners } from 'node:events'
import type { Readable } from 'node:stream'
import { fromFileSystemError, StorageUnavailableError, UploadExpiredError, UploadNotFoundError } from '../errors.ts'
import type {
  AbortUpload,
  AppendBytes,
  Appended,
  ChunkWritten,
  CompleteUpload,
  ComposeUpload,
  CreateUpload,
  Durability,
  FindUpload,
  FoundUpload,
  ListedChunk,
  SignPart,
  SpooledBody,
  StoredObject,
  StoredPart,
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
import { Aborter } from './aborter.ts'
import { acquireAppendLock } from './append-lock.ts'
import { Appender } from './appender.ts'
import { authorize, requireOpen } from './authorization.ts'
import { parseChecksum } from './body.ts'
import { ChunkIntake } from './chunk-intake.ts'
import { allChunks, prefix } from './chunk-map.ts'
import { matchesChunk } from './chunk-matcher.ts'
import { requireActive } from './chunk-writer.ts'
import { Claims } from './claims.ts'
import { Completion } from './completion.ts'
import { composedCreate, linkSources, refusePartial } from './composer.ts'
import { Creation } from './creation.ts'
import { DirectUploads } from './direct-uploads.ts'
import { DiskAppending } from './disk-appending.ts'
import type { EngineOptions, EngineParts } from './engine-options.ts'
import { FileChecks } from './file-checks.ts'
import { FirstBytes, refusedAlready } from './first-bytes.ts'
import { sumsOf } from './known-sums.ts'
import { MultipartOpening } from './multipart-opening.ts'
import { PartSender } from './part-sender.ts'
import { Pieces } from './pieces.ts'
import { ResumeKeys } from './resume-keys.ts'
import { SessionUpdates } from './session-updates.ts'
import { Settler } from './settler.ts'
import { SharedAppending } from './shared-appending.ts'
import { spoolBody } from './spool.ts'
import { Staging } from './staging.ts'
import { Sweeper } from './sweeper.ts'
import { TempSpace } from './temp-space.ts'
import { follow } from './waiting.ts'

const uploadIdPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

type Clocks = Pick<EngineParts, 'clock' | 'uptime'>

export class Engine implements UploadEngine {
  readonly limits: UploadLimits
  readonly signsParts: boolean
  readonly events = new EventEmitter<UploadEvents>({ captureRejections: true })
  readonly #parts: EngineParts
  readonly #keys: ResumeKeys
  readonly #creation: Creation
  readonly #pieces: Pieces
  readonly #intake: ChunkIntake
  readonly #sender: PartSender
  readonly #settler: Settler
  readonly #completion: Completion
  readonly #appender: Appender
  readonly #aborter: Aborter
  readonly #sweeper: Sweeper
  readonly #direct: DirectUploads
  readonly #cut = new AbortController()
  readonly #work = new Set<Promise<unknown>>()
  #closed = false

  constructor(options: EngineOptions & Clocks & { readonly durability: Durability }) {
    this.limits = options.limits
    this.signsParts = options.storage.multipart?.direct !== undefined
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
      claims: new Claims((uploadId) => staging.claimsOf(uploadId), staging.marks),
      space: new TempSpace(staging, options.limits),
      firstBytes: new FirstBytes(
        () => this.#parts,
        (session, range) => this.#pieces.bytes(session, range),
      ),
      checks: new FileChecks(),
      events: this.events,
      clock: options.clock,
      uptime: options.uptime,
      closing: this.#cut.signal,
      emit: (name, event) => this.#emit(name, event),
    }
    this.#keys = new ResumeKeys(this.#parts)
    this.#creation = new Creation(this.#parts, this.#keys)
    const pieces = new Pieces(this.#parts)
    const opening = new MultipartOpening(this.#parts)
    const sender = new PartSender(this.#parts, pieces, opening)
    const settler = new Settler(this.#parts)
    const direct = new DirectUploads(this.#parts)
    this.#pieces = pieces
    this.#sender = sender
    this.#settler = settler
    this.#direct = direct
    this.#intake = new ChunkIntake(this.#parts, pieces, opening, sender, settler)
    this.#sweeper = new Sweeper(this.#parts, pieces, this.#keys)
    const discard = (session: UploadSession) => this.#sweeper.discard(session)
    this.#completion = new Completion(this.#parts, { pieces, sender, settler, direct, discard })
    const shared = new SharedAppending(this.#parts, pieces, opening, sender)
    this.#appender = new Appender(this.#parts, new DiskAppending(this.#parts, sender), shared)
    this.#aborter = new Aborter(this.#parts, this.#sender, discard)
    this.#sweeper.start()
    if (options.warnsOfDisks && options.staging === 'disk') setImmediate(() => this.#warnOfDisks())
  }

  create(request: CreateUpload): Promise<{ session: UploadSession; resumed: boolean }> {
    return this.#track(() => this.#creation.create(request))
  }

  find(request: FindUpload): Promise<FoundUpload | null> {
    return this.#track(() => this.#keys.find(request))
  }

  release(request: FindUpload, uploadId: string): Promise<void> {
    return this.#track(() => this.#keys.release(request, uploadId))
  }

  compose(request: ComposeUpload): Promise<{ session: UploadSession; resumed: boolean }> {
    return this.#track(async () => {
      const ref = { protocol: request.protocol, owner: request.owner, context: request.context }
      const load = (uploadId: string) => this.#load({ ...ref, uploadId }, 'read')
      const partials = await Promise.all(request.sources.map(load))
      const created = await this.#creation.create(composedCreate(request, partials, this.limits))
      if (created.session.state === 'active') await linkSources(this.#parts, created.session)
      return created
    })
  }

  append(request: AppendBytes): Promise<Appended> {
    return this.#receive(request, async (stop) => {
      const session = await this.#load(request, 'write')
      requireOpen(session)
      return this.#appender.append(session, request, stop)
    })
  }

  writeChunk(request: WriteChunk): Promise<ChunkWritten> {
    return this.#receive(request, (stop) => this.#writeChunk(request, stop))
  }

  matchesChunk(request: WriteChunk): Promise<boolean> {
    return this.#receive(request, async (stop) => {
      const session = await this.#load(request, 'write')
      requireOpen(session)
      return matchesChunk(this.#parts, session, request, stop.signal)
    })
  }

  /** Whatever brings a body; `stop` ends it, and is aborted when the caller is gone or the engine is cut off. */
  #receive<Result>(request: WriteChunk | AppendBytes, task: (stop: AbortController) => Promise<Result>) {
    // A body that fails while we are still looking must not be an unhandled error.
    request.body.on('error', () => {})
    const stop = new AbortController()
    return this.#track(async () => {
      const unlink = [follow(request.signal, stop), follow(this.#cut.signal, stop)]
      try {
        return await task(stop)
      } catch (error) {
        throw await this.#parts.firstBytes.explain(error, request.uploadId, this.#aborter)
      } finally {
        for (const end of unlink) end()
      }
    })
  }

  spool(body: Readable, options: { maxSize: number; signal?: AbortSignal }): Promise<SpooledBody> {
    body.on('error', () => {})
    const signal = AbortSignal.any(options.signal ? [options.signal, this.#cut.signal] : [this.#cut.signal])
    return this.#track(() => spoolBody(this.#parts, body, { maxSize: options.maxSize, signal }))
  }

  retrieveOffset(request: UploadRef): Promise<UploadOffset> {
    return this.#track(async () => {
      const loaded = await this.#load(request, 'read')
      const session = await this.#settle(loaded, request.signal)
      requireOpen(session)
      const isForgotten = session.state === 'completed' && session.expiresAt <= this.#parts.clock()
      if (isForgotten) throw new UploadExpiredError()
      if (!session.sources) return { offset: prefix(session.chunks).bytes, session }
      return { offset: session.state === 'completed' ? (session.totalSize ?? 0) : 0, session }
    })
  }

  /** The record once nobody is appending any more. */
  async #settle(session: UploadSession, signal: AbortSignal | undefined): Promise<UploadSession> {
    if (session.state !== 'active' || session.sources || session.object) return session
    const stop = new AbortController()
    const unlink = [follow(signal, stop), follow(this.#cut.signal, stop)]
    const locked = acquireAppendLock(this.#parts, session.id, () => {}, stop.signal)
    const lock = await locked.finally(() => {
      for (const end of unlink) end()
    })
    try {
      const settled = await this.#parts.sessions.get(session.id)
      if (!settled) throw new UploadNotFoundError()
      return settled
    } finally {
      await lock.release()
    }
  }

  get(request: UploadRef): Promise<UploadSession> {
    return this.#track(async () => {
      const session = await this.#load(request, 'read')
      requireOpen(session)
      return session
    })
  }

  listChunks(request: UploadRef): Promise<{ session: UploadSession; chunks: ListedChunk[] }> {
    return this.#track(async () => {
      const session = await this.#load(request, 'read')
      requireOpen(session)
      const crcOf = await sumsOf(this.#parts, session)
      const chunks = allChunks(session.chunks).map(({ index, size }) => ({ index, size, crc32: crcOf(index, size) }))
      return { session, chunks }
    })
  }

  signPart(request: SignPart): Promise<string> {
    return this.#track(async () => this.#direct.signPart(await this.#load(request, 'write'), request))
  }

  listParts(request: UploadRef): Promise<StoredPart[]> {
    return this.#track(async () => this.#direct.listParts(await this.#load(request, 'read')))
  }

  complete(request: CompleteUpload): Promise<StoredObject> {
    return this.#track(async () => {
      const session = await this.#load(request, 'complete')
      refusePartial(session)
      return this.#completion.complete(session, request)
    })
  }

  abort(request: AbortUpload): Promise<void> {
    return this.#track(async () => {
      const session = await this.#load(request, 'abort')
      await this.#aborter.abort(session, request.completed ?? 'refuse')
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
    await this.#pieces.idle()
    clearTimeout(cut)
    this.#cutOff()
    await this.#parts.claims.close()
    const { locker, sessions, storage } = this.#parts.options
    for (const each of [locker, sessions, storage]) await each.close?.()
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
    try {
      await this.#parts.staging.prepare()
    } catch (cause) {
      throw fromFileSystemError(cause)
    }
  }

  async #writeChunk(request: WriteChunk, stop: AbortController): Promise<ChunkWritten> {
    if (request.checksum !== undefined) parseChecksum(request.checksum)
    const session = await this.#load(request, 'write')
    requireActive(session)
    return this.#intake.write(session, request, stop)
  }

  /** Unknown, of another protocol, of another owner, hidden by `authorize`: one answer for all. */
  async #load(request: UploadRef, action: UploadAction): Promise<UploadSession> {
    if (!uploadIdPattern.test(request.uploadId)) throw new UploadNotFoundError()
    const session = await this.#parts.sessions.get(request.uploadId)
    if (session?.protocol !== request.protocol) throw new UploadNotFoundError()
    const isTheirs = request.proof?.(session) ?? (session.owner === null || session.owner === (request.owner ?? null))
    if (!isTheirs) throw new UploadNotFoundError()
    await authorize(this.#parts, action, session, request.context)
    if (session.refusal && (action === 'write' || action === 'complete')) throw refusedAlready(session.refusal)
    return session
  }

  /** Once, and when whoever made the engine has had time to listen. */
  #warnOfDisks(): void {
    const message =
      "Sessions are shared, but chunks wait on each node's own disk: give all nodes one tempDir, or route each upload " +
      "to one node, and say so with staging: 'disk'; or use a storage and a session store that can stage them."
    this.#emit('warning', { code: 'STAGING_NOT_SHARED', message })
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
