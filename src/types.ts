/**
 * The map of the system: every public contract and record, no runtime.
 *
 * A *chunk* is what a client sends; a *part* is what the storage receives. Sizes and offsets are bytes, times
 * are milliseconds (points in time: since the epoch) wherever nothing else is said.
 */
import type { EventEmitter } from 'node:events'
import type { Readable } from 'node:stream'
import type { UploadSession } from './session-contract.ts'
import type { NamedPart, StoredObject, StoredPart } from './storage-contract.ts'

export type * from './session-contract.ts'
export type * from './storage-contract.ts'

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
  /** `true` or nothing allows; anything else hides the upload: the client sees 404, as for an unknown id. */
  authorize?(
    action: UploadAction,
    session: UploadSession | null,
    context: unknown,
  ): boolean | void | Promise<boolean | void>
  /** Before a session exists: rename, choose the key, refuse. */
  onCreate?(draft: UploadDraft, context: unknown): void | Promise<void>
  /**
   * When the beginning of the file is there, and before the rest is sent where the client sends it in pieces; at the
   * latest before the object is made. What it throws refuses the file for good if no retry mends it (a 4xx of this
   * library); anything else is a 503, and it is asked again. At least once. Not for the bytes of `direct` uploads.
   */
  onFirstBytes?(session: UploadSession, first: FirstBytes, context: unknown): void | Promise<void>
  /**
   * After the object is in the storage and before the client hears of it. At least once: a crash or a throw
   * here repeats it with the same `session.id`.
   */
  onComplete?(session: UploadSession, object: StoredObject, context: unknown): void | Promise<void>
}

/** How a file begins. */
export interface FirstBytes {
  /** 4100 bytes, or all of a file that has less. */
  readonly bytes: Uint8Array
  /** The media type that they show (`image/png`); `null` when it is not one that is recognised by its bytes, as texts are not. */
  readonly detected: string | null
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
  /** New bodies are refused while the disk of `tempDir` has less than this free, bytes. */
  readonly minFreeBytes: number
  /** Longest time without a byte of a body, ms. */
  readonly bodyIdleTimeout: number
  /** Media types that are accepted (`image/*`, `video/mp4`); empty: all. */
  readonly allowedMimeTypes: readonly string[]
}

// ------------------------------------------------------------------------------------------------ locks

/** Lets one writer append to an upload at a time; whoever comes later is preferred, the holder is asked to yield. */
export interface Locker {
  /** Whether other machines see the same locks. */
  readonly shared: boolean
  /**
   * Resolves when the lock is held. While somebody else has it, they are asked to release it, and the newcomer waits in
   * line, without polling. Rejects with the signal's reason when `signal` aborts first.
   */
  acquire(key: string, request: LockRequest): Promise<Lock>
  close?(): Promise<void>
}

export interface LockRequest {
  readonly signal: AbortSignal
  /** Called, at most once, when somebody else waits for the lock: end the work, then release. */
  readonly onReleaseRequested: () => void
}

export interface Lock {
  /** Aborted when the lock is no longer held although it was not released. */
  readonly lost: AbortSignal
  /** A second call is no error. */
  release(): Promise<void>
}

// ----------------------------------------------------------------------------------------------- uploads

export interface CreateUpload {
  readonly fileName: string
  readonly mimeType?: string | undefined
  /** Bytes; `null` when the client does not know yet. */
  readonly totalSize: number | null
  /** Declared size of every chunk but the last, bytes. */
  readonly chunkSize?: number | undefined
  /** The client takes another chunk size as well, if uploads that are staged in the storage are cheaper with it. */
  readonly anyChunkSize?: boolean | undefined
  /** Expected checksum of the whole file: `<algorithm>:<base64>`. */
  readonly checksum?: string | undefined
  /** The client's own name for the upload: the same owner, key and file find the same open upload again. */
  readonly resumeKey?: string | undefined
  readonly metadata?: Readonly<Record<string, string>> | undefined
  /** Makes a partial upload: no media-type check and no `onCreate`; those are for the upload it becomes a piece of. */
  readonly partial?: boolean | undefined
  /** Keeps the CRC-32 of its chunks for `matchesChunk` and `listChunks` as long as the upload is remembered. */
  readonly recognizable?: boolean | undefined
  /** The client sends the parts straight to the storage. Needs `engine.signsParts`. */
  readonly direct?: boolean | undefined
  /** Kept as it is, for the protocol. */
  readonly wire?: Readonly<Record<string, string>> | undefined
  readonly protocol: string
  readonly owner?: string | null | undefined
  readonly context?: unknown
}

/** An upload that is the concatenation of partial ones; it has no bytes of its own. */
export interface ComposeUpload extends Omit<CreateUpload, 'totalSize' | 'chunkSize' | 'partial' | 'direct'> {
  /** Ids of partial uploads of the same owner and protocol, in order; one may appear several times. */
  readonly sources: readonly string[]
}

/** Names an upload as the client does; the key belongs to the owner and the protocol. */
export interface FindUpload {
  readonly resumeKey: string
  readonly protocol: string
  readonly owner?: string | null | undefined
  readonly context?: unknown
}

export interface FoundUpload {
  readonly uploadId: string
  /** In whatever state it is; `null` when only the key is remembered. */
  readonly session: UploadSession | null
}

export interface UploadRef {
  readonly uploadId: string
  readonly protocol: string
  readonly owner?: string | null | undefined
  readonly context?: unknown
  /** Aborted when the caller is gone. */
  readonly signal?: AbortSignal | undefined
  /**
   * Takes the place of the owner check: whether the caller has proved by other means (a signed URL) that this very
   * upload is theirs to touch. `false` is the answer for an unknown id; it may throw an error of its own.
   */
  readonly proof?: ((session: UploadSession) => boolean) | undefined
}

export interface WriteChunk extends UploadRef {
  /** From 0. */
  readonly index: number
  readonly body: Readable
  /** Exact size when the wire tells it, bytes; a body of another size is refused. */
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
  /** Of an upload that is `recognizable`. */
  readonly crc32?: number
}

export interface ListedChunk {
  readonly index: number
  readonly size: number
  /** `null` when it is not known here: the upload is not `recognizable`, or another machine has stored it. */
  readonly crc32: number | null
}

export interface AppendBytes extends UploadRef {
  /** Where the caller believes the upload ends, bytes. */
  readonly offset: number
  readonly body: Readable
  /** Size of the body when the wire tells it, bytes. */
  readonly size?: number | undefined
  /** For an upload that was created without a size: the size it has. */
  readonly totalSize?: number | undefined
  /**
   * `<algorithm>:<base64>` of this body, or a function that tells it once the body has ended; `undefined` from the
   * function: there is none. With a checksum nothing counts until all of the body has arrived and matches.
   */
  readonly checksum?: string | (() => string | undefined) | undefined
  /** Called while the body comes in, with an offset up to which the bytes are kept whatever happens. */
  readonly onProgress?: ((offset: number) => void) | undefined
}

export interface Appended extends UploadOffset {
  /** How many bytes of the body were kept. */
  readonly size: number
  /** Another request wanted the upload before the body had ended: not all of it was taken. */
  readonly interrupted: boolean
}

export interface AbortUpload extends UploadRef {
  /**
   * What to do with an upload that is complete. `refuse` (default): `UploadClosedError`. `forget`: the upload is gone, its
   * object stays. `remove`: the object goes too, if the storage can remove.
   */
  readonly completed?: 'refuse' | 'forget' | 'remove' | undefined
}

export interface CompleteUpload extends UploadRef {
  /** For an upload that was created without a size: the size it has. */
  readonly totalSize?: number | undefined
  /** `<algorithm>:<base64>` of the whole file. */
  readonly checksum?: string | undefined
  /** Of a `direct` upload: all its parts, in order. They must be the ones that the storage holds. */
  readonly parts?: readonly NamedPart[] | undefined
}

export interface SignPart extends UploadRef {
  /** From 1. */
  readonly partNumber: number
  /** How long the URL is good, ms. */
  readonly lifetime: number
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
  appended: [event: { session: UploadSession; offset: number; size: number }]
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
  /** Whether the storage lets clients send parts to it: `direct` uploads are possible. */
  readonly signsParts: boolean
  /** Opens an upload, or finds the open one of the same `resumeKey`. */
  create(request: CreateUpload): Promise<{ session: UploadSession; resumed: boolean }>
  /** What a `resumeKey` leads to; `null` when it is free. Keys are remembered for a day after their upload has gone. */
  find(request: FindUpload): Promise<FoundUpload | null>
  /** Makes a `resumeKey` free again, unless it leads to another upload by now. */
  release(request: FindUpload, uploadId: string): Promise<void>
  /** Stores one chunk whole or not at all: any order, in parallel, idempotent. */
  writeChunk(request: WriteChunk): Promise<ChunkWritten>
  /**
   * Whether the body is what an upload that was created `recognizable` holds under this index, by size and CRC-32. For
   * repeats that come when the upload takes no more data. Stores nothing; `false` also when the chunk is not known. Of a
   * body that is too long the rest is left unread.
   */
  matchesChunk(request: WriteChunk): Promise<boolean>
  /** The chunks that have arrived, in order. */
  listChunks(request: UploadRef): Promise<{ session: UploadSession; chunks: ListedChunk[] }>
  /** A URL at the storage for one part of a `direct` upload. */
  signPart(request: SignPart): Promise<string>
  /** The parts of a `direct` upload that the storage holds. */
  listParts(request: UploadRef): Promise<StoredPart[]>
  /** Opens an upload that is made of partial ones; the same request again finds the same upload. */
  compose(request: ComposeUpload): Promise<{ session: UploadSession; resumed: boolean }>
  /**
   * Adds to the end of the upload what arrives of the body, one writer at a time: a running `append` of the same upload
   * is asked to yield. What has arrived when the body breaks off is kept, and the call rejects with the reason.
   * @throws OffsetMismatchError when the upload does not end at `offset`; nothing was taken
   * @throws UploadLockedError when somebody else does not let go of the upload
   */
  append(request: AppendBytes): Promise<Appended>
  /**
   * How far the upload has come without a gap. A running `append` is asked to yield and its bytes are counted: the
   * next `append` is accepted at this offset unless somebody else appends first.
   * @throws UploadLockedError when somebody else does not let go of the upload
   */
  retrieveOffset(request: UploadRef): Promise<UploadOffset>
  get(request: UploadRef): Promise<UploadSession>
  /** Keeps a body in `tempDir` until the request has told which chunk it is. Removed by `discard`. */
  spool(body: Readable, options: { maxSize: number; signal?: AbortSignal }): Promise<SpooledBody>
  /** Makes the object. Idempotent: repeats and rivals get the one result. */
  complete(request: CompleteUpload): Promise<StoredObject>
  /** Discards the upload. Idempotent. */
  abort(request: AbortUpload): Promise<void>
  /** Removes idle uploads, ended records and orphans. Runs by itself every `cleanupInterval`. */
  sweep(): Promise<SweepReport>
  /** Refuses new work, lets running work end for `timeout` ms (default 10 000), then cuts it; stops all timers. */
  close(options?: { timeout?: number }): Promise<void>
}
