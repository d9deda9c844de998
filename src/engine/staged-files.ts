/** Single files and folders on the disk, as the staging needs them. */
import { randomBytes } from 'node:crypto'
import { createReadStream, constants as flags } from 'node:fs'
import { type FileHandle, lstat, open, readdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import fs from 'fs-extra'
import { StorageUnavailableError } from '../errors.ts'
import type { PartBody } from '../types.ts'

export async function bytesIn(folder: string): Promise<number> {
  let bytes = 0
  for (const name of await readdir(folder).catch(() => [])) {
    const info = await lstat(join(folder, name)).catch(() => null)
    if (info?.isFile()) bytes += info.blocks * 512
  }
  return bytes
}

/** Removes what a folder has besides the file `name`; `false` when there was nothing. */
export async function removeOthers(folder: string, name: string): Promise<boolean> {
  const found = (await fs.pathExists(folder)) ? await readdir(folder) : []
  const others = found.filter((other) => other !== name)
  for (const other of others) await fs.remove(join(folder, other))
  return others.length > 0
}

export function randomGeneration(): number {
  return 2 + randomBytes(6).readUIntBE(0, 6)
}

export async function ownFolder(path: string): Promise<void> {
  const info = await lstat(path)
  const foreign = process.getuid !== undefined && info.uid !== process.getuid()
  // Whoever may rename the folders in it can put others in their place.
  const shared = process.getuid !== undefined && (info.mode & 0o002) !== 0
  if (info.isDirectory() && !foreign && !shared) return
  const wish = 'must be a folder of the user that runs the server, no link, and not writable by everybody'
  throw new StorageUnavailableError(undefined, {
    code: 'TEMP_DIR_REFUSED',
    cause: new Error(`tempDir: ${path} ${wish}`),
  })
}

/** The folder, if it is not there, and those above it that are not. */
export async function missingFolders(path: string): Promise<string[]> {
  const missing: string[] = []
  for (let folder = path; !(await fs.pathExists(folder)) && dirname(folder) !== folder; folder = dirname(folder)) {
    missing.push(folder)
  }
  return missing
}

export async function syncFolder(path: string): Promise<void> {
  if (process.platform === 'win32') return
  const handle = await open(path, flags.O_RDONLY)
  await handle.sync().finally(() => handle.close())
}

/** `writev` may write less than it was given. */
export async function writeAll(handle: FileHandle, buffers: Buffer[], position: number): Promise<void> {
  const total = buffers.reduce((sum, buffer) => sum + buffer.length, 0)
  let { bytesWritten } = await handle.writev(buffers, position)
  while (bytesWritten < total) {
    const rest = Buffer.concat(buffers).subarray(bytesWritten)
    const more = await handle.write(rest, 0, rest.length, position + bytesWritten)
    bytesWritten += more.bytesWritten
  }
}

export function* splitAt(buffers: Buffer[], position: number, partSize: number) {
  let partNumber = Math.floor(position / partSize) + 1
  let at = position - (partNumber - 1) * partSize
  let piece: Buffer[] = []
  let pieceStart = at
  for (const buffer of buffers) {
    for (let rest = buffer; rest.length > 0; ) {
      const taken = rest.subarray(0, partSize - at)
      piece.push(taken)
      at += taken.length
      rest = rest.subarray(taken.length)
      if (at < partSize) continue
      yield { partNumber, buffers: piece, position: pieceStart }
      partNumber += 1
      at = 0
      pieceStart = 0
      piece = []
    }
  }
  if (piece.length > 0) yield { partNumber, buffers: piece, position: pieceStart }
}

/** Bytes of a file. */
export interface FilePiece {
  readonly path: string
  readonly start: number
  readonly size: number
}

/** @throws StorageUnavailableError when a piece is shorter than it must be */
export async function* readPieces(pieces: readonly FilePiece[]): AsyncGenerator<Buffer> {
  for (const { path, start, size } of pieces) {
    if (size === 0) continue
    let read = 0
    for await (const data of createReadStream(path, { start, end: start + size - 1, highWaterMark: 512 * 1024 })) {
      read += data.length
      yield data as Buffer
    }
    if (read < size) throw new StorageUnavailableError(undefined, { code: 'STAGING_LOST' })
  }
}

/** Whether the pieces, one after the other, are byte for byte what the file holds. */
export async function sameBytes(pieces: readonly FilePiece[], path: string): Promise<boolean> {
  const file = await open(path, flags.O_RDONLY | (flags.O_NOFOLLOW ?? 0))
  try {
    let position = 0
    for await (const data of readPieces(pieces)) {
      const other = Buffer.alloc(data.length)
      const { bytesRead } = await file.read(other, 0, other.length, position)
      if (bytesRead < data.length || !other.equals(data)) return false
      position += data.length
    }
    return true
  } finally {
    await file.close()
  }
}

/** Bytes of a file, to be sent as often as need be. */
export function fileBody(path: string, start: number, size: number): PartBody {
  const open = () => {
    if (size === 0) return Readable.from([], { objectMode: false })
    return createReadStream(path, { start, end: start + size - 1, highWaterMark: 512 * 1024 })
  }
  return { path: start === 0 ? path : null, size, open }
}
