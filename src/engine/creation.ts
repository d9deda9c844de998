/** Opens uploads: checks what the client says, asks the hooks, writes the first record. */
import { v4 as uuid } from 'uuid'
import {
  FileSizeExceededError,
  InvalidFileTypeError,
  InvalidRequestError,
  StorageUnavailableError,
  TooManyUploadsError,
} from '../errors.ts'
import type { CreateUpload, UploadDraft, UploadLimits, UploadSession } from '../types.ts'
import { authorize } from './authorization.ts'
import { parseChecksum } from './body.ts'
import { partSizedChunk } from './chunk-map.ts'
import type { ComposedCreate } from './composer.ts'
import { requireDirect } from './direct-uploads.ts'
import type { EngineParts } from './engine-options.ts'
import { checkKey, cleanMimeType, displayName, mimeTypeMatches, safeFileName } from './names.ts'
import { planPartSize, planSharedPartSize } from './part-plan.ts'
import { type ResumeKeys, resumeIdOf } from './resume-keys.ts'

export class Creation {
  readonly #parts: EngineParts
  readonly #limits: UploadLimits
  readonly #keys: ResumeKeys

  constructor(parts: EngineParts, keys: ResumeKeys) {
    this.#parts = parts
    this.#keys = keys
    this.#limits = parts.options.limits
  }

  async create(request: CreateUpload | ComposedCreate): Promise<{ session: UploadSession; resumed: boolean }> {
    const checked = checkCreate(request, this.#limits)
    if (request.direct) requireDirect(this.#parts, request)
    await authorize(this.#parts, 'create', null, request.context)
    const owner = request.owner ?? null
    const { resumeKey } = request
    const resumeId = resumeKey === undefined ? null : resumeIdOf({ ...request, resumeKey })
    if (resumeId) {
      const session = await this.#keys.findOpen(resumeId, request, checked.fileName)
      if (session) return { session, resumed: true }
    }
    await this.#checkRoom(owner)
    const draft = await this.#draft(request, owner, checked)
    const session = this.#newSession(request, draft, checked.fileName, resumeId)
    if (!(await this.#parts.options.sessions.create(session))) throw new StorageUnavailableError()
    if (resumeId) {
      const winner = await this.#keys.link(resumeId, session, request.context)
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

  #newSession(
    request: CreateUpload | ComposedCreate,
    draft: UploadDraft,
    clientName: string,
    resumeId: string | null,
  ): UploadSession {
    const now = this.#parts.clock()
    const { totalSize } = request
    const staged = this.#staging(request) === 'storage'
    const chunkSize = this.#chunkSize(request, staged)
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
      ...(clientName !== draft.fileName && { clientName }),
      mimeType: draft.mimeType,
      metadata: { ...draft.metadata },
      totalSize,
      chunkSize,
      stride: null,
      partSize: this.#partSize({ ...request, chunkSize: chunkSize ?? undefined }, staged),
      chunks: [],
      sentParts: [],
      multipartId: null,
      checksum: request.checksum ?? null,
      resumeId,
      completing: null,
      handedOver: false,
      object: null,
      ...(request.recognizable && { recognizable: true }),
      ...(request.partial && { partial: true }),
      ...(request.direct && { direct: true }),
      ...(staged && { staged: 'storage' }),
      ...('sources' in request && { sources: [...request.sources] }),
      ...(request.wire && { wire: { ...request.wire } }),
      createdAt: now,
      updatedAt: now,
      expiresAt: now + this.#parts.options.sessionTtl,
    }
  }

  #staging(request: CreateUpload | ComposedCreate): 'disk' | 'storage' {
    if (request.direct) return 'disk'
    return 'sources' in request ? request.staging : this.#parts.options.staging
  }

  /** The declared one, or, when the client leaves it to us, one that makes a chunk a part. */
  #chunkSize({ chunkSize, anyChunkSize, ...request }: CreateUpload, staged: boolean): number | null {
    if (chunkSize === undefined || !anyChunkSize || !staged || request.partial) return chunkSize ?? null
    return partSizedChunk(this.#partSize(request, staged), this.#limits.maxChunkSize)
  }

  #partSize(request: CreateUpload, staged: boolean): number {
    const { maxFileSize, maxChunkSize } = this.#limits
    // The pieces of another upload stay here until that one is made.
    const multipart = request.partial ? undefined : this.#parts.options.storage.multipart
    const plan = { totalSize: request.totalSize, chunkSize: request.chunkSize ?? null, maxFileSize }
    return multipart && staged
      ? planSharedPartSize(multipart, { ...plan, maxChunkSize })
      : planPartSize(multipart, plan)
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
