/**
 * What is known of all records without reading them again: for counting the open ones and finding the expired ones.
 * Changes of this process are noted at once; those of other processes are seen by looking at the files' sizes.
 */

export interface IndexEntry {
  readonly open: boolean
  readonly owner: string | null
  readonly expiresAt: number
  /** The file this was read from, and its size then. */
  readonly path: string
  readonly size: number
}

interface Source {
  /** Ids of all records. */
  list(): Promise<string[]>
  /** The record as it is now, at best `known` again; `null` when it is gone or cannot be read. */
  look(id: string, known: IndexEntry | undefined): Promise<IndexEntry | null>
}

const concurrency = 32
// So few files are looked at every time; of more, only as often as it takes a tenth of the time at most.
const alwaysLookAt = 64
const longestRest = 2_000

export class SessionIndex {
  readonly #source: Source
  readonly #entries = new Map<string, IndexEntry>()
  #complete = false
  #restUntil = 0
  #running: Promise<void> | null = null
  #queued: Promise<void> | null = null

  constructor(source: Source) {
    this.#source = source
  }

  note(id: string, entry: IndexEntry): void {
    this.#entries.set(id, entry)
  }

  forget(id: string): void {
    this.#entries.delete(id)
  }

  async countOpen(owner: string | undefined): Promise<number> {
    if (!this.#complete || this.#entries.size <= alwaysLookAt || performance.now() >= this.#restUntil) {
      await this.#refresh()
    }
    let count = 0
    for (const entry of this.#entries.values()) {
      if (entry.open && (owner === undefined || entry.owner === owner)) count++
    }
    return count
  }

  /** Looks at every record and gives them as it goes; `skips` those of which enough is known. */
  async *scan(
    skips: (known: IndexEntry) => boolean = () => false,
  ): AsyncGenerator<[id: string, entry: IndexEntry], void, undefined> {
    const before = [...this.#entries]
    const ids = await this.#source.list()
    const listed = new Set(ids)
    // What this process has noted since the list was begun may be a record that the list does not have yet.
    for (const [id, entry] of before) if (!listed.has(id) && this.#entries.get(id) === entry) this.#entries.delete(id)
    for (let at = 0; at < ids.length; at += concurrency) {
      const batch = ids.slice(at, at + concurrency)
      const entries = await Promise.all(
        batch.map((id) => {
          const known = this.#entries.get(id)
          return known && skips(known) ? known : this.#look(id)
        }),
      )
      for (const [n, entry] of entries.entries()) if (entry !== null) yield [batch[n] as string, entry]
    }
    this.#complete = true
  }

  async #look(id: string): Promise<IndexEntry | null> {
    const known = this.#entries.get(id)
    const entry = await this.#source.look(id, known)
    // What this process noted meanwhile is newer than what was just seen.
    const noted = this.#entries.get(id)
    if (noted !== known) return noted ?? null
    if (entry === null) this.#entries.delete(id)
    else this.#entries.set(id, entry)
    return entry
  }

  /** One look at a time; who asks during one waits for the next, since the running one may have missed something. */
  #refresh(): Promise<void> {
    if (this.#running === null) {
      this.#running = this.#lookAtAll().finally(() => {
        this.#running = null
      })
      return this.#running
    }
    this.#queued ??= this.#running
      .catch(() => {})
      .then(() => {
        this.#queued = null
        return this.#refresh()
      })
    return this.#queued
  }

  async #lookAtAll(): Promise<void> {
    const start = performance.now()
    // Uploads that have ended do not begin again. A sweep looks at them all the same.
    const many = this.#entries.size > alwaysLookAt
    for await (const _ of this.scan(({ open }) => many && !open)) {
      // Looking is all that is wanted.
    }
    const end = performance.now()
    this.#restUntil = end + Math.min(longestRest, 10 * (end - start))
  }
}
