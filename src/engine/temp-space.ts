/** Keeps the bytes in `tempDir` under `maxTempBytes`, and `minFreeBytes` of its disk free. */
import { InsufficientStorageError } from '../errors.ts'
import type { UploadLimits } from '../types.ts'
import type { Staging } from './staging.ts'

/** A count may be this old, ms; what was let in since then is added to it. */
const countLifetime = 2_000
/** What the disk has left is asked for no more often than this, ms. */
const lookEvery = 500

export class TempSpace {
  readonly #staging: Staging
  readonly #maxBytes: number
  readonly #minFree: number
  #free = Promise.resolve(Number.POSITIVE_INFINITY)
  #lookedAt = Number.NEGATIVE_INFINITY
  #counted = 0
  #countedAt = Number.NEGATIVE_INFINITY
  #counting: Promise<void> | null = null
  #sinceCount = 0
  #reserved = 0

  constructor(staging: Staging, { maxTempBytes, minFreeBytes }: UploadLimits) {
    this.#staging = staging
    this.#maxBytes = maxTempBytes
    this.#minFree = minFreeBytes
  }

  /** Reserves room for a body. @throws InsufficientStorageError before the disk is full */
  async reserve(bytes: number): Promise<() => void> {
    if (this.#minFree > 0 && (await this.#freeBytes()) < this.#minFree) throw new InsufficientStorageError()
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

  #freeBytes(): Promise<number> {
    if (Date.now() - this.#lookedAt <= lookEvery) return this.#free
    this.#lookedAt = Date.now()
    // A file system that does not tell is found out to be full by writing.
    this.#free = this.#staging.freeBytes().catch(() => Number.POSITIVE_INFINITY)
    return this.#free
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
