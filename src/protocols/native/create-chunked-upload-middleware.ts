/** The documented factory: handlers to mount on Express routes. */
import { createUploadEngine, type UploadEngineOptions } from '../../create-upload-engine.ts'
import { isNexusUploaderError } from '../../errors.ts'
import type { StorageAdapter, UploadEngine } from '../../types.ts'
import { type OwnerOf, sendError, type UploadErrorHandler, type UploadHandler } from '../http.ts'
import { abortHandler, chunkHandler, completeHandler, initHandler, progressHandler } from './handlers.ts'
import { singleUploadHandler } from './single-upload.ts'

export interface ChunkedUploadConfig extends Omit<UploadEngineOptions, 'storage'> {
  /**
   * Who is asking: a stable id of the authenticated user. An upload belongs to whoever created it and is a 404 to all
   * others. Default: nobody; then knowing the upload's id is enough.
   */
  owner?: OwnerOf
}

export interface ChunkedUploadMiddleware {
  /** `POST /upload/init` with JSON `{ fileName, totalSize, mimeType }` → `{ uploadId }` */
  readonly init: UploadHandler
  /** `POST /upload/chunk` with multipart/form-data `uploadId`, `chunkIndex`, `chunk` → `{ success: true }` */
  readonly uploadChunk: UploadHandler
  /** `POST /upload/complete` with JSON `{ uploadId }` → `{ url }` */
  readonly complete: UploadHandler
  /** `GET /upload/progress/:uploadId` → `{ uploadedChunks, totalChunks }` */
  readonly getProgress: UploadHandler
  /** `DELETE /upload/:uploadId` → 204 */
  readonly abort: UploadHandler
  /** `POST /upload` with one file in multipart/form-data → `{ url }` */
  readonly upload: UploadHandler
  /** For other protocols on the same uploads, for events, and for tests. */
  readonly engine: UploadEngine
  /** Lets requests under way end (10 s at most), then stops timers and closes stores. */
  close(options?: { timeout?: number }): Promise<void>
}

/**
 * Chunked, resumable uploads into `storage`.
 * @throws TypeError when an option is not usable
 */
export function createChunkedUploadMiddleware(
  storage: StorageAdapter,
  config: ChunkedUploadConfig = {},
): ChunkedUploadMiddleware {
  const { owner = () => null, ...options } = config
  const engine = createUploadEngine({ ...options, storage })
  return {
    init: initHandler(engine, owner),
    uploadChunk: chunkHandler(engine, owner),
    complete: completeHandler(engine, owner),
    getProgress: progressHandler(engine, owner),
    abort: abortHandler(engine, owner),
    upload: singleUploadHandler(engine, owner),
    engine,
    close: (closing) => engine.close(closing),
  }
}

/**
 * Answers this library's errors as JSON: `{ error, code, message, retryable, … }` with their status and, where a retry
 * makes sense, `Retry-After`. Other errors go on to the next error handler. Mount it after the routes.
 */
export function uploadErrorHandler(): UploadErrorHandler {
  return (error, _request, response, next) => {
    if (isNexusUploaderError(error)) sendError(response, error)
    else next(error)
  }
}
