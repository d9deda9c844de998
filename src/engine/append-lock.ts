/**
 * One writer at the end of an upload. The locker decides within this process (or, with a shared one, among all nodes);
 * a claim on a place that no byte ever has decides among the processes that share a `tempDir`.
 */
import { fromFileSystemError, isNexusUploaderError, UploadLockedError } from '../errors.ts'
import type { Lock } from '../types.ts'
import type { Claim } from './claims.ts'
import type { EngineParts } from './engine-options.ts'
import { hasCode } from './processes.ts'
import { within } from './waiting.ts'

/** How long a newcomer waits for a holder to let go, ms: less than the two seconds after which clients wonder. */
const patience = 1_500
/** How often a holder looks whether another process wants the upload, ms. */
const watchEvery = 300

/** Beyond every byte, but below where a completion's claim on the whole file ends. */
export const tailRange = { start: Number.MAX_SAFE_INTEGER - 1, end: Number.MAX_SAFE_INTEGER }

export interface AppendLock {
  /** Aborted when the lock was lost without being released. */
  readonly lost: AbortSignal
  release(): Promise<void>
}

/**
 * `onYield` is called when somebody else wants the upload.
 * @throws UploadLockedError when the holder does not let go in time
 */
export async function acquireAppendLock(
  parts: EngineParts,
  uploadId: string,
  onYield: () => void,
  signal: AbortSignal,
): Promise<AppendLock> {
  const deadline = performance.now() + patience
  const lock = await within(signal, patience, (limit) =>
    parts.options.locker.acquire(uploadId, { signal: limit, onReleaseRequested: onYield }),
  ).catch((error) => Promise.reject(asLocked(error, signal)))
  try {
    const claim = await claimTail(parts, uploadId, onYield, Math.max(1, deadline - performance.now()), signal)
    const watch = claim && setInterval(() => void lookForRequest(parts, uploadId, onYield), watchEvery).unref()
    return { lost: lock.lost, release: () => release(lock, claim, watch) }
  } catch (error) {
    await lock.release()
    throw error
  }
}

/** An upload without a folder has no bytes, so nobody can be writing any. */
async function claimTail(
  parts: EngineParts,
  uploadId: string,
  onYield: () => void,
  time: number,
  signal: AbortSignal,
): Promise<Claim | null> {
  let claim: Claim | null = null
  try {
    claim = await parts.claims.insist(uploadId, tailRange, time, signal, onYield)
    if (!claim) throw new UploadLockedError()
    await parts.claims.forgetRequest(uploadId)
    return claim
  } catch (error) {
    await claim?.release()
    if (hasCode(error, 'ENOENT')) return null
    throw signal.aborted ? error : fromFileSystemError(error)
  }
}

async function lookForRequest(parts: EngineParts, uploadId: string, onYield: () => void): Promise<void> {
  if (await parts.claims.isRequested(uploadId)) onYield()
}

async function release(lock: Lock, claim: Claim | null, watch: NodeJS.Timeout | null): Promise<void> {
  if (watch) clearInterval(watch)
  try {
    await claim?.release()
  } finally {
    await lock.release()
  }
}

function asLocked(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted || (isNexusUploaderError(error) && error.status !== 423)) return error
  const timedOut = (error as { name?: unknown } | null)?.name === 'TimeoutError'
  return timedOut ? new UploadLockedError() : error
}
