import { Readable } from 'node:stream'
import { afterEach } from 'vitest'
import { createUploadEngine, type UploadEngineOptions } from '../../src/create-upload-engine.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { StorageAdapter, UploadEngine } from '../../src/types.ts'
import { seeded } from './random.ts'
import { tempFolder } from './temp-folder.ts'

const engines: UploadEngine[] = []

afterEach(async () => {
  for (const engine of engines.splice(0)) await engine.close({ timeout: 1000 })
})

/** An engine on a temp folder, closed after the test. */
export function testEngine(options: Partial<UploadEngineOptions> & { storage?: StorageAdapter } = {}) {
  const tempDir = options.tempDir ?? tempFolder()
  const storage = options.storage ?? new MemoryStorageAdapter({ multipart: false })
  const engine = createUploadEngine({ ...options, storage, tempDir })
  engines.push(engine)
  return { engine, tempDir, storage, client: engineClient(engine) }
}

/** The verbs with what never changes filled in. */
export function engineClient(engine: UploadEngine) {
  const protocol = 'native'
  return {
    create: async (totalSize: number | null, more: { chunkSize?: number; checksum?: string; fileName?: string } = {}) =>
      (await engine.create({ fileName: 'file.bin', totalSize, protocol, ...more })).session.id,
    write: (
      uploadId: string,
      index: number,
      data: Buffer | Readable,
      more: { checksum?: string; signal?: AbortSignal; size?: number } = {},
    ) => engine.writeChunk({ uploadId, index, protocol, body: streamOf(data), ...more }),
    complete: (uploadId: string, checksum?: string) => engine.complete({ uploadId, protocol, checksum }),
    get: (uploadId: string) => engine.get({ uploadId, protocol }),
    abort: (uploadId: string) => engine.abort({ uploadId, protocol }),
  }
}

export function streamOf(data: Buffer | Readable): Readable {
  if (!Buffer.isBuffer(data)) return data
  const pieces: Buffer[] = []
  for (let at = 0; at < data.length; at += 60_000) pieces.push(data.subarray(at, at + 60_000))
  return Readable.from(pieces, { objectMode: false, highWaterMark: 64 * 1024 })
}

/** Runs the tasks with at most `width` under way. */
export async function parallel<Item>(width: number, items: readonly Item[], task: (item: Item) => Promise<unknown>) {
  const queue = items.values()
  const worker = async () => {
    for (const item of queue) await task(item)
  }
  await Promise.all(Array.from({ length: width }, worker))
}

export type Order = 'in order' | 'reversed' | 'shuffled' | '4 in parallel' | 'all at once'
export const orders: readonly Order[] = ['in order', 'reversed', 'shuffled', '4 in parallel', 'all at once']

/** Sends the chunks in the given order. */
export async function send(
  order: Order,
  chunks: readonly Buffer[],
  write: (index: number, data: Buffer) => Promise<unknown>,
) {
  const indexes = chunks.map((_, index) => index)
  const sequence =
    order === 'reversed' ? indexes.reverse() : order === 'shuffled' ? seeded(7).shuffle(indexes) : indexes
  const width = order === '4 in parallel' ? 4 : order === 'all at once' ? chunks.length : 1
  await parallel(width, sequence, (index) => write(index, chunks[index] as Buffer))
}
