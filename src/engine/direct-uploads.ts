/** Uploads whose bytes go past us: clients send the parts to the storage, and we sign, look, complete and clean up. */
import {
  FileSizeExceededError,
  InvalidRequestError,
  StorageUnavailableError,
  UploadClosedError,
  UploadExpiredError,
} from '../errors.ts'
import type {
  CompleteUpload,
  CreateUpload,
  DirectMultipart,
  MultipartRef,
  MultipartStorage,
  NamedPart,
  SignPart,
  StoredPart,
  UploadSession,
} from '../types.ts'
import { requireOpen } from './authorization.ts'
import type { EngineParts } from './engine-options.ts'
import { objectInfo, openMultipart } from './multipart-opening.ts'
import { inTime } from './waiting.ts'

export class DirectUploads {
  readonly #parts: EngineParts

  constructor(parts: EngineParts) {
    this.#parts = parts
  }

  /** The multipart upload is opened with the first URL, and signing counts as activity. */
  async signPart(session: UploadSession, { partNumber, lifetime }: SignPart): Promise<string> {
    requireOpen(session)
    if (session.state !== 'active' || session.object) {
      throw new UploadClosedError('The upload is complete, or being completed, and takes no more data.')
    }
    const { multipart, direct } = directStorage(this.#parts, session)
    if (!Number.isSafeInteger(partNumber) || partNumber < 1 || partNumber > multipart.maxParts) {
      throw new InvalidRequestError(`The part number must be a whole number from 1 to ${multipart.maxParts}.`)
    }
    const opened = await openMultipart(this.#parts, multipart, session, (onDoubt) =>
      this.#call((signal) => direct.create(session.key, objectInfo(session, signal), onDoubt)),
    )
    requireOpen(opened)
    await this.#keep(opened, lifetime)
    return this.#call(() => direct.signPart(refOf(opened), partNumber, lifetime))
  }

  /** An upload lives at least as long as the URLs that were given out for it; not written for every one of them. */
  async #keep(session: UploadSession, lifetime: number): Promise<void> {
    const now = this.#parts.clock()
    const span = Math.max(this.#parts.options.sessionTtl, lifetime)
    if (session.expiresAt > now + span * 0.75 && session.expiresAt >= now + lifetime) return
    await this.#parts.sessions.update(session.id, (current) =>
      current.open ? { ...current, updatedAt: now, expiresAt: now + span } : current,
    )
  }

  async listParts(session: UploadSession): Promise<StoredPart[]> {
    requireOpen(session)
    const { multipart } = directStorage(this.#parts, session)
    if (session.multipartId === null) return []
    return (await this.#list(multipart, session)) ?? []
  }

  #list(multipart: MultipartStorage, session: UploadSession): Promise<StoredPart[] | null> {
    return this.#call((signal) => multipart.listParts(refOf(session), signal))
  }

  /**
   * Whether the storage holds what the client names, before anything is begun; returns the size of the file.
   * @throws InvalidRequestError; nothing is lost
   */
  async check(session: UploadSession, request: CompleteUpload): Promise<number> {
    const { multipart } = directStorage(this.#parts, session)
    if ((request.checksum ?? session.checksum) !== null) {
      const message = 'A file that goes straight to the storage cannot be checked against a checksum.'
      throw new InvalidRequestError(message, { code: 'INVALID_CHECKSUM' })
    }
    const parts = session.multipartId === null ? [] : await this.#list(multipart, session)
    if (parts === null) return this.#joinedSize(session)
    requireNamed(request.parts ?? [], parts)
    const small = parts.slice(0, -1).find(({ size }) => size < multipart.minPartSize)
    if (small) {
      throw mismatch(`Part ${small.partNumber} is smaller than ${multipart.minPartSize} bytes, and it is not the last.`)
    }
    const size = requireSize(session, parts)
    const { maxFileSize } = this.#parts.options.limits
    if (size > maxFileSize) throw new FileSizeExceededError(maxFileSize)
    return size
  }

  /** Closed by an earlier completion whose answer was lost, or by a faster one: the size was checked and recorded then. */
  async #joinedSize({ id }: UploadSession): Promise<number> {
    const current = await this.#parts.sessions.get(id)
    if (current === null || current.totalSize === null) throw new UploadExpiredError()
    return current.totalSize
  }

  #call<Result>(call: (signal: AbortSignal) => Promise<Result>): Promise<Result> {
    const { closing, options } = this.#parts
    return inTime(closing, options.storageTimeout, call)
  }
}

function refOf({ key, multipartId }: UploadSession): MultipartRef {
  return { fileKey: key, multipartId: multipartId ?? '' }
}

/** @throws UploadClosedError for an upload of another kind */
function directStorage(
  parts: EngineParts,
  session: UploadSession,
): { multipart: MultipartStorage; direct: DirectMultipart } {
  if (!session.direct) {
    throw new UploadClosedError('The parts of this upload come through the server.', { code: 'NOT_DIRECT' })
  }
  const { multipart } = parts.options.storage
  // It was opened when the engine had another storage.
  if (!multipart?.direct) throw new StorageUnavailableError()
  return { multipart, direct: multipart.direct }
}

/** @throws when such an upload cannot be */
export function requireDirect(parts: EngineParts, request: CreateUpload): void {
  if (!parts.options.storage.multipart?.direct) throw new TypeError('the storage cannot sign URLs for parts')
  if (request.checksum === undefined && request.chunkSize === undefined && !request.partial) return
  throw new InvalidRequestError('An upload straight to the storage has no checksum, chunk size or pieces.')
}

/** @throws InvalidRequestError unless these are all of the parts, in order and with their ETags */
export function requireNamed(named: readonly NamedPart[], stored: readonly StoredPart[]): void {
  const wrong = named.find(({ partNumber, etag }, i) => {
    const held = stored[i]
    return partNumber !== i + 1 || held?.partNumber !== partNumber || unquoted(held.etag) !== unquoted(etag)
  })
  if (wrong) throw mismatch(`Part ${wrong.partNumber} is not stored as it is named. Send it again, then complete.`)
  if (named.length === stored.length && named.length > 0) return
  throw mismatch(`${stored.length} parts are stored, but ${named.length} are named. Name them all, then complete.`)
}

/** Returns the size. @throws InvalidRequestError when the upload has another one */
export function requireSize({ totalSize }: UploadSession, stored: readonly StoredPart[]): number {
  const size = stored.reduce((sum, part) => sum + part.size, 0)
  if (totalSize === null || totalSize === size) return size
  const message = `The parts have ${size} bytes, but ${totalSize} were declared.`
  throw new InvalidRequestError(message, { code: 'SIZE_MISMATCH' })
}

function unquoted(etag: string): string {
  return etag.replaceAll('"', '')
}

function mismatch(message: string): InvalidRequestError {
  return new InvalidRequestError(message, { code: 'PARTS_MISMATCH' })
}

/** Bytes of a direct upload never come here. */
export function refuseDirect(session: UploadSession): void {
  if (!session.direct) return
  throw new UploadClosedError('The parts of this upload go straight to the storage.', { code: 'DIRECT' })
}
