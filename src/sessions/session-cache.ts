/** What was used last: at most so many records, and at most so much text. */

const maxRecords = 1024
// Characters. A record has a few hundred, so that only unusually large ones come up against this.
const maxLength = 16 * 1024 * 1024

export class SessionCache<Value> {
  // A Map keeps the order of insertion, so the first one is the one that was used longest ago.
  readonly #records = new Map<string, { readonly value: Value; readonly length: number }>()
  #length = 0

  get(id: string): Value | undefined {
    return this.#records.get(id)?.value
  }

  /** `length`: how much text it holds, characters. */
  set(id: string, value: Value, length: number): void {
    this.delete(id)
    this.#records.set(id, { value, length })
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
