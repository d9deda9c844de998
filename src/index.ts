export { createUploadEngine, type UploadEngineOptions } from './create-upload-engine.ts'
export type { TracedCall } from './engine/traced-engine.ts'
export {
  BodyIncompleteError,
  BodyTimeoutError,
  ChecksumMismatchError,
  ChunkSizeExceededError,
  FileSizeExceededError,
  InsufficientStorageError,
  InternalError,
  InvalidFileTypeError,
  InvalidRequestError,
  isNexusUploaderError,
  LocalStorageError,
  NexusUploaderError,
  OffsetMismatchError,
  ProcessingError,
  S3UploadError,
  StorageError,
  StorageUnavailableError,
  TooManyUploadsError,
  UnsupportedMediaTypeError,
  UploadClosedError,
  UploadExpiredError,
  UploadIncompleteError,
  UploadLockedError,
  UploadNotFoundError,
} from './errors.ts'
export { MemoryLocker } from './locks/memory-locker.ts'
export type { CorsOptions } from './protocols/cors.ts'
export type { OwnerOf, UploadErrorHandler, UploadHandler, UploadRequest } from './protocols/http.ts'
export {
  type ChunkedUploadConfig,
  type ChunkedUploadMiddleware,
  createChunkedUploadMiddleware,
  uploadErrorHandler,
} from './protocols/native/create-chunked-upload-middleware.ts'
export { FileSessionStore, type FileSessionStoreOptions } from './sessions/file-session-store.ts'
export { MemorySessionStore } from './sessions/memory-session-store.ts'
export { LocalStorageAdapter, type LocalStorageOptions } from './storage/local-storage.ts'
export { MemoryStorageAdapter, type MemoryStorageOptions } from './storage/memory-storage.ts'
export { S3StorageAdapter, type S3StorageOptions } from './storage/s3-storage.ts'
export type * from './types.ts'
