/** What the engine and a storage say to each other. Part of the map in `types.ts`; no runtime. */
import type { Readable } from 'node:stream'

/** What a storage adapter is told about the object besides its key, its bytes and its media type. */
export interface ObjectInfo {
  /** The whole size in bytes; `null` when it is not known before the stream ends. */
  readonly size: number | null
  /** The name the client gave, cleaned of path parts and control characters. For display, never for a path. */
  readonly fileName: string
  readonly mimeType: string
  /** The upload this object comes from: the same on every retry, so it can serve as an idempotency key. */
  readonly uploadId: string
  readonly metadata: Readonly<Record<string, string>>
  /** Aborted when the result is no longer wanted. */
  readonly signal?: AbortSignal
}

/**
 * Where finished files go. Only `upload` is required; each other member is a capability, present or absent.
 *
 * The engine validates, the adapter stores: keys are safe relative paths (`uploads/<uuid>-<name>`), sizes are
 * within the limits. An object must become visible whole or not at all, and storing the same key again must
 * replace it: a completion that failed half way is repeated with the same key.
 */
export interface StorageAdapter {
  /** Stores the stream under `fileKey` and returns the public URL (or path) of the stored file. */
  upload(fileKey: string, stream: Readable, mimeType: string, info?: ObjectInfo): Promise<string>
  /**
   * As `upload`, for bytes that stay where they are and can be read any number of times, so that nothing has to be held in
   * memory for a repetition. `info.size` is that of the body. What it opens is closed for it when
   * the call has ended. Default: `upload` gets a stream of them.
   */
  uploadBody?(fileKey: string, body: PartBody, info: ObjectInfo): Promise<string>
  /** Deletes the object; a key that is not there is no error. */
  remove?(fileKey: string): Promise<void>
  /** Lets whole parts go to the storage while the client is still sending. */
  readonly multipart?: MultipartStorage
  /** Keeps private objects: with it, bytes on their way need no disk that all nodes share. */
  readonly staging?: StagingStorage
  /**
   * Takes over the staged file at `path` (by rename where it can) and returns the public URL. Must be repeatable:
   * when `path` is gone because an earlier call already adopted it and the object is there with `info.size`
   * bytes, it answers the same URL.
   */
  adoptFile?(fileKey: string, path: string, info: ObjectInfo): Promise<string>
  /** A folder on the same disk as the target, so that adopting is a rename. The default `tempDir`. */
  readonly stagingDir?: string
  /** Tells apart two storages of one class (endpoint and bucket, say): the default `tempDir` depends on it. */
  readonly id?: string
  /** Gives back connections and timers. */
  close?(): Promise<void>
}

/** A multipart upload in S3's own words. `complete` and `abort` are idempotent. */
export interface MultipartStorage {
  /** Smallest size of every part but the last, bytes (S3: 5 MiB). */
  readonly minPartSize: number
  /** Largest size of a part, bytes (S3: 5 GiB). */
  readonly maxPartSize: number
  /** Most parts of one object (S3: 10 000). */
  readonly maxParts: number
  /** The part size to use when the upload does not ask for another, bytes. */
  readonly partSize: number
  /**
   * Opens a multipart upload and returns its id. Call `onDoubt` when there may be one more, whose id was lost with an
   * answer: it is discarded when the upload has ended.
   */
  create(fileKey: string, info: ObjectInfo, onDoubt?: () => void): Promise<string>
  /** Stores one part; the same number again replaces it. Safe to repeat and to run in parallel. */
  uploadPart(upload: MultipartRef, partNumber: number, body: PartBody, signal?: AbortSignal): Promise<void>
  /** The parts the storage holds, in order; `null` when the upload is no longer open (completed or aborted). */
  listParts(upload: MultipartRef, signal?: AbortSignal): Promise<StoredPart[] | null>
  /**
   * The parts of which this very process knows that the storage has taken the bytes it sent, in order. When these are all, a
   * completion asks for no list: so only storages have it whose `complete` refuses a part that is not there, or is not
   * the one with this `etag` any more. Default: none are known.
   */
  sentParts?(upload: MultipartRef): readonly StoredPart[]
  /**
   * Makes the object from exactly these parts and returns its URL. Called again after it succeeded it answers the
   * same URL (then `parts` carry sizes but no `etag`). When the upload is gone and no such object exists it throws an
   * error with the code `MULTIPART_GONE`; when it cannot tell, any other error. It never guesses.
   */
  complete(upload: MultipartRef, parts: readonly StoredPart[], info: ObjectInfo): Promise<string>
  /**
   * Discards the parts. With `multipartId: null` it discards every open multipart upload of exactly this key
   * (the id was lost in a crash). Never touches another key.
   */
  abort(upload: { readonly fileKey: string; readonly multipartId: string | null }): Promise<void>
  /** Lets clients send parts straight to the storage. */
  readonly direct?: DirectMultipart
}

/** Multipart uploads whose parts come from clients; listed, completed and aborted like all others. */
export interface DirectMultipart {
  /** Opens a multipart upload that takes parts without anything but their bytes, and returns its id. */
  create(fileKey: string, info: ObjectInfo, onDoubt?: () => void): Promise<string>
  /** An absolute URL that takes the bytes of this one part by PUT, for `lifetime` ms. */
  signPart(upload: MultipartRef, partNumber: number, lifetime: number): Promise<string>
}

/**
 * Private objects under a prefix that the adapter owns, away from the files and never under a public URL. Pieces of uploads
 * lie here until they have become parts. Keys are made by the engine: `<upload id>/<letters and digits>`, each
 * written once.
 */
export interface StagingStorage {
  /** Stores the object; visible whole or not at all, and for every node, when it resolves. Safe to repeat. */
  put(key: string, body: PartBody, signal?: AbortSignal): Promise<void>
  /**
   * The bytes of the object, or those of `range`. A stream that breaks off ends with an error. Rejects (or the
   * stream fails) when there is no such object.
   */
  open(key: string, options?: OpenStaged): Promise<Readable>
  /** Deletes exactly these objects; one that is not there is no error. */
  remove(keys: readonly string[]): Promise<void>
  /** All objects whose key begins with `prefix`, however many. */
  list(prefix?: string): AsyncIterable<StagedObject>
}

export interface OpenStaged {
  /** Bytes, from `start` up to but without `end`; within the object. */
  readonly range?: { readonly start: number; readonly end: number } | undefined
  readonly signal?: AbortSignal | undefined
}

export interface StagedObject {
  readonly key: string
  /** By the clock of the storage, ms since the epoch. */
  readonly modifiedAt: number
}

export interface MultipartRef {
  readonly fileKey: string
  readonly multipartId: string
}

/** The bytes of one part, or of a whole file: they stay in place until the call settles, and can be read any number of times. */
export interface PartBody {
  readonly size: number
  /**
   * The file that begins with exactly these bytes, for who reads it without `open`; `null` when they lie in several files. A wrapper
   * whose `open` gives other bytes says `null`.
   */
  readonly path: string | null
  /** A fresh stream over the whole part. */
  open(): Readable
}

export interface StoredPart {
  readonly partNumber: number
  readonly size: number
  readonly etag: string
  /** CRC-32 of its bytes, when the storage knows it: then a part that was replaced by a late request is noticed. */
  readonly crc32?: number | undefined
}

/** A part as a client names it. */
export interface NamedPart {
  readonly partNumber: number
  /** With or without quotes. */
  readonly etag: string
}

/** What a completed upload became. */
export interface StoredObject {
  readonly url: string
  readonly key: string
  readonly size: number
  /** The whole-file checksum that was verified, as `<algorithm>:<base64>`; absent when none was declared. */
  readonly checksum?: string
}
