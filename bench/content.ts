/** The bytes that are uploaded: the same in every run, and every chunk another, so that no mix-up goes unseen. */
import { createCipheriv, createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import type { Checksum, Load } from './messages.ts'

/** A chunk begins with the numbers of its file and of itself; the rest is the same for all, so that nothing is copied. */
const stampSize = 16
const templates = new Map<number, Buffer>()

/** Incompressible. */
function templateOf(chunkSize: number): Buffer {
  const known = templates.get(chunkSize)
  if (known) return known
  const cipher = createCipheriv('aes-256-ctr', Buffer.alloc(32, 7), Buffer.alloc(16))
  const template = cipher.update(Buffer.alloc(chunkSize))
  templates.set(chunkSize, template)
  return template
}

type Sizes = Pick<Load, 'size' | 'chunkSize'>
export type Range = readonly [from: number, to: number]

/** The bytes of a file from `from` up to but without `to`. */
export function* content({ chunkSize }: Sizes, file: number, [from, to]: Range): Generator<Buffer> {
  const template = templateOf(chunkSize)
  for (let at = from; at < to; ) {
    const index = Math.floor(at / chunkSize)
    const start = index * chunkSize
    const end = Math.min(to, start + chunkSize)
    if (at < start + stampSize) {
      const stamp = Buffer.alloc(stampSize)
      stamp.writeDoubleLE(file, 0)
      stamp.writeDoubleLE(index, 8)
      yield stamp.subarray(at - start, Math.min(end - start, stampSize))
    }
    if (end > start + stampSize) yield template.subarray(Math.max(at - start, stampSize), end - start)
    at = end
  }
}

export function countChunks({ size, chunkSize }: Sizes): number {
  return Math.ceil(size / chunkSize)
}

export function rangeOfChunk({ size, chunkSize }: Sizes, index: number): Range {
  return [index * chunkSize, Math.min(size, (index + 1) * chunkSize)]
}

/** As the routes of this package want it: `<algorithm>:<base64>`. */
export function checksumOf(algorithm: Checksum, sizes: Sizes, file: number, range: Range): string {
  const digest = algorithm === 'crc32' ? Buffer.alloc(4) : Buffer.from(sha256Of(content(sizes, file, range)), 'hex')
  if (algorithm === 'crc32') {
    let crc = 0
    for (const piece of content(sizes, file, range)) crc = crc32(piece, crc)
    digest.writeUInt32BE(crc)
  }
  return `${algorithm}:${digest.toString('base64')}`
}

const expected = new Map<string, string>()

export function expectedSha256(sizes: Sizes, file: number, range: Range = [0, sizes.size]): string {
  const name = [sizes.chunkSize, file, ...range].join()
  const digest = expected.get(name) ?? sha256Of(content(sizes, file, range))
  expected.set(name, digest)
  return digest
}

function sha256Of(pieces: Iterable<Buffer>): string {
  const hash = createHash('sha256')
  for (const piece of pieces) hash.update(piece)
  return hash.digest('hex')
}

/** Of a file, or of the numbered files in a folder, one after the other. */
export async function sha256OfStored(path: string, start = 0): Promise<string> {
  const hash = createHash('sha256')
  const isFolder = (await stat(path)).isDirectory()
  const names = isFolder ? (await readdir(path)).sort((a, b) => Number(a) - Number(b)) : ['.']
  for (const name of names) {
    const stream = createReadStream(join(path, name), { start, highWaterMark: 1024 * 1024 })
    for await (const piece of stream) hash.update(piece)
  }
  return hash.digest('hex')
}
