/**
 * The files in `tempDir` that hold bytes on their way to the storage.
 *
 *   staging/<upload id>/part-<n>        one file for each part, written at its offsets
 *   staging/<upload id>/chunk-<i>-<g>   a loose chunk: its place in the file is not known or not free yet
 *   staging/<upload id>/sums            CRC-32 and size of each chunk, 8 bytes at 8 × index
 *   staging/<upload id>/claims/         who touches which bytes
 *   staging/<upload id>/*.tmp           not yet anything
 *   marks/                              marks of claims between two uses
 */
import { randomBytes } from 'node:crypto'
import { constants as flags } from 'node:fs'
import {
  type FileHandle,
  link,
  lstat,
  mkdir,
  open,
  readdir,
  rmdir,
  stat,
  statfs,
  truncate,
  unlink,
} from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import fs from 'fs-extra'
import { StorageUnavailableError } from '../errors.ts'
import type { Durability, PartBody } from '../types.ts'
import { ChunkSums } from './chunk-sums.ts'
import {
  bytesIn,
  type FilePiece,
  fileBody,
  randomGeneration,
  readPieces,
  removeOthers,
  splitAt,
  syncFolder,
  writeAll,
} from './staged-files.ts'
import { TempFolder } from './temp-folder.ts'

const noFollow = flags.O_NOFOLLOW ?? 0
const copyBufferSize = 1024 * 1024
const sums = 'sums'

/** A file that takes bytes at positions. */
export interface PositionalFile {
  write(buffers: Buffer[], position: number): Promise<void>
  /** Makes it survive a power cut when the durability asks for that. */
  sync(): Promise<void>
  close(): Promise<void>
}

export class Staging {
  readonly root: string
  /** Where the marks of claims are parked. */
  readonly marks: string
  readonly sums: ChunkSums
  readonly #spool: string
  readonly #durable: boolean
  readonly #folder: TempFolder

  constructor(options: { tempDir: string; durability: Durability }) {
    this.root = join(options.tempDir, 'staging')
    this.marks = join(options.tempDir, 'marks')
    this.#spool = join(options.tempDir, 'spool')
    this.#durable = options.durability === 'power'
    this.#folder = new TempFolder(options.tempDir, [this.root, this.marks, this.#spool], this.#durable)
    this.sums = new ChunkSums((uploadId) => join(this.folderOf(uploadId), sums), this.#durable)
  }

  folderOf(uploadId: string): string {
    return join(this.root, uploadId)
  }

  claimsOf(uploadId: string): string {
    return join(this.root, uploadId, 'claims')
  }

  partPath(uploadId: string, partNumber: number): string {
    return join(this.folderOf(uploadId), `part-${partNumber}`)
  }

  /** Before every piece of work. @throws StorageUnavailableError when `tempDir` cannot be used */
  async prepare(): Promise<void> {
    await this.#folder.ready()
  }

  async createFolder(uploadId: string): Promise<void> {
    await mkdir(this.claimsOf(uploadId), { mode: 0o700, recursive: true })
  }

  /** The names in the upload's folder, and its own: whoever made it may not have come to that, or was killed before. */
  async #syncNames(uploadId: string): Promise<void> {
    if (!this.#durable) return
    await syncFolder(this.folderOf(uploadId))
    await syncFolder(this.root)
  }

  /**
   * The part files of a byte range as one file that is written from its start to its end; `existing` parts must be
   * there, others are made. A part that is behind is closed, so that its room is given back when it has been sent.
   */
  openParts(uploadId: string, partSize: number, existing: (partNumber: number) => boolean): PositionalFile {
    const open = new Map<number, Promise<FileHandle>>()
    const handleOf = (partNumber: number) => {
      const handle = open.get(partNumber) ?? this.#openPart(uploadId, partNumber, existing(partNumber))
      open.set(partNumber, handle)
      return handle
    }
    const sync = async () => {
      if (this.#durable) for (const handle of open.values()) await (await handle).datasync()
    }
    const leave = async (partNumber: number) => {
      if ([...open.keys()].every((other) => other >= partNumber)) return
      await sync()
      for (const [other, handle] of open) {
        if (other >= partNumber) continue
        open.delete(other)
        await (await handle).close()
      }
    }
    return {
      write: async (buffers, position) => {
        for (const piece of splitAt(buffers, position, partSize)) {
          await leave(piece.partNumber)
          await writeAll(await handleOf(piece.partNumber), piece.buffers, piece.position)
        }
      },
      sync,
      close: async () => {
        const handles = await Promise.allSettled(open.values())
        for (const result of handles) if (result.status === 'fulfilled') await result.value.close()
      },
    }
  }

  /** Losing a file that holds acknowledged bytes must be seen, not papered over with a new, empty one. */
  async #openPart(uploadId: string, partNumber: number, mustExist: boolean): Promise<FileHandle> {
    const path = this.partPath(uploadId, partNumber)
    if (mustExist) {
      return open(path, flags.O_WRONLY | noFollow).catch((cause) => {
        if (cause?.code !== 'ENOENT') throw cause
        throw new StorageUnavailableError(undefined, { code: 'STAGING_LOST', cause })
      })
    }
    const handle = await open(path, flags.O_WRONLY | flags.O_CREAT | noFollow, 0o600)
    await this.#syncNames(uploadId).catch(async (error) => {
      await handle.close()
      throw error
    })
    return handle
  }

  /** A file of its own in the upload's folder, or in the spool. */
  async openTemporary(uploadId: string | null): Promise<PositionalFile & { path: string }> {
    const folder = uploadId === null ? this.#spool : this.folderOf(uploadId)
    const path = join(folder, `${randomBytes(12).toString('hex')}.tmp`)
    const handle = await open(path, flags.O_WRONLY | flags.O_CREAT | flags.O_EXCL | noFollow, 0o600)
    return {
      path,
      write: (buffers, position) => writeAll(handle, buffers, position),
      sync: async () => {
        if (this.#durable) await handle.datasync()
      },
      close: () => handle.close(),
    }
  }

  loosePath(uploadId: string, index: number, generation: number): string {
    return join(this.folderOf(uploadId), `chunk-${index}-${generation}`)
  }

  /**
   * Gives a whole temporary file its name as a loose chunk and returns its generation: 1 for the first (so that equal
   * chunks share one run in the record), a random one for a chunk that takes the place of another: no two bodies
   * ever have the same index and generation.
   */
  async nameLoose(uploadId: string, path: string, index: number, first: boolean): Promise<number> {
    for (let generation = first ? 1 : randomGeneration(); ; generation = randomGeneration()) {
      try {
        await link(path, this.loosePath(uploadId, index, generation))
        await unlink(path)
        await this.#syncNames(uploadId)
        return generation
      } catch (error) {
        if ((error as { code?: unknown }).code !== 'EEXIST') throw error
      }
    }
  }

  async removeLoose(uploadId: string, index: number, generation: number): Promise<void> {
    await fs.remove(this.loosePath(uploadId, index, generation))
  }

  /** Copies `size` bytes of a file into another. */
  async copy(from: string, start: number, size: number, target: PositionalFile, position: number): Promise<void> {
    const source = await open(from, flags.O_RDONLY | noFollow)
    try {
      const buffer = Buffer.allocUnsafe(Math.min(size, copyBufferSize))
      for (let done = 0; done < size; ) {
        const { bytesRead } = await source.read(buffer, 0, Math.min(buffer.length, size - done), start + done)
        if (bytesRead === 0) throw new StorageUnavailableError(undefined, { code: 'STAGING_LOST' })
        await target.write([buffer.subarray(0, bytesRead)], position + done)
        done += bytesRead
      }
    } finally {
      await source.close()
    }
  }

  async discard(path: string): Promise<void> {
    await fs.remove(path)
  }

  /** The places in the part files of a byte range. */
  segments(uploadId: string, partSize: number, start: number, size: number): FilePiece[] {
    const segments: FilePiece[] = []
    for (let at = start; at < start + size; ) {
      const partNumber = Math.floor(at / partSize) + 1
      const end = Math.min(start + size, partNumber * partSize)
      segments.push({
        path: this.partPath(uploadId, partNumber),
        start: at - (partNumber - 1) * partSize,
        size: end - at,
      })
      at = end
    }
    return segments
  }

  partBody(uploadId: string, partNumber: number, size: number): PartBody {
    return fileBody(this.partPath(uploadId, partNumber), 0, size)
  }

  /** Bytes that lie in several files, one after the other. */
  joinedBody(pieces: readonly FilePiece[]): PartBody {
    const size = pieces.reduce((sum, piece) => sum + piece.size, 0)
    return { path: null, size, open: () => Readable.from(readPieces(pieces), { objectMode: false }) }
  }

  /** Size of a file in the staging, bytes; `null` when it is not there. */
  async sizeOf(path: string): Promise<number | null> {
    try {
      return (await stat(path)).size
    } catch (error) {
      if ((error as { code?: unknown }).code === 'ENOENT') return null
      throw error
    }
  }

  async ensureEmpty(path: string): Promise<void> {
    await (await open(path, flags.O_WRONLY | flags.O_CREAT | noFollow, 0o600)).close()
  }

  async truncate(path: string, size: number): Promise<void> {
    await truncate(path, size)
  }

  async removePart(uploadId: string, partNumber: number): Promise<void> {
    await fs.remove(this.partPath(uploadId, partNumber))
  }

  /** Removes everything of an upload but the sums of its chunks; `false` when nothing else was there. */
  keepSums(uploadId: string): Promise<boolean> {
    return removeOthers(this.folderOf(uploadId), sums)
  }

  /** Removes everything of an upload: mostly its parts have left already. */
  async remove(uploadId: string): Promise<void> {
    try {
      await rmdir(this.claimsOf(uploadId))
      await rmdir(this.folderOf(uploadId))
    } catch {
      await fs.remove(this.folderOf(uploadId))
    }
  }

  /** Ids and ages (ms since the last change) of the uploads that have a folder. */
  async list(): Promise<{ uploadId: string; age: number }[]> {
    const entries: { uploadId: string; age: number }[] = []
    for (const uploadId of await readdir(this.root)) {
      const info = await lstat(this.folderOf(uploadId)).catch(() => null)
      if (info?.isDirectory()) entries.push({ uploadId, age: Date.now() - info.mtimeMs })
    }
    return entries
  }

  /** Spooled bodies that nobody has written to for `age` ms. */
  async listSpooled(age: number): Promise<string[]> {
    const paths: string[] = []
    for (const name of await readdir(this.#spool)) {
      const path = join(this.#spool, name)
      const info = await lstat(path).catch(() => null)
      if (info?.isFile() && Date.now() - info.mtimeMs >= age) paths.push(path)
    }
    return paths
  }

  /** Bytes on disk under the staging folder and in the spool. */
  async usedBytes(): Promise<number> {
    let used = await bytesIn(this.#spool)
    for (const uploadId of await readdir(this.root).catch(() => [])) used += await bytesIn(this.folderOf(uploadId))
    return used
  }

  /** Bytes the file system has left for us. */
  async freeBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(this.root)
    return bavail * bsize
  }

  /** Hands the bytes of the pieces to `take`, in order. */
  async read(pieces: readonly FilePiece[], take: (data: Buffer) => void): Promise<void> {
    for await (const data of readPieces(pieces)) take(data)
  }

  async syncFile(path: string): Promise<void> {
    if (!this.#durable) return
    const handle = await open(path, flags.O_RDWR | noFollow)
    await handle.sync().finally(() => handle.close())
  }
}
