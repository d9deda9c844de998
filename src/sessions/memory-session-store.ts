import type { SessionRecord, SessionStore } from '../types.ts'
import { checkNextVersion, isSessionId, parseFrozen } from './session-record.ts'

/**
 * Keeps session records in this process only: a restart forgets every upload, and another process sees none. For
 * tests and for uploads that need not survive.
 *
 * Records are copied on the way in and frozen on the way out.
 */
export class MemorySessionStore implements SessionStore {
  readonly shared = false
  readonly #records = new Map<string, SessionRecord>()

  /** @throws TypeError when the record's id is no session id */
  async create(record: SessionRecord): Promise<boolean> {
    if (!isSessionId(record.id)) throw new TypeError(`No session id: ${JSON.stringify(record.id)}`)
    if (this.#records.has(record.id)) return false
    this.#records.set(record.id, parseFrozen(JSON.stringify(record)))
    return true
  }

  async get(id: string): Promise<SessionRecord | null> {
    return this.#records.get(id) ?? null
  }

  /** @throws TypeError when `next.version` is not `expectedVersion + 1` */
  async replace(next: SessionRecord, expectedVersion: number): Promise<boolean> {
    checkNextVersion(next, expectedVersion)
    if (this.#records.get(next.id)?.version !== expectedVersion) return false
    this.#records.set(next.id, parseFrozen(JSON.stringify(next)))
    return true
  }

  async delete(id: string): Promise<void> {
    this.#records.delete(id)
  }

  async *listExpired(now: number): AsyncGenerator<string, void, undefined> {
    for (const { id, expiresAt } of this.#records.values()) if (expiresAt <= now) yield id
  }

  async countOpen(owner?: string): Promise<number> {
    let count = 0
    for (const record of this.#records.values()) {
      if (record.open && (owner === undefined || record.owner === owner)) count++
    }
    return count
  }
}
