/** Brings the bytes of a whole upload into the storage as one object. */
import { createReadStream } from 'node:fs'
import {
  fromFileSystemError,
  isNexusUploaderError,
  type NexusUploaderError,
  StorageError,
  StorageUnavailableError,
  toNexusUploaderError,
  UploadExpiredError,
  UploadNotFoundError,
} from '../errors.ts'
import type { Span, StoredObject, StoredPart, UploadSession } from '../types.ts'
import { assemble } from './assembly.ts'
import { parseChecksum, RunningChecksum } from './body.ts'
import { firstUnsettled } from './chunk-map.ts'
import type { EngineParts } from './engine-options.ts'
import { partCount, partRange, usesParts } from './part-plan.ts'
import { objectInfo, type PartSender } from './part-sender.ts'
import { addToSpans, spansInclude } from './ranges.ts'
import type { Settler } from './settler.ts'
import { withDeadline } from './waiting.ts'

/** How long to wait for writers of other processes before their bytes are copied around them, ms. */
const patience = 5_000

export class ObjectStorer {
  readonly #parts: EngineParts
  readonly #sender: PartSender
  readonly #settler: Settler

  constructor(parts: EngineParts, sender: PartSender, settler: Settler) {
    this.#parts = parts
    this.#sender = sender
    this.#settler = settler
  }

  /** @throws NexusUploaderError; the staging is untouched then, and the call can be repeated */
  async store(won: UploadSession, signal: AbortSignal): Promise<StoredObject> {
    try {
      await this.#settler.settleAll(won.id, patience, signal)
      const session = (await this.#parts.sessions.get(won.id)) ?? won
      const url = usesParts(this.#parts.options.storage.multipart, session)
        ? await this.#storeParts(session, signal)
        : await this.#storeWhole(session, signal)
      if (typeof url !== 'string' || url === '') throw new StorageError('The storage returned no URL.')
      const size = session.totalSize ?? 0
      return { url, key: session.key, size, ...(session.checksum !== null && { checksum: session.checksum }) }
    } catch (cause) {
      this.#parts.emit('storageError', { uploadId: won.id, operation: 'complete', error: cause })
      throw asStorageError(cause)
    }
  }

  async #storeWhole(session: UploadSession, signal: AbortSignal): Promise<string> {
    const { claims, staging, options } = this.#parts
    const { storage } = options
    const size = session.totalSize ?? 0
    const staged = staging.partPath(session.id, 1)
    await staging.createFolder(session.id)
    const claim = await claims.insist(session.id, { start: 0, end: Math.max(1, size) }, patience, signal)
    try {
      if (size === 0) await staging.ensureEmpty(staged)
      const settled = claim !== null && !firstUnsettled(session)
      const path = settled ? staged : await assemble(this.#parts, session, { start: 0, end: size })
      const found = await staging.sizeOf(path)
      if (found !== null && found > size) await staging.truncate(path, size)
      // An adapter that adopted the file before a crash answers for it; to any other it must be there.
      if ((found ?? -1) < size && !(found === null && storage.adoptFile)) throw lostBytes()
      if (found !== null) {
        await this.#verify(session, [{ path, size }])
        await staging.syncFile(path)
      }
      const limit = AbortSignal.any([signal, AbortSignal.timeout(options.storageTimeout)])
      const info = objectInfo(session, limit)
      if (storage.adoptFile) return await withDeadline(storage.adoptFile(session.key, path, info), limit)
      const stream = createReadStream(path, { highWaterMark: 256 * 1024 })
      try {
        return await withDeadline(storage.upload(session.key, stream, session.mimeType, info), limit)
      } finally {
        stream.destroy()
      }
    } finally {
      await claim?.release()
    }
  }

  async #storeParts(session: UploadSession, signal: AbortSignal): Promise<string> {
    const { storage } = this.#parts.options
    if (!storage.multipart) throw new StorageUnavailableError()
    if (session.checksum !== null && session.sentParts.length === 0) {
      const files = Array.from({ length: partCount(session) }, (_, i) => {
        const range = partRange(session, i + 1)
        return { path: this.#parts.staging.partPath(session.id, i + 1), size: range.end - range.start }
      })
      await this.#verify(session, files)
    }
    let sent = await this.#sender.sendAll(session.id, signal)
    sent = await this.#sendAround(sent, signal)
    return this.#joinParts(sent, signal)
  }

  /** Parts that could not be claimed because another process holds on to them: a copy is sent. */
  async #sendAround(session: UploadSession, signal: AbortSignal): Promise<UploadSession> {
    const { storage } = this.#parts.options
    let current = session
    for (let partNumber = 1; partNumber <= partCount(session); partNumber++) {
      if (spansInclude(current.sentParts, partNumber)) continue
      if (!storage.multipart || current.multipartId === null) throw new StorageUnavailableError()
      const range = partRange(current, partNumber)
      const path = await assemble(this.#parts, current, range)
      const size = range.end - range.start
      const open = () => createReadStream(path, { start: 0, end: size - 1, highWaterMark: 256 * 1024 })
      const limit = AbortSignal.any([signal, AbortSignal.timeout(this.#parts.options.storageTimeout)])
      const ref = { fileKey: current.key, multipartId: current.multipartId }
      await withDeadline(storage.multipart.uploadPart(ref, partNumber, { path, size, open }, limit), limit)
      const stored = await this.#parts.sessions.update(current.id, (latest) => ({
        ...latest,
        sentParts: addToSpans(latest.sentParts, partNumber),
      }))
      if (!stored) throw new UploadNotFoundError()
      current = stored
      await this.#parts.staging.discard(path)
    }
    return current
  }

  /** The record says which parts were sent, the storage says which it holds: only when they agree is it complete. */
  async #joinParts(session: UploadSession, signal: AbortSignal): Promise<string> {
    const { storage, storageTimeout } = this.#parts.options
    if (!storage.multipart || session.multipartId === null) throw new StorageUnavailableError()
    const ref = { fileKey: session.key, multipartId: session.multipartId }
    const limit = AbortSignal.any([signal, AbortSignal.timeout(storageTimeout)])
    const expected = Array.from({ length: partCount(session) }, (_, i) => {
      const { start, end } = partRange(session, i + 1)
      return { partNumber: i + 1, size: end - start, etag: '' }
    })
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
    const agrees = expected.every((part, i) => {
      const held = listed[i]
      return held?.partNumber === part.partNumber && held.size === part.size
    })
    if (!agrees || listed.length !== expected.length) throw await this.#disagreement(session, expected, listed)
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
    if (sizes.includes(null)) return this.#lose(session, cause)
    await this.#parts.sessions.update(session.id, (current) => ({
      ...current,
      sentParts: held.reduce<Span[]>((spans, partNumber) => addToSpans(spans, partNumber), []),
    }))
    return new StorageError(undefined, { code: 'PARTS_DISAGREE', cause })
  }

  /** The storage no longer has what it confirmed, and neither have we. */
  async #lose(session: UploadSession, cause: unknown): Promise<NexusUploaderError> {
    await this.#parts.sessions.update(session.id, (current) =>
      current.multipartId === session.multipartId && !current.object
        ? { ...current, state: 'expired', open: false, completing: null }
        : current,
    )
    return new UploadExpiredError({ cause })
  }

  async #verify(session: UploadSession, files: readonly { path: string; size: number }[]): Promise<void> {
    if (session.checksum === null) return
    const checksum = new RunningChecksum(parseChecksum(session.checksum))
    for (const { path, size } of files) {
      await this.#parts.staging.digest(path, size, (data) => checksum.update(data))
    }
    checksum.verify({ wholeFile: true })
  }
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
