/** Stores one chunk: whole or not at all, in any order, in parallel, the same one any number of times. */
import { setTimeout as wait } from 'node:timers/promises'
import { fromFileSystemError, UploadClosedError, UploadNotFoundError } from '../errors.ts'
import type { ChunkWritten, UploadSession, WriteChunk } from '../types.ts'
import { requireOpen } from './authorization.ts'
import { parseChecksum, type ReceivedBody, receiveBody, type Sink } from './body.ts'
import { type ByteRange, type Chunk, findChunk, leastOffset, trueOffset } from './chunk-map.ts'
import {
  addChunk,
  type ChunkPlan,
  checkSize,
  chunkConflict,
  otherSize,
  planChunk,
  planSizedChunk,
} from './chunk-plan.ts'
import type { Claim } from './claims.ts'
import { refuseDirect } from './direct-uploads.ts'
import type { EngineParts } from './engine-options.ts'
import { withoutChunk } from './first-bytes.ts'
import { holdsBytes, isSent, keepsSums, movesSent } from './part-plan.ts'
import type { Change } from './session-updates.ts'
import { Spill } from './spill.ts'
import { sameBytes } from './staged-files.ts'
import { Turns } from './waiting.ts'

/** Generation 1 is for chunks that replace nothing; thrown to take another. */
const generationTaken = new Error('generation taken')

interface Writing {
  readonly request: WriteChunk
  readonly plan: ChunkPlan
  readonly signal: AbortSignal
  readonly session: UploadSession
}

export class ChunkWriter {
  readonly #parts: EngineParts
  /** From the record to the sum: else the sum of one could stay beside the bytes of another that came at the same time. */
  readonly #turns = new Turns()

  constructor(parts: EngineParts) {
    this.#parts = parts
  }

  /** `session` has been authorised and is active; a completion or an abort that wants the upload aborts `stop`. */
  async write(session: UploadSession, request: WriteChunk, stop: AbortController): Promise<ChunkWritten> {
    const plan = planSizedChunk(session, request, this.#parts.options.limits)
    const writing: Writing = { request, plan, signal: stop.signal, session }
    const onYield = () => stop.abort(new UploadClosedError('The upload was finished or aborted meanwhile.'))
    const release = await this.#parts.space.reserve(request.size ?? plan.maxSize)
    try {
      return await this.#claimAndWrite(writing, onYield)
    } catch (error) {
      throw await this.#explain(error, session.id)
    } finally {
      release()
    }
  }

  async #claimAndWrite(writing: Writing, onYield: () => void): Promise<ChunkWritten> {
    const { session, plan } = writing
    const { claims } = this.#parts
    const range = plan.inPlace
    if (session.chunks.length === 0) await this.#parts.staging.createFolder(session.id)
    const claim = range && (await this.#inFolder(session.id, () => claims.claim(session.id, range, onYield)))
    if (range && claim) {
      try {
        const written = await this.#writeInPlace(writing, range)
        if (written) return written
      } finally {
        await claim.release()
      }
    }
    const presence: Claim = await this.#inFolder(session.id, () => claims.present(session.id, onYield))
    try {
      const existing = plan.existing
      return existing && isFixed(session, existing)
        ? await this.#verify(writing, existing)
        : await this.#writeAside(writing)
    } finally {
      await presence.release()
    }
  }

  /** The folder is made with the first chunk; for later ones only when it has been lost, which `openParts` finds out. */
  async #inFolder<Result>(uploadId: string, claim: () => Promise<Result>): Promise<Result> {
    try {
      return await claim()
    } catch (error) {
      if ((error as { code?: unknown } | null)?.code !== 'ENOENT') throw error
      await this.#parts.staging.createFolder(uploadId)
      return claim()
    }
  }

  /** `null` when the range turned out not to be free: the record is read again under the claim. */
  async #writeInPlace(writing: Writing, range: ByteRange): Promise<ChunkWritten | null> {
    const { request } = writing
    const session = await this.#active(request.uploadId)
    const again = planChunk(session, request.index, this.#parts.options.limits, request.maxSize)
    if (!again.inPlace || again.inPlace.start !== range.start || again.inPlace.end < range.end) return null
    const mustExist = (partNumber: number) => holdsBytes(session, partNumber)
    const target = this.#parts.staging.openParts(session.id, session.partSize, mustExist)
    const spill = new Spill(this.#parts, session, range, target)
    try {
      const body = await this.#receive(writing, spill.sink)
      await spill.sync()
      if (spill.path) return await this.#commitLoose(writing, spill.path, body)
      const place = { offset: range.start, loose: 0 }
      return await this.#inTurn(writing, () => this.#commit(writing, body, place)).catch((error) =>
        this.#orRepeated(writing, body, error),
      )
    } finally {
      await spill.close()
    }
  }

  /** Into a file of its own; it takes the chunk's place when it is whole. */
  async #writeAside(writing: Writing): Promise<ChunkWritten> {
    const file = await this.#parts.staging.openTemporary(writing.session.id)
    let kept = false
    try {
      const body = await this.#receive(writing, (buffers, position) => file.write(buffers, position))
      await file.sync()
      const repeated = await this.#inTurn(writing, () => this.#repeated(writing, body, file.path))
      if (repeated) return repeated
      const written = await this.#commitLoose(writing, file.path, body)
      kept = true
      return written
    } finally {
      await file.close()
      if (!kept) await this.#parts.staging.discard(file.path)
    }
  }

  /** `null` when these are not the bytes that are there. */
  async #repeated({ session, request }: Writing, body: ReceivedBody, path: string): Promise<ChunkWritten | null> {
    const current = await this.#active(session.id)
    const existing = findChunk(current.chunks, request.index)
    if (!existing || !(await this.#isSame(current, existing, body, path))) return null
    // Its sum may have been lost with the process that stored it.
    if (keepsSums(this.#parts.options.storage.multipart, current)) {
      await this.#parts.staging.sums.write(current.id, existing.index, body.size, body.crc)
    }
    return writtenOf(await keepAlive(this.#parts, current.id), body, true)
  }

  #inTurn<Result>({ session, request }: Writing, task: () => Promise<Result>): Promise<Result> {
    return this.#turns.take(`${session.id} ${request.index}`, task)
  }

  /** The part is with the storage already: the same bytes are welcome again, others come too late. */
  async #verify(writing: Writing, existing: Chunk): Promise<ChunkWritten> {
    const { session } = writing
    const body = await this.#receive(writing, async () => {}, true)
    if (!(await this.#hasSum(session, existing, body))) throw chunkConflict()
    return writtenOf(await keepAlive(this.#parts, session.id), body, true)
  }

  async #receive(writing: Writing, sink: Sink, crc = false): Promise<ReceivedBody> {
    const { request, plan, signal, session } = writing
    const { limits, storage } = this.#parts.options
    const body = await receiveBody(request.body, this.#parts.firstBytes.tap(session, request, sink), {
      maxSize: plan.maxSize,
      tooLarge: plan.tooLarge,
      idleTimeout: limits.bodyIdleTimeout,
      signal,
      checksum: request.checksum === undefined ? undefined : parseChecksum(request.checksum),
      crc: crc || keepsSums(storage.multipart, session),
    })
    if (request.size !== undefined && request.size !== body.size) throw otherSize(request.size, body.size)
    return body
  }

  async #commitLoose(writing: Writing, path: string, body: ReceivedBody): Promise<ChunkWritten> {
    const { staging, sessions, options } = this.#parts
    const { id } = writing.session
    const { index } = writing.request
    checkSize(writing.session, index, body.size, options.limits)
    let from = path
    for (let first = writing.plan.existing === null; ; first = false) {
      const loose = await staging.nameLoose(id, from, index, first)
      try {
        return await this.#inTurn(writing, () => this.#commit(writing, body, { offset: null, loose }))
      } catch (error) {
        from = staging.loosePath(id, index, loose)
        if (error === generationTaken) continue
        const stored = await sessions.get(id).catch(() => null)
        // Only when it is certain that the record does not name the file.
        if (stored && findChunk(stored.chunks, index)?.loose !== loose) await staging.discard(from)
        return await this.#orRepeated(writing, body, error)
      }
    }
  }

  /** Of two that bring the same bytes at once, the later may find that they have left already. */
  async #orRepeated({ session, request }: Writing, body: ReceivedBody, error: unknown): Promise<ChunkWritten> {
    if ((error as { code?: unknown } | null)?.code !== 'CHUNK_CONFLICT') throw error
    const current = await this.#active(session.id)
    const existing = findChunk(current.chunks, request.index)
    if (!existing || !(await this.#hasSum(current, existing, body))) throw error
    return writtenOf(await keepAlive(this.#parts, current.id), body, true)
  }

  async #commit(writing: Writing, body: ReceivedBody, place: { offset: number | null; loose: number }) {
    const { request, session } = writing
    const { index } = request
    const { limits, storage } = this.#parts.options
    checkSize(session, index, body.size, limits)
    writing.signal.throwIfAborted()
    let replaced: Chunk | null = null
    let isRefused = false
    const change: Change = (current) => {
      isRefused = true
      requireActive(current)
      // A storage that failed may have taken the file before: nothing can become a part of it any more.
      if (current.handedOver) throw uploadClosed()
      replaced = findChunk(current.chunks, index)
      const isLate = replaced && (isFixed(current, replaced) || movesSent(current, replaced, body.size))
      if (isLate) throw chunkConflict()
      if (replaced && place.loose === 1) throw generationTaken
      const touched = { ...touch(current, this.#parts), verified: undefined }
      const changed = replaced ? withoutChunk(touched, leastOffset(current, index)) : touched
      const next = addChunk(changed, { index, size: body.size, ...place }, limits)
      isRefused = false
      return next
    }
    const summed = keepsSums(storage.multipart, session)
    const sumBefore = summed ? await this.#blankSum(writing, change) : null
    const stored = await this.#parts.sessions.update(session.id, change).catch(async (error) => {
      // Refused for certain: the chunk that was there is still the one.
      if (sumBefore && isRefused) {
        await this.#parts.staging.sums.write(session.id, index, sumBefore.size, sumBefore.crc)
      }
      throw error
    })
    if (summed) await this.#parts.staging.sums.write(session.id, index, body.size, body.crc)
    if (!stored) throw new UploadNotFoundError()
    const old = replaced as Chunk | null
    if (old && old.loose > 0) await this.#parts.staging.removeLoose(session.id, index, old.loose)
    return writtenOf(stored, body, false)
  }

  /**
   * The sum of a chunk is written when the chunk is recorded, and the sum of one that is about to be replaced must not
   * outlive it: no sum is better than a wrong one. Returns what to put back when the replacement is refused; what is known to
   * be refused blanks nothing.
   */
  async #blankSum({ session, request, plan }: Writing, change: Change): Promise<ReceivedBody | null> {
    const { staging } = this.#parts
    if (!plan.existing) return null
    const current = await this.#active(session.id)
    change(current)
    const existing = findChunk(current.chunks, request.index)
    if (!existing) return null
    const crc = await staging.sums.read(session.id, request.index, existing.size)
    await staging.sums.write(session.id, request.index, 0, 0)
    return crc === null ? null : { size: existing.size, crc }
  }

  /** Compares with the stored bytes, or, when they have left for the storage, with their size and CRC-32. */
  async #isSame(session: UploadSession, existing: Chunk, body: ReceivedBody, path: string): Promise<boolean> {
    if (existing.size !== body.size) return false
    if (isFixed(session, existing)) return this.#hasSum(session, existing, body)
    const { staging } = this.#parts
    const { id, partSize } = session
    const pieces =
      existing.offset === null
        ? [{ path: staging.loosePath(id, existing.index, existing.loose), start: 0, size: existing.size }]
        : staging.segments(id, partSize, existing.offset, existing.size)
    try {
      return await sameBytes(pieces, path)
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ENOENT') throw error
      // Moved or sent a moment ago.
      return this.#hasSum(session, existing, body)
    }
  }

  /** The sum is written just after the chunk is recorded, so a chunk sent at once may be ahead of it. */
  async #hasSum(session: UploadSession, existing: Chunk, body: ReceivedBody): Promise<boolean> {
    if (body.size !== existing.size) return false
    for (let attempt = 0; attempt < 10; attempt++) {
      const crc = await this.#parts.staging.sums.read(session.id, existing.index, existing.size)
      if (crc !== null) return crc === body.crc
      await wait(20)
    }
    return false
  }

  async #active(uploadId: string): Promise<UploadSession> {
    const session = await this.#parts.sessions.get(uploadId)
    if (!session) throw new UploadNotFoundError()
    requireActive(session)
    return session
  }

  /** An upload that ended meanwhile takes its folder with it; then that is the reason, not the missing file. */
  async #explain(error: unknown, uploadId: string): Promise<unknown> {
    const code = (error as { code?: unknown } | null)?.code
    if (code !== 'ENOENT' && code !== 'STAGING_LOST') return fromFileSystemError(error)
    try {
      for (let attempt = 0; attempt < 3; attempt++) {
        await this.#active(uploadId)
        await wait(20)
      }
    } catch (reason) {
      return reason
    }
    return fromFileSystemError(error)
  }
}

export function writtenOf(session: UploadSession, { size, crc }: ReceivedBody, duplicate: boolean): ChunkWritten {
  return { session, size, duplicate, ...(session.recognizable && { crc32: crc }) }
}

/** Whether bytes of the chunk have left for the storage, or bytes of a file whose checksum was verified with it. */
function isFixed(session: UploadSession, chunk: Chunk): boolean {
  if (session.verified !== undefined && session.sentParts.length > 0) return true
  const start = chunk.offset ?? trueOffset(session, chunk.index)
  return start !== null && isSent(session, { start, end: start + chunk.size })
}

function uploadClosed(): UploadClosedError {
  return new UploadClosedError('The upload is complete, or being completed, and takes no more data.')
}

export function requireActive(session: UploadSession): void {
  requireOpen(session)
  refuseDirect(session)
  if (session.state !== 'active' || session.object) throw uploadClosed()
}

/** A chunk that comes again changes nothing, but somebody is at work on the upload. */
export async function keepAlive(parts: EngineParts, uploadId: string): Promise<UploadSession> {
  const stored = await parts.sessions.update(uploadId, (current) => {
    requireOpen(current)
    return current.state === 'active' ? touch(current, parts) : current
  })
  if (!stored) throw new UploadNotFoundError()
  return stored
}

/** Every accepted change counts as activity. */
export function touch(session: UploadSession, parts: EngineParts): UploadSession {
  const now = parts.clock()
  return { ...session, updatedAt: now, expiresAt: now + parts.options.sessionTtl }
}
