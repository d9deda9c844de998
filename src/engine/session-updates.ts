/**
 * Changes sessions by compare-and-swap. Changes of one upload that come together, in this process, are applied to one
 * record and stored by one swap; a swap that another process won is tried again on what that process wrote.
 *
 * The first try is made on the record as this process last saw it: a swap that succeeds proves that nobody had changed it.
 * Nothing else is ever concluded from it.
 */
import { isNexusUploaderError, StorageUnavailableError, UploadLockedError } from '../errors.ts'
import type { ChunkSum, SessionStore, UploadSession } from '../types.ts'

/**
 * Makes the next record from the present one, or returns it unchanged. May run several times; what it throws rejects
 * its own change only. `null` means the upload is gone.
 */
export type Change = (session: UploadSession) => UploadSession

interface Pending {
  readonly change: Change
  readonly sums: readonly ChunkSum[]
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

  /**
   * Resolves with the stored result, or `null` when there is no such upload. `sums` are stored with the change, if it
   * is; only of a store that can.
   */
  update(uploadId: string, change: Change, sums: readonly ChunkSum[] = []): Promise<UploadSession | null> {
    return new Promise((resolve, reject) => {
      const pending = { change, sums, resolve, reject }
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
    const { next, outcomes, sums } = applyAll(current, batch)
    const tell = (stored: UploadSession) => {
      for (const outcome of outcomes) outcome(stored)
    }
    if (next === current) return { tell }
    this.#seen.delete(current.id)
    const stored = { ...next, version: current.version + 1 }
    if (!(await this.#replace(stored, current.version, sums).catch(asUnavailable))) return 'rival'
    this.#remember(stored)
    tell(stored)
    return 'stored'
  }

  #replace(next: UploadSession, expectedVersion: number, sums: readonly ChunkSum[]): Promise<boolean> {
    const { chunkSums } = this.#store
    if (chunkSums && sums.length > 0) return chunkSums.replace(next, expectedVersion, sums)
    return this.#store.replace(next, expectedVersion)
  }
}

/** A store that fails is an outage, whatever it throws: never a 404, and never the client's fault. */
function asUnavailable(cause: unknown): never {
  throw isNexusUploaderError(cause) ? cause : new StorageUnavailableError(undefined, { cause })
}

function applyAll(current: UploadSession, batch: Pending[]) {
  let next = current
  const sums: ChunkSum[] = []
  const outcomes = batch.map(({ change, resolve, reject, sums: own }) => {
    try {
      next = change(next)
      sums.push(...own)
      return (stored: UploadSession) => resolve(stored)
    } catch (error) {
      return () => reject(error)
    }
  })
  return { next, outcomes, sums }
}
