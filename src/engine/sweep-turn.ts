/** Sweeping what all nodes share is the work of one node at a time. */
import type { Lock } from '../types.ts'
import type { EngineParts } from './engine-options.ts'

/** No upload has this id. */
const key = 'nexus-uploader sweep'
/** Whoever has the turn is not asked twice, ms. */
const patience = 500

/** Runs `task`, unless another node is at it. Without a shared locker there is nobody to ask. */
export async function oneAtATime(parts: EngineParts, task: () => Promise<void>): Promise<void> {
  const { locker } = parts.options
  if (!locker.shared) return task()
  const limit = AbortSignal.any([parts.closing, AbortSignal.timeout(patience)])
  let lock: Lock
  try {
    lock = await locker.acquire(key, { signal: limit, onReleaseRequested: () => {} })
  } catch (error) {
    if (limit.aborted) return
    throw error
  }
  try {
    await task()
  } finally {
    await lock.release()
  }
}
