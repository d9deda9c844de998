/**
 * The map of the system: every public contract and record, no runtime.
 *
 * A *chunk* is what a client sends; a *part* is what the storage receives. Sizes and offsets are bytes, times
 * are milliseconds (points in time: since the epoch) wherever nothing else is said.
 */
import type { EventEmitter } from 'node:events'
import type { Readable } from 'node:stream'

// ---------------------------------------------------------------------------------------------- storage

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
  /** Deletes the object; a key that is not there is no error. */
  remove?(fileKey: string): Promise<void>
  /** Lets whole parts go to the storage while the client is still sending. */
  readonly multipart?: MultipartStorage
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
  /** Opens a multipart upload and returns its id. */
  create(fileKey: string, info: ObjectInfo): Promise<string>
  /** Stores one part; the same number again replaces it. Safe to repeat and to run in parallel. */
  uploadPart(upload: MultipartRef, partNumber: number, body: PartBody, signal?: AbortSignal): Promise<void>
  /** The parts the storage holds, in order; `null` when the upload is no longer open (completed or aborted). */
  listParts(upload: MultipartRef, signal?: AbortSignal): Promise<StoredPart[] | null>
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
}

export interface MultipartRef {
  readonly fileKey: string
  readonly multipartId: string
}

/** The bytes of one part: a file that stays in place until the call settles, readable any number of times. */
export interface PartBody {
  readonly size: number
  readonly path: string
  /** A fresh stream over the whole part. */
  open(): Readable
}

export interface StoredPart {
  readonly partNumber: number
  readonly size: number
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

// --------------------------------------------------------------------------------------------- sessions

export type UploadState = 'active' | 'completing' | 'completed' | 'aborted' | 'expired'

/**
 * A run of chunks with neighbouring indexes, one size, and one place: in the staging at `offset`,
 * `offset + size`, …, or (`offset` null) each in a loose file of its own, generation `loose`.
 */
export interface ChunkRun {
  readonly index: number
  readonly count: number
  readonly size: number
  readonly offset: number | null
  readonly loose: number
}

/** Inclusive first and last. */
export type Span = readonly [first: number, last: number]

/** What every record of a session store has in common; the store looks at nothing else. */
export interface StoredRecord {
  /** `[A-Za-z0-9_-]{22,64}`, checked before any look-up. */
  readonly id: string
  /** Grows by one with every change; the compare-and-swap compares it. */
  readonly version: number
  /** When the record stops mattering, ms since the epoch. */
  readonly expiresAt: number
  /** Whether it counts as an open upload for `maxSessions`. */
  readonly open: boolean
  readonly owner: string | null
}

/**
 * One upload. Immutable: a change is a new record with the next `version`. Its size does not grow with the
 * number of chunks: equal neighbours merge.
 */
export interface UploadSession extends StoredRecord {
  /** Version of this format; a newer one is refused, never deleted. */
  readonly format: 1
  readonly kind: 'upload'
  /** Which routes made it (`native`, `tus`, …); other routes refuse it. */
  readonly protocol: string
  readonly state: UploadState
  /** The object's key in the storage, fixed at creation. */
  readonly key: string
  readonly fileName: string
  readonly mimeType: string
  readonly metadata: Readonly<Record<string, string>>
  /** Bytes; `null` while the client has not said. */
  readonly totalSize: number | null
  /** The chunk size the client declared, bytes; `null` when undeclared. */
  readonly chunkSize: number | null
  /** The chunk size that was learned from the first chunk of an undeclared upload, bytes. */
  readonly stride: number | null
  /** Size of every part but the last, bytes. */
  readonly partSize: number
  readonly chunks: readonly ChunkRun[]
  /** Numbers (from 1) of the parts that the storage has confirmed. */
  readonly sentParts: readonly Span[]
  readonly multipartId: string | null
  /** Expected checksum of the whole file, `<algorithm>:<base64>`. */
  readonly checksum: string | null
  /** The record that finds this upload by the client's `resumeKey`. */
  readonly resumeId: string | null
  /** Who is completing it, and until when nobody else may. */
  readonly completing: { readonly by: string; readonly until: number } | null
  /** A completion has begun to give the staged file away: it may be gone because that succeeded. */
  readonly handedOver: boolean
  /** Set once the storage has the whole object. */
  readonly object: StoredObject | null
  readonly createdAt: number
  readonly updatedAt: number
}

/** Finds an upload by what the client calls it. */
export interface ResumeRecord extends StoredRecord {
  readonly format: 1
  readonly kind: 'resume'
  readonly uploadId: string
}

export type SessionRecord = UploadSession | ResumeRecord

/**
 * Keeps session records. Records are plain JSON; a store returns copies or frozen objects and never looks inside
 * beyond `StoredRecord`. A store that cannot be read must throw (`StorageUnavailableError`), never answer `null`:
 * `null` tells a client to forget its upload.
 */
export interface SessionStore {
  /** Whether other machines see the same records. */
  readonly shared: boolean
  /** Adds the record, on disk (or wherever it lives) before it resolves; `false` when the id exists. */
  create(record: SessionRecord): Promise<boolean>
  get(id: string): Promise<SessionRecord | null>
  /** Compare-and-swap: stores `next` only if the stored version is `expectedVersion`; `false` otherwise. */
  replace(next: SessionRecord, expectedVersion: number): Promise<boolean>
  /** Removes the record; a missing one is no error. */
  delete(id: string): Promise<void>
  /** Ids of the records with `expiresAt <= now`. May skip unreadable ones; must not stop at them. */
  listExpired(now: number): AsyncIterable<string>
  /** How many records are `open`; with an owner, how many of that owner's. */
  countOpen(owner?: string): Promise<number>
  close?(): Promise<void>
}

// ----------------------------------------------------------------------------------------------- engine

export type UploadAction = 'create' | 'write' | 'read' | 'complete' | 'abort'

/** What a create is about to do; `onCreate` may change the marked fields. */
export interface UploadDraft {
  readonly uploadId: string
  readonly owner: string | null
  readonly totalSize: number | null
  fileName: string
  mimeType: string
  metadata: Record<string, string>
  /** The object's key. Must be a relative path without `..`. */
  key: string
}

/**
 * Hooks decide and are awaited: what they throw refuses the action. A `NexusUploaderError` reaches the client with
 * its status; anything else is a 500 without its text. `context` is what the route passed on: for the
 * Express routes, the request.
 */
export interface UploadHooks {
  /** Returning `false` hides the upload: the client sees 404, as for an unknown id. */
  authorize?(
    action: UploadAction,
    session: UploadSession | null,
    context: unknown,
  ): boolean | void | Promise<boolean | void>
  /** Before a session exists: rename, choose the key, refuse. */
  onCreate?(draft: UploadDraft, context: unknown): void | Promise<void>
  /**
   * After the object is in the storage and before the client hears of it. At least once: a crash or a throw
   * here repeats it with the same `session.id`.
   */
  onComplete?(session: UploadSession, object: StoredObject, context: unknown): void | Promise<void>
}

/**
 * What an acknowledged chunk survives: `process` the kill of the server at any moment, `power` also a power cut (every
 * file and folder is flushed before the answer).
 */
export type Durability = 'process' | 'power'

/** Every limit, in one place. */
export interface UploadLimits {
  /** Largest chunk, bytes. */
  readonly maxChunkSize: number
  /** Largest file, bytes. */
  readonly maxFileSize: number
  /** Most chunks of one upload. */
  readonly maxChunks: number
  /** Most open uploads. */
  readonly maxSessions: number
  /** Most open uploads of one owner. */
  readonly maxSessionsPerOwner: number
  /** Most bytes in `tempDir`, over all uploads. */
  readonly maxTempBytes: number
  /** Longest time without a byte of a body, ms. */
  readonly bodyIdleTimeout: number
  /** Media types that are accepted (`image/*`, `video/mp4`); empty: all. */
  readonly allowedMimeTypes: readonly string[]
}

export interface CreateUpload {
  readonly fileName: string
  readonly mimeType?: string | undefined
  /** Bytes; `null` when the client does not know yet. */
  readonly totalSize: number | null
  /** Declared size of every chunk but the last, bytes. */
  readonly chunkSize?: number | undefined
  /** Expected checksum of the whole file: `<algorithm>:<base64>`. */
  readonly checksum?: string | undefined
  /** The client's own name for the upload: the same owner, key and file find the same open upload again. */
  readonly resumeKey?: string | undefined
  readonly metadata?: Readonly<Record<string, string>> | undefined
  readonly protocol: string
  readonly owner?: string | null | undefined
  readonly context?: unknown
}

export interface UploadRef {
  readonly uploadId: string
  readonly protocol: string
  readonly owner?: string | null | undefined
  readonly context?: unknown
  /** Aborted when the caller is gone. */
  readonly signal?: AbortSignal | undefined
}

export interface WriteChunk extends UploadRef {
  /** From 0. */
  readonly index: number
  readonly body: Readable
  /** Exact size when the wire tells it, bytes. */
  readonly size?: number | undefined
  /** `<algorithm>:<base64>`; a mismatch discards the chunk. */
  readonly checksum?: string | undefined
  /** Largest accepted body when it differs from `limits.maxChunkSize`, bytes. */
  readonly maxSize?: number | undefined
}

export interface ChunkWritten {
  readonly session: UploadSession
  readonly size: number
  /** The same bytes were already there; nothing changed. */
  readonly duplicate: boolean
}

export interface CompleteUpload extends UploadRef {
  /** For an upload that was created without a size: the size it has. */
  readonly totalSize?: number | undefined
  /** `<algorithm>:<base64>` of the whole file. */
  readonly checksum?: string | undefined
}

export interface UploadOffset {
  /** Bytes from the start that have arrived without a gap. */
  readonly offset: number
  readonly session: UploadSession
}

export interface SweepReport {
  /** Uploads that were idle too long and are gone now. */
  readonly expired: number
  /** Records of ended uploads that were forgotten. */
  readonly forgotten: number
  /** Leftovers of killed processes that were removed. */
  readonly orphans: number
  /** Things that could not be removed and are tried again next time. */
  readonly failed: number
}

/** Events tell and cannot block; a listener that throws is reported as `warning`. */
export interface UploadEvents {
  created: [event: { session: UploadSession }]
  chunk: [event: { session: UploadSession; index: number; size: number; duplicate: boolean }]
  part: [event: { session: UploadSession; partNumber: number; size: number }]
  completed: [event: { session: UploadSession; object: StoredObject }]
  aborted: [event: { session: UploadSession }]
  expired: [event: { session: UploadSession }]
  /** A storage call failed; the upload goes on and the call is repeated. */
  storageError: [event: { uploadId: string; operation: string; error: unknown }]
  warning: [event: { code: string; message: string; error?: unknown }]
}

/** A body that was received before it was known where it belongs. */
export interface SpooledBody {
  readonly size: number
  open(): Readable
  /** Removes it; a second call is no error. */
  discard(): Promise<void>
}

/** The one upload engine: protocols turn HTTP into these calls and back. */
export interface UploadEngine {
  readonly limits: UploadLimits
  readonly events: EventEmitter<UploadEvents>
  /** Opens an upload, or finds the open one of the same `resumeKey`. */
  create(request: CreateUpload): Promise<{ session: UploadSession; resumed: boolean }>
  /** Stores one chunk whole or not at all: any order, in parallel, idempotent. */
  writeChunk(request: WriteChunk): Promise<ChunkWritten>
  /** How far the upload has come without a gap. */
  retrieveOffset(request: UploadRef): Promise<UploadOffset>
  get(request: UploadRef): Promise<UploadSession>
  /** Keeps a body in `tempDir` until the request has told which chunk it is. Removed by `discard`. */
  spool(body: Readable, options: { maxSize: number; signal?: AbortSignal }): Promise<SpooledBody>
  /** Makes the object. Idempotent: repeats and rivals get the one result. */
  complete(request: CompleteUpload): Promise<StoredObject>
  /** Discards the upload. Idempotent. */
  abort(request: UploadRef): Promise<void>
  /** Removes idle uploads, ended records and orphans. Runs by itself every `cleanupInterval`. */
  sweep(): Promise<SweepReport>
  /** Refuses new work, lets running work end for `timeout` ms (default 10 000), then cuts it; stops all timers. */
  close(options?: { timeout?: number }): Promise<void>
}
