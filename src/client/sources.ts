/** Files, blobs and bytes in memory as sources; streams are in `stream-source.ts`. */
import type { Source } from './platform.ts'
import { browserSecret } from './resume-key.ts'
import { namesOf } from './source-names.ts'
import { isStream, streamSource } from './stream-source.ts'
import type { BlobLike, UploadOptions, UploadSource } from './types.ts'

/** @throws TypeError for what cannot be uploaded here */
export async function openInBrowser(
  source: UploadSource,
  options: UploadOptions,
  secret: () => string = browserSecret,
): Promise<Source> {
  if (source instanceof ArrayBuffer) return bytesSource(new Uint8Array(source), options)
  if (ArrayBuffer.isView(source)) {
    return bytesSource(new Uint8Array(source.buffer, source.byteOffset, source.byteLength), options)
  }
  if (isBlob(source)) return blobSource(source, options, secret)
  if (isStream(source)) return streamSource(source, options)
  throw new TypeError('Give a File, a Blob, bytes or a stream. A path can be uploaded in Node only.')
}

function isBlob(source: unknown): source is BlobLike {
  return typeof (source as BlobLike | null)?.arrayBuffer === 'function'
}

const nothingToClose = () => {}

function blobSource(blob: BlobLike, options: UploadOptions, secret: () => string): Source {
  const { name = '', size, type, lastModified } = blob
  return {
    ...namesOf(options, name, type),
    size,
    // Without a time, a blob that was changed in the middle would pass for the old one.
    identity: lastModified === undefined ? null : `${secret()}.${lastModified}`,
    isRereadable: true,
    read: async (start, end) => blob.slice(start, end),
    close: nothingToClose,
  }
}

function bytesSource(bytes: Uint8Array, options: UploadOptions): Source {
  return {
    ...namesOf(options),
    size: bytes.length,
    identity: null,
    isRereadable: true,
    read: async (start, end) => bytes.subarray(start, end),
    close: nothingToClose,
  }
}
