/** The one upload engine. Every protocol turns its requests into these verbs. */
import { createHash } from 'node:crypto'
import { EventEmitter } from 'node:events'
import type { Readable } from 'node:stream'
import { v4 as uuid } from 'uuid'
import {
  FileSizeExceededError,
  InvalidFileTypeError,
  InvalidRequestError,
  isNexusUploaderError,
  StorageUnavailableError,
  TooManyUploadsError,
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
  UploadDraft,
  UploadEngine,
  UploadEvents,
  UploadLimits,
  UploadOffset,
  UploadRef,
  UploadSession,
  WriteChunk,
} from '../types.ts'
import { parseChecksum } from './body.ts'
import { firstUnsettled, prefix } from './chunk-map.ts'
import { ChunkWriter, requireActive } from './chunk-writer.ts'
import { Claims } from './claims.ts'
import { Completion } from './completion.ts'
import type { EngineOptions, EngineParts } from './engine-options.ts'
import { checkKey, cleanMimeType, displayName, mimeTypeMatches, safeFileName } from './names.ts'
import { planPartSize } from './part-plan.ts'
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
  readonly events = new EventEmitter<UploadEvents>()
  readonly #parts: EngineParts
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
    const staging = new Staging(options)
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
    this.#writer = new ChunkWriter(this.#parts)
    this.#sender = new PartSender(this.#parts)
    this.#settler = new Settler(this.#parts)
    this.#completion = new Completion(this.#parts, this.#sender, this.#settler)
    this.#sweeper = new Sweeper(this.#parts)
    this.#sweeper.start()
  }

  create(request: CreateUpload): Promise<{ session: UploadSession; resumed: boolean }> {
    return this.#track(() => this.#create(request))
  }

  writeChunk(request: WriteChunk): Promise<ChunkWritten> {
    // A body that fails while we are still looking must not be an unhandled error.
    request.body.on('error', () => {})
    const yieldTo = new AbortController()
    return this.#track(() => this.#writeChunk(request, yieldTo))
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

  async #create(request: CreateUpload): Promise<{ session: UploadSession; resumed: boolean }> {
    const checked = checkCreate(request, this.limits)
    await this.#authorize('create', null, request.context)
    const owner = request.owner ?? null
    const resumeId = request.resumeKey === undefined ? null : resumeIdOf(request.protocol, owner, request.resumeKey)
    if (resumeId) {
      const session = await this.#findResumable(resumeId, request, checked.fileName)
      if (session) return { session, resumed: true }
    }
    await this.#checkRoom(owner)
    const draft = await this.#draft(request, owner, checked)
    const session = this.#newSession(request, draft, resumeId)
    if (!(await this.#parts.options.sessions.create(session))) throw new StorageUnavailableError()
    if (resumeId) {
      const winner = await this.#linkResume(resumeId, session)
      if (winner) return { session: winner, resumed: true }
    }
    this.#emit('created', { session })
    return { session, resumed: false }
  }

  async #draft(request: CreateUpload, owner: string | null, checked: Checked): Promise<UploadDraft> {
    const uploadId = uuid()
    const { fileName, mimeType } = checked
    // The key has an id of its own: a public URL must not tell the upload's id.
    const key = `uploads/${uuid()}-${safeFileName(fileName)}`
    const metadata = { ...request.metadata }
    const draft: UploadDraft = { uploadId, owner, totalSize: request.totalSize, fileName, mimeType, metadata, key }
    await this.#parts.options.hooks.onCreate?.(draft, request.context)
    return {
      ...draft,
      fileName: displayName(draft.fileName),
      mimeType: cleanMimeType(draft.mimeType),
      key: checkKey(draft.key),
    }
  }

  #newSession(request: CreateUpload, draft: UploadDraft, resumeId: string | null): UploadSession {
    const now = this.#parts.clock()
    const chunkSize = request.chunkSize ?? null
    const { totalSize } = request
    const { maxFileSize } = this.limits
    return {
      format: 1,
      kind: 'upload',
      id: draft.uploadId,
      version: 0,
      open: true,
      owner: draft.owner,
      protocol: request.protocol,
      state: 'active',
      key: draft.key,
      fileName: draft.fileName,
      mimeType: draft.mimeType,
      metadata: { ...draft.metadata },
      totalSize,
      chunkSize,
      stride: null,
      partSize: planPartSize(this.#parts.options.storage.multipart, { totalSize, chunkSize, maxFileSize }),
      chunks: [],
      sentParts: [],
      multipartId: null,
      checksum: request.checksum ?? null,
      resumeId,
      completing: null,
      object: null,
      createdAt: now,
      updatedAt: now,
      expiresAt: now + this.#parts.options.sessionTtl,
    }
  }

  async #checkRoom(owner: string | null): Promise<void> {
    const { maxSessions, maxSessionsPerOwner } = this.limits
    const { sessions } = this.#parts.options
    if (Number.isFinite(maxSessions) && (await sessions.countOpen()) >= maxSessions) {
      throw new TooManyUploadsError(maxSessions)
    }
    if (owner === null || !Number.isFinite(maxSessionsPerOwner)) return
    if ((await sessions.countOpen(owner)) >= maxSessionsPerOwner) throw new TooManyUploadsError(maxSessionsPerOwner)
  }

  async #findResumable(resumeId: string, request: CreateUpload, fileName: string): Promise<UploadSession | null> {
    const record = await this.#parts.options.sessions.get(resumeId)
    const session = record?.kind === 'resume' ? await this.#parts.sessions.get(record.uploadId) : null
    if (session?.state !== 'active' || session.owner !== (request.owner ?? null)) return null
    const same =
      session.totalSize === request.totalSize &&
      session.chunkSize === (request.chunkSize ?? null) &&
      session.fileName === fileName &&
      session.checksum === (request.checksum ?? null)
    return same && (await this.#allows('read', session, request.context)) ? session : null
  }

  /** Of several creations with one key, one links its upload; the others drop theirs and return the winner's. */
  async #linkResume(resumeId: string, session: UploadSession): Promise<UploadSession | null> {
    const { sessions, sessionTtl } = this.#parts.options
    const now = this.#parts.clock()
    const link = { format: 1, kind: 'resume', id: resumeId, open: false, owner: session.owner } as const
    const record = { ...link, version: 0, uploadId: session.id, expiresAt: now + 24 * sessionTtl }
    for (;;) {
      if (await sessions.create(record)) return null
      const current = await sessions.get(resumeId)
      if (current?.kind !== 'resume') continue
      const other = await this.#parts.sessions.get(current.uploadId)
      if (other?.state === 'active' && isSameFile(other, session)) {
        await sessions.delete(session.id)
        return other
      }
      if (await sessions.replace({ ...record, version: current.version + 1 }, current.version)) return null
    }
  }

  async #writeChunk(request: WriteChunk, yieldTo: AbortController): Promise<ChunkWritten> {
    if (request.checksum !== undefined) parseChecksum(request.checksum)
    const callers = request.signal ? [request.signal, this.#cut.signal] : [this.#cut.signal]
    const signal = AbortSignal.any(callers)
    const session = await this.#load(request, 'write')
    requireActive(session)
    await this.#sender.capacity(session, signal)
    const written = await this.#writer.write(session, request, signal, yieldTo)
    const { size, duplicate } = written
    this.#emit('chunk', { session: written.session, index: request.index, size, duplicate })
    this.#moveOn(written.session)
    return written
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
    await this.#authorize(action, session, request.context)
    return session
  }

  async #authorize(action: UploadAction, session: UploadSession | null, context: unknown): Promise<void> {
    if (!(await this.#allows(action, session, context))) throw new UploadNotFoundError()
  }

  async #allows(action: UploadAction, session: UploadSession | null, context: unknown): Promise<boolean> {
    return (await this.#parts.options.hooks.authorize?.(action, session, context)) !== false
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

interface Checked {
  readonly fileName: string
  readonly mimeType: string
}

function checkCreate(request: CreateUpload, limits: UploadLimits): Checked {
  const { totalSize, chunkSize } = request
  if (totalSize !== null) {
    if (!Number.isSafeInteger(totalSize) || totalSize < 0) {
      throw new InvalidRequestError('totalSize must be a whole number of bytes, 0 or more.', { code: 'INVALID_SIZE' })
    }
    if (totalSize > limits.maxFileSize) throw new FileSizeExceededError(limits.maxFileSize)
  }
  if (chunkSize !== undefined) checkChunkSize(chunkSize, totalSize, limits)
  if (request.checksum !== undefined) parseChecksum(request.checksum)
  const mimeType = cleanMimeType(request.mimeType)
  if (!mimeTypeMatches(mimeType, limits.allowedMimeTypes)) {
    throw new InvalidFileTypeError(mimeType, limits.allowedMimeTypes)
  }
  return { fileName: displayName(request.fileName), mimeType }
}

function checkChunkSize(chunkSize: number, totalSize: number | null, limits: UploadLimits): void {
  const { maxChunkSize, maxChunks, maxFileSize } = limits
  if (!Number.isSafeInteger(chunkSize) || chunkSize < 1 || chunkSize > maxChunkSize) {
    throw new InvalidRequestError(`chunkSize must be a whole number of bytes from 1 to ${maxChunkSize}.`, {
      code: 'INVALID_CHUNK_SIZE',
      details: { limit: maxChunkSize },
    })
  }
  if (Math.ceil((totalSize ?? 0) / chunkSize) <= maxChunks) return
  throw new FileSizeExceededError(Math.min(maxFileSize, chunkSize * maxChunks), {
    message: `The file has more than ${maxChunks} chunks of ${chunkSize} bytes. Use larger chunks.`,
    details: { maxChunks },
  })
}

/** Bound to the owner, and of a shape that no route accepts as an upload id. */
function resumeIdOf(protocol: string, owner: string | null, resumeKey: string): string {
  const parts = JSON.stringify([protocol, owner, resumeKey])
  return createHash('sha256').update(parts).digest('base64url')
}

function isSameFile(a: UploadSession, b: UploadSession): boolean {
  return (
    a.totalSize === b.totalSize && a.chunkSize === b.chunkSize && a.fileName === b.fileName && a.checksum === b.checksum
  )
}
