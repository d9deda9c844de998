/** Makes the object of an upload that is staged in the storage: from its parts, or, of a single part, from its pieces. */
import type { UploadSession } from '../types.ts'
import { RunningChecksum } from './body.ts'
import type { EngineParts } from './engine-options.ts'
import { objectInfo } from './multipart-opening.ts'
import type { PartJoiner } from './part-joiner.ts'
import { usesParts } from './part-plan.ts'
import type { PartSender } from './part-sender.ts'
import type { Pieces } from './pieces.ts'
import { requireVerified, stillOurs, wholeChecksums } from './publishing.ts'
import { withDeadline, within } from './waiting.ts'

export class SharedStorer {
  readonly #parts: EngineParts
  readonly #pieces: Pieces
  readonly #sender: PartSender
  readonly #joiner: PartJoiner

  constructor(parts: EngineParts, pieces: Pieces, sender: PartSender, joiner: PartJoiner) {
    this.#parts = parts
    this.#pieces = pieces
    this.#sender = sender
    this.#joiner = joiner
  }

  async store(session: UploadSession, checksum: string | null, signal: AbortSignal): Promise<string> {
    if (!usesParts(this.#parts.options.storage.multipart, session)) return this.#storeWhole(session, checksum, signal)
    if (checksum !== null) await this.#verifyParts(session, checksum, signal)
    return this.#joiner.sendAndJoin(session, signal)
  }

  async #storeWhole(session: UploadSession, checksum: string | null, signal: AbortSignal): Promise<string> {
    const { storage, storageTimeout } = this.#parts.options
    await this.#verify(session, checksum, signal)
    const refs = await this.#pieces.find(session, { start: 0, end: session.totalSize ?? 0 })
    await stillOurs(this.#parts, session)
    return within(signal, storageTimeout, async (limit) => {
      const stream = this.#pieces.stream(refs, limit)
      try {
        const info = objectInfo(session, limit)
        return await withDeadline(storage.upload(session.key, stream, info.mimeType, info), limit)
      } finally {
        stream.destroy()
      }
    })
  }

  async #verifyParts(session: UploadSession, checksum: string, signal: AbortSignal): Promise<void> {
    // The partial uploads stay what they are, so their bytes can be read as often as need be.
    if (session.sources) return this.#verify(session, checksum, signal)
    await this.#sender.idle(session.id)
    const current = await this.#parts.sessions.get(session.id)
    // Sent by an earlier try of this completion, which had verified them; or before anybody gave a checksum.
    if (current && current.sentParts.length > 0) return requireVerified(current, checksum)
    await this.#verify(session, checksum, signal)
    await stillOurs(this.#parts, session, (latest) => ({ ...latest, verified: checksum }))
  }

  async #verify(session: UploadSession, checksum: string | null, signal: AbortSignal): Promise<void> {
    const running = wholeChecksums(session, checksum).map((expected) => new RunningChecksum(expected))
    if (running.length === 0) return
    const refs = await this.#pieces.find(session, { start: 0, end: session.totalSize ?? 0 })
    for await (const data of this.#pieces.read(refs, signal)) {
      for (const each of running) each.update(data)
    }
    for (const each of running) each.verify({ wholeFile: true })
  }
}
