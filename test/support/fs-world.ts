/** One upload on folders of its own, for sweeps that break the file system under it and look at what is left. */
import { mkdirSync } from 'node:fs'
import { lutimes, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'vitest'
import { createUploadEngine, type UploadEngineOptions } from '../../src/create-upload-engine.ts'
import { allChunks } from '../../src/engine/chunk-map.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { StorageAdapter, UploadEngine } from '../../src/types.ts'
import { streamOf } from './engine.ts'
import { bytes, cut, sha256 } from './random.ts'
import { filesBelow } from './temp-folder.ts'

/** `local` takes files over by rename, `plain` is streamed to, `memory` and `parts` keep nothing on the disk. */
export type StorageKind = 'local' | 'plain' | 'memory' | 'parts'

const day = 24 * 60 * 60_000
export const protocol = 'native'
export const fileSize = 9_000
export const chunkSize = 3_000

export class World {
  readonly tempDir: string
  readonly directory: string
  readonly storage: StorageAdapter
  readonly file: Buffer
  readonly chunks: Buffer[]
  /** What must be there, by index: acknowledged. */
  readonly acknowledged = new Set<number>()
  /** Of an upload that is appended to: where its acknowledged bytes end. */
  offset = 0
  id = ''
  #options: Partial<UploadEngineOptions>
  readonly #engines: UploadEngine[] = []

  constructor(folder: string, kind: StorageKind, options: Partial<UploadEngineOptions> = {}) {
    this.tempDir = join(folder, 'temp')
    this.directory = join(folder, 'stored')
    mkdirSync(this.directory, { recursive: true, mode: 0o700 })
    this.storage = storageOf(kind, this.directory)
    this.#options = { durability: 'power', ...options }
    this.file = bytes(fileSize, 5)
    this.chunks = cut(this.file, chunkSize)
  }

  get folders(): string[] {
    return [this.tempDir, this.directory]
  }

  /** A server's engine; each one is another process as far as the folders are concerned. */
  open(more: Partial<UploadEngineOptions> = {}): UploadEngine {
    const engine = createUploadEngine({ ...this.#options, ...more, storage: this.storage, tempDir: this.tempDir })
    this.#engines.push(engine)
    return engine
  }

  async close(): Promise<void> {
    for (const engine of this.#engines.splice(0)) await engine.close({ timeout: 2_000 })
  }

  async create(engine: UploadEngine, more: Partial<Parameters<UploadEngine['create']>[0]> = {}): Promise<void> {
    const request = { fileName: 'file.bin', totalSize: fileSize, protocol, ...more }
    this.id = (await engine.create(request)).session.id
  }

  get ref() {
    return { uploadId: this.id, protocol }
  }

  async write(engine: UploadEngine, index: number, data = this.chunks[index] as Buffer): Promise<void> {
    await engine.writeChunk({ ...this.ref, index, body: streamOf(data), size: data.length })
    this.acknowledged.add(index)
  }

  async append(engine: UploadEngine, offset: number, size: number): Promise<void> {
    const body = streamOf(this.file.subarray(offset, offset + size))
    this.offset = (await engine.append({ ...this.ref, offset, body, size })).offset
  }

  /** Which chunks the record has, after a look that they are at least the acknowledged ones. */
  async received(engine: UploadEngine): Promise<Set<number>> {
    const session = await engine.get(this.ref)
    const received = new Set<number>()
    for (const { index, size } of allChunks(session.chunks)) {
      expect(size, `size of chunk ${index}`).toBe(this.chunks[index]?.length)
      received.add(index)
    }
    for (const index of this.acknowledged) expect(received.has(index), `acknowledged chunk ${index}`).toBe(true)
    return received
  }

  /** Sends what the record does not have, and only that: what it has must be whole. */
  async sendRest(engine: UploadEngine): Promise<void> {
    const received = await this.received(engine)
    for (const index of this.chunks.keys()) if (!received.has(index)) await this.write(engine, index)
  }

  /** Completes; one object with the bytes of one of these files, and the staging of the upload is gone. */
  async complete(engine: UploadEngine, files: readonly Buffer[] = [this.file]): Promise<void> {
    const object = await engine.complete(this.ref)
    const again = await engine.complete(this.ref)
    expect(again).toEqual(object)
    const stored = await this.read(object.key)
    expect(files.map(sha256)).toContain(sha256(stored))
    expect(await this.objects()).toEqual([object.key])
    await engine.sweep()
    const left = await readdir(join(this.tempDir, 'staging', this.id)).catch(() => [])
    expect(left.filter((name) => name !== 'sums')).toEqual([])
  }

  async read(key: string): Promise<Buffer> {
    if (this.storage instanceof MemoryStorageAdapter) return this.storage.read(key) ?? Buffer.alloc(0)
    return readFile(join(this.directory, key))
  }

  /** The keys of everything that is stored. */
  async objects(): Promise<string[]> {
    if (this.storage instanceof MemoryStorageAdapter) return this.storage.keys()
    return (await filesBelow(this.directory)).filter((name) => !name.startsWith('.nexus-uploader/'))
  }

  /** Months later nothing is left but what was stored. */
  async expectNothingLeft(): Promise<void> {
    const objects = await this.objects()
    for (const days of [100, 200, 300, 400]) {
      await age(this.tempDir, days * day)
      const engine = this.open({ clock: () => Date.now() + days * day })
      await engine.sweep()
    }
    // The engines that were left alone here live on, with a mark or two for the next claim.
    const left = (await filesBelow(this.tempDir)).filter((name) => !name.startsWith('marks/'))
    expect(left).toEqual([])
    expect(await readdir(join(this.tempDir, 'staging'))).toEqual([])
    expect(await this.objects()).toEqual(objects)
    if (this.storage instanceof MemoryStorageAdapter) expect(this.storage.openMultipartUploads()).toEqual([])
  }
}

function storageOf(kind: StorageKind, directory: string): StorageAdapter {
  if (kind === 'memory') return new MemoryStorageAdapter({ multipart: false })
  if (kind === 'parts') return new MemoryStorageAdapter({ multipart: { minPartSize: 1_000, partSize: 2_000 } })
  const local = new LocalStorageAdapter({ directory, durability: 'power' })
  if (kind === 'local') return local
  return { upload: (...file) => local.upload(...file), remove: (key) => local.remove(key) }
}

/** Everything below the folder was last touched so many ms ago. */
export async function age(folder: string, by: number): Promise<void> {
  const then = new Date(Date.now() - by)
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    await lutimes(join(entry.parentPath, entry.name), then, then)
  }
}
