/**
 * Moves chunks to where they belong once that is known: loose chunks into the staging, and chunks that lie where a
 * wrong guess put them out of it. The record names the old place until the new one is whole, so a crash at any point
 * only means that the move is made again.
 */
import { setTimeout as wait } from 'node:timers/promises'
import { UploadNotFoundError } from '../errors.ts'
import type { UploadSession } from '../types.ts'
import { type Chunk, findChunk, firstOccupied, firstUnsettled, withChunk } from './chunk-map.ts'
import type { EngineParts } from './engine-options.ts'
import { holdsBytes } from './part-plan.ts'

export class Settler {
  readonly #parts: EngineParts
  readonly #running = new Map<string, Promise<void>>()

  constructor(parts: EngineParts) {
    this.#parts = parts
  }

  /** Settles what can be settled now. Chunks whose place somebody else is writing to are left for the next time. */
  async settle(uploadId: string): Promise<void> {
    const before = this.#running.get(uploadId)
    if (before) await before.catch(() => {})
    const running = this.#running.get(uploadId) ?? this.#run(uploadId)
    this.#running.set(uploadId, running)
    try {
      await running
    } finally {
      if (this.#running.get(uploadId) === running) this.#running.delete(uploadId)
    }
  }

  /**
   * Settles everything, for a completion: asks writers of this process to stop, and waits up to `patience` ms for those of
   * other processes.
   */
  async settleAll(uploadId: string, patience: number, signal: AbortSignal): Promise<UploadSession> {
    const deadline = this.#parts.uptime() + patience
    for (;;) {
      await this.settle(uploadId)
      const session = await this.#session(uploadId)
      if (!firstUnsettled(session) || this.#parts.uptime() >= deadline) return session
      // A writer on a dead line may hold a place for long; nothing of it can count any more.
      void this.#parts.claims.requestYield(uploadId)
      await wait(50, undefined, { signal })
    }
  }

  async idle(): Promise<void> {
    await Promise.allSettled(this.#running.values())
  }

  async #run(uploadId: string): Promise<void> {
    const skipped = new Set<number>()
    for (;;) {
      const session = await this.#session(uploadId)
      if (session.object || (session.state !== 'active' && session.state !== 'completing')) return
      const found = firstUnsettled(session, skipped)
      if (!found) return
      const moved =
        found.chunk.offset === null
          ? await this.#moveIn(session, found.chunk, found.offset)
          : await this.#moveOut(session, found.chunk)
      if (!moved) skipped.add(found.chunk.index)
      else skipped.clear()
    }
  }

  async #moveIn(seen: UploadSession, chunk: Chunk, offset: number): Promise<boolean> {
    const { claims, staging, sessions } = this.#parts
    const range = { start: offset, end: offset + chunk.size }
    const claim = await claims.claim(seen.id, range)
    if (!claim) return false
    try {
      const session = await this.#session(seen.id)
      if (!isSame(findChunk(session.chunks, chunk.index), chunk)) return true
      if (firstOccupied(session.chunks, range, -1) < range.end) return false
      const target = staging.openParts(seen.id, seen.partSize, (partNumber) => holdsBytes(session, partNumber))
      try {
        const path = staging.loosePath(seen.id, chunk.index, chunk.loose)
        await staging.copy(path, 0, chunk.size, target, offset)
        await target.sync()
      } finally {
        await target.close()
      }
      const stored = await sessions.update(seen.id, (current) =>
        isSame(findChunk(current.chunks, chunk.index), chunk)
          ? { ...current, chunks: withChunk(current.chunks, { ...chunk, offset, loose: 0 }) }
          : current,
      )
      const now = stored && findChunk(stored.chunks, chunk.index)
      if (now && now.loose !== chunk.loose) await staging.removeLoose(seen.id, chunk.index, chunk.loose)
      return true
    } finally {
      await claim.release()
    }
  }

  async #moveOut(seen: UploadSession, chunk: Chunk): Promise<boolean> {
    const { claims, staging, sessions } = this.#parts
    const start = chunk.offset ?? 0
    const claim = await claims.claim(seen.id, { start, end: start + chunk.size })
    if (!claim) return false
    const file = await staging.openTemporary(seen.id)
    try {
      if (!isSame(findChunk((await this.#session(seen.id)).chunks, chunk.index), chunk)) return true
      let position = 0
      for (const piece of staging.segments(seen.id, seen.partSize, start, chunk.size)) {
        await staging.copy(piece.path, piece.start, piece.size, file, position)
        position += piece.size
      }
      await file.sync()
      const loose = await staging.nameLoose(seen.id, file.path, chunk.index, false)
      const stored = await sessions.update(seen.id, (current) =>
        isSame(findChunk(current.chunks, chunk.index), chunk)
          ? { ...current, chunks: withChunk(current.chunks, { ...chunk, offset: null, loose }) }
          : current,
      )
      const now = stored && findChunk(stored.chunks, chunk.index)
      if (now && now.loose !== loose) await staging.removeLoose(seen.id, chunk.index, loose)
      return true
    } finally {
      await file.close()
      await staging.discard(file.path)
      await claim.release()
    }
  }

  async #session(uploadId: string): Promise<UploadSession> {
    const session = await this.#parts.sessions.get(uploadId)
    if (!session) throw new UploadNotFoundError()
    return session
  }
}

function isSame(a: Chunk | null, b: Chunk): boolean {
  return a !== null && a.size === b.size && a.offset === b.offset && a.loose === b.loose
}
