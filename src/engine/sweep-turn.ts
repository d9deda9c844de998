/** Sweeping what all nodes share is the work of one node at a time. */
import type { EngineParts } from './engine-options.ts'
import { within } from './waiting.ts'

/** No upload has this id. */
const key = 'nexus-uploader sweep'
/** Whoever has the turn is not asked twice, ms. */
const patience = 500

/** Runs `task`, unless another node is at it. Without a shared locker there is nobody to ask. */
export async function oneAtATime(parts: EngineParts, task: () => Promise<void>): Promise<void> {
  const { locker } = parts.options
  if (!locker.shared) return task()
  const lock = await within(parts.closing, patience, (limit) =>
    locker.acquire(key, { signal: limit, onReleaseRequested: () => {} }).catch((error: unknown) => {
      if (limit.aborted) return null
      throw error
    }),
  )
  if (!lock) return
  try {
    await task()
  } finally {
    await lock.release()
  }
}
