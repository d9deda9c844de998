/**
 * Looks at the beginning of a file as soon as it is there, and refuses the upload before the rest is sent; at the latest
 * before anything is published. What has passed is in the record, so it holds after a restart, and only for the
 * bytes that were looked at: a chunk that replaces some of them is looked at again.
 */
import {
  fromFileSystemError,
  InvalidFileTypeError,
  isNexusUploaderError,
  NexusUploaderError,
  ProcessingError,
  StorageUnavailableError,
  UploadClosedError,
  UploadNotFoundError,
} from '../errors.ts'
import type { PartBody, UploadSession, WriteChunk } from '../types.ts'
import type { Aborter } from './aborter.ts'
import type { Sink } from './body.ts'
import { type ByteRange, findChunk, prefix, settledRanges } from './chunk-map.ts'
import { composedPieces } from './composer.ts'
import type { EngineOptions, EngineParts } from './engine-options.ts'
import { canBe } from './media-types.ts'
import { isSent, partRange } from './part-plan.ts'
import type { FilePiece } from './staged-files.ts'
import { inTime } from './waiting.ts'

/** What file-type asks for to recognise every type it knows, bytes. */
export const beginning = 4100
const maxAttempts = 5

/** Somebody has looked and does not want the file. Thrown while its bytes are still being received, acted on afterwards. */
class Refused extends NexusUploaderError {
  readonly reason: NexusUploaderError

  constructor(reason: NexusUploaderError) {
    super(reason.code, reason.status, reason.message)
    this.reason = reason
  }
}

/** Reads bytes that wait in the storage. */
type ReadStored = (session: UploadSession, range: ByteRange) => Promise<Buffer>

/** The request that made us look, for the hook. */
type Asked = { readonly context?: unknown }

export class FirstBytes {
  readonly #partsOf: () => EngineParts
  readonly #readStored: ReadStored
  readonly #running = new Map<string, Promise<UploadSession>>()
  /** What has passed while its chunk was still coming in, by the request that brings it. */
  readonly #passed = new WeakMap<object, Buffer>()

  /** It is one of the pieces that the others share, so it is made before they are all together. */
  constructor(partsOf: () => EngineParts, readStored: ReadStored) {
    this.#partsOf = partsOf
    this.#readStored = readStored
  }

  get #parts(): EngineParts {
    return this.#partsOf()
  }

  /** Whether the beginning has arrived when the upload ends at `end`, and nobody has looked at it yet. */
  isDue(session: UploadSession, end = prefix(session.chunks).bytes): boolean {
    if (!isWanted(this.#parts.options, session) || isAccepted(session)) return false
    return end >= Math.min(beginning, session.totalSize ?? beginning)
  }

  /** Looks at the beginning if it has arrived. Returns the record, which says so. */
  async check(session: UploadSession, request: Asked): Promise<UploadSession> {
    return this.isDue(session) ? this.#require(session, request) : session
  }

  async #require(session: UploadSession, request: Asked): Promise<UploadSession> {
    if (!isWanted(this.#parts.options, session) || isAccepted(session)) return session
    const running =
      this.#running.get(session.id) ?? this.#check(session, request).finally(() => this.#running.delete(session.id))
    this.#running.set(session.id, running)
    return running
  }

  /** A first chunk may be the whole file: its beginning is looked at while the rest is still coming in. */
  tap(session: UploadSession, request: WriteChunk, sink: Sink) {
    // With a checksum it is not known yet whether these are the bytes that were sent; and what comes again may be refused for
    // another reason, without an end to the upload.
    const isFirst = request.index === 0 && request.checksum === undefined && !isAccepted(session)
    if (!isFirst || !isWanted(this.#parts.options, session)) return sink
    let head: Buffer = Buffer.alloc(0)
    const tapped: Sink = async (buffers, position) => {
      const isLacking = head.length < beginning
      if (isLacking) head = Buffer.concat([head, ...buffers]).subarray(0, beginning)
      await sink(buffers, position)
      if (!isLacking || head.length < beginning) return
      head = Buffer.from(head)
      await this.#look(session, head, request)
      this.#passed.set(request, head)
    }
    return tapped
  }

  /** Whether bytes at `start` may leave before the record names them: nobody wants to see them, or all that one wants is there. */
  canLeave(session: UploadSession, start: number, size: number): boolean {
    if (!this.#isHeld(session, start)) return true
    return start === 0 && size >= Math.min(beginning, session.totalSize ?? beginning)
  }

  /** Looks at such bytes. `true`: the record has to say so (`accepted`) when it names them. */
  async admit(session: UploadSession, start: number, body: PartBody, request: Asked): Promise<boolean> {
    if (!this.#isHeld(session, start)) return false
    const bytes = await headOf(body)
    if (!this.#passed.get(request)?.equals(bytes)) await this.#look(session, bytes, request)
    return true
  }

  #isHeld(session: UploadSession, start: number): boolean {
    return start < beginning && isWanted(this.#parts.options, session) && !isAccepted(session)
  }

  /** Acts on a refusal, and tells of one that came from elsewhere in its own words. */
  async explain(error: unknown, uploadId: string, aborter: Aborter): Promise<unknown> {
    if (error instanceof Refused) {
      await aborter.refuse(uploadId, error.reason)
      return error.reason
    }
    const { code } = error as { code?: unknown }
    if (code !== 'UPLOAD_ABORTED' && code !== 'UPLOAD_CLOSED') return error
    const session = await this.#parts.sessions.get(uploadId).catch(() => null)
    return session?.refusal ? refusedAlready(session.refusal) : error
  }

  /** Looks at the beginning whatever has arrived, since that is all of an upload that is being completed. Why not, if so. */
  async refusalOf(session: UploadSession, request: Asked): Promise<NexusUploaderError | null> {
    try {
      await this.#require(session, request)
      return null
    } catch (error) {
      if (error instanceof Refused) return error.reason
      throw error
    }
  }

  async #check(seen: UploadSession, request: Asked): Promise<UploadSession> {
    let session = seen
    const isStored = seen.staged === 'storage'
    for (let attempt = 1; ; attempt++) {
      const edition = editionOf(session)
      const bytes = await this.#read(session).catch((error) => {
        // Pieces go when another node has made a part of them, or has refused them.
        const mayHaveMoved =
          !isNexusUploaderError(error) || error.code === 'STAGING_LOST' || (isStored && error.status >= 500)
        if (attempt === maxAttempts || !mayHaveMoved) throw fromFileSystemError(error)
        return null
      })
      if (bytes && !this.#passed.get(request)?.equals(bytes)) await this.#look(session, bytes, request)
      const stored = await this.#parts.sessions.update(session.id, (current) =>
        bytes && editionOf(current) === edition ? accepted(current) : current,
      )
      if (!stored) throw new UploadNotFoundError()
      // A chunk was replaced, or moved to its place, meanwhile.
      if (isAccepted(stored)) return stored
      if (stored.refusal) throw refusedAlready(stored.refusal)
      if (attempt === maxAttempts) throw new StorageUnavailableError()
      session = stored
    }
  }

  async #read(session: UploadSession): Promise<Buffer> {
    const size = Math.min(beginning, session.totalSize ?? beginning)
    if (!session.sources && isSent(session, { start: 0, end: size })) throw bytesGone()
    if (session.staged === 'storage')
      return this.#readStored(session, { start: 0, end: Math.min(size, joinedBytes(session)) })
    const range = { start: 0, end: size }
    const pieces = session.sources ? await composedPieces(this.#parts, session, range) : this.#piecesOf(session, size)
    const buffers: Buffer[] = []
    await this.#parts.staging.read(pieces, (data) => buffers.push(data))
    return Buffer.concat(buffers)
  }

  /** Where the bytes lie, also those of chunks that have not been moved to their place. */
  #piecesOf({ id, chunks, chunkSize, partSize }: UploadSession, size: number): FilePiece[] {
    const { staging } = this.#parts
    const pieces: FilePiece[] = []
    let left = size
    for (let index = 0; left > 0; index++) {
      const chunk = findChunk(chunks, index)
      if (!chunk) break
      const taken = Math.min(left, chunk.size)
      left -= taken
      const found =
        chunk.offset === null
          ? [{ path: staging.loosePath(id, index, chunk.loose), start: 0, size: taken }]
          : staging.segments(id, partSize, chunk.offset, taken)
      for (const piece of found) addPiece(pieces, piece)
      // Nothing follows one that is too short.
      if (chunkSize !== null && chunk.size < chunkSize) break
    }
    return pieces
  }

  async #look(session: UploadSession, bytes: Buffer, request: Asked): Promise<void> {
    const { hooks, limits, verifyMimeType, storageTimeout } = this.#parts.options
    try {
      const { detected, isRecognizable } = await detect(bytes)
      if (
        verifyMimeType &&
        !canBe(session.mimeType, { detected, bytes, isRecognizable }, limits.allowedMimeTypes.length > 0)
      ) {
        throw otherType(session.mimeType, detected, limits.allowedMimeTypes)
      }
      await inTime(this.#parts.closing, storageTimeout, async () =>
        hooks.onFirstBytes?.(session, { bytes, detected }, request.context),
      )
    } catch (cause) {
      if (!isNexusUploaderError(cause)) throw hookFailed(cause)
      throw cause.status < 500 && !cause.retryable ? new Refused(cause) : cause
    }
  }
}

/** How many bytes there are without a gap: nothing follows a chunk that is shorter than the declared size. */
function joinedBytes(session: UploadSession): number {
  return settledRanges(session).find(({ start }) => start === 0)?.end ?? 0
}

async function headOf(body: PartBody): Promise<Buffer> {
  const buffers: Buffer[] = []
  let size = 0
  for await (const data of body.open()) {
    buffers.push(data as Buffer)
    size += (data as Buffer).length
    if (size >= beginning) break
  }
  return Buffer.concat(buffers).subarray(0, beginning)
}

/** Pieces of 1 byte that lie side by side are one. */
function addPiece(pieces: FilePiece[], piece: FilePiece): void {
  const last = pieces.at(-1)
  if (last?.path !== piece.path || last.start + last.size !== piece.start) pieces.push(piece)
  else pieces[pieces.length - 1] = { ...last, size: last.size + piece.size }
}

async function detect(bytes: Buffer) {
  // Loaded when it is needed. It is ESM only, which CommonJS can load since Node 20.19.
  const { fileTypeFromBuffer, supportedMimeTypes } = await import('file-type')
  const isRecognizable = (mimeType: string) => (supportedMimeTypes as ReadonlySet<string>).has(mimeType)
  // It copes with bytes that end too early; bytes on which it fails are of no type that it knows.
  const found = await fileTypeFromBuffer(bytes).catch(() => undefined)
  return { detected: found?.mime.toLowerCase() ?? null, isRecognizable }
}

function editionOf({ beginnings }: UploadSession): number {
  return beginnings ?? 0
}

/** The record of an upload whose beginning has passed. */
export function accepted(session: UploadSession): UploadSession {
  return { ...session, accepted: editionOf(session) }
}

function isAccepted(session: UploadSession): boolean {
  return session.accepted === editionOf(session)
}

/** A partial upload is no file yet, and the bytes of a direct one never come here. */
function isWanted({ hooks, verifyMimeType }: EngineOptions, session: UploadSession): boolean {
  return (verifyMimeType || hooks.onFirstBytes !== undefined) && !session.partial && !session.direct
}

/** Bytes that nobody has looked at stay here, for who looks at them later. */
export function mayLeave({ options }: EngineParts, session: UploadSession, partNumber: number): boolean {
  return partRange(session, partNumber).start >= beginning || !isWanted(options, session) || isAccepted(session)
}

/** The record after the chunk was replaced: what has passed may not be the beginning any more. */
export function withoutChunk(session: UploadSession, start: number | null): UploadSession {
  return start !== null && start >= beginning ? session : { ...session, beginnings: editionOf(session) + 1 }
}

/** What a refused upload answers from then on to whoever sends more of it, or wants it completed. */
export function refusedAlready(refusal: NonNullable<UploadSession['refusal']>): NexusUploaderError {
  const { code, status, message } = refusal
  return new NexusUploaderError(code, status, message, { details: { refusal } })
}

function otherType(declared: string, detected: string | null, allowed: readonly string[]): InvalidFileTypeError {
  const shown = detected === null ? 'its bytes are not of that type' : `its bytes are of type ${detected}`
  const message = `The file is declared as ${declared}, but ${shown}.`
  return new InvalidFileTypeError(declared, allowed, { message, details: { declared, detected } })
}

function hookFailed(cause: unknown): ProcessingError {
  const message = 'The application could not look at the file yet. Try again.'
  return new ProcessingError(message, { code: 'FIRST_BYTES_HOOK_FAILED', status: 503, cause })
}

/** They left for the storage when nobody was asked to look at them. */
function bytesGone(): UploadClosedError {
  const message = 'This upload was begun before files had to be looked at. Start a new one.'
  return new UploadClosedError(message, { code: 'FIRST_BYTES_GONE' })
}
