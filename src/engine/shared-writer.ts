/**
 * Stores one chunk of an upload that is staged in the storage: received whole into a file of this node, then sent as the
 * part it is, or else as a piece, then recorded. Any node can take any chunk. A recorded chunk never changes: the same
 * bytes are welcome again, others are refused.
 */
import { isNexusUploaderError, StorageUnavailableError, UploadClosedError, UploadNotFoundError } from '../errors.ts'
import type { ChunkWritten, UploadSession, WriteChunk } from '../types.ts'
import { parseChecksum, type ReceivedBody, receiveBody, type Sink } from './body.ts'
import { type Chunk, findChunk, trueOffset } from './chunk-map.ts'
import { addChunk, type ChunkPlan, checkSize, chunkConflict, otherSize, planSizedChunk } from './chunk-plan.ts'
import { keepAlive, requireActive, touch, writtenOf } from './chunk-writer.ts'
import type { EngineParts } from './engine-options.ts'
import { accepted, beginning, withoutChunk } from './first-bytes.ts'
import { sumOf } from './known-sums.ts'
import type { MultipartOpening } from './multipart-opening.ts'
import { partRange } from './part-plan.ts'
import type { PartSender } from './part-sender.ts'
import { directPart, placed, withoutParts, withPart } from './piece-map.ts'
import type { Pieces } from './pieces.ts'
import { fileBody } from './staged-files.ts'

interface Writing {
  readonly request: WriteChunk
  readonly plan: ChunkPlan
  readonly signal: AbortSignal
  /** The record has refused the chunk, for certain: nobody names its piece. */
  refused: boolean
}

/** Somebody else has recorded the chunk meanwhile. */
const taken = new Error('taken')

export class SharedWriter {
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

  /** `session` has been authorised and is active. */
  async write(session: UploadSession, request: WriteChunk, stop: AbortController): Promise<ChunkWritten> {
    const plan = planSizedChunk(session, request, this.#parts.options.limits)
    const writing: Writing = { request, plan, signal: stop.signal, refused: false }
    if (plan.existing) {
      const body = await this.#receive(writing, async () => {})
      return this.#compare(session, plan.existing, body)
    }
    const release = await this.#parts.space.reserve(request.size ?? plan.maxSize)
    try {
      return await this.#store(session, writing)
    } catch (error) {
      throw await this.#explain(error, session.id)
    } finally {
      release()
    }
  }

  async #store(seen: UploadSession, writing: Writing): Promise<ChunkWritten> {
    const { staging, options, firstBytes } = this.#parts
    const { uploadId, index } = writing.request
    const file = await staging.openTemporary(null)
    try {
      const write: Sink = (buffers, position) => file.write(buffers, position)
      const body = await this.#receive(writing, firstBytes.tap(seen, writing.request, write))
      await file.close()
      const session = await this.#active(uploadId)
      checkSize(session, index, body.size, options.limits)
      const existing = findChunk(session.chunks, index)
      if (existing) return await this.#compare(session, existing, body)
      const part = directPart(options.storage.multipart, session, { index, size: body.size })
      return part !== null && firstBytes.canLeave(session, trueOffset(session, index) ?? 0, body.size)
        ? await this.#sendPart(session, writing, file.path, body, part)
        : await this.#putPiece(session, writing, file.path, body)
    } finally {
      await file.close()
      await staging.discard(file.path)
    }
  }

  async #receive({ request, plan, signal }: Writing, sink: Sink): Promise<ReceivedBody> {
    const body = await receiveBody(request.body, sink, {
      maxSize: plan.maxSize,
      tooLarge: plan.tooLarge,
      idleTimeout: this.#parts.options.limits.bodyIdleTimeout,
      signal,
      checksum: request.checksum === undefined ? undefined : parseChecksum(request.checksum),
      crc: true,
    })
    if (request.size !== undefined && request.size !== body.size) throw otherSize(request.size, body.size)
    return body
  }

  async #compare(session: UploadSession, existing: Chunk, body: ReceivedBody): Promise<ChunkWritten> {
    if (!(await this.#isSame(session, existing, body))) throw chunkConflict()
    return writtenOf(await keepAlive(this.#parts, session.id), body, true)
  }

  async #isSame(session: UploadSession, existing: Chunk, body: ReceivedBody): Promise<boolean> {
    if (existing.size !== body.size) return false
    return (await sumOf(this.#parts, session, existing.index, existing.size)) === body.crc
  }

  /** The chunk is exactly one part. The client may be gone by now; its bytes are not wasted. */
  async #sendPart(
    session: UploadSession,
    writing: Writing,
    path: string,
    body: ReceivedBody,
    part: number,
  ): Promise<ChunkWritten> {
    const { index } = writing.request
    const start = trueOffset(session, index)
    // Nothing that would be refused is sent: it would replace what others have sent as the same part.
    placed(addChunk(session, { index, size: body.size, offset: start, loose: 0 }, this.#parts.options.limits))
    const chunkBody = fileBody(path, 0, body.size)
    const isLookedAt = await this.#parts.firstBytes.admit(session, start ?? 0, chunkBody, writing.request)
    const opened = await this.#opening.open(session)
    requireActive(opened)
    await this.#sender.send(opened, part, chunkBody)
    try {
      const stored = await this.#commit(writing, body, (current) => {
        // An upload that was begun anew, or lower chunks that were taken back: the part is not what it was sent as.
        const isSame = current.multipartId === opened.multipartId && trueOffset(current, index) === start
        if (!isSame) throw new StorageUnavailableError()
        const chunk = { index, size: body.size, offset: start, loose: 0 }
        const added = addChunk(isLookedAt ? accepted(current) : current, chunk, this.#parts.options.limits)
        return withPart(placed(added), part).session
      })
      this.#parts.emit('part', { session: stored, partNumber: part, size: body.size })
      return writtenOf(stored, body, false)
    } catch (error) {
      if (error === taken) return this.#yieldPart(writing, body, part)
      // A longer chunk has come to the same part meanwhile.
      if (isNexusUploaderError(error) && error.code === 'CHUNK_OVERLAP') await this.#takeBack(session.id, part)
      throw error
    }
  }

  /**
   * Another request has recorded this chunk while its part was on its way. With the same bytes the part is the same. With
   * others nobody knows which of the two the storage holds now: what it may have replaced is taken back.
   */
  async #yieldPart({ request }: Writing, body: ReceivedBody, part: number): Promise<ChunkWritten> {
    const session = await this.#active(request.uploadId)
    const existing = findChunk(session.chunks, request.index)
    if (existing && (await this.#isSame(session, existing, body))) {
      return writtenOf(await keepAlive(this.#parts, session.id), body, true)
    }
    await this.#takeBack(session.id, part)
    throw chunkConflict()
  }

  async #takeBack(uploadId: string, part: number): Promise<void> {
    let freed: readonly number[] = []
    await this.#parts.sessions.update(uploadId, (current) => {
      requireActive(current)
      const { start } = partRange(current, part)
      // What takes the place of a beginning that has passed is looked at again, all of it.
      const first = start < beginning ? Math.ceil(beginning / current.partSize) : 0
      const without = withoutParts(current, [...Array.from({ length: first }, (_, i) => i + 1), part])
      freed = without.freed
      return withoutChunk(without.session, start)
    })
    this.#pieces.discard(uploadId, freed)
  }

  async #putPiece(session: UploadSession, writing: Writing, path: string, body: ReceivedBody): Promise<ChunkWritten> {
    const { index } = writing.request
    const loose = await this.#pieces.put(session.id, fileBody(path, 0, body.size))
    try {
      const stored = await this.#commit(writing, body, (current) => {
        const chunk = { index, size: body.size, offset: trueOffset(current, index), loose }
        return placed(addChunk(current, chunk, this.#parts.options.limits))
      })
      return writtenOf(stored, body, false)
    } catch (error) {
      // When the record's store failed, it may name the piece all the same.
      if (writing.refused) this.#pieces.discard(session.id, [loose])
      if (error !== taken) throw error
      const current = await this.#active(session.id)
      const existing = findChunk(current.chunks, index)
      if (!existing) throw new StorageUnavailableError()
      return this.#compare(current, existing, body)
    }
  }

  /** Record, sum and sent parts in one swap. */
  async #commit(
    writing: Writing,
    body: ReceivedBody,
    change: (current: UploadSession) => UploadSession,
  ): Promise<UploadSession> {
    const { request } = writing
    let before: UploadSession | null = null
    const stored = await this.#parts.sessions.update(
      request.uploadId,
      (current) => {
        before = current
        writing.refused = true
        requireActive(current)
        if (findChunk(current.chunks, request.index)) throw taken
        const next = change({ ...touch(current, this.#parts), verified: undefined })
        writing.refused = false
        return next
      },
      [{ index: request.index, crc32: body.crc }],
    )
    if (!stored) throw new UploadNotFoundError()
    if (before) this.#sender.poke(stored, before)
    return stored
  }

  async #active(uploadId: string): Promise<UploadSession> {
    const session = await this.#parts.sessions.get(uploadId)
    if (!session) throw new UploadNotFoundError()
    requireActive(session)
    return session
  }

  /** An upload that ended meanwhile takes its multipart upload with it; then that is the reason. */
  async #explain(error: unknown, uploadId: string): Promise<unknown> {
    const { status } = error as { status?: unknown }
    if (typeof status === 'number' && status < 500) return error
    try {
      await this.#active(uploadId)
    } catch (reason) {
      if (reason instanceof UploadClosedError || (reason as { status?: number }).status === 410) return reason
    }
    return error
  }
}
