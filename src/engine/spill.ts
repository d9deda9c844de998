/** A chunk that is written to its place while it is not yet known whether it fits. */
import type { UploadSession } from '../types.ts'
import type { Sink } from './body.ts'
import type { ByteRange } from './chunk-map.ts'
import type { EngineParts } from './engine-options.ts'
import type { PositionalFile } from './staging.ts'

/** Writes in place as long as the body fits the claimed range, and moves to a file of its own when it does not. */
export class Spill {
  path: string | null = null
  #temporary: (PositionalFile & { path: string }) | null = null
  readonly #parts: EngineParts
  readonly #session: UploadSession
  readonly #range: ByteRange
  readonly #target: PositionalFile

  constructor(parts: EngineParts, session: UploadSession, range: ByteRange, target: PositionalFile) {
    this.#parts = parts
    this.#session = session
    this.#range = range
    this.#target = target
  }

  readonly sink: Sink = async (buffers, position) => {
    const size = buffers.reduce((sum, buffer) => sum + buffer.length, 0)
    if (!this.#temporary && this.#range.start + position + size > this.#range.end) await this.#move(position)
    if (this.#temporary) await this.#temporary.write(buffers, position)
    else await this.#target.write(buffers, this.#range.start + position)
  }

  async #move(written: number): Promise<void> {
    const { staging } = this.#parts
    this.#temporary = await staging.openTemporary(this.#session.id)
    this.path = this.#temporary.path
    let position = 0
    for (const piece of staging.segments(this.#session.id, this.#session.partSize, this.#range.start, written)) {
      await staging.copy(piece.path, piece.start, piece.size, this.#temporary, position)
      position += piece.size
    }
  }

  async sync(): Promise<void> {
    await (this.#temporary ?? this.#target).sync()
  }

  async close(): Promise<void> {
    await this.#target.close()
    await this.#temporary?.close()
    if (this.path) await this.#parts.staging.discard(this.path)
  }
}
