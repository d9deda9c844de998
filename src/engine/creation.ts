/** Opens uploads: checks what the client says, asks the hooks, writes the first record. */
import { createHash } from 'node:crypto'
import { v4 as uuid } from 'uuid'
import {
  FileSizeExceededError,
  InvalidFileTypeError,
  InvalidRequestError,
  StorageUnavailableError,
  TooManyUploadsError,
} from '../errors.ts'
import type { CreateUpload, UploadDraft, UploadLimits, UploadSession } from '../types.ts'
import { allows, authorize } from './authorization.ts'
import { parseChecksum } from './body.ts'
import type { ComposedCreate } from './composer.ts'
import type { EngineParts } from './engine-options.ts'
import { checkKey, cleanMimeType, displayName, mimeTypeMatches, safeFileName } from './names.ts'
import { planPartSize } from './part-plan.ts'

export class Creation {
  readonly #parts: EngineParts
  readonly #limits: UploadLimits

  constructor(parts: EngineParts) {
    this.#parts = parts
    this.#limits = parts.options.limits
  }

  async create(request: CreateUpload | ComposedCreate): Promise<{ session: UploadSession; resumed: boolean }> {
    const checked = checkCreate(request, this.#limits)
    await authorize(this.#parts, 'create', null, request.context)
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
      const winner = await this.#linkResume(resumeId, session, request.context)
      if (winner) return { session: winner, resumed: true }
    }
    this.#parts.emit('created', { session })
    return { session, resumed: false }
  }

  async #draft(request: CreateUpload, owner: string | null, checked: Checked): Promise<UploadDraft> {
    const uploadId = uuid()
    const { fileName, mimeType } = checked
    // The key has an id of its own: a public URL must not tell the upload's id.
    const key = `uploads/${uuid()}-${safeFileName(fileName)}`
    const metadata = { ...request.metadata }
    const draft: UploadDraft = { uploadId, owner, totalSize: request.totalSize, fileName, mimeType, metadata, key }
    if (!request.partial) await this.#parts.options.hooks.onCreate?.(draft, request.context)
    return {
      ...draft,
      fileName: displayName(draft.fileName),
      mimeType: cleanMimeType(draft.mimeType),
      key: checkKey(draft.key),
    }
  }

  #newSession(request: CreateUpload | ComposedCreate, draft: UploadDraft, resumeId: string | null): UploadSession {
    const now = this.#parts.clock()
    const chunkSize = request.chunkSize ?? null
    const { totalSize } = request
    const { maxFileSize } = this.#limits
    // The pieces of another upload stay here until that one is made.
    const multipart = request.partial ? undefined : this.#parts.options.storage.multipart
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
      partSize: planPartSize(multipart, { totalSize, chunkSize, maxFileSize }),
      chunks: [],
      sentParts: [],
      multipartId: null,
      checksum: request.checksum ?? null,
      resumeId,
      completing: null,
      handedOver: false,
      object: null,
      ...(request.partial && { partial: true }),
      ...('sources' in request && { sources: [...request.sources] }),
      ...(request.wire && { wire: { ...request.wire } }),
      createdAt: now,
      updatedAt: now,
      expiresAt: now + this.#parts.options.sessionTtl,
    }
  }

  async #checkRoom(owner: string | null): Promise<void> {
    const { maxSessions, maxSessionsPerOwner } = this.#limits
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
    if (!session || session.owner !== (request.owner ?? null) || !isFindable(session)) return null
    const same =
      session.sources !== undefined ||
      (session.totalSize === request.totalSize &&
        session.chunkSize === (request.chunkSize ?? null) &&
        session.fileName === fileName &&
        session.checksum === (request.checksum ?? null))
    return same && (await allows(this.#parts, 'read', session, request.context)) ? session : null
  }

  /** Of several creations with one key, one links its upload; the others drop theirs and return the winner's. */
  async #linkResume(resumeId: string, session: UploadSession, context: unknown): Promise<UploadSession | null> {
    const { sessions, sessionTtl } = this.#parts.options
    const now = this.#parts.clock()
    const link = { format: 1, kind: 'resume', id: resumeId, open: false, owner: session.owner } as const
    const record = { ...link, version: 0, uploadId: session.id, expiresAt: now + 24 * sessionTtl }
    for (;;) {
      if (await sessions.create(record)) return null
      const current = await sessions.get(resumeId)
      if (current?.kind !== 'resume') continue
      const other = await this.#parts.sessions.get(current.uploadId)
      if (other && isFindable(other) && isSameFile(other, session)) {
        if (!(await allows(this.#parts, 'read', other, context))) return null
        await sessions.delete(session.id)
        return other
      }
      if (await sessions.replace({ ...record, version: current.version + 1 }, current.version)) return null
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
  if (!request.partial && !mimeTypeMatches(mimeType, limits.allowedMimeTypes)) {
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

/** A composed upload whose answer was lost is found again also when it is complete: a second one would be a second object. */
function isFindable(session: UploadSession): boolean {
  if (session.sources) return session.state !== 'aborted' && session.state !== 'expired'
  return session.state === 'active'
}

function isSameFile(a: UploadSession, b: UploadSession): boolean {
  if (a.sources) return b.sources?.join() === a.sources.join()
  return (
    a.totalSize === b.totalSize && a.chunkSize === b.chunkSize && a.fileName === b.fileName && a.checksum === b.checksum
  )
}
