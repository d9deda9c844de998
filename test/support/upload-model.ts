/**
 * What uploads are, said a second time and as simply as possible: a map of chunks. Random commands are given to the
 * model and to the engine, and both must answer the same.
 */
import { expect } from 'vitest'

export const limits = { maxChunkSize: 150, maxFileSize: 2000, maxChunks: 30 } as const
export const hour = 60 * 60_000

/** An HTTP status, or what became of a chunk that was accepted. */
export type Verdict = number | 'stored' | 'same'

export class UploadModel {
  readonly chunks = new Map<number, Buffer>()
  state: 'active' | 'completed' | 'aborted' | 'expired' | 'gone' = 'active'
  url: string | null = null
  /** The storage has once made the object and then said that it had not. */
  lent = false
  /** A completion came as far as the storage, and failed. */
  given = false
  touchedAt: number
  /** Also an attempt to complete the upload says how long it is. */
  total: number | null
  readonly chunkSize: number | null

  constructor(total: number | null, chunkSize: number | null, now: number) {
    this.total = total
    this.chunkSize = chunkSize
    this.touchedAt = now
  }

  get bytes(): Buffer {
    return Buffer.concat([...this.chunks].sort(([a], [b]) => a - b).map(([, data]) => data))
  }

  /** 200, or why nothing is done to the upload any more. */
  get access(): number {
    return this.state === 'gone' ? 404 : this.state === 'aborted' || this.state === 'expired' ? 410 : 200
  }

  chunk(index: number, data: Buffer): Verdict {
    if (this.access !== 200) return this.access
    if (this.state === 'completed') return 409
    if (!Number.isInteger(index) || index < 0 || index >= limits.maxChunks) return 400
    const refusal = this.chunkSize === null ? this.#undeclared(index, data) : this.#declared(index, data)
    if (refusal) return refusal
    if (this.chunks.get(index)?.equals(data)) return 'same'
    return 'stored'
  }

  #undeclared(index: number, { length }: Buffer): number | null {
    const others = this.bytes.length - (this.chunks.get(index)?.length ?? 0)
    if (length > Math.min(limits.maxChunkSize, (this.total ?? limits.maxFileSize) - others)) return 413
    return length === 0 && !this.#mayBeEmpty(index) ? 400 : null
  }

  #declared(index: number, { length }: Buffer): number | null {
    const [size, start] = [this.chunkSize ?? 0, index * (this.chunkSize ?? 0)]
    const rest = (this.total ?? limits.maxFileSize) - start
    if (rest <= 0 && !(index === 0 && this.total === 0)) return 400
    const largest = this.total !== null && rest < 2 * size ? rest : Math.min(rest, size)
    if (length > largest) return 413
    if (length === 0 && !this.#mayBeEmpty(index)) return 400
    if (this.total !== null && length !== size && length !== largest) return 400
    const overlaps = [...this.chunks].some(
      ([other, data]) => other !== index && other * size < start + length && start < other * size + data.length,
    )
    return overlaps ? 409 : null
  }

  #mayBeEmpty(index: number): boolean {
    const isStored = this.chunks.get(index)?.length === 0
    return this.total === 0 || (this.total === null && index === 0) || isStored
  }

  get isWhole(): boolean {
    const indexes = [...this.chunks.keys()].sort((a, b) => a - b)
    const sizes = indexes.map((index) => this.chunks.get(index)?.length ?? 0)
    const regular = this.chunkSize === null || sizes.slice(0, -1).every((size) => size === this.chunkSize)
    return (
      indexes.every((index, i) => index === i) && regular && this.bytes.length === (this.total ?? this.bytes.length)
    )
  }

  complete(): number {
    if (this.access !== 200 || this.state === 'completed') return this.access
    return this.isWhole ? 200 : 409
  }

  abort(): number {
    if (this.state === 'gone') return 404
    return this.state === 'completed' ? 409 : 200
  }

  /** What a sweep makes of it. */
  due(now: number): 'expired' | 'gone' | null {
    if (this.state === 'gone' || this.touchedAt + hour > now) return null
    return this.state === 'active' ? 'expired' : 'gone'
  }

  end(state: UploadModel['state'], now: number): void {
    this.state = state
    this.touchedAt = now
  }

  /** A chunk that both have accepted. */
  accept(index: number, data: Buffer, now: number): void {
    this.chunks.set(index, data)
    this.touchedAt = now
    expect(this.bytes.length).toBeLessThanOrEqual(this.total ?? limits.maxFileSize)
  }
}
