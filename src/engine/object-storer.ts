/** Brings the bytes of a whole upload into the storage as one object. */
import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'
import {
  fromFileSystemError,
  InvalidRequestError,
  isNexusUploaderError,
  type NexusUploaderError,
  StorageError,
  StorageUnavailableError,
  toNexusUploaderError,
  UploadExpiredError,
  UploadLockedError,
} from '../errors.ts'
import type { NamedPart, ObjectInfo, Span, StoredObject, StoredPart, UploadSession } from '../types.ts'
import { parseChecksum, RunningChecksum } from './body.ts'
import { firstUnsettled } from './chunk-map.ts'
import { composedPieces, pinSources } from './composer.ts'
import { requireNamed, requireSize } from './direct-uploads.ts'
import type { EngineParts } from './engine-options.ts'
import { objectInfo } from './multipart-opening.ts'
import { partCount, partRange, usesParts } from './part-plan.ts'
import type { PartSender } from './part-sender.ts'
import { hasCode } from './processes.ts'
import { addToSpans, countSpans } from './ranges.ts'
import type { Settler } from './settler.ts'
import type { FilePiece } from './staged-files.ts'
import { withDeadline } from './waiting.ts'

/** How long to wait for writers of other processes before their bytes are copied around them, ms. */
const patience = 30_000

export class ObjectStorer {
  readonly #parts: EngineParts
  readonly #sender: PartSender
  readonly #settler: Settler

  constructor(parts: EngineParts, sender: PartSender, settler: Settler) {
    this.#parts = parts
    this.#sender = sender
    this.#settler = settler
  }

  /**
   * `checksum` is what the whole file must have, verified before anything is published; `parts` are those of a direct
   * upload as the client names them.
   * @throws NexusUploaderError; the staging is untouched then, and the call can be repeated
   */
  async store(
    won: UploadSession,
    checksum: string | null,
    parts: readonly NamedPart[],
    signal: AbortSignal,
  ): Promise<StoredObject> {
    try {
      const session = firstUnsettled(won) ? await this.#settler.settleAll(won.id, patience, signal) : won
      // Somebody in another process holds on to bytes of the staging; until they let go nothing can be promised.
      if (firstUnsettled(session)) throw new UploadLockedError()
      const url = session.sources
        ? await pinSources(this.#parts, session, () => this.#storeComposed(session, checksum, signal))
        : session.direct
          ? await this.#joinDirect(session, parts, signal)
          : usesParts(this.#parts.options.storage.multipart, session)
            ? await this.#storeParts(session, checksum, signal)
            : await this.#storeWhole(session, checksum, signal)
      if (typeof url !== 'string' || url === '') throw new StorageError('The storage returned no URL.')
      return { url, key: session.key, size: session.totalSize ?? 0, ...(checksum !== null && { checksum }) }
    } catch (cause) {
      this.#parts.emit('storageError', { uploadId: won.id, operation: 'complete', error: cause })
      throw asStorageError(cause)
    }
  }

  async #storeWhole(session: UploadSession, checksum: string | null, signal: AbortSignal): Promise<string> {
    const { claims, staging, options } = this.#parts
    const { storage } = options
    const size = session.totalSize ?? 0
    const path = staging.partPath(session.id, 1)
    // Opened when files had to be smaller than they may be now.
    if (size > session.partSize) {
      return this.#storePieces(session, staging.segments(session.id, session.partSize, 0, size), checksum, signal)
    }
    // All of it, also behind the end: a late writer's open descriptor would go on writing into the published file.
    const range = { start: 0, end: Number.MAX_SAFE_INTEGER }
    const insist = () => claims.insist(session.id, range, patience, signal)
    // An empty file has no folder yet, one that was given away before a crash has none any more.
    const claim = await insist().catch(async (error) => {
      if (!hasCode(error, 'ENOENT')) throw error
      await staging.createFolder(session.id)
      return insist()
    })
    if (!claim) throw new UploadLockedError()
    try {
      if (size === 0 && !session.handedOver) await staging.ensureEmpty(path)
      const found = await staging.sizeOf(path)
      if (found !== null && found > size) await staging.truncate(path, size)
      // Only a storage that may have adopted the file before a crash can answer for a file that is gone.
      if ((found ?? -1) < size && !(found === null && session.handedOver)) throw lostBytes()
      if (found === null) requireVerified(session, checksum)
      else {
        await this.#verify(session, checksum, [{ path, start: 0, size }])
        await staging.syncFile(path)
      }
      const limit = AbortSignal.any([signal, AbortSignal.timeout(options.storageTimeout)])
      const info = objectInfo(session, limit)
      const handsOver = storage.adoptFile !== undefined
      await this.#stillOurs(session, (current) => ({
        ...current,
        handedOver: handsOver || current.handedOver,
        ...(found !== null && checksum !== null && { verified: checksum }),
      }))
      if (storage.adoptFile) return await withDeadline(storage.adoptFile(session.key, path, info), limit)
      const stream = createReadStream(path, { highWaterMark: 256 * 1024 })
      return await this.#upload(session, stream, info, limit)
    } finally {
      await claim.release()
    }
  }

  /** Straight from the files of the partial uploads, which stay what they are: they may be pieces of other uploads too. */
  async #storeComposed(session: UploadSession, checksum: string | null, signal: AbortSignal): Promise<string> {
    const { staging, options } = this.#parts
    const pieces = await composedPieces(this.#parts, session, { start: 0, end: session.totalSize ?? 0 })
    await staging.createFolder(session.id)
    if (!usesParts(options.storage.multipart, session)) return this.#storePieces(session, pieces, checksum, signal)
    await this.#verify(session, checksum, pieces)
    return this.#storeParts(session, null, signal)
  }

  async #storePieces(
    session: UploadSession,
    pieces: readonly FilePiece[],
    checksum: string | null,
    signal: AbortSignal,
  ): Promise<string> {
    const { staging, options } = this.#parts
    await this.#verify(session, checksum, pieces)
    const limit = AbortSignal.any([signal, AbortSignal.timeout(options.storageTimeout)])
    await this.#stillOurs(session, (current) => current)
    return this.#upload(session, staging.joinedBody(pieces).open(), objectInfo(session, limit), limit)
  }

  async #upload(session: UploadSession, stream: Readable, info: ObjectInfo, limit: AbortSignal): Promise<string> {
    try {
      return await withDeadline(this.#parts.options.storage.upload(session.key, stream, info.mimeType, info), limit)
    } finally {
      stream.destroy()
    }
  }

  async #storeParts(session: UploadSession, checksum: string | null, signal: AbortSignal): Promise<string> {
    if (checksum !== null) await this.#verifyParts(session, checksum)
    const sent = await this.#sender.sendAll(session.id, signal)
    // Another process is still sending a part, or has stopped while it was: its bytes must not arrive after ours.
    if (countSpans(sent.sentParts) < partCount(sent)) throw new UploadLockedError()
    return this.#joinParts(sent, signal)
  }

  async #verifyParts(session: UploadSession, checksum: string): Promise<void> {
    await this.#sender.idle(session.id)
    const current = await this.#parts.sessions.get(session.id)
    // Sent by an earlier try of this completion, which had verified them; or before anybody gave a checksum.
    if (current && current.sentParts.length > 0) return requireVerified(current, checksum)
    const files = Array.from({ length: partCount(session) }, (_, i) => {
      const range = partRange(session, i + 1)
      return { path: this.#parts.staging.partPath(session.id, i + 1), start: 0, size: range.end - range.start }
    })
    await this.#verify(session, checksum, files)
    await this.#stillOurs(session, (latest) => ({ ...latest, verified: checksum }))
  }

  /** Right before something is published: a completer that was asleep must not act on a lease that has gone. */
  async #stillOurs(session: UploadSession, change: (current: UploadSession) => UploadSession): Promise<void> {
    const current = await this.#parts.sessions.update(session.id, (latest) =>
      isSameLease(latest, session) ? change(latest) : latest,
    )
    if (!current || !isSameLease(current, session)) throw new UploadLockedError()
  }

  /** The record says which parts were sent, the storage says which it holds: only when they agree is it complete. */
  #joinParts(session: UploadSession, signal: AbortSignal): Promise<string> {
    const expected = Array.from({ length: partCount(session) }, (_, i) => {
      const { start, end } = partRange(session, i + 1)
      return { partNumber: i + 1, size: end - start, etag: '' }
    })
    return this.#join(session, expected, signal, async (listed) => {
      const agrees = expected.every((part, i) => {
        const held = listed[i]
        return held?.partNumber === part.partNumber && held.size === part.size
      })
      if (!agrees || listed.length !== expected.length) throw await this.#disagreement(session, expected, listed)
    })
  }

  /** Here it is the client who says which parts there are. */
  #joinDirect(session: UploadSession, named: readonly NamedPart[], signal: AbortSignal): Promise<string> {
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
    if (!storage.multipart || session.multipartId === null) throw new StorageUnavailableError()
    const ref = { fileKey: session.key, multipartId: session.multipartId }
    const limit = AbortSignal.any([signal, AbortSignal.timeout(storageTimeout)])
    await this.#stillOurs(session, (current) => current)
    const listed = await withDeadline(storage.multipart.listParts(ref, limit), limit)
    const info = objectInfo(session, limit)
    if (listed === null) {
      // Closed already: by an earlier completion whose answer was lost, or by somebody else. The adapter looks.
      try {
        return await withDeadline(storage.multipart.complete(ref, expected, info), limit)
      } catch (error) {
        throw await this.#closedWithoutObject(session, error)
      }
    }
    await agree(listed)
    return withDeadline(storage.multipart.complete(ref, listed, info), limit)
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
    const paths = expected
      .filter((part) => !isHeld(part))
      .map((part) => this.#parts.staging.partPath(session.id, part.partNumber))
    const sizes = await Promise.all(paths.map((path) => this.#parts.staging.sizeOf(path)))
    // The bytes of a concatenation lie with its pieces.
    if (!session.sources && sizes.includes(null)) return this.#lose(session, cause)
    await this.#stillOurs(session, (current) => ({
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
    if (lost?.sources && lost.open) return new StorageError(undefined, { code: 'PARTS_DISAGREE', cause })
    return new UploadExpiredError({ cause })
  }

  /** The checksum that was given with the upload counts also when the completion comes with another one. */
  async #verify(session: UploadSession, checksum: string | null, files: readonly FilePiece[]): Promise<void> {
    const expected = [...new Set([session.checksum, checksum])].filter((given) => given !== null)
    if (expected.length === 0) return
    const checksums = expected.map((given) => new RunningChecksum(parseChecksum(given)))
    await this.#parts.staging.digest(files, (data) => {
      for (const running of checksums) running.update(data)
    })
    for (const running of checksums) running.verify({ wholeFile: true })
  }
}

/** @throws InvalidRequestError when nobody has looked for this checksum while the bytes were here */
function requireVerified(session: UploadSession, checksum: string | null): void {
  if (checksum === null || checksum === session.checksum || checksum === session.verified) return
  const message = 'The checksum of the whole file must be given when the upload is created.'
  throw new InvalidRequestError(message, { code: 'CHECKSUM_TOO_LATE' })
}

function isSameLease(a: UploadSession, b: UploadSession): boolean {
  return a.completing !== null && a.completing.by === b.completing?.by
}

/** What an adapter throws, whatever it is, is the storage's failure: nothing is lost and a retry may work. */
function asStorageError(cause: unknown): NexusUploaderError {
  if (isNexusUploaderError(cause)) return cause
  const errno = (cause as { errno?: unknown } | null)?.errno
  return typeof errno === 'number' ? fromFileSystemError(cause) : new StorageError(undefined, { cause })
}

function lostBytes(): StorageUnavailableError {
  return new StorageUnavailableError(undefined, { code: 'STAGING_LOST' })
}
