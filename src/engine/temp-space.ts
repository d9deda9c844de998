/** Keeps the bytes in `tempDir` under `maxTempBytes`. */
import { InsufficientStorageError } from '../errors.ts'
import type { Staging } from './staging.ts'

/** A count may be this old, ms; what was let in since then is added to it. */
const countLifetime = 2_000

export class TempSpace {
  readonly #staging: Staging
  readonly #maxBytes: number
  #counted = 0
  #countedAt = Number.NEGATIVE_INFINITY
  #counting: Promise<void> | null = null
  #sinceCount = 0
  #reserved = 0

  constructor(staging: Staging, maxBytes: number) {
    this.#staging = staging
    this.#maxBytes = maxBytes
  }

  /** Reserves room for a body. @throws InsufficientStorageError before the disk is full */
  async reserve(bytes: number): Promise<() => void> {
    if (this.#maxBytes === Number.POSITIVE_INFINITY) return () => {}
    if (Date.now() - this.#countedAt > countLifetime || !this.#fits(bytes)) await this.#count()
    if (!this.#fits(bytes)) throw new InsufficientStorageError({ details: { limit: this.#maxBytes } })
    this.#reserved += bytes
    let held = true
    return () => {
      if (!held) return
      held = false
      this.#reserved -= bytes
      this.#sinceCount += bytes
    }
  }

  #fits(bytes: number): boolean {
    return this.#counted + this.#sinceCount + this.#reserved + bytes <= this.#maxBytes
  }

  #count(): Promise<void> {
    this.#counting ??= this.#staging
      .usedBytes()
      .then((used) => {
        this.#counted = used
        this.#countedAt = Date.now()
        this.#sinceCount = 0
      })
      .finally(() => {
        this.#counting = null
      })
    return this.#counting
  }
}
