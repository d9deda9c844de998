/** Request bodies on the server's side: read whole, checked against everything that came with them, then kept. */
import { createHash, randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, open, rm } from 'node:fs/promises'
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { S3Fault } from './s3-fault.ts'

/** Bytes that were received, in memory or in a file. */
export interface StoredBytes {
  readonly size: number
  /** Hexadecimal MD5. */
  readonly md5: string
  /** CRC32 that the client declared and we verified, base64. */
  readonly crc32: string | null
  /** The bytes from `start` up to but without `end`. */
  read(start: number, end: number): AsyncIterable<Buffer>
  discard(): Promise<void>
}

const UNSIGNED_TRAILER = 'STREAMING-UNSIGNED-PAYLOAD-TRAILER'

/** Reads the body. Throws an `S3Fault` when it is not what its headers say; then nothing is kept. */
export async function receiveBody(
  request: IncomingMessage,
  payload: string,
  folder: string | null,
): Promise<StoredBytes> {
  const { headers } = request
  if (payload.startsWith('STREAMING-') && payload !== UNSIGNED_TRAILER) throw new S3Fault('NotImplemented', payload)
  const chunked = payload === UNSIGNED_TRAILER
  if (!chunked && headers['content-length'] === undefined) throw new S3Fault('MissingContentLength')
  const digests = { md5: createHash('md5'), sha256: createHash('sha256'), sha1: createHash('sha1'), crc: 0 }
  const trailers: Record<string, string> = {}
  const sink = folder === null ? new MemorySink() : await FileSink.create(folder)
  let size = 0
  try {
    for await (const bytes of chunked ? dechunk(request, trailers) : (request as AsyncIterable<Buffer>)) {
      for (const hash of [digests.md5, digests.sha256, digests.sha1]) hash.update(bytes)
      digests.crc = crc32(bytes, digests.crc)
      size += bytes.length
      await sink.write(bytes)
    }
    const declared = Number(headers[chunked ? 'x-amz-decoded-content-length' : 'content-length'])
    if (size !== declared) throw new S3Fault('IncompleteBody')
    const sums = {
      md5: digests.md5.digest(),
      sha256: digests.sha256.digest(),
      sha1: digests.sha1.digest('base64'),
      crc32: Buffer.from(digests.crc.toString(16).padStart(8, '0'), 'hex').toString('base64'),
    }
    if (/^[0-9a-f]{64}$/.test(payload) && payload !== sums.sha256.toString('hex')) {
      throw new S3Fault('XAmzContentSHA256Mismatch')
    }
    checkDigests(
      { ...headers, ...trailers },
      { ...sums, md5: sums.md5.toString('base64'), sha256: sums.sha256.toString('base64') },
    )
    const declaresCrc = { ...headers, ...trailers }['x-amz-checksum-crc32'] !== undefined
    return { size, md5: sums.md5.toString('hex'), crc32: declaresCrc ? sums.crc32 : null, ...(await sink.finish()) }
  } catch (error) {
    await sink.discard()
    throw error
  }
}

type Sums = Readonly<Record<'md5' | 'sha256' | 'sha1' | 'crc32', string>>

function checkDigests(headers: IncomingHttpHeaders, sums: Sums): void {
  const md5 = headers['content-md5']
  if (md5 !== undefined) {
    if (Buffer.from(String(md5), 'base64').length !== 16) throw new S3Fault('InvalidDigest')
    if (md5 !== sums.md5) throw new S3Fault('BadDigest')
  }
  for (const [name, value] of Object.entries(headers)) {
    const algorithm = /^x-amz-checksum-(crc32|sha1|sha256|crc32c|crc64nvme|md5)$/.exec(name)?.[1]
    if (algorithm === undefined) continue
    if (!(algorithm in sums)) throw new S3Fault('NotImplemented', name)
    if (value !== sums[algorithm as keyof Sums]) throw new S3Fault('BadDigest', `${name} does not match`)
  }
}

/** Takes aws-chunked framing off: `size-in-hex CRLF bytes CRLF`, a chunk of size 0, then trailers. */
async function* dechunk(request: AsyncIterable<Buffer>, trailers: Record<string, string>): AsyncGenerator<Buffer> {
  let rest = Buffer.alloc(0)
  let left = -1
  let ended = false
  for await (const piece of request) {
    rest = Buffer.concat([rest, piece])
    for (;;) {
      if (left > 0) {
        const take = rest.subarray(0, left)
        rest = rest.subarray(take.length)
        left -= take.length
        if (take.length > 0) yield take
        if (left > 0) break
        left = -2
      }
      const lineEnd = rest.indexOf('\r\n')
      if (lineEnd < 0) break
      const line = rest.subarray(0, lineEnd).toString('latin1')
      rest = rest.subarray(lineEnd + 2)
      if (left === -2) {
        if (line !== '') throw new S3Fault('InvalidRequest', 'a chunk is longer than announced')
        left = -1
      } else if (ended) {
        const colon = line.indexOf(':')
        if (colon > 0) trailers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim()
      } else {
        if (!/^[0-9a-f]+$/i.test(line)) throw new S3Fault('InvalidRequest', 'aws-chunked framing is broken')
        left = Number.parseInt(line, 16)
        ended = left === 0
      }
    }
  }
  if (!ended) throw new S3Fault('IncompleteBody')
}

type Kept = Pick<StoredBytes, 'read' | 'discard'>

class MemorySink {
  readonly #chunks: Buffer[] = []

  async write(bytes: Buffer): Promise<void> {
    this.#chunks.push(Buffer.from(bytes))
  }

  async finish(): Promise<Kept> {
    const bytes = Buffer.concat(this.#chunks)
    return {
      async *read(start, end) {
        yield bytes.subarray(start, end)
      },
      discard: async () => {},
    }
  }

  async discard(): Promise<void> {}
}

class FileSink {
  readonly #path: string
  readonly #file: FileHandle

  constructor(path: string, file: FileHandle) {
    this.#path = path
    this.#file = file
  }

  static async create(folder: string): Promise<FileSink> {
    const path = join(folder, randomUUID())
    return new FileSink(path, await open(path, 'wx'))
  }

  async write(bytes: Buffer): Promise<void> {
    await this.#file.writeFile(bytes)
  }

  async finish(): Promise<Kept> {
    await this.#file.close()
    const path = this.#path
    return {
      read: (start, end) => (end > start ? createReadStream(path, { start, end: end - 1 }) : (async function* () {})()),
      discard: () => rm(path, { force: true }),
    }
  }

  async discard(): Promise<void> {
    await this.#file.close()
    await rm(this.#path, { force: true })
  }
}
