/**
 * Changes sessions by compare-and-swap. Changes of one upload that come together, in this process, are applied to one
 * record and stored by one swap; a swap that another process won is tried again on what that process wrote.
 */
import { isNexusUploaderError, StorageUnavailableError, UploadLockedError } from '../errors.ts'
import type { SessionStore, UploadSession } from '../types.ts'

/**
 * Makes the next record from the present one, or returns it unchanged. May run several times; what it throws rejects
 * its own change only. `null` means the upload is gone.
 */
export type Change = (session: UploadSession) => UploadSession

interface Pending {
  readonly change: Change
  readonly resolve: (session: UploadSession | null) => void
  readonly reject: (error: unknown) => void
}

const maxAttempts = 200

export class SessionUpdates {
  readonly #store: SessionStore
  readonly #queues = new Map<string, Pending[]>()

  constructor(store: SessionStore) {
    this.#store = store
  }

  async get(uploadId: string): Promise<UploadSession | null> {
    const record = await this.#store.get(uploadId).catch(asUnavailable)
    if (record === null || record.kind !== 'upload') return null
    if (record.format !== 1) throw new StorageUnavailableError(undefined, { code: 'STATE_NEWER' })
    return record
  }

  /** Resolves with the stored result, or `null` when there is no such upload. */
  update(uploadId: string, change: Change): Promise<UploadSession | null> {
    return new Promise((resolve, reject) => {
      const pending = { change, resolve, reject }
      const queue = this.#queues.get(uploadId)
      if (queue) {
        queue.push(pending)
        return
      }
      this.#queues.set(uploadId, [pending])
      void this.#drain(uploadId)
    })
  }

  async #drain(uploadId: string): Promise<void> {
    for (;;) {
      const queue = this.#queues.get(uploadId) ?? []
      if (queue.length === 0) {
        this.#queues.delete(uploadId)
        return
      }
      const batch = queue.splice(0)
      try {
        await this.#apply(uploadId, batch)
      } catch (error) {
        for (const pending of batch) pending.reject(error)
      }
    }
  }

  async #apply(uploadId: string, batch: Pending[]): Promise<void> {
    for (let attempt = 0; attempt < maxAttempts; attempt++) {
      const current = await this.get(uploadId)
      if (current === null) {
        for (const pending of batch) pending.resolve(null)
        return
      }
      const { next, outcomes } = applyAll(current, batch)
      if (next !== current) {
        const stored = { ...next, version: current.version + 1 }
        if (!(await this.#store.replace(stored, current.version).catch(asUnavailable))) {
          await new Promise((resolve) => setTimeout(resolve, Math.random() * Math.min(attempt, 20)))
          continue
        }
        for (const outcome of outcomes) outcome(stored)
        return
      }
      for (const outcome of outcomes) outcome(current)
      return
    }
    throw new UploadLockedError()
  }
}

/** A store that fails is an outage, whatever it throws: never a 404, and never the client's fault. */
function asUnavailable(cause: unknown): never {
  throw isNexusUploaderError(cause) ? cause : new StorageUnavailableError(undefined, { cause })
}

function applyAll(current: UploadSession, batch: Pending[]) {
  let next = current
  const outcomes = batch.map(({ change, resolve, reject }) => {
    try {
      next = change(next)
      return (stored: UploadSession) => resolve(stored)
    } catch (error) {
      return () => reject(error)
    }
  })
  return { next, outcomes }
}
