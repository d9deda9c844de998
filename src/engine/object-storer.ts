/** Brings the bytes of a whole upload into the storage as one object. */
import type { Readable } from 'node:stream'
import { StorageError, StorageUnavailableError, UploadLockedError } from '../errors.ts'
import type { NamedPart, ObjectInfo, PartBody, StoredObject, UploadSession } from '../types.ts'
import { firstUnsettled } from './chunk-map.ts'
import { composedPieces, pinSources } from './composer.ts'
import type { EngineParts } from './engine-options.ts'
import { objectInfo } from './multipart-opening.ts'
import { PartJoiner } from './part-joiner.ts'
import { partCount, partRange, usesParts } from './part-plan.ts'
import type { PartSender } from './part-sender.ts'
import type { Pieces } from './pieces.ts'
import { hasCode } from './processes.ts'
import { requireVerified, stillOurs, wholeChecksums } from './publishing.ts'
import type { Settler } from './settler.ts'
import { SharedStorer } from './shared-storer.ts'
import type { FilePiece } from './staged-files.ts'
import { asStorageError, withDeadline, within } from './waiting.ts'

/** How long to wait for writers of other processes before their bytes are copied around them, ms. */
const patience = 30_000

export class ObjectStorer {
  readonly #parts: EngineParts
  readonly #sender: PartSender
  readonly #settler: Settler
  readonly #joiner: PartJoiner
  readonly #shared: SharedStorer

  constructor(parts: EngineParts, pieces: Pieces, sender: PartSender, settler: Settler) {
    this.#parts = parts
    this.#sender = sender
    this.#settler = settler
    this.#joiner = new PartJoiner(parts, sender)
    this.#shared = new SharedStorer(parts, pieces, sender, this.#joiner)
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
      const url =
        won.staged === 'storage'
          ? await this.#shared.store(won, checksum, signal)
          : await this.#storeStaged(won, checksum, parts, signal)
      if (typeof url !== 'string' || url === '') throw new StorageError('The storage returned no URL.')
      return { url, key: won.key, size: won.totalSize ?? 0, ...(checksum !== null && { checksum }) }
    } catch (cause) {
      this.#parts.emit('storageError', { uploadId: won.id, operation: 'complete', error: cause })
      throw asStorageError(cause)
    }
  }

  async #storeStaged(
    won: UploadSession,
    checksum: string | null,
    parts: readonly NamedPart[],
    signal: AbortSignal,
  ): Promise<string> {
    const session = firstUnsettled(won) ? await this.#settler.settleAll(won.id, patience, signal) : won
    // Somebody in another process holds on to bytes of the staging; until they let go nothing can be promised.
    if (firstUnsettled(session)) throw new UploadLockedError()
    if (session.sources) {
      return pinSources(this.#parts, session, () => this.#storeComposed(session, checksum, signal))
    }
    if (session.direct) return this.#joiner.joinDirect(session, parts, signal)
    return usesParts(this.#parts.options.storage.multipart, session)
      ? this.#storeParts(session, checksum, signal)
      : this.#storeWhole(session, checksum, signal)
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
        await this.#verify(session, checksum, [{ path, start: 0, size }], signal)
        await staging.syncFile(path)
      }
      const handsOver = storage.adoptFile !== undefined
      await stillOurs(this.#parts, session, (current) => ({
        ...current,
        handedOver: handsOver || current.handedOver,
        ...(found !== null && checksum !== null && { verified: checksum }),
      }))
      return await within(signal, options.storageTimeout, (limit) => {
        const info = objectInfo(session, limit)
        if (storage.adoptFile) return withDeadline(storage.adoptFile(session.key, path, info), limit)
        return this.#upload(session, staging.partBody(session.id, 1, size), info, limit)
      })
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
    await this.#verify(session, checksum, pieces, signal)
    return this.#storeParts(session, null, signal)
  }

  async #storePieces(
    session: UploadSession,
    pieces: readonly FilePiece[],
    checksum: string | null,
    signal: AbortSignal,
  ): Promise<string> {
    const { staging, options } = this.#parts
    await this.#verify(session, checksum, pieces, signal)
    await stillOurs(this.#parts, session)
    return within(signal, options.storageTimeout, (limit) =>
      this.#upload(session, staging.joinedBody(pieces), objectInfo(session, limit), limit),
    )
  }

  #verify(
    session: UploadSession,
    checksum: string | null,
    files: readonly FilePiece[],
    signal: AbortSignal,
  ): Promise<void> {
    return this.#parts.checks.verify(files, wholeChecksums(session, checksum), { signal, wholeFile: true })
  }

  async #upload({ key }: UploadSession, body: PartBody, info: ObjectInfo, limit: AbortSignal): Promise<string> {
    const { storage } = this.#parts.options
    const opened = new OpenedBody(body)
    try {
      const stored = storage.uploadBody
        ? storage.uploadBody(key, opened, info)
        : storage.upload(key, opened.open(), info.mimeType, info)
      return await withDeadline(stored, limit)
    } finally {
      opened.close()
    }
  }

  async #storeParts(session: UploadSession, checksum: string | null, signal: AbortSignal): Promise<string> {
    if (checksum !== null) await this.#verifyParts(session, checksum, signal)
    return this.#joiner.sendAndJoin(session, signal)
  }

  async #verifyParts(session: UploadSession, checksum: string, signal: AbortSignal): Promise<void> {
    await this.#sender.idle(session.id)
    const current = await this.#parts.sessions.get(session.id)
    // Sent by an earlier try of this completion, which had verified them; or before anybody gave a checksum.
    if (current && current.sentParts.length > 0) return requireVerified(current, checksum)
    const files = Array.from({ length: partCount(session) }, (_, i) => {
      const range = partRange(session, i + 1)
      return { path: this.#parts.staging.partPath(session.id, i + 1), start: 0, size: range.end - range.start }
    })
    await this.#verify(session, checksum, files, signal)
    await stillOurs(this.#parts, session, (latest) => ({ ...latest, verified: checksum }))
  }
}

/** A body whose streams end with the call it was made for: a storage that goes on after its deadline gets no more from them. */
class OpenedBody implements PartBody {
  readonly size: number
  readonly path: string | null
  readonly #body: PartBody
  readonly #streams = new Set<Readable>()
  #isClosed = false

  constructor(body: PartBody) {
    this.size = body.size
    this.path = body.path
    this.#body = body
  }

  readonly open = (): Readable => {
    if (this.#isClosed) throw new StorageUnavailableError()
    const stream = this.#body.open()
    this.#streams.add(stream)
    // The storage may not listen yet when it fails, or not any more.
    stream.on('error', () => {})
    return stream.once('close', () => this.#streams.delete(stream))
  }

  close(): void {
    this.#isClosed = true
    for (const stream of this.#streams) stream.destroy()
  }
}

function lostBytes(): StorageUnavailableError {
  return new StorageUnavailableError(undefined, { code: 'STAGING_LOST' })
}
