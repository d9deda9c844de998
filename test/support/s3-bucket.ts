/** What the S3 double keeps, and S3's rules about it. Knows no HTTP. */
import { createHash, randomUUID } from 'node:crypto'
import type { StoredBytes } from './s3-body.ts'
import { S3Fault } from './s3-fault.ts'

export interface ObjectHeaders {
  readonly [name: string]: string
}

export interface DoubleObject {
  readonly key: string
  readonly size: number
  readonly etag: string
  readonly headers: ObjectHeaders
  readonly pieces: readonly StoredBytes[]
  readonly modified: Date
}

export interface DoubleUpload {
  readonly id: string
  readonly key: string
  readonly headers: ObjectHeaders
  /** `CRC32` when the upload was opened for parts with checksums. */
  readonly algorithm: string | null
  readonly parts: Map<number, StoredBytes>
  readonly initiated: Date
}

export interface NamedPart {
  readonly partNumber: number
  readonly etag: string
  readonly crc32: string | null
}

/** Every part but the last has at least this size in S3, bytes. */
export const MIN_PART = 5 * 1024 * 1024

export interface PartRules {
  /** All parts but the last have one size. */
  readonly equalParts: boolean
  /** Smallest part but the last, bytes. */
  readonly minPart: number
}

export class DoubleBucket {
  readonly objects = new Map<string, DoubleObject>()
  readonly uploads = new Map<string, DoubleUpload>()
  /** Weakly: an object that was deleted must not stay in memory, bytes and all. */
  readonly #completed = new Map<string, WeakRef<DoubleObject>>()

  put(key: string, headers: ObjectHeaders, body: StoredBytes): DoubleObject {
    return this.#store({ key, size: body.size, etag: `"${body.md5}"`, headers, pieces: [body], modified: new Date() })
  }

  object(key: string): DoubleObject {
    const object = this.objects.get(key)
    if (!object) throw new S3Fault('NoSuchKey')
    return object
  }

  createUpload(key: string, headers: ObjectHeaders, algorithm: string | null): DoubleUpload {
    const parts = new Map<number, StoredBytes>()
    const upload = { id: randomUUID(), key, headers, algorithm, parts, initiated: new Date() }
    this.uploads.set(upload.id, upload)
    return upload
  }

  upload(key: string, id: string): DoubleUpload {
    const upload = this.uploads.get(id)
    if (!upload || upload.key !== key) throw new S3Fault('NoSuchUpload')
    return upload
  }

  async putPart(key: string, id: string, partNumber: number, body: StoredBytes): Promise<string> {
    const { parts, algorithm } = this.upload(key, id)
    if (algorithm === null && body.crc32 !== null)
      throw new S3Fault('InvalidRequest', 'Checksum Type mismatch occurred')
    if (algorithm !== null && body.crc32 === null)
      throw new S3Fault('InvalidRequest', `Checksum ${algorithm} is missing`)
    await parts.get(partNumber)?.discard()
    parts.set(partNumber, body)
    return `"${body.md5}"`
  }

  async abort(key: string, id: string): Promise<void> {
    const upload = this.upload(key, id)
    this.uploads.delete(id)
    for (const part of upload.parts.values()) await part.discard()
  }

  /** Makes the object. Again after it succeeded, it gives the same answer, as AWS does. */
  complete(key: string, id: string, named: readonly NamedPart[], rules: PartRules): DoubleObject {
    const before = this.#completed.get(id)?.deref()
    if (before && this.objects.get(key) === before) return before
    const upload = this.upload(key, id)
    if (named.length === 0) throw new S3Fault('MalformedXML')
    const pieces = named.map((part, index) => {
      if (index > 0 && part.partNumber <= (named[index - 1]?.partNumber ?? 0)) throw new S3Fault('InvalidPartOrder')
      return findPart(upload, part)
    })
    checkSizes(pieces, rules)
    const md5 = createHash('md5').update(Buffer.concat(pieces.map((piece) => Buffer.from(piece.md5, 'hex'))))
    const object = this.#store({
      key,
      size: pieces.reduce((sum, piece) => sum + piece.size, 0),
      etag: `"${md5.digest('hex')}-${pieces.length}"`,
      headers: upload.headers,
      pieces,
      modified: new Date(),
    })
    this.uploads.delete(id)
    this.#completed.set(id, new WeakRef(object))
    return object
  }

  #store(object: DoubleObject): DoubleObject {
    this.objects.set(object.key, object)
    return object
  }
}

function findPart(upload: DoubleUpload, { partNumber, etag, crc32 }: NamedPart): StoredBytes {
  const part = upload.parts.get(partNumber)
  if (!part || etag.replaceAll('"', '') !== part.md5) throw new S3Fault('InvalidPart')
  if (upload.algorithm !== null && crc32 === null) {
    throw new S3Fault('InvalidRequest', 'The complete request must include the checksum for each part')
  }
  // AWS does not find a part that was sent with a checksum when it is named without.
  if (part.crc32 !== crc32) throw new S3Fault('InvalidPart')
  return part
}

function checkSizes(pieces: readonly StoredBytes[], { equalParts, minPart }: PartRules): void {
  for (const [index, piece] of pieces.slice(0, -1).entries()) {
    if (piece.size < minPart) throw new S3Fault('EntityTooSmall')
    if (equalParts && index > 0 && piece.size !== pieces[0]?.size) {
      throw new S3Fault('InvalidPart', 'All non-trailing parts must have the same length.')
    }
  }
}

/** The bytes of an object from `start` up to but without `end`. */
export async function* readObject(object: DoubleObject, start = 0, end = object.size): AsyncGenerator<Buffer> {
  let offset = 0
  for (const piece of object.pieces) {
    const from = Math.max(start - offset, 0)
    const to = Math.min(end - offset, piece.size)
    if (from < to) yield* piece.read(from, to)
    offset += piece.size
  }
}
