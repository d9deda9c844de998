/**
 * Removes what nobody will come back for: idle uploads, records of ended ones, and what killed processes left behind.
 * A live upload (a request at work on it, here or in another process, or activity within `sessionTtl`) is never touched.
 */
import { fromFileSystemError, UploadNotFoundError } from '../errors.ts'
import type { SessionStore, SweepReport, UploadSession } from '../types.ts'
import type { EngineParts } from './engine-options.ts'
import { isLeased } from './lease.ts'
import { usesParts } from './part-plan.ts'
import type { Pieces } from './pieces.ts'
import type { ResumeKeys } from './resume-keys.ts'
import { SweepClock } from './sweep-clock.ts'
import { oneAtATime } from './sweep-turn.ts'

/** A folder without a record may belong to an upload that is just being created, ms. */
const orphanAge = 10 * 60_000

/** A piece without a record may be of an upload whose record is about to be read, ms. */
const strayAge = 60 * 60_000

type Counts = { -readonly [Name in keyof SweepReport]: SweepReport[Name] }

export class Sweeper {
  readonly #parts: EngineParts
  readonly #pieces: Pieces
  readonly #keys: ResumeKeys
  readonly #store: SessionStore
  readonly #time: SweepClock
  #running: Promise<SweepReport> | null = null
  #timer: NodeJS.Timeout | null = null

  constructor(parts: EngineParts, pieces: Pieces, keys: ResumeKeys) {
    this.#parts = parts
    this.#pieces = pieces
    this.#keys = keys
    this.#store = parts.options.sessions
    const { sessionTtl, completedTtl } = parts.options
    this.#time = new SweepClock(parts.clock, parts.uptime, Math.max(sessionTtl, completedTtl))
  }

  start(): void {
    const run = () => {
      this.sweep().catch((error) => {
        this.#parts.emit('warning', { code: 'SWEEP_FAILED', message: 'Cleaning up is tried again later.', error })
      })
    }
    this.#timer = setInterval(run, this.#parts.options.cleanupInterval).unref()
  }

  stop(): void {
    if (this.#timer) clearInterval(this.#timer)
    this.#timer = null
  }

  async idle(): Promise<void> {
    await this.#running?.catch(() => {})
  }

  sweep(): Promise<SweepReport> {
    this.#running ??= this.#sweep().finally(() => {
      this.#running = null
    })
    return this.#running
  }

  async #sweep(): Promise<SweepReport> {
    const counts: Counts = { expired: 0, forgotten: 0, orphans: 0, failed: 0 }
    const { now, behind } = this.#look()
    // What all nodes have in common is swept by one of them at a time; the others find it done.
    await oneAtATime(this.#parts, async () => {
      await this.#sweepRecords(now, counts)
      await this.#attempt(counts, () => this.#sweepPieces(behind, counts))
    })
    await this.#attempt(counts, async () => {
      for (const path of await this.#parts.staging.listSpooled(orphanAge + behind)) {
        await this.#attempt(counts, async () => {
          await this.#parts.staging.discard(path)
          counts.orphans += 1
        })
      }
    })
    await this.#attempt(counts, () => this.#parts.claims.sweep())
    for (const { uploadId, age } of await this.#folders()) {
      if (this.#parts.closing.aborted) return counts
      await this.#attempt(counts, () => this.#sweepFolder(uploadId, age - behind, counts))
    }
    return counts
  }

  #look(): { now: number; behind: number } {
    const { now, behind, jump } = this.#time.look()
    if (jump > 0) {
      const message = `The clock went ${Math.round(jump / 1000)} s forward. Uploads that this makes idle get one more sessionTtl.`
      this.#parts.emit('warning', { code: 'CLOCK_JUMPED', message })
    }
    return { now, behind }
  }

  async #folders() {
    try {
      return await this.#parts.staging.list()
    } catch (error) {
      throw fromFileSystemError(error)
    }
  }

  async #sweepRecords(now: number, counts: Counts): Promise<void> {
    for await (const id of this.#store.listExpired(now)) {
      if (this.#parts.closing.aborted) return
      await this.#attempt(counts, () => this.#sweepRecord(id, now, counts))
    }
  }

  /** Pieces of uploads that nobody knows any more: of writers that were killed, or cut off from the record. */
  async #sweepPieces(behind: number, counts: Counts): Promise<void> {
    const { staging, sessionTtl } = this.#parts.options
    if (staging !== 'storage') return
    const age = Math.max(strayAge, sessionTtl) + behind
    counts.orphans += await this.#pieces.removeStrays(
      age,
      async (uploadId) => (await this.#store.get(uploadId)) !== null,
    )
  }

  /** One upload that cannot be removed must not keep the others. */
  async #attempt(counts: Counts, task: () => Promise<void>): Promise<void> {
    try {
      await task()
    } catch (error) {
      counts.failed += 1
      this.#parts.emit('warning', { code: 'CLEANUP_FAILED', message: 'Cleaning up is tried again later.', error })
    }
  }

  /** `due` is when a record must have expired by. */
  async #sweepRecord(id: string, due: number, counts: Counts): Promise<void> {
    const record = await this.#store.get(id)
    // Of a newer release: whoever wrote it will know when it may go.
    if (record?.format !== 1 || record.expiresAt > due) return
    if (record.kind === 'resume') {
      await this.#keys.sweep(record)
      return
    }
    if (record.state === 'active' || record.state === 'completing') await this.#expire(record, due, counts)
    else {
      await this.discard(record)
      await this.#parts.staging.remove(id)
      await this.#keys.outlive(record)
      await this.#store.delete(id)
      counts.forgotten += 1
    }
  }

  async #expire(record: UploadSession, due: number, counts: Counts): Promise<void> {
    if (await this.#parts.claims.isBusy(record.id)) return
    const now = this.#parts.clock()
    // The swap is what decides: a chunk that was acknowledged meanwhile has moved `expiresAt`.
    const session = await this.#parts.sessions.update(record.id, (current) => {
      const idle = current.state === 'active' || !isLeased(current, now)
      if (!current.open || current.expiresAt > due || !idle) return current
      const expiresAt = now + this.#parts.options.completedTtl
      return { ...current, state: 'expired', open: false, completing: null, updatedAt: now, expiresAt }
    })
    if (session?.state !== 'expired' || session.updatedAt !== now) return
    counts.expired += 1
    this.#parts.emit('expired', { session })
    if (session.object) {
      const message = `The application never took over ${session.key}; the object stays in the storage.`
      this.#parts.emit('warning', { code: 'OBJECT_LEFT', message })
    }
    await this.discard(session)
  }

  /**
   * Removes the bytes of an upload that ended without an object. What fails here is done again when its record is
   * forgotten, and the record stays until it has worked.
   */
  async discard(session: UploadSession): Promise<void> {
    const { storage } = this.#parts.options
    const { staging } = this.#parts
    const isRecognized = session.recognizable && session.state === 'completed'
    if (session.staged === 'storage') await this.#pieces.removeAll(session)
    else await (isRecognized ? staging.keepSums(session.id) : staging.remove(session.id))
    const { multipartId, openings, totalSize, partSize } = session
    const opened = multipartId !== null || openings !== undefined || totalSize === null || totalSize > partSize
    // Stored, then refused by the application.
    if (session.object && session.state === 'aborted') await storage.remove?.(session.key)
    if (!storage.multipart) return
    if (session.object || session.state === 'completed') {
      // One that was opened before it was known that the file is a single part has become nothing.
      const used = session.direct || usesParts(storage.multipart, session) ? 1 : 0
      if (openings !== undefined && openings > used) await storage.multipart.abort(strays(session))
      return
    }
    if (!opened) return
    await storage.multipart.abort(strays(session))
    if (session.multipartId === null) return
    await storage.multipart.abort({ fileKey: session.key, multipartId: session.multipartId })
    await this.#parts.sessions
      .update(session.id, (current) => ({ ...current, multipartId: null }))
      .catch((error) => {
        if (!(error instanceof UploadNotFoundError)) throw error
      })
  }

  async #sweepFolder(uploadId: string, age: number, counts: Counts): Promise<void> {
    const record = await this.#store.get(uploadId)
    const ended = record?.kind === 'upload' && record.format === 1 && record.state === 'completed'
    if (record && !ended) return
    if (!ended && age < Math.max(orphanAge, this.#parts.options.sessionTtl)) return
    if (await this.#parts.claims.isBusy(uploadId)) return
    const { staging } = this.#parts
    if (ended && record.recognizable) {
      if (!(await staging.keepSums(uploadId))) return
    } else await staging.remove(uploadId)
    counts.orphans += 1
  }
}

/** Every multipart upload of its key that is still open. */
function strays({ key }: UploadSession): { fileKey: string; multipartId: null } {
  return { fileKey: key, multipartId: null }
}
