/** Discards uploads that nobody wants any more. */
import { type NexusUploaderError, UploadClosedError, UploadLockedError, UploadNotFoundError } from '../errors.ts'
import type { AbortUpload, UploadSession } from '../types.ts'
import type { EngineParts } from './engine-options.ts'
import { isLeased } from './lease.ts'
import type { PartSender } from './part-sender.ts'

type Discard = (session: UploadSession) => Promise<void>

export class Aborter {
  readonly #parts: EngineParts
  readonly #sender: PartSender
  readonly #discard: Discard

  constructor(parts: EngineParts, sender: PartSender, discard: Discard) {
    this.#parts = parts
    this.#sender = sender
    this.#discard = discard
  }

  /** `session` has been authorised. The record says so first: from then on nothing that arrives counts. */
  async abort(session: UploadSession, completed: NonNullable<AbortUpload['completed']>): Promise<void> {
    const now = this.#parts.clock()
    const aborted = await this.#parts.sessions.update(session.id, (current) => {
      // Also what the application has not taken over yet, although the object is there.
      const isStored = current.state === 'completed' || (current.state === 'active' && current.object !== null)
      const isOver = isStored && completed !== 'refuse'
      if (!current.open && !isOver) return current
      if (current.object && !isOver) throw new UploadClosedError('The file is already stored.')
      if (current.state === 'completing' && isLeased(current, now)) throw new UploadLockedError()
      const expiresAt = now + this.#parts.options.completedTtl
      // Without its object the record no longer tells the sweeper to remove it.
      const object = completed === 'remove' ? current.object : null
      const forgotten = current.object !== null && object === null
      return {
        ...current,
        object,
        ...(forgotten && { forgotten }),
        state: 'aborted',
        open: false,
        completing: null,
        updatedAt: now,
        expiresAt,
      }
    })
    if (!aborted) throw new UploadNotFoundError()
    if (aborted.state === 'completed') throw new UploadClosedError('The upload is complete; the file is stored.')
    await this.#parts.claims.requestYield(session.id)
    await this.#sender.idle(session.id)
    if (session.state !== 'completed' || completed === 'remove') await this.#clean(aborted)
    if (session.state !== 'aborted') this.#parts.emit('aborted', { session: aborted })
  }

  /** For good, and with the reason, which is told to whoever comes back. A completion under way looks for itself. */
  async refuse(uploadId: string, { code, status, message }: NexusUploaderError): Promise<void> {
    const now = this.#parts.clock()
    const expiresAt = now + this.#parts.options.completedTtl
    let isOurs = false
    const refused = await this.#parts.sessions.update(uploadId, (current) => {
      isOurs = current.state === 'active' && current.object === null
      if (!isOurs) return current
      return {
        ...current,
        state: 'aborted',
        open: false,
        refusal: { code, status, message },
        updatedAt: now,
        expiresAt,
      }
    })
    if (!refused || !isOurs) return
    await this.#parts.claims.requestYield(uploadId)
    await this.#sender.idle(uploadId)
    await this.#clean(refused)
    this.#parts.emit('aborted', { session: refused })
  }

  async #clean(session: UploadSession): Promise<void> {
    await this.#discard(session).catch((error) => {
      const message = 'What is left of the upload is removed later.'
      this.#parts.emit('warning', { code: 'CLEANUP_FAILED', message, error })
    })
  }
}
