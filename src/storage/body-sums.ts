/** What goes ahead of a body, or is compared with what S3 says it holds. */
import { createHash, type Hash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { type SumThread, sumThread } from '../sums/sum-thread.ts'
import { asSourceError, type Body, piecesOf, wrongSize } from './s3-body.ts'

export interface Sums {
  /** As hex digits; `null` where there is none to be had (FIPS). */
  readonly md5: string | null
  /** 0 when it was not asked for. */
  readonly crc32: number
}

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

  of(bytes: Uint8Array, withCrc: boolean): Sums {
    const md5 = this.newHash()?.update(bytes).digest('hex') ?? null
    return { md5, crc32: withCrc ? crc32(bytes) : 0 }
  }

  /** Away from the event loop, when the bytes lie in one file. @throws SourceError */
  async ofBody(body: Body, withCrc: boolean, signal: AbortSignal): Promise<Sums> {
    const hash = this.newHash()
    const { path, size } = body
    if (!hash && !withCrc) return { md5: null, crc32: 0 }
    if (hash && typeof path === 'string' && path !== '') {
      const job = { pieces: [{ path, start: 0, size }], algorithms: withCrc ? ['md5', 'crc32'] : ['md5'] }
      const found = await this.#thread.digestsOf(job, signal).catch((error: unknown) => {
        throw asSourceError(error)
      })
      if (found && found.read < size) throw wrongSize(found.read, size)
      const [md5, crc] = found?.digests.map((digest) => Buffer.from(digest)) ?? []
      if (md5) return { md5: md5.toString('hex'), crc32: crc?.readUInt32BE() ?? 0 }
    }
    let crc = 0
    for await (const piece of piecesOf(body, signal)) {
      hash?.update(piece)
      if (withCrc) crc = crc32(piece, crc)
    }
    return { md5: hash?.digest('hex') ?? null, crc32: crc }
  }
}
