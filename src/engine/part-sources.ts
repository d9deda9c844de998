/** Where the bytes of a whole part come from, and what becomes of them once the storage has it. */
import { StorageUnavailableError, UploadNotFoundError } from '../errors.ts'
import type { PartBody, UploadSession } from '../types.ts'
import { isSettled } from './chunk-map.ts'
import { composedPieces } from './composer.ts'
import type { EngineParts } from './engine-options.ts'
import { mayLeave } from './first-bytes.ts'
import { partRange } from './part-plan.ts'
import { holdsPart, piecesIn, withPart } from './piece-map.ts'
import type { Pieces } from './pieces.ts'
import { addToSpans, spansInclude } from './ranges.ts'
import { fileBody } from './staged-files.ts'

const claimPatience = 30_000

export interface PartSource {
  /** `null`: somebody else is at it, or it is done. */
  take(uploadId: string, partNumber: number, signal: AbortSignal, completing: boolean): Promise<TakenPart | null>
  /** Whether the bytes of the part could be sent once more. */
  holds(session: UploadSession, partNumber: number): Promise<boolean>
}

export interface TakenPart {
  readonly body: PartBody
  /** The record with the part counted; as it was when these are not its bytes any more. */
  count(current: UploadSession): UploadSession
  /** The record counts the part. */
  sent(): Promise<void>
  release(): Promise<void>
}

/** Part files in `tempDir`. */
export class DiskParts implements PartSource {
  readonly #parts: EngineParts

  constructor(parts: EngineParts) {
    this.#parts = parts
  }

  async take(id: string, partNumber: number, signal: AbortSignal, completing: boolean): Promise<TakenPart | null> {
    const { claims, staging } = this.#parts
    const range = partRange(await current(this.#parts, id), partNumber)
    const claim = completing ? await claims.insist(id, range, claimPatience, signal) : await claims.claim(id, range)
    if (!claim) return null
    try {
      const session = await current(this.#parts, id)
      const isHeld = !isSettled(session, range) || !mayLeave(this.#parts, session, partNumber)
      if (isHeld || isDone(session, partNumber, completing)) throw nothingToDo
      const size = range.end - range.start
      const body = session.sources
        ? staging.joinedBody(await composedPieces(this.#parts, session, range))
        : await this.#stagedPart(id, partNumber, size)
      return {
        body,
        count: (latest) =>
          isSettled(latest, range) ? { ...latest, sentParts: addToSpans(latest.sentParts, partNumber) } : latest,
        sent: () => staging.removePart(id, partNumber),
        release: () => claim.release(),
      }
    } catch (error) {
      await claim.release()
      if (error === nothingToDo) return null
      throw error
    }
  }

  async #stagedPart(id: string, partNumber: number, size: number): Promise<PartBody> {
    const { staging } = this.#parts
    if (((await staging.sizeOf(staging.partPath(id, partNumber))) ?? -1) < size) {
      throw new StorageUnavailableError(undefined, { code: 'STAGING_LOST' })
    }
    return staging.partBody(id, partNumber, size)
  }

  async holds(session: UploadSession, partNumber: number): Promise<boolean> {
    const { staging } = this.#parts
    return (await staging.sizeOf(staging.partPath(session.id, partNumber))) !== null
  }
}

/**
 * Pieces in the storage, read into a file first: a body that can be sent again. No claim is needed: recorded chunks never
 * change, so whoever makes the part makes the same one.
 */
export class StoredParts implements PartSource {
  readonly #parts: EngineParts
  readonly #pieces: Pieces

  constructor(parts: EngineParts, pieces: Pieces) {
    this.#parts = parts
    this.#pieces = pieces
  }

  async take(id: string, partNumber: number, signal: AbortSignal, completing: boolean): Promise<TakenPart | null> {
    const { staging, space } = this.#parts
    const session = await current(this.#parts, id)
    const range = partRange(session, partNumber)
    if (isDone(session, partNumber, completing) || !mayLeave(this.#parts, session, partNumber)) return null
    const refs = await this.#pieces.find(session, range)
    const free = await space.reserve(range.end - range.start)
    let path: string | null = null
    const release = async () => {
      if (path) await staging.discard(path)
      free()
    }
    try {
      const file = await staging.openTemporary(null)
      path = file.path
      const size = await this.#pieces.gather(refs, file, signal).finally(() => file.close())
      let freed: readonly number[] = []
      return {
        body: fileBody(path, 0, size),
        count: (latest) => {
          const isSame = session.sources || JSON.stringify(piecesIn(latest, range)) === JSON.stringify(refs)
          if (!isSame) return latest
          const counted = withPart(latest, partNumber)
          freed = counted.freed
          return counted.session
        },
        sent: async () => this.#pieces.discard(id, freed),
        release,
      }
    } catch (error) {
      await release()
      // Somebody else has sent it meanwhile, and removed the pieces.
      if (isDone(await current(this.#parts, id), partNumber, completing)) return null
      throw error
    }
  }

  async holds(session: UploadSession, partNumber: number): Promise<boolean> {
    return holdsPart(session, partNumber)
  }
}

const nothingToDo = new Error('nothing to do')

function isDone(session: UploadSession, partNumber: number, completing: boolean): boolean {
  return !takesParts(session, completing) || spansInclude(session.sentParts, partNumber)
}

export function takesParts(session: UploadSession, completing: boolean): boolean {
  if (session.object) return false
  return completing ? session.state === 'completing' : session.state === 'active' || session.state === 'completing'
}

async function current(parts: EngineParts, uploadId: string): Promise<UploadSession> {
  const session = await parts.sessions.get(uploadId)
  if (!session) throw new UploadNotFoundError()
  return session
}
