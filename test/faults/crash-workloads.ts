/**
 * What a process does until it ends in the middle of it, and how the next one goes on. Everything that was acknowledged is
 * told to `say` at once, so that it is known whenever the process ends.
 */
import { existsSync, mkdirSync } from 'node:fs'
import { open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createUploadEngine } from '../../src/create-upload-engine.ts'
import { allChunks } from '../../src/engine/chunk-map.ts'
import { isNexusUploaderError } from '../../src/errors.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import type { MultipartStorage, PartBody, StorageAdapter, StoredPart, UploadEngine } from '../../src/types.ts'

/** What was acknowledged. */
export interface Ack {
  readonly what: 'created' | 'chunk' | 'appended' | 'completed' | 'aborted' | 'swept'
  readonly id?: string
  readonly index?: number
  /** Which bytes: those of the file, or the other ones. */
  readonly variant?: 'first' | 'other'
  readonly offset?: number
  readonly url?: string
}

export interface Folders {
  readonly tempDir: string
  readonly directory: string
}

export type StorageName = 'local' | 'plain' | 'parts'
export type Say = (ack: Ack) => void

export const fileSize = 9_000
export const chunkSize = 3_000
const protocol = 'native'
const hour = 60 * 60_000

/** Byte `i` of the file; the other bytes differ from it everywhere. */
export function fileBytes(variant: 'first' | 'other' = 'first'): Buffer {
  return Buffer.from(
    Array.from({ length: fileSize }, (_, i) => (i * 7 + (i >> 8) + (variant === 'first' ? 0 : 128)) & 255),
  )
}

export function chunkBytes(index: number, variant: 'first' | 'other' = 'first'): Buffer {
  return fileBytes(variant).subarray(index * chunkSize, (index + 1) * chunkSize)
}

const streamOf = (data: Buffer) => Readable.from([data], { objectMode: false })

export function storageOf(name: StorageName, directory: string): StorageAdapter {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const local = new LocalStorageAdapter({ directory })
  if (name === 'local') return local
  const plain = {
    upload: (...file: Parameters<StorageAdapter['upload']>) => local.upload(...file),
    remove: (key: string) => local.remove(key),
  }
  return name === 'plain' ? plain : { ...plain, multipart: new FolderMultipart(directory) }
}

/** A multipart storage that outlives the process: parts are files, and the object appears by rename. */
class FolderMultipart implements MultipartStorage {
  readonly minPartSize = 1_000
  readonly maxPartSize = 1_000_000
  readonly maxParts = 100
  readonly partSize = 2_000
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = directory
  }

  #folderOf(multipartId: string): string {
    return join(this.#directory, '.multipart', multipartId)
  }

  async create(fileKey: string): Promise<string> {
    const multipartId = `${encodeURIComponent(fileKey)}.${process.pid}.${Date.now()}.${Math.random().toString(36).slice(2)}`
    mkdirSync(this.#folderOf(multipartId), { recursive: true })
    return multipartId
  }

  async uploadPart({ multipartId }: { multipartId: string }, partNumber: number, body: PartBody): Promise<void> {
    const path = join(this.#folderOf(multipartId), `${partNumber}`)
    const handle = await open(`${path}.tmp`, 'w')
    await pipeline(body.open(), handle.createWriteStream())
    await rename(`${path}.tmp`, path)
  }

  async listParts({ multipartId }: { multipartId: string }): Promise<StoredPart[] | null> {
    const folder = this.#folderOf(multipartId)
    if (!existsSync(folder)) return null
    const names = (await readdir(folder)).filter((name) => /^\d+$/.test(name)).map(Number)
    const parts = names
      .sort((a, b) => a - b)
      .map(async (partNumber) => {
        const { size } = await stat(join(folder, `${partNumber}`))
        return { partNumber, size, etag: `${partNumber}` }
      })
    return Promise.all(parts)
  }

  async complete({ fileKey, multipartId }: { fileKey: string; multipartId: string }, parts: readonly StoredPart[]) {
    const folder = this.#folderOf(multipartId)
    const target = join(this.#directory, fileKey)
    if (!existsSync(folder)) return `/${fileKey}`
    const pieces = await Promise.all(parts.map(({ partNumber }) => readFile(join(folder, `${partNumber}`))))
    mkdirSync(join(target, '..'), { recursive: true })
    await writeFile(join(folder, 'whole'), Buffer.concat(pieces))
    await rename(join(folder, 'whole'), target)
    // At once, as with a real one: it is never half closed.
    await rename(folder, `${folder}.closed`)
    await rm(`${folder}.closed`, { recursive: true, force: true })
    return `/${fileKey}`
  }

  async abort({ fileKey, multipartId }: { fileKey: string; multipartId: string | null }): Promise<void> {
    const root = join(this.#directory, '.multipart')
    const names = await readdir(root).catch(() => [])
    const own = names.filter(
      (name) => name === multipartId || (!multipartId && name.startsWith(encodeURIComponent(fileKey))),
    )
    for (const name of own) await rm(join(root, name), { recursive: true, force: true })
  }
}

export function engineOn(folders: Folders, storage: StorageName, clock = () => Date.now()): UploadEngine {
  const { tempDir, directory } = folders
  return createUploadEngine({
    ...{ tempDir, storage: storageOf(storage, directory), clock },
    ...{ sessionTtl: 2 * hour, cleanupInterval: 500 * hour, completedTtl: hour },
  })
}

export interface Life {
  readonly engine: UploadEngine
  readonly folders: Folders
  readonly storage: StorageName
  readonly say: Say
  id: string
}

async function create(life: Life, totalSize: number | null, more: object = {}): Promise<void> {
  const { session } = await life.engine.create({ fileName: 'file.bin', totalSize, protocol, resumeKey: 'one', ...more })
  life.id = session.id
  life.say({ what: 'created', id: life.id })
}

async function write({ engine, id, say }: Life, index: number, variant: 'first' | 'other' = 'first'): Promise<void> {
  const data = chunkBytes(index, variant)
  await engine.writeChunk({ uploadId: id, protocol, index, body: streamOf(data), size: data.length })
  say({ what: 'chunk', id, index, variant })
}

async function append({ engine, id, say }: Life, from: number, to: number, totalSize?: number): Promise<void> {
  const body = streamOf(fileBytes().subarray(from, to))
  const { offset } = await engine.append({ uploadId: id, protocol, offset: from, body, size: to - from, totalSize })
  say({ what: 'appended', id, offset })
}

async function complete({ engine, id, say }: Life): Promise<void> {
  const { url } = await engine.complete({ uploadId: id, protocol })
  say({ what: 'completed', id, url })
}

export interface Workload {
  readonly name: string
  readonly storage: StorageName
  /** Before anything can happen to the process. */
  readonly before?: (life: Life) => Promise<void>
  readonly run: (life: Life) => Promise<void>
  /** Its bytes come one after the other, not in chunks. */
  readonly appends?: true
}

export const workloads: readonly Workload[] = [
  {
    ...{ name: 'chunks in their places, one of them twice, and complete', storage: 'local' },
    async run(life) {
      await create(life, fileSize, { chunkSize, recognizable: true })
      for (const index of [0, 1]) await write(life, index)
      await write(life, 1, 'other')
      for (const index of [0, 2]) await write(life, index)
      await complete(life)
    },
  },
  {
    ...{ name: 'chunks that come backwards, and complete through a stream', storage: 'plain' },
    async run(life) {
      await create(life, fileSize)
      for (const index of [2, 1, 0]) await write(life, index)
      await complete(life)
    },
  },
  {
    ...{ name: 'chunks that are sent on in parts', storage: 'parts' },
    async run(life) {
      await create(life, fileSize, { chunkSize })
      for (const index of [1, 0, 2]) await write(life, index)
      await complete(life)
    },
  },
  {
    ...{ name: 'appends', storage: 'local', appends: true },
    async run(life) {
      await create(life, null)
      await append(life, 0, 2_500)
      await append(life, 2_500, 4_000, fileSize)
      await append(life, 4_000, fileSize)
      await complete(life)
    },
  },
  {
    ...{ name: 'abort', storage: 'parts' },
    async before(life) {
      await create(life, fileSize)
      for (const index of [0, 2]) await write(life, index)
    },
    async run({ engine, id, say }) {
      await engine.abort({ uploadId: id, protocol })
      say({ what: 'aborted', id })
    },
  },
  {
    ...{ name: 'cleanup', storage: 'local' },
    async before(life) {
      const longAgo = { ...life, engine: engineOn(life.folders, life.storage, () => Date.now() - 3 * hour) }
      for (const resumeKey of ['idle 1', 'idle 2']) {
        await create({ ...longAgo, say: () => {} }, fileSize, { resumeKey })
        await write({ ...longAgo, say: () => {} }, 0).catch(() => {})
      }
      await longAgo.engine.close()
      await create(life, fileSize, { chunkSize })
      for (const index of [0, 2]) await write(life, index)
    },
    async run({ engine, say }) {
      await engine.sweep()
      say({ what: 'swept' })
    },
  },
]

/** What a process does that starts on folders in which another one was killed: as a client with the same file would. */
export async function goOn(workload: Workload, life: Life): Promise<void> {
  const { engine } = life
  await engine.sweep()
  if (life.id === '') await create(life, fileSize, workload.appends ? {} : { chunkSize })
  const session = await engine.get({ uploadId: life.id, protocol }).catch((error: unknown) => {
    if (isNexusUploaderError(error) && error.status === 410) return null
    throw error
  })
  if (session === null) return
  if (session.state === 'active' && !session.object) {
    if (workload.appends) {
      const { offset } = await engine.retrieveOffset({ uploadId: life.id, protocol })
      await append(life, offset, fileSize, fileSize)
    } else {
      const received = new Set(allChunks(session.chunks).map(({ index }) => index))
      for (const index of [0, 1, 2]) if (!received.has(index)) await write(life, index)
    }
  }
  await complete(life)
}
