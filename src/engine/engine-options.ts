/** What the engine is built from: checked, complete and frozen. The defaults are in `create-upload-engine.ts`. */
import type { EventEmitter } from 'node:events'
import type { Locker, SessionStore, StorageAdapter, UploadEvents, UploadHooks, UploadLimits } from '../types.ts'
import type { Claims } from './claims.ts'
import type { FileChecks } from './file-checks.ts'
import type { FirstBytes } from './first-bytes.ts'
import type { SessionUpdates } from './session-updates.ts'
import type { Staging } from './staging.ts'
import type { TempSpace } from './temp-space.ts'

export interface EngineOptions {
  readonly storage: StorageAdapter
  readonly sessions: SessionStore
  readonly locker: Locker
  readonly tempDir: string
  readonly limits: UploadLimits
  readonly hooks: UploadHooks
  /** Whether the first bytes of a file must be able to be of its media type. */
  readonly verifyMimeType: boolean
  /** How often the sweeper runs, ms. */
  readonly cleanupInterval: number
  /** Longest idle time of an upload, ms. */
  readonly sessionTtl: number
  /** How long a completed upload is remembered, ms. */
  readonly completedTtl: number
  /** Longest storage call at completion, ms. */
  readonly storageTimeout: number
  /** Parts under way to the storage at once, over all uploads. */
  readonly partConcurrency: number
  /** Where the bytes of new uploads wait. */
  readonly staging: 'disk' | 'storage'
  /** Other nodes share the uploads, and nobody has said that they share `tempDir` as well. */
  readonly warnsOfDisks: boolean
}

/** What the pieces of the engine share. */
export interface EngineParts {
  readonly options: EngineOptions
  readonly sessions: SessionUpdates
  readonly staging: Staging
  readonly claims: Claims
  readonly space: TempSpace
  readonly firstBytes: FirstBytes
  readonly checks: FileChecks
  readonly events: EventEmitter<UploadEvents>
  /** Milliseconds since the epoch. */
  readonly clock: () => number
  /** Milliseconds that nobody can set, for how long something has taken. */
  readonly uptime: () => number
  /** Aborted when the engine is cut off by `close`. */
  readonly closing: AbortSignal
  emit<Name extends keyof UploadEvents>(name: Name, event: UploadEvents[Name][0]): void
}
