/** CRC-32 and size of each chunk of an upload, 8 bytes at 8 × index, in one file beside its bytes. */
import { constants as flags } from 'node:fs'
import { open, readFile } from 'node:fs/promises'

const noFollow = flags.O_NOFOLLOW ?? 0
const recordSize = 8

export class ChunkSums {
  readonly #pathOf: (uploadId: string) => string
  readonly #durable: boolean

  constructor(pathOf: (uploadId: string) => string, durable: boolean) {
    this.#pathOf = pathOf
    this.#durable = durable
  }

  async write(uploadId: string, index: number, size: number, crc: number): Promise<void> {
    const handle = await open(this.#pathOf(uploadId), flags.O_RDWR | flags.O_CREAT | noFollow, 0o600)
    try {
      const record = Buffer.alloc(recordSize)
      record.writeUInt32LE(crc, 0)
      record.writeUInt32LE(size % 2 ** 32, 4)
      await handle.write(record, 0, recordSize, index * recordSize)
      if (this.#durable) await handle.datasync()
    } finally {
      await handle.close()
    }
  }

  /** CRC-32 of a chunk that was written earlier; `null` when none is known. */
  async read(uploadId: string, index: number, size: number): Promise<number | null> {
    const handle = await open(this.#pathOf(uploadId), flags.O_RDONLY | noFollow).catch(ifMissing)
    if (!handle) return null
    try {
      const record = Buffer.alloc(recordSize)
      const { bytesRead } = await handle.read(record, 0, recordSize, index * recordSize)
      return bytesRead === recordSize ? crcIn(record, 0, size) : null
    } finally {
      await handle.close()
    }
  }

  /** The same for all chunks, from one read. */
  async all(uploadId: string): Promise<(index: number, size: number) => number | null> {
    const records = await readFile(this.#pathOf(uploadId)).catch(ifMissing)
    return (index, size) => {
      const at = index * recordSize
      return records && at + recordSize <= records.length ? crcIn(records, at, size) : null
    }
  }
}

function crcIn(records: Buffer, at: number, size: number): number | null {
  return records.readUInt32LE(at + 4) === size % 2 ** 32 ? records.readUInt32LE(at) : null
}

function ifMissing(error: { code?: unknown }): null {
  if (error.code === 'ENOENT') return null
  throw error
}
