/** From public options to an engine: the only file that knows the defaults. */
import { createHash } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { TracedEngine } from './engine/traced-engine.ts'
import { MemoryLocker } from './locks/memory-locker.ts'
import { FileSessionStore } from './sessions/file-session-store.ts'
import type {
  Durability,
  Locker,
  SessionStore,
  StorageAdapter,
  UploadEngine,
  UploadHooks,
  UploadLimits,
} from './types.ts'

const MiB = 1024 * 1024
const hour = 60 * 60_000

export interface UploadEngineOptions {
  /** Where finished files go. */
  storage: StorageAdapter
  /**
   * Folder for chunks on their way, made with mode 0700. One folder serves one storage: give every middleware with
   * another storage another folder. Default: the storage's `stagingDir`; else a private folder in the system's
   * temp folder, the same after a restart from the same working directory.
   */
  tempDir?: string
  /** Largest chunk, bytes. Default 5 MiB. */
  maxChunkSize?: number
  /** Largest file, bytes. Default 2 GiB. */
  maxFileSize?: number
  /** How often the sweeper runs and, unless `sessionTtl` says otherwise, how long an upload may idle, ms. Default 1 hour. */
  cleanupInterval?: number
  /** Longest time since the last accepted chunk before an upload is removed, ms. Default: `cleanupInterval`. */
  sessionTtl?: number
  /** How long the result of an ended upload is remembered, ms. Default 1 hour. */
  completedTtl?: number
  /** Most chunks of one upload. Default 10 000. */
  maxChunks?: number
  /** Most open uploads. Default 10 000. */
  maxSessions?: number
  /** Most open uploads of one owner. Default: no limit. */
  maxSessionsPerOwner?: number
  /** Most bytes in `tempDir`, over all uploads. Default: no limit. */
  maxTempBytes?: number
  /** New bodies are refused while the disk of `tempDir` has less than this free, bytes. Default 16 MiB. */
  minFreeBytes?: number
  /** Longest time without a byte of a body, ms. Default 30 000. */
  bodyIdleTimeout?: number
  /** Longest storage call of a completion, and longest `onComplete`, ms. Default 10 minutes. */
  storageTimeout?: number
  /** Parts under way to the storage at once, over all uploads. Default 8. */
  partConcurrency?: number
  /** Accepted media types, as `video/mp4` or `image/*`. Default: all. */
  allowedMimeTypes?: readonly string[]
  /**
   * Where the bytes of new uploads wait until they are parts of the file. `disk`: in `tempDir`; several nodes need a common
   * one then, or sticky routing. `storage`: with the storage, where every node reaches them; it needs a storage with
   * `multipart` and `staging`, and a session store with `chunkSums`. Default: `storage` when `sessions` is shared and
   * all of that is there (S3 with Redis), else `disk`.
   */
  staging?: 'disk' | 'storage'
  /**
   * Whether a file is refused (415) whose first bytes are not of the media type that it is declared as. Default `false`.
   * Types that are not recognised by their bytes (texts, say) pass; with `allowedMimeTypes` those must be declared as such.
   */
  verifyMimeType?: boolean
  /** What an acknowledged chunk survives. Default `process`: the kill of the server at any moment. */
  durability?: Durability
  /** Where session records live. Default: files in `tempDir`. */
  sessions?: SessionStore
  /** Who may append to an upload, one at a time. Default: a lock for this process; processes that share `tempDir` agree through it. */
  locker?: Locker
  /** Your say in what happens; see `UploadHooks`. */
  hooks?: UploadHooks
  /** @internal Milliseconds since the epoch, for tests. */
  clock?: () => number
  /** @internal Monotonic milliseconds, for tests. Default: `clock` when that is given. */
  uptime?: () => number
}

/**
 * Builds the engine that protocol handlers share.
 * @throws TypeError when an option is not usable; the message names it and shows its value
 */
export function createUploadEngine(options: UploadEngineOptions): UploadEngine {
  const storage = checkStorage(options.storage)
  const tempDir = resolve(options.tempDir ?? storage.stagingDir ?? defaultTempDir(storage))
  const durability = options.durability ?? 'process'
  if (durability !== 'process' && durability !== 'power') throw wrong('durability', durability, "'process' or 'power'")
  const cleanupInterval = duration('cleanupInterval', options.cleanupInterval, hour)
  const sessions = options.sessions ?? new FileSessionStore({ directory: join(tempDir, 'sessions'), durability })
  return new TracedEngine({
    storage,
    staging: checkStaging(options.staging, storage, sessions),
    warnsOfDisks: options.staging === undefined && sessions.shared,
    tempDir,
    durability,
    sessions,
    locker: options.locker ?? new MemoryLocker(),
    hooks: options.hooks ?? {},
    verifyMimeType: flag('verifyMimeType', options.verifyMimeType),
    clock: options.clock ?? Date.now,
    uptime: options.uptime ?? options.clock ?? (() => performance.now()),
    limits: limitsOf(options),
    cleanupInterval,
    sessionTtl: duration('sessionTtl', options.sessionTtl, cleanupInterval),
    completedTtl: duration('completedTtl', options.completedTtl, hour),
    storageTimeout: duration('storageTimeout', options.storageTimeout, 10 * 60_000),
    partConcurrency: count('partConcurrency', options.partConcurrency, 8),
  })
}

function limitsOf(options: UploadEngineOptions): UploadLimits {
  const maxTempBytes = count('maxTempBytes', options.maxTempBytes, Number.POSITIVE_INFINITY)
  return Object.freeze({
    maxChunkSize: count('maxChunkSize', options.maxChunkSize, 5 * MiB),
    maxFileSize: count('maxFileSize', options.maxFileSize, 2048 * MiB),
    maxChunks: count('maxChunks', options.maxChunks, 10_000),
    maxSessions: count('maxSessions', options.maxSessions, 10_000),
    maxSessionsPerOwner: count('maxSessionsPerOwner', options.maxSessionsPerOwner, Number.POSITIVE_INFINITY),
    maxTempBytes,
    minFreeBytes: options.minFreeBytes === 0 ? 0 : count('minFreeBytes', options.minFreeBytes, 16 * MiB),
    bodyIdleTimeout: duration('bodyIdleTimeout', options.bodyIdleTimeout, 30_000),
    allowedMimeTypes: Object.freeze([...(options.allowedMimeTypes ?? [])]),
  })
}

/** A whole number from 1; limits may also be `Infinity` where their default is. */
function count(name: string, value: number | undefined, fallback: number): number {
  const checked = value ?? fallback
  const unlimited = checked === Number.POSITIVE_INFINITY && (name.startsWith('maxSessions') || name === 'maxTempBytes')
  if (unlimited || (Number.isSafeInteger(checked) && checked >= 1)) return checked
  throw wrong(name, value, 'a whole number from 1')
}

function flag(name: string, value: boolean | undefined): boolean {
  if (value === undefined || typeof value === 'boolean') return value ?? false
  throw wrong(name, value, 'true or false')
}

/** Timers take at most 2³¹ − 1 ms. */
function duration(name: string, value: number | undefined, fallback: number): number {
  const checked = value ?? fallback
  if (Number.isSafeInteger(checked) && checked >= 1 && checked < 2 ** 31) return checked
  throw wrong(name, value, 'a whole number of milliseconds from 1 to 2147483647')
}

function checkStorage(storage: StorageAdapter): StorageAdapter {
  if (typeof storage?.upload === 'function') return storage
  throw new TypeError('storage must be a StorageAdapter: an object with upload(fileKey, stream, mimeType)')
}

function checkStaging(
  asked: 'disk' | 'storage' | undefined,
  storage: StorageAdapter,
  sessions: SessionStore,
): 'disk' | 'storage' {
  if (asked !== undefined && asked !== 'disk' && asked !== 'storage') {
    throw wrong('staging', asked, "'disk' or 'storage'")
  }
  const missing = [
    ...(storage.multipart && storage.staging ? [] : ['a storage with `multipart` and `staging` (S3, say)']),
    ...(sessions.chunkSums ? [] : ['a session store with `chunkSums` (RedisSessionStore, say)']),
  ]
  if (asked === 'storage' && missing.length > 0)
    throw new TypeError(`staging: 'storage' needs ${missing.join(' and ')}`)
  return asked ?? (sessions.shared && missing.length === 0 ? 'storage' : 'disk')
}

function wrong(name: string, value: unknown, expected: string): TypeError {
  return new TypeError(
    `${name} must be ${expected}, but it is ${JSON.stringify(value) ?? String(value)} (${typeof value})`,
  )
}

function defaultTempDir(storage: StorageAdapter): string {
  const origin = createHash('sha256')
    .update(`${process.cwd()}\n${storage.constructor.name}\n${storage.id ?? ''}`)
    .digest('hex')
    .slice(0, 12)
  return join(tmpdir(), `nexus-uploader-${process.getuid?.() ?? 'user'}-${origin}`)
}
