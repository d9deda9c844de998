/**
 * Appends to an upload that is staged in the storage. The body is received into a file up to the next part boundary; a
 * whole part is sent, with the earlier pieces of that part in front; when the body ends or breaks off, what has come
 * becomes a piece. Then it is recorded, and counts. The next bytes come in while one part is on its way.
 */
import { StorageUnavailableError, UploadLockedError, UploadNotFoundError } from '../errors.ts'
import type { AppendBytes, Appended, ChunkRun, PartBody, UploadSession } from '../types.ts'
import type { AppendReceiver, AppendRoom } from './appender.ts'
import { parseChecksum, receiveBody } from './body.ts'
import { countChunks, receivedBytes } from './chunk-map.ts'
import { requireActive, touch } from './chunk-writer.ts'
import { keepFinals } from './composer.ts'
import type { EngineParts } from './engine-options.ts'
import { accepted } from './first-bytes.ts'
import type { MultipartOpening } from './multipart-opening.ts'
import { partNumberAt, partRange } from './part-plan.ts'
import type { PartSender } from './part-sender.ts'
import { sendsParts, withPart } from './piece-map.ts'
import type { Pieces } from './pieces.ts'
import { fileBody, splitAt } from './staged-files.ts'
import type { PositionalFile } from './staging.ts'

/** Largest piece, bytes: what a crash loses at most of what had come in. */
const largestPiece = 16 * 1024 * 1024
/** Over a slow line a part takes long; what has come is stored after this time, ms. */
const storeAfter = 10_000
/** A part that comes in so many pieces is gathered into one before the next: the record stays small. */
const mostPieces = 32
/** How long bytes of a slow line wait in memory, ms. */
const flushAfter = 500

/** Bytes of the body in a file of this node, from `from` of the upload. */
interface Segment {
  readonly file: PositionalFile & { readonly path: string }
  readonly from: number
  size: number
}

interface Slice {
  readonly path: string
  readonly position: number
  readonly from: number
  readonly to: number
}

interface Run {
  readonly request: AppendBytes
  /** The record as this append last wrote it. */
  session: UploadSession
  open: Segment | null
  /** The segment that is on its way to the storage. */
  sending: Promise<void>
  /** Why bytes in the middle did not get there: nothing behind them counts. */
  broken: { readonly error: unknown } | null
  /** By a clock that nobody sets. */
  storedAt: number
}

export class SharedAppending implements AppendReceiver {
  readonly #parts: EngineParts
  readonly #pieces: Pieces
  readonly #opening: MultipartOpening
  readonly #sender: PartSender

  constructor(parts: EngineParts, pieces: Pieces, opening: MultipartOpening, sender: PartSender) {
    this.#parts = parts
    this.#pieces = pieces
    this.#opening = opening
    this.#sender = sender
  }

  async prepare(): Promise<void> {}

  /** Two segments, and a part with the pieces in front; a body with a checksum waits until all of it has come. */
  roomFor(session: UploadSession, request: AppendBytes, size: number): number {
    const segments = 3 * Math.min(size, this.#stepOf(session))
    return request.checksum === undefined ? segments : size + segments
  }

  async receive(session: UploadSession, request: AppendBytes, room: AppendRoom): Promise<Appended> {
    const sending = Promise.resolve()
    const run: Run = { request, session, open: null, sending, broken: null, storedAt: performance.now() }
    try {
      const failure =
        request.checksum === undefined
          ? await this.#receiveSegments(run, room)
          : await this.#receiveWhole(run, room, request.checksum)
      if (run.broken) throw run.broken.error
      if (failure && failure.error !== room.superseded) throw failure.error
      const offset = receivedBytes(run.session.chunks)
      const size = offset - request.offset
      const isWhole = size === request.size || offset === run.session.totalSize
      return { session: run.session, offset, size, interrupted: failure !== null && !isWhole }
    } finally {
      await run.sending.catch(() => {})
      if (run.open) await this.#drop(run.open)
    }
  }

  /** Resolves with why the body broke off; what had come is kept all the same. */
  async #receiveSegments(run: Run, room: AppendRoom): Promise<{ error: unknown } | null> {
    const { request } = run
    const failure = await this.#body(request, room, (buffers, at) => this.#take(run, buffers, request.offset + at))
    if (run.open && !run.broken) await this.#send(run)
    await run.sending
    return failure
  }

  /** Nothing counts until all of it is there and is what it should be. */
  async #receiveWhole(
    run: Run,
    room: AppendRoom,
    checksum: NonNullable<AppendBytes['checksum']>,
  ): Promise<{ error: unknown } | null> {
    const { request } = run
    const { staging } = this.#parts
    const file = await staging.openTemporary(null)
    try {
      let size = 0
      const failure = await this.#body(request, room, async (buffers, at) => {
        await file.write(buffers, at)
        size = at + sizeOf(buffers)
      })
      await file.close()
      if (failure) throw failure.error
      const expected = typeof checksum === 'function' ? checksum() : undefined
      const written = [{ path: file.path, start: 0, size }]
      if (expected !== undefined) await this.#parts.checks.verify(written, [parseChecksum(expected)])
      for (let from = request.offset; from < request.offset + size; ) {
        const to = Math.min(request.offset + size, this.#nextCut(run.session, from))
        await this.#store(run, { path: file.path, position: from - request.offset, from, to })
        from = to
      }
      return null
    } finally {
      await file.close()
      await staging.discard(file.path)
    }
  }

  #body(
    request: AppendBytes,
    room: AppendRoom,
    sink: (buffers: Buffer[], at: number) => Promise<void>,
  ): Promise<{ error: unknown } | null> {
    const { checksum } = request
    return receiveBody(request.body, sink, {
      maxSize: room.size,
      tooLarge: room.tooLarge,
      idleTimeout: this.#parts.options.limits.bodyIdleTimeout,
      signal: room.signal,
      checksum: typeof checksum === 'string' ? parseChecksum(checksum) : undefined,
      crc: false,
      keep: checksum === undefined,
      flushAfter,
    }).then(
      () => null,
      (error: unknown) => ({ error }),
    )
  }

  async #take(run: Run, buffers: Buffer[], position: number): Promise<void> {
    const step = this.#stepOf(run.session)
    let at = position
    for (const piece of splitAt(buffers, position, step)) {
      if (run.broken) throw run.broken.error
      run.open ??= { file: await this.#parts.staging.openTemporary(null), from: at, size: 0 }
      await run.open.file.write(piece.buffers, run.open.size)
      const size = sizeOf(piece.buffers)
      run.open.size += size
      at += size
      if (at === this.#nextCut(run.session, run.open.from)) await this.#send(run)
    }
    if (run.open && performance.now() - run.storedAt >= storeAfter) await this.#send(run)
  }

  /** Hands over the open segment when the one before has arrived; a storage that is slow slows the client. */
  async #send(run: Run): Promise<void> {
    const segment = run.open
    if (!segment) return
    run.open = null
    await segment.file.close()
    await run.sending.catch(() => {})
    if (run.broken) {
      await this.#drop(segment)
      throw run.broken.error
    }
    const { from, size } = segment
    run.sending = this.#store(run, { path: segment.file.path, position: 0, from, to: from + size })
      .catch((error) => {
        run.broken = { error }
      })
      .finally(() => this.#drop(segment))
    run.storedAt = performance.now()
  }

  async #drop(segment: Segment): Promise<void> {
    await segment.file.close()
    await this.#parts.staging.discard(segment.file.path)
  }

  /** Brings the bytes into the storage, and makes them count. */
  async #store(run: Run, slice: Slice): Promise<void> {
    const { session } = run
    const isEnd = slice.to % session.partSize === 0 || slice.to === session.totalSize
    const { multipart } = this.#parts.options.storage
    const start = Math.floor(slice.from / session.partSize) * session.partSize
    const isPart = isEnd && sendsParts(multipart, session)
    if (isPart && this.#parts.firstBytes.canLeave(session, start, slice.to - start)) await this.#storePart(run, slice)
    else await this.#storePiece(run, slice)
    run.session = await this.#parts.firstBytes.check(run.session, run.request)
    const { session: stored, request } = run
    if (stored.finals) await keepFinals(this.#parts, stored)
    this.#parts.emit('appended', { session: stored, offset: slice.from, size: slice.to - slice.from })
    request.onProgress?.(slice.to)
  }

  async #storePart(run: Run, slice: Slice): Promise<void> {
    const opened = await this.#opening.open(run.session)
    requireActive(opened)
    const partNumber = partNumberAt(opened, slice.from)
    const start = partRange(opened, partNumber).start
    const size = slice.to - start
    const joined = start === slice.from ? null : await this.#joinPieces(run.session, start, slice)
    const body = joined ? fileBody(joined, 0, size) : fileBody(slice.path, slice.position, size)
    const isLookedAt = await this.#sendPart(opened, partNumber, body, run).finally(
      () => joined && this.#parts.staging.discard(joined),
    )
    let freed: readonly number[] = []
    await this.#record(run, slice, 0, (next) => {
      if (next.multipartId !== opened.multipartId) throw new StorageUnavailableError()
      const counted = withPart(isLookedAt ? accepted(next) : next, partNumber)
      freed = counted.freed
      return counted.session
    })
    this.#pieces.discard(run.session.id, freed)
    this.#parts.emit('part', { session: run.session, partNumber, size })
  }

  /** Returns whether its beginning was looked at, so that the record has to say so. */
  async #sendPart(opened: UploadSession, partNumber: number, body: PartBody, { request }: Run): Promise<boolean> {
    const { start } = partRange(opened, partNumber)
    const isLookedAt = await this.#parts.firstBytes.admit(opened, start, body, request)
    await this.#sender.send(opened, partNumber, body)
    return isLookedAt
  }

  async #storePiece(run: Run, slice: Slice): Promise<void> {
    const { staging } = this.#parts
    const small = this.#piecesBefore(run.session, slice.from)
    const isMany = small.length >= mostPieces
    const start = isMany ? (small[0]?.offset ?? slice.from) : slice.from
    const file = isMany ? await this.#joinPieces(run.session, start, slice) : null
    const body = file
      ? fileBody(file, 0, slice.to - start)
      : fileBody(slice.path, slice.position, slice.to - slice.from)
    const loose = await this.#pieces.put(run.session.id, body).finally(() => file && staging.discard(file))
    const record = { refused: false }
    try {
      await this.#record(
        run,
        slice,
        loose,
        (next) => {
          if (!isMany) return next
          const [kept, tail] = [next.chunks.slice(0, -small.length - 1), next.chunks.slice(-small.length - 1, -1)]
          // A completion that failed may have made parts of them meanwhile.
          if (small.some((piece, i) => piece.loose !== tail[i]?.loose)) throw new StorageUnavailableError()
          const chunk = { index: countChunks(kept), count: 1, size: slice.to - start, offset: start, loose }
          return { ...next, chunks: [...kept, chunk] }
        },
        record,
      )
      const gathered = isMany ? small.map((piece) => piece.loose) : []
      this.#pieces.discard(run.session.id, gathered)
    } catch (error) {
      // When the record's store failed, it may name the piece all the same.
      if (record.refused) this.#pieces.discard(run.session.id, [loose])
      throw error
    }
  }

  /** Those that lie right before the offset and in the same part, in order. */
  #piecesBefore({ chunks, ...session }: UploadSession, offset: number): ChunkRun[] {
    const step = this.#stepOf({ chunks, ...session })
    const start = Math.floor(offset / step) * step
    const last = chunks.findLastIndex((run) => run.loose === 0 || (run.offset ?? 0) < start)
    return chunks.slice(last + 1)
  }

  /** A file with the bytes from `start` up to the end of the slice; the caller removes it. */
  async #joinPieces(session: UploadSession, start: number, slice: Slice): Promise<string> {
    const { staging } = this.#parts
    const file = await staging.openTemporary(null)
    try {
      const refs = await this.#pieces.find(session, { start, end: slice.from })
      const lead = await this.#pieces.gather(refs, file, this.#parts.closing)
      await staging.copy(slice.path, slice.position, slice.to - slice.from, file, lead)
      await file.close()
      return file.path
    } catch (error) {
      await file.close()
      await staging.discard(file.path)
      throw error
    }
  }

  async #record(
    run: Run,
    { from, to }: Slice,
    loose: number,
    change: (next: UploadSession) => UploadSession,
    outcome: { refused: boolean } = { refused: false },
  ): Promise<void> {
    const stored = await this.#parts.sessions.update(run.session.id, (current) => {
      outcome.refused = true
      requireActive(current)
      // Somebody else has been here although we held the lock, or has said meanwhile where the file ends: theirs counts.
      const isOver = to > (current.totalSize ?? to)
      if (isOver || receivedBytes(current.chunks) !== from) throw new UploadLockedError()
      const chunk: ChunkRun = { index: countChunks(current.chunks), count: 1, size: to - from, offset: from, loose }
      const next = change({ ...touch(current, this.#parts), appended: true, chunks: [...current.chunks, chunk] })
      outcome.refused = false
      return next
    })
    if (!stored) throw new UploadNotFoundError()
    run.session = stored
  }

  /** Where segments end: at parts, or, when no part may leave yet, at pieces of a size that can be lost. */
  #stepOf(session: UploadSession): number {
    if (sendsParts(this.#parts.options.storage.multipart, session)) return session.partSize
    return Math.min(session.partSize, largestPiece)
  }

  #nextCut(session: UploadSession, offset: number): number {
    const step = this.#stepOf(session)
    const cut = (Math.floor(offset / step) + 1) * step
    return session.totalSize === null ? cut : Math.min(cut, session.totalSize)
  }
}

function sizeOf(buffers: readonly Buffer[]): number {
  return buffers.reduce((sum, { length }) => sum + length, 0)
}
