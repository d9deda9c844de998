/** The bytes that are uploaded: the same in every run, and every chunk another, so that no mix-up goes unseen. */
import { createCipheriv, createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'

/** A chunk without its index: incompressible, the same every time. */
export function chunkTemplate(chunkSize: number): Buffer {
  const cipher = createCipheriv('aes-256-ctr', Buffer.alloc(32, 7), Buffer.alloc(16))
  return cipher.update(Buffer.alloc(chunkSize))
}

/** Makes the template the chunk of that index, in place; the last chunk of a file is its first bytes. */
export function stamp(template: Buffer, index: number): Buffer {
  template.writeDoubleLE(index)
  return template
}

export function sizeOfChunk(index: number, size: number, chunkSize: number): number {
  return Math.min(chunkSize, size - index * chunkSize)
}

const expected = new Map<string, string>()

export function expectedSha256(size: number, chunkSize: number): string {
  const name = `${size}/${chunkSize}`
  const known = expected.get(name)
  if (known) return known
  const hash = createHash('sha256')
  const template = chunkTemplate(chunkSize)
  for (let index = 0; index * chunkSize < size; index++) {
    hash.update(stamp(template, index).subarray(0, sizeOfChunk(index, size, chunkSize)))
  }
  const digest = hash.digest('hex')
  expected.set(name, digest)
  return digest
}

export async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const piece of createReadStream(path, { highWaterMark: 1024 * 1024 })) hash.update(piece)
  return hash.digest('hex')
}
