import type { S3StorageAdapter } from '../../src/storage/s3-storage.ts'
import type { StorageAdapter } from '../../src/types.ts'

/** The adapter with parts of any size: S3's own smallest is 5 MiB, and so is the adapter's. */
export function withParts(adapter: S3StorageAdapter, partSize: number, minPartSize = 1): StorageAdapter {
  const { multipart } = adapter
  return {
    upload: (...args) => adapter.upload(...args),
    remove: (key) => adapter.remove(key),
    close: () => adapter.close(),
    staging: adapter.staging,
    multipart: {
      ...{ minPartSize, partSize, maxPartSize: multipart.maxPartSize, maxParts: multipart.maxParts },
      ...(multipart.direct && { direct: multipart.direct }),
      create: (...args) => multipart.create(...args),
      uploadPart: (...args) => multipart.uploadPart(...args),
      listParts: (...args) => multipart.listParts(...args),
      ...(multipart.sentParts && { sentParts: (upload) => multipart.sentParts?.(upload) ?? [] }),
      complete: (...args) => multipart.complete(...args),
      abort: (...args) => multipart.abort(...args),
    },
  }
}

/** The storage as a process finds it that has not sent the parts itself. */
export function afterRestart(storage: StorageAdapter): StorageAdapter {
  const { multipart } = storage
  return multipart ? { ...storage, multipart: { ...multipart, sentParts: () => [] } } : storage
}
