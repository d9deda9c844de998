/** The records that were used last: at most so many, and at most so much text. */
import type { FoundRecord } from './session-folders.ts'

const maxRecords = 1024
// Characters. A record has a few hundred, so that only unusually large ones come up against this.
const maxLength = 16 * 1024 * 1024

export class SessionCache {
  // A Map keeps the order of insertion, so the first one is the one that was used longest ago.
  readonly #records = new Map<string, { readonly found: FoundRecord; readonly length: number }>()
  #length = 0

  get(id: string): FoundRecord | undefined {
    return this.#records.get(id)?.found
  }

  set(found: FoundRecord): void {
    this.delete(found.id)
    const { length } = found.journal.json
    this.#records.set(found.id, { found, length })
    this.#length += length
    for (const oldest of this.#records.keys()) {
      if (this.#records.size <= maxRecords && this.#length <= maxLength) return
      this.delete(oldest)
    }
  }

  delete(id: string): void {
    this.#length -= this.#records.get(id)?.length ?? 0
    this.#records.delete(id)
  }

  clear(): void {
    this.#records.clear()
    this.#length = 0
  }
}
