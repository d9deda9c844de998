/** What goes ahead of a body, or is compared with what S3 says it holds. */
import { createHash, type Hash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { type SumThread, sumThread } from '../sums/sum-thread.ts'
import { asSourceError, type Body, piecesOf, wrongSize } from './s3-body.ts'

export interface Sums {
  /** As hex digits; `null` when it was not asked for, or where there is none to be had (FIPS). */
  readonly md5: string | null
  /** 0 when it was not asked for. */
  readonly crc32: number
}

/** Which of them. */
export type Wanted = Readonly<Record<keyof Sums, boolean>>

export class BodySums {
  readonly #thread: SumThread

  constructor(thread = sumThread) {
    this.#thread = thread
  }

  newHash(): Hash | null {
    try {
      return createHash('md5')
    } catch {
      return null
    }
  }

  of(bytes: Uint8Array, wanted: Wanted): Sums {
    const md5 = (wanted.md5 ? this.newHash() : null)?.update(bytes).digest('hex') ?? null
    return { md5, crc32: wanted.crc32 ? crc32(bytes) : 0 }
  }

  /** Away from the event loop, when the bytes lie in one file. @throws SourceError */
  async ofBody(body: Body, wanted: Wanted, signal: AbortSignal): Promise<Sums> {
    const hash = wanted.md5 ? this.newHash() : null
    const { path, size } = body
    const algorithms = [...(hash ? ['md5'] : []), ...(wanted.crc32 ? ['crc32'] : [])]
    if (algorithms.length === 0) return { md5: null, crc32: 0 }
    if (typeof path === 'string' && path !== '') {
      const job = { pieces: [{ path, start: 0, size }], algorithms }
      const found = await this.#thread.digestsOf(job, signal).catch((error: unknown) => {
        throw asSourceError(error)
      })
      if (found && found.read < size) throw wrongSize(found.read, size)
      if (found) {
        const digests = new Map(found.digests.map((digest, at) => [algorithms[at], Buffer.from(digest)]))
        return { md5: digests.get('md5')?.toString('hex') ?? null, crc32: digests.get('crc32')?.readUInt32BE() ?? 0 }
      }
    }
    let crc = 0
    for await (const piece of piecesOf(body, signal)) {
      hash?.update(piece)
      if (wanted.crc32) crc = crc32(piece, crc)
    }
    return { md5: hash?.digest('hex') ?? null, crc32: crc }
  }
}
