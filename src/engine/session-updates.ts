/**
 * Changes sessions by compare-and-swap. Changes of one upload that come together, in this process, are applied to one
 * record and stored by one swap; a swap that another process won is tried again on what that process wrote.
 *
 * The first try is made on the record as this process last saw it: a swap that succeeds proves that nobody had changed it.
 * Nothing else is ever concluded from it.
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
/** How many records are remembered, and how many runs of chunks one may have: a few hundred kilobytes in all. */
const maxSeen = 500
const maxRuns = 16

export class SessionUpdates {
  readonly #store: SessionStore
  readonly #queues = new Map<string, Pending[]>()
  readonly #seen = new Map<string, UploadSession>()

  constructor(store: SessionStore) {
    this.#store = store
  }

  async get(uploadId: string): Promise<UploadSession | null> {
    this.#seen.delete(uploadId)
    const record = await this.#store.get(uploadId).catch(asUnavailable)
    if (record === null || record.kind !== 'upload') return null
    if (record.format !== 1) throw new StorageUnavailableError(undefined, { code: 'STATE_NEWER' })
    this.#remember(record)
    return record
  }

  #remember(record: UploadSession): void {
    this.#seen.delete(record.id)
    if (!record.open || record.chunks.length > maxRuns) return
    this.#seen.set(record.id, record)
    if (this.#seen.size <= maxSeen) return
    for (const oldest of this.#seen.keys()) return void this.#seen.delete(oldest)
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
    const seen = this.#seen.get(uploadId)
    if (seen && (await this.#tryOn(seen, batch)) === 'stored') return
    for (let attempt = 0; attempt < maxAttempts; attempt++) {
      const current = await this.get(uploadId)
      if (current === null) {
        for (const pending of batch) pending.resolve(null)
        return
      }
      const result = await this.#tryOn(current, batch)
      if (result === 'stored') return
      if (result !== 'rival') return result.tell(current)
      await new Promise((resolve) => setTimeout(resolve, Math.random() * Math.min(attempt, 20)))
    }
    throw new UploadLockedError()
  }

  /** Stores the changed record; with nothing to store, `tell` says what came of each change if this was the present record. */
  async #tryOn(
    current: UploadSession,
    batch: Pending[],
  ): Promise<'stored' | 'rival' | { tell(stored: UploadSession): void }> {
    const { next, outcomes } = applyAll(current, batch)
    const tell = (stored: UploadSession) => {
      for (const outcome of outcomes) outcome(stored)
    }
    if (next === current) return { tell }
    this.#seen.delete(current.id)
    const stored = { ...next, version: current.version + 1 }
    if (!(await this.#store.replace(stored, current.version).catch(asUnavailable))) return 'rival'
    this.#remember(stored)
    tell(stored)
    return 'stored'
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
