/** Takes in chunks: chooses who stores them, slows the client to the pace of the storage, and moves on with what they made whole. */
import { isNexusUploaderError } from '../errors.ts'
import type { ChunkWritten, UploadSession, WriteChunk } from '../types.ts'
import { firstUnsettled } from './chunk-map.ts'
import { ChunkWriter } from './chunk-writer.ts'
import type { EngineParts } from './engine-options.ts'
import type { MultipartOpening } from './multipart-opening.ts'
import type { PartSender } from './part-sender.ts'
import type { Pieces } from './pieces.ts'
import type { Settler } from './settler.ts'
import { SharedWriter } from './shared-writer.ts'

export class ChunkIntake {
  readonly #parts: EngineParts
  readonly #sender: PartSender
  readonly #settler: Settler
  readonly #disk: ChunkWriter
  readonly #shared: SharedWriter

  constructor(parts: EngineParts, pieces: Pieces, opening: MultipartOpening, sender: PartSender, settler: Settler) {
    this.#parts = parts
    this.#sender = sender
    this.#settler = settler
    this.#disk = new ChunkWriter(parts)
    this.#shared = new SharedWriter(parts, pieces, opening, sender)
  }

  /** `session` has been authorised and is active; a completion or an abort that wants the upload aborts `stop`. */
  async write(session: UploadSession, request: WriteChunk, stop: AbortController): Promise<ChunkWritten> {
    await this.#sender.capacity(session, stop.signal)
    const isShared = session.staged === 'storage'
    const written = await (isShared ? this.#shared : this.#disk).write(session, request, stop)
    const { size, duplicate } = written
    const checked = await this.#parts.firstBytes.check(written.session, request)
    this.#parts.emit('chunk', { session: checked, index: request.index, size, duplicate })
    if (!isShared) this.#moveOn(checked)
    return { ...written, session: checked }
  }

  /** Settle what has found its place, send what has become whole. Neither keeps the client waiting. */
  #moveOn(session: UploadSession): void {
    if (!firstUnsettled(session)) {
      this.#sender.poke(session)
      return
    }
    this.#settler
      .settle(session.id)
      .then(() => this.#parts.sessions.get(session.id))
      .then((settled) => settled && this.#sender.poke(settled))
      .catch((error) => {
        if (isNexusUploaderError(error) && error.status < 500) return
        this.#parts.emit('warning', { code: 'SETTLE_FAILED', message: 'Chunks are moved into place later.', error })
      })
  }
}
