/** Opens the multipart upload of a session, once, whoever comes first. */
import { StorageUnavailableError, UploadNotFoundError } from '../errors.ts'
import type { MultipartStorage, ObjectInfo, UploadSession } from '../types.ts'
import type { EngineParts } from './engine-options.ts'
import { bounded } from './waiting.ts'

/** Opens multipart uploads, each once in this process, however many ask at the same time. */
export class MultipartOpening {
  readonly #parts: EngineParts
  readonly #running = new Map<string, Promise<UploadSession>>()

  constructor(parts: EngineParts) {
    this.#parts = parts
  }

  open(session: UploadSession): Promise<UploadSession> {
    const { multipart } = this.#parts.options.storage
    if (!multipart) throw new StorageUnavailableError()
    if (session.multipartId !== null) return Promise.resolve(session)
    const create = (onDoubt: () => void) =>
      bounded(this.#parts, (signal) => multipart.create(session.key, objectInfo(session, signal), onDoubt))
    const running =
      this.#running.get(session.id) ??
      openMultipart(this.#parts, multipart, session, create).finally(() => this.#running.delete(session.id))
    this.#running.set(session.id, running)
    return running
  }
}

/** `create` asks the storage for a new multipart upload and returns its id; it tells of one that it may have lost. */
export async function openMultipart(
  parts: EngineParts,
  storage: MultipartStorage,
  session: UploadSession,
  create: (onDoubt: () => void) => Promise<string>,
): Promise<UploadSession> {
  if (session.multipartId !== null) return session
  // Counted first: if this process dies before it has recorded the id, nobody else will ever know it.
  const counted = await parts.sessions.update(session.id, (current) =>
    current.multipartId === null ? { ...current, openings: (current.openings ?? 0) + 1 } : current,
  )
  if (!counted) throw new UploadNotFoundError()
  if (counted.multipartId !== null) return counted
  let lost = 0
  const multipartId = await create(() => {
    lost += 1
  })
  const opened = await parts.sessions.update(session.id, (current) => {
    const openings = (current.openings ?? 0) + lost
    if (current.multipartId === null && current.open) return { ...current, multipartId, openings }
    return lost > 0 ? { ...current, openings } : current
  })
  if (opened?.multipartId !== multipartId) {
    // Another process was faster, or the upload ended meanwhile: ours must not stay behind.
    await storage.abort({ fileKey: session.key, multipartId })
  }
  if (!opened) throw new UploadNotFoundError()
  return opened
}

export function objectInfo(session: UploadSession, signal: AbortSignal): ObjectInfo {
  return {
    size: session.totalSize,
    fileName: session.fileName,
    mimeType: session.mimeType,
    uploadId: session.id,
    metadata: session.metadata,
    signal,
  }
}
