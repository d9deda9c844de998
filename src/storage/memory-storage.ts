/** Finished files in memory, for tests and demos: everything is gone with the process and nothing bounds its size. */
import { createHash, randomUUID } from 'node:crypto'
import { addAbortSignal, type Readable } from 'node:stream'
import { inspect } from 'node:util'
import { crc32 } from 'node:zlib'
import { StorageError } from '../errors.ts'
import type {
  MultipartRef,
  MultipartStorage,
  ObjectInfo,
  PartBody,
  StagingStorage,
  StorageAdapter,
  StoredPart,
} from '../types.ts'
import { MemoryStaging } from './memory-staging.ts'

export interface MemoryMultipartOptions {
  /** Smallest size of every part but the last, bytes. Default 1 KiB. */
  readonly minPartSize?: number
  /** Largest size of a part, bytes. Default 64 MiB. */
  readonly maxPartSize?: number
  /** Most parts of one object. Default 10 000. */
  readonly maxParts?: number
  /** The part size to use when the upload does not ask for another, bytes. Default 64 KiB, moved into that range. */
  readonly partSize?: number
}

export interface MemoryStorageOptions {
  /** `false`: a storage that can only `upload`. Default: parts with S3's rules and small sizes. */
  readonly multipart?: false | MemoryMultipartOptions
}

/** A multipart upload that was neither completed nor aborted. */
export interface OpenMultipartUpload {
  readonly fileKey: string
  readonly multipartId: string
  readonly parts: readonly StoredPart[]
}

interface StoredBytes {
  readonly bytes: Buffer
  /** The multipart upload it was made by; `null` for `upload`. */
  readonly multipartId: string | null
}

/** Stores files in a map under their keys and answers `memory://<key>`, every part of the key URL-encoded. */
export class MemoryStorageAdapter implements StorageAdapter {
  readonly multipart?: MultipartStorage
  readonly staging: StagingStorage
  readonly #objects = new Map<string, StoredBytes>()
  readonly #staged = new MemoryStaging()
  readonly #parts: MemoryMultipart | null

  /** @throws TypeError when the multipart sizes contradict each other. */
  constructor(options: MemoryStorageOptions = {}) {
    this.#parts = options.multipart === false ? null : new MemoryMultipart(this.#objects, options.multipart ?? {})
    if (this.#parts) this.multipart = this.#parts
    this.staging = this.#staged
  }

  /** When `info.size` is known, a stream of another length is an error. An older object stays until the new is whole. */
  async upload(fileKey: string, stream: Readable, _mimeType: string, info?: ObjectInfo): Promise<string> {
    const signal = info?.signal
    try {
      const bytes = await readAll(signal ? addAbortSignal(signal, stream) : stream)
      checkSize(bytes.length, info?.size ?? null)
      this.#objects.set(fileKey, { bytes, multipartId: null })
      return urlOf(fileKey)
    } catch (error) {
      throw signal?.aborted ? signal.reason : error
    }
  }

  async remove(fileKey: string): Promise<void> {
    this.#objects.delete(fileKey)
  }

  /** A copy of the object's bytes. */
  read(fileKey: string): Buffer | undefined {
    const object = this.#objects.get(fileKey)
    return object && Buffer.from(object.bytes)
  }

  /** The keys of all objects, oldest first. */
  keys(): string[] {
    return [...this.#objects.keys()]
  }

  /** The keys of all private objects that `staging` keeps, oldest first. */
  stagedKeys(): string[] {
    return this.#staged.keys()
  }

  /** The multipart uploads that are still open, oldest first: what a test looks at to see that nothing leaks. */
  openMultipartUploads(): OpenMultipartUpload[] {
    return this.#parts?.list() ?? []
  }
}

interface OpenUpload {
  readonly fileKey: string
  readonly parts: Map<number, { readonly part: StoredPart; readonly bytes: Buffer }>
}

class MemoryMultipart implements MultipartStorage {
  readonly minPartSize: number
  readonly maxPartSize: number
  readonly maxParts: number
  readonly partSize: number
  readonly #objects: Map<string, StoredBytes>
  readonly #open = new Map<string, OpenUpload>()

  constructor(objects: Map<string, StoredBytes>, options: MemoryMultipartOptions) {
    this.#objects = objects
    this.minPartSize = positive('minPartSize', options.minPartSize ?? 1024)
    this.maxPartSize = positive('maxPartSize', options.maxPartSize ?? 64 * 1024 * 1024)
    this.maxParts = positive('maxParts', options.maxParts ?? 10_000)
    this.partSize = positive(
      'partSize',
      options.partSize ?? Math.min(Math.max(64 * 1024, this.minPartSize), this.maxPartSize),
    )
    if (this.partSize < this.minPartSize || this.partSize > this.maxPartSize) {
      const range = `${this.minPartSize} (minPartSize) to ${this.maxPartSize} (maxPartSize)`
      throw new TypeError(`partSize must be within ${range}, got ${this.partSize}`)
    }
  }

  async create(fileKey: string, _info: ObjectInfo): Promise<string> {
    const multipartId = randomUUID()
    this.#open.set(multipartId, { fileKey, parts: new Map() })
    return multipartId
  }

  async uploadPart(ref: MultipartRef, partNumber: number, body: PartBody, signal?: AbortSignal): Promise<void> {
    this.#find(ref)
    if (!Number.isInteger(partNumber) || partNumber < 1 || partNumber > this.maxParts) {
      throw refused(`The part number must be within 1 to ${this.maxParts}.`)
    }
    if (body.size > this.maxPartSize) throw refused(`A part may have at most ${this.maxPartSize} bytes.`)
    const bytes = await readPart(body, signal)
    checkSize(bytes.length, body.size)
    // Looked up again: while the bytes were read, the upload may have been completed or aborted.
    const etag = createHash('md5').update(bytes).digest('hex')
    const part = { partNumber, size: bytes.length, etag, crc32: crc32(bytes) }
    this.#find(ref).parts.set(partNumber, { part, bytes })
  }

  async listParts(ref: MultipartRef, signal?: AbortSignal): Promise<StoredPart[] | null> {
    signal?.throwIfAborted()
    const upload = this.#open.get(ref.multipartId)
    return upload?.fileKey === ref.fileKey ? partsOf(upload) : null
  }

  async complete(ref: MultipartRef, parts: readonly StoredPart[], info: ObjectInfo): Promise<string> {
    info.signal?.throwIfAborted()
    const made = this.#objects.get(ref.fileKey)
    if (made?.multipartId === ref.multipartId) return urlOf(ref.fileKey)
    if (!this.#open.has(ref.multipartId)) {
      throw new StorageError('This multipart upload is not open, and there is no object of it.', {
        code: 'MULTIPART_GONE',
      })
    }
    const upload = this.#find(ref)
    this.#checkList(parts)
    const bytes = Buffer.concat(parts.map((part) => bytesOf(upload, part)))
    checkSize(bytes.length, info.size)
    this.#objects.set(ref.fileKey, { bytes, multipartId: ref.multipartId })
    this.#open.delete(ref.multipartId)
    return urlOf(ref.fileKey)
  }

  async abort({ fileKey, multipartId }: { fileKey: string; multipartId: string | null }): Promise<void> {
    for (const [id, upload] of this.#open) {
      if (upload.fileKey === fileKey && (multipartId === null || multipartId === id)) this.#open.delete(id)
    }
  }

  list(): OpenMultipartUpload[] {
    return [...this.#open].map(([multipartId, upload]) => ({
      fileKey: upload.fileKey,
      multipartId,
      parts: partsOf(upload),
    }))
  }

  #find(ref: MultipartRef): OpenUpload {
    const upload = this.#open.get(ref.multipartId)
    if (upload?.fileKey !== ref.fileKey) throw refused('This multipart upload is not open.')
    return upload
  }

  #checkList(parts: readonly StoredPart[]): void {
    if (parts.length === 0) throw refused('A multipart upload needs at least one part.')
    for (const [at, part] of parts.entries()) {
      const next = parts[at + 1]
      if (next && next.partNumber <= part.partNumber) throw refused('The parts are not in ascending order.')
      if (next && part.size < this.minPartSize) {
        throw refused(`Every part but the last must have at least ${this.minPartSize} bytes.`)
      }
    }
  }
}

function bytesOf(upload: OpenUpload, { partNumber, etag, size }: StoredPart): Buffer {
  const stored = upload.parts.get(partNumber)
  if (stored?.part.etag !== etag || stored.part.size !== size) {
    throw refused(`Part ${partNumber} is not there, or it is not the one that was listed.`)
  }
  return stored.bytes
}

function partsOf(upload: OpenUpload): StoredPart[] {
  return [...upload.parts.values()].map(({ part }) => part).sort((a, b) => a.partNumber - b.partNumber)
}

async function readPart(body: PartBody, signal: AbortSignal | undefined): Promise<Buffer> {
  signal?.throwIfAborted()
  const stream = body.open()
  try {
    return await readAll(signal ? addAbortSignal(signal, stream) : stream)
  } catch (error) {
    throw signal?.aborted ? signal.reason : error
  }
}

async function readAll(stream: Readable): Promise<Buffer> {
  const buffers: Buffer[] = []
  for await (const chunk of stream as AsyncIterable<Uint8Array | string>) buffers.push(Buffer.from(chunk as Uint8Array))
  return Buffer.concat(buffers)
}

function checkSize(size: number, expected: number | null): void {
  if (expected !== null && size !== expected) throw refused(`${size} bytes came instead of ${expected}.`)
}

function refused(message: string): StorageError {
  return new StorageError(message)
}

function positive(name: string, value: number): number {
  if (Number.isSafeInteger(value) && value > 0) return value
  throw new TypeError(`multipart.${name} must be a positive whole number, got ${inspect(value)}`)
}

function urlOf(fileKey: string): string {
  return `memory://${fileKey.split('/').map(encodeURIComponent).join('/')}`
}
