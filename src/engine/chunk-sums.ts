/** CRC-32 and size of each chunk of an upload, in one file: 8 bytes at 8 × index. */
import { constants as flags } from 'node:fs'
import { open } from 'node:fs/promises'

const recordSize = 8
const noFollow = flags.O_NOFOLLOW ?? 0

export interface ChunkSum {
  readonly index: number
  readonly size: number
  readonly crc: number
}

export async function writeSum(path: string, { index, size, crc }: ChunkSum, durable: boolean): Promise<void> {
  const handle = await open(path, flags.O_RDWR | flags.O_CREAT | noFollow, 0o600)
  try {
    const record = Buffer.alloc(recordSize)
    record.writeUInt32LE(crc, 0)
    record.writeUInt32LE(size % 2 ** 32, 4)
    await handle.write(record, 0, recordSize, index * recordSize)
    if (durable) await handle.datasync()
  } finally {
    await handle.close()
  }
}

/** `null` when none is known for a chunk of this size. */
export async function readSum(path: string, index: number, size: number): Promise<number | null> {
  const handle = await open(path, flags.O_RDONLY | noFollow).catch((error) => {
    if (error?.code !== 'ENOENT') throw error
    return null
  })
  if (!handle) return null
  try {
    const record = Buffer.alloc(recordSize)
    const { bytesRead } = await handle.read(record, 0, recordSize, index * recordSize)
    const isKnown = bytesRead === recordSize && record.readUInt32LE(4) === size % 2 ** 32
    return isKnown ? record.readUInt32LE(0) : null
  } finally {
    await handle.close()
  }
}
