/** Files that are too big to hold in memory: made, hashed, damaged. */
import { createHash, randomFillSync } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { MiB } from './layout.ts'

export interface SourceFile {
  readonly name: string
  /** Bytes. */
  readonly size: number
  /** Hexadecimal. */
  readonly sha256: string
  readonly handle: FileHandle
}

/** A file of random bytes, open for reading. */
export async function makeSourceFile(path: string, size: number, signal: AbortSignal): Promise<SourceFile> {
  const handle = await open(path, 'w+')
  try {
    const hash = createHash('sha256')
    const block = Buffer.alloc(MiB)
    for (let at = 0; at < size; at += block.length) {
      signal.throwIfAborted()
      randomFillSync(block)
      const bytes = block.subarray(0, Math.min(block.length, size - at))
      hash.update(bytes)
      await handle.write(bytes, 0, bytes.length, at)
    }
    return { name: 'demo-video.bin', size, sha256: hash.digest('hex'), handle }
  } catch (error) {
    await handle.close()
    throw error
  }
}

export async function readRange({ handle }: SourceFile, start: number, size: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(size)
  const { bytesRead } = await handle.read(buffer, 0, size, start)
  if (bytesRead !== size) throw new Error('The source file is shorter than it was.')
  return buffer
}

export async function sha256Of(stream: AsyncIterable<Uint8Array>): Promise<{ size: number; sha256: string }> {
  const hash = createHash('sha256')
  let size = 0
  for await (const bytes of stream) {
    hash.update(bytes)
    size += bytes.length
  }
  return { size, sha256: hash.digest('hex') }
}

/** Changes one byte in the middle. */
export async function corruptFile(path: string): Promise<void> {
  const handle = await open(path, 'r+')
  try {
    const middle = Math.floor((await handle.stat()).size / 2)
    const byte = Buffer.alloc(1)
    await handle.read(byte, 0, 1, middle)
    byte.writeUInt8(byte.readUInt8() ^ 1)
    await handle.write(byte, 0, 1, middle)
  } finally {
    await handle.close()
  }
}
