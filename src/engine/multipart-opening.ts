/** Opens the multipart upload of a session, once, whoever comes first. */
import { UploadNotFoundError } from '../errors.ts'
import type { MultipartStorage, ObjectInfo, UploadSession } from '../types.ts'
import type { EngineParts } from './engine-options.ts'

/** `create` asks the storage for a new multipart upload and returns its id. */
export async function openMultipart(
  parts: EngineParts,
  storage: MultipartStorage,
  session: UploadSession,
  create: () => Promise<string>,
): Promise<UploadSession> {
  if (session.multipartId !== null) return session
  // Counted first: if this process dies before it has recorded the id, nobody else will ever know it.
  const counted = await parts.sessions.update(session.id, (current) =>
    current.multipartId === null ? { ...current, openings: (current.openings ?? 0) + 1 } : current,
  )
  if (!counted) throw new UploadNotFoundError()
  if (counted.multipartId !== null) return counted
  const multipartId = await create()
  const opened = await parts.sessions.update(session.id, (current) =>
    current.multipartId === null ? { ...current, multipartId } : current,
  )
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
