/** Makes the object from the parts of a multipart upload, when record and storage agree on them. */
import {
  type NexusUploaderError,
  StorageError,
  StorageUnavailableError,
  toNexusUploaderError,
  UploadExpiredError,
  UploadLockedError,
} from '../errors.ts'
import type { NamedPart, Span, StoredPart, UploadSession } from '../types.ts'
import { requireNamed, requireSize } from './direct-uploads.ts'
import type { EngineParts } from './engine-options.ts'
import { withoutChunk } from './first-bytes.ts'
import { sumsOf } from './known-sums.ts'
import { objectInfo } from './multipart-opening.ts'
import { partCount, partRange } from './part-plan.ts'
import type { PartSender } from './part-sender.ts'
import { otherParts, withoutParts } from './piece-map.ts'
import { isSameLease, stillOurs } from './publishing.ts'
import { addToSpans, countSpans } from './ranges.ts'
import { inTime, withDeadline, within } from './waiting.ts'
import { requireWhole } from './wholeness.ts'

export class PartJoiner {
  readonly #parts: EngineParts
  readonly #sender: PartSender

  constructor(parts: EngineParts, sender: PartSender) {
    this.#parts = parts
    this.#sender = sender
  }

  /** Sends what has not been sent yet, then makes the object. */
  async sendAndJoin(session: UploadSession, signal: AbortSignal): Promise<string> {
    const sent = await this.#sender.sendAll(session.id, signal)
    // Another process is still sending a part, or has stopped while it was: its bytes must not arrive after ours.
    if (countSpans(sent.sentParts) < partCount(sent)) throw new UploadLockedError()
    return this.#joinParts(sent, signal)
  }

  /** The record says which parts were sent, the storage says which it holds: only when they agree is it complete. */
  async #joinParts(session: UploadSession, signal: AbortSignal): Promise<string> {
    const expected = Array.from({ length: partCount(session) }, (_, i) => {
      const { start, end } = partRange(session, i + 1)
      return { partNumber: i + 1, size: end - start, etag: '' }
    })
    return (
      (await this.#joinSent(session, expected, signal)) ??
      this.#join(session, expected, signal, async (listed) => {
        if (!areAll(expected, listed)) throw await this.#disagreement(session, expected, listed)
        await this.#requireRecorded(session, listed)
      })
    )
  }

  /**
   * What this process has sent itself, and the storage confirmed, need not be listed: the storage makes the object of exactly
   * these parts, or refuses. `null`: they are not known here, or it has others; then the list tells.
   */
  async #joinSent(
    session: UploadSession,
    expected: readonly StoredPart[],
    signal: AbortSignal,
  ): Promise<string | null> {
    const { storageTimeout, storage } = this.#parts.options
    const { multipart } = storage
    // Pieces in the storage are sent by several nodes, and only a list shows whether a late one has replaced a part.
    if (!multipart?.sentParts || session.multipartId === null || session.staged === 'storage') return null
    const ref = { fileKey: session.key, multipartId: session.multipartId }
    const sent = multipart.sentParts(ref)
    if (!areAll(expected, sent)) return null
    await stillOurs(this.#parts, session)
    try {
      return await inTime(signal, storageTimeout, (limit) => multipart.complete(ref, sent, objectInfo(session, limit)))
    } catch (error) {
      if (toNexusUploaderError(error).status !== 502) throw error
      return null
    }
  }

  /**
   * A request with other bytes for a chunk may have been given up, or its node have died, and its part replace the one that
   * counts all the same. Nobody has the right bytes but the client: the chunk is taken back. With a checksum of the whole file
   * all of them are, as it can only be verified again when all bytes are in pieces again.
   */
  async #requireRecorded(session: UploadSession, listed: readonly StoredPart[]): Promise<void> {
    const isKnown = listed.some(({ crc32 }) => crc32 !== undefined)
    if (session.staged !== 'storage' || session.sources || session.appended || !isKnown) return
    const others = otherParts(session, listed, await sumsOf(this.#parts, session))
    if (others.length === 0) return
    let left = session
    const gone = session.verified === undefined ? others : listed.map(({ partNumber }) => partNumber)
    await stillOurs(this.#parts, session, (current) => {
      left = withoutChunk(withoutParts(current, gone).session, partRange(current, gone[0] ?? 1).start)
      return left
    })
    requireWhole(left)
  }

  /** Here it is the client who says which parts there are. */
  joinDirect(session: UploadSession, named: readonly NamedPart[], signal: AbortSignal): Promise<string> {
    const whole = [{ partNumber: 1, size: session.totalSize ?? 0, etag: '' }]
    return this.#join(session, whole, signal, async (listed) => {
      requireNamed(named, listed)
      // Looked at before, but perhaps for another request, which named other parts.
      requireSize(session, listed)
    })
  }

  /** `expected` tells the size of the object; `agree` throws when the storage holds other parts. */
  async #join(
    session: UploadSession,
    expected: readonly StoredPart[],
    signal: AbortSignal,
    agree: (listed: readonly StoredPart[]) => Promise<void>,
  ): Promise<string> {
    const { storage, storageTimeout } = this.#parts.options
    const { multipart } = storage
    if (!multipart || session.multipartId === null) throw new StorageUnavailableError()
    const ref = { fileKey: session.key, multipartId: session.multipartId }
    return within(signal, storageTimeout, async (limit) => {
      await stillOurs(this.#parts, session)
      const held = await withDeadline(multipart.listParts(ref, limit), limit)
      // One behind the end was sent before the end was known. The storage drops what is not named.
      const listed = session.direct ? held : (held?.filter(({ partNumber }) => partNumber <= expected.length) ?? null)
      const info = objectInfo(session, limit)
      if (listed === null) {
        // Closed already: by an earlier completion whose answer was lost, or by somebody else. The adapter looks.
        try {
          return await withDeadline(multipart.complete(ref, expected, info), limit)
        } catch (error) {
          throw await this.#closedWithoutObject(session, error)
        }
      }
      await agree(listed)
      return withDeadline(multipart.complete(ref, listed, info), limit)
    })
  }

  /** Only the adapter's certainty that there is no object ends the upload; an outage does not. */
  async #closedWithoutObject(session: UploadSession, cause: unknown): Promise<NexusUploaderError> {
    const error = toNexusUploaderError(cause)
    return error.code === 'MULTIPART_GONE' ? this.#lose(session, cause) : error
  }

  /** Parts that the storage has lost are sent again if they are still here; else the upload is lost with them. */
  async #disagreement(
    session: UploadSession,
    expected: readonly StoredPart[],
    listed: readonly StoredPart[],
  ): Promise<NexusUploaderError> {
    const isHeld = (part: StoredPart) =>
      listed.some((other) => other.partNumber === part.partNumber && other.size === part.size)
    const held = expected.filter(isHeld).map((part) => part.partNumber)
    const cause = new Error(`the storage holds ${held.length} of ${expected.length} parts of upload ${session.id}`)
    const source = this.#sender.sourceOf(session)
    const lost = expected.filter((part) => !isHeld(part))
    const here = await Promise.all(lost.map((part) => source.holds(session, part.partNumber)))
    // The bytes of a concatenation lie with its pieces.
    if (!session.sources && here.includes(false)) return this.#lose(session, cause)
    await stillOurs(this.#parts, session, (current) => ({
      ...current,
      sentParts: held.reduce<Span[]>((spans, partNumber) => addToSpans(spans, partNumber), []),
    }))
    return new StorageError(undefined, { code: 'PARTS_DISAGREE', cause })
  }

  /** The storage no longer has what it confirmed, and neither have we. */
  async #lose(session: UploadSession, cause: unknown): Promise<NexusUploaderError> {
    const lost = await this.#parts.sessions.update(session.id, (current) => {
      const isOurs = isSameLease(current, session) && current.multipartId === session.multipartId && !current.object
      if (!isOurs) return current
      // A concatenation is sent once more, from its pieces.
      if (current.sources) return { ...current, multipartId: null, sentParts: [] }
      return { ...current, state: 'expired', open: false, completing: null }
    })
    // A concatenation, or an upload that somebody else has taken over meanwhile: it may become a file yet.
    if (lost?.open) return new StorageError(undefined, { code: 'PARTS_DISAGREE', cause })
    return new UploadExpiredError({ cause })
  }
}

/** Number by number and size by size. */
function areAll(expected: readonly StoredPart[], held: readonly StoredPart[]): boolean {
  if (held.length !== expected.length) return false
  return expected.every(({ partNumber, size }, i) => held[i]?.partNumber === partNumber && held[i]?.size === size)
}
