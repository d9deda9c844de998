/** What is kept about an upload, and by whom. No runtime. */
import type { StoredObject } from './storage-contract.ts'

export type UploadState = 'active' | 'completing' | 'completed' | 'aborted' | 'expired'

/**
 * A run of chunks with neighbouring indexes, one size, and one place: in the staging at `offset`,
 * `offset + size`, …, or (`offset` null) each in a loose file of its own, generation `loose`.
 *
 * Of an upload that is `staged` in the storage: `offset` is where the bytes belong, `null` while that is not known;
 * `loose` names the private object that holds them, 0 once they are in parts.
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
  /** What the client called the file, when `onCreate` has renamed it. */
  readonly clientName?: string
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
  /** How often a multipart upload was about to be opened; after the second time, a crash may have left one behind. */
  readonly openings?: number
  /** Expected checksum of the whole file, `<algorithm>:<base64>`. */
  readonly checksum: string | null
  /** The checksum that the whole file was found to have; once its bytes begin to leave, no chunk is replaced any more. */
  readonly verified?: string | undefined
  /** The record that finds this upload by the client's `resumeKey`. */
  readonly resumeId: string | null
  /** Who is completing it, and until when nobody else may. */
  readonly completing: { readonly by: string; readonly until: number } | null
  /** A completion has begun to give the staged file away: it may be gone because that succeeded. */
  readonly handedOver: boolean
  /** Set once the storage has the whole object. */
  readonly object: StoredObject | null
  /** The upload was given up when it had its object already, which stays: it is the application's. */
  readonly forgotten?: true
  /** Size and CRC-32 of its chunks are kept for as long as this record is. */
  readonly recognizable?: true
  /** A piece of a later upload: it never becomes an object of its own. */
  readonly partial?: true
  /** Its parts go from the client straight to the storage; there are no chunks. */
  readonly direct?: true
  /** Its bytes wait in the storage, where every node reaches them, and not in a `tempDir`. Fixed at creation. */
  readonly staged?: 'storage'
  /** Bytes were added to its end: its chunks are ours and have no numbers that a client knows. */
  readonly appended?: true
  /** Ids of the partial uploads that this one is the concatenation of, in order. */
  readonly sources?: readonly string[]
  /** Ids of the uploads that wait for this partial one. */
  readonly finals?: readonly string[]
  /** What the protocol that made it wants back (`Upload-Metadata` as it was sent, say). */
  readonly wire?: Readonly<Record<string, string>>
  /** How often a chunk was replaced that had some of the first bytes of the file. */
  readonly beginnings?: number
  /** The value of `beginnings` (0 when absent) when the first bytes were looked at and accepted. */
  readonly accepted?: number
  /** Why the application refused the file after it, or its beginning, had arrived. */
  readonly refusal?: { readonly code: string; readonly status: number; readonly message: string }
  readonly createdAt: number
  readonly updatedAt: number
}

/** Finds an upload by what the client calls it; `uploadId` is `null` when the key is free again. */
export interface ResumeRecord extends StoredRecord {
  readonly format: 1
  readonly kind: 'resume'
  readonly uploadId: string | null
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
  /** Keeps the CRC-32s of chunks beside their record, for all machines. Staging in the storage needs it. */
  readonly chunkSums?: ChunkSumStore
  close?(): Promise<void>
}

export interface ChunkSum {
  readonly index: number
  readonly crc32: number
}

/** The sums live as long as their record, and go with it. */
export interface ChunkSumStore {
  /** `SessionStore.replace` that stores the sums with the record: all or nothing. */
  replace(next: SessionRecord, expectedVersion: number, sums: readonly ChunkSum[]): Promise<boolean>
  /** The sums that are known, by index: of one chunk, or of all. */
  read(id: string, index?: number): Promise<ReadonlyMap<number, number>>
}
