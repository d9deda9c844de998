/** The private objects that hold the bytes of uploads until these are parts: written once, under a name nobody else has. */
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { setTimeout as wait } from 'node:timers/promises'
import { StorageUnavailableError } from '../errors.ts'
import type { PartBody, StagingStorage, UploadSession } from '../types.ts'
import type { ByteRange } from './chunk-map.ts'
import { wholeSources } from './composer.ts'
import type { EngineParts } from './engine-options.ts'
import { allPieces, type PieceRef, piecesIn } from './piece-map.ts'
import type { PositionalFile } from './staging.ts'
import { asStorageError, bounded } from './waiting.ts'

/** A read that broke off goes on where it was so often, after a pause of so many ms, which doubles. */
const maxResumptions = 3
const firstPause = 100
/** An upload's id and a generation. */
const ownKey = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\/[0-9a-z]{1,11}$/

export class Pieces {
  readonly #parts: EngineParts
  readonly #removing = new Set<Promise<void>>()

  constructor(parts: EngineParts) {
    this.#parts = parts
  }

  /** Stores the bytes as a new piece and returns its generation. */
  async put(uploadId: string, body: PartBody): Promise<number> {
    const generation = newGeneration()
    await bounded(this.#parts, (signal) => this.#storage().put(keyOf(uploadId, generation), body, signal))
    return generation
  }

  /** Where the bytes of the range lie: in pieces of this upload, or in those of the partial ones that it is made of. */
  async find(session: UploadSession, range: ByteRange): Promise<PieceRef[]> {
    if (!session.sources) return piecesIn(session, range) ?? lost()
    const found: PieceRef[] = []
    let at = 0
    for (const partial of await wholeSources(this.#parts, session)) {
      const size = partial.totalSize ?? 0
      const start = Math.max(0, range.start - at)
      const end = Math.min(size, range.end - at)
      if (start < end) found.push(...(piecesIn(partial, { start, end }) ?? lost()))
      at += size
    }
    return found
  }

  /** The bytes, one piece after the other; a stream that breaks off is resumed. */
  async *read(refs: readonly PieceRef[], signal: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    for (const { uploadId, generation, start, size } of refs) {
      const key = keyOf(uploadId, generation)
      let done = 0
      for (let failures = 0; done < size; ) {
        try {
          const range = { start: start + done, end: start + size }
          for await (const data of await this.#storage().open(key, { range, signal })) {
            done += (data as Buffer).length
            yield data as Buffer
          }
          if (done < size) throw new StorageUnavailableError(undefined, { code: 'STAGING_LOST' })
        } catch (error) {
          failures += 1
          if (failures > maxResumptions || signal.aborted) throw asStorageError(error)
          await wait(firstPause * 2 ** failures, undefined, { signal })
        }
      }
    }
  }

  /** A few bytes, in memory. */
  async bytes(session: UploadSession, range: ByteRange): Promise<Buffer> {
    const buffers: Buffer[] = []
    const refs = await this.find(session, range)
    for await (const data of this.read(refs, this.#parts.closing)) buffers.push(data)
    return Buffer.concat(buffers)
  }

  stream(refs: readonly PieceRef[], signal: AbortSignal): Readable {
    return Readable.from(this.read(refs, signal), { objectMode: false })
  }

  /** Writes the bytes to the start of a file. */
  async gather(refs: readonly PieceRef[], target: PositionalFile, signal: AbortSignal): Promise<number> {
    let position = 0
    for await (const data of this.read(refs, signal)) {
      await target.write([data], position)
      position += data.length
    }
    return position
  }

  /** In the background: a piece that nobody names any more harms nobody. */
  discard(uploadId: string, generations: readonly number[]): void {
    if (generations.length === 0) return
    const removing = this.#storage()
      .remove(generations.map((generation) => keyOf(uploadId, generation)))
      .catch((error) => {
        const message = 'Pieces of an upload are removed when it has ended.'
        this.#parts.emit('warning', { code: 'CLEANUP_FAILED', message, error })
      })
      .finally(() => this.#removing.delete(removing))
    this.#removing.add(removing)
  }

  /** All that there is of an upload that has ended: what its record names, then what writers that died have left. */
  async removeAll(session: UploadSession): Promise<void> {
    const storage = this.#parts.options.storage.staging
    if (!storage) return
    const named = allPieces(session)
    if (named.length > 0) await storage.remove(named.map((generation) => keyOf(session.id, generation)))
    const strays: string[] = []
    for await (const { key } of storage.list(`${session.id}/`)) strays.push(key)
    if (strays.length > 0) await storage.remove(strays)
  }

  /** Removes pieces that are older than `age` ms and of no upload that `isKnown`; returns how many. */
  async removeStrays(age: number, isKnown: (uploadId: string) => Promise<boolean>): Promise<number> {
    const storage = this.#storage()
    const before = this.#parts.clock() - age
    const strays: string[] = []
    let last = { uploadId: '', known: false }
    for await (const { key, modifiedAt } of storage.list()) {
      // Whatever else lies there is not ours to remove.
      if (modifiedAt > before || !ownKey.test(key)) continue
      const uploadId = key.slice(0, key.indexOf('/'))
      if (uploadId !== last.uploadId) last = { uploadId, known: await isKnown(uploadId) }
      if (!last.known) strays.push(key)
    }
    if (strays.length > 0) await storage.remove(strays)
    return strays.length
  }

  async idle(): Promise<void> {
    await Promise.all(this.#removing)
  }

  #storage(): StagingStorage {
    const { staging } = this.#parts.options.storage
    // It was opened when the engine had another storage.
    if (!staging) throw new StorageUnavailableError()
    return staging
  }
}

function keyOf(uploadId: string, generation: number): string {
  return `${uploadId}/${generation.toString(36)}`
}

/** 52 random bits: of the pieces of one upload no two are the same, whoever makes them. */
function newGeneration(): number {
  const bytes = randomBytes(7)
  return 1 + ((bytes[6] ?? 0) & 15) * 2 ** 48 + bytes.readUIntBE(0, 6)
}

function lost(): never {
  throw new StorageUnavailableError(undefined, { code: 'STAGING_LOST' })
}
