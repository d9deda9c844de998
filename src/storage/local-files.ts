/** What `LocalStorageAdapter` does with files, folders and their errors. */
import type { Stats } from 'node:fs'
import { chmod, type FileHandle, lstat, mkdir, open, readdir, realpath, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { isNexusUploaderError, LocalStorageError, type NexusUploaderError } from '../errors.ts'
import { privateFolder } from './local-options.ts'

export const temporaryPrefix = 'store-'
// Nothing writes to a temporary file for a whole day and then goes on: its process was killed.
const abandonedAfter = 24 * 60 * 60 * 1000
// Many small buffers go out as one write. Beyond 1 MiB a write gets no cheaper; the count bounds what one-byte buffers
// cost in memory.
export const batchBytes = 1024 * 1024
const batchBuffers = 512

export function wrongSize(): LocalStorageError {
  return new LocalStorageError('The file does not have the expected size. Nothing was stored; try again.')
}

export async function copyInto(handle: FileHandle, stream: Readable, size: number | null): Promise<void> {
  let total = 0
  let batch: Buffer[] = []
  let batched = 0
  for await (const chunk of stream as AsyncIterable<Uint8Array | string>) {
    const buffer =
      typeof chunk === 'string' ? Buffer.from(chunk) : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    total += buffer.length
    if (size !== null && total > size) throw wrongSize()
    batch.push(buffer)
    batched += buffer.length
    if (batched < batchBytes && batch.length < batchBuffers) continue
    await writeAll(handle, batch, batched)
    batch = []
    batched = 0
  }
  if (size !== null && total !== size) throw wrongSize()
  await writeAll(handle, batch, batched)
}

/** A disk that is nearly full takes a part of a write and says so only in the count. */
async function writeAll(handle: FileHandle, buffers: readonly Buffer[], bytes: number): Promise<void> {
  let rest = buffers
  let left = bytes
  while (left > 0) {
    const { bytesWritten } = await handle.writev(rest)
    if (bytesWritten === 0) throw new LocalStorageError()
    left -= bytesWritten
    if (left > 0) rest = [Buffer.concat(rest).subarray(bytesWritten)]
  }
}

export async function removeWhenFailing(path: string, work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (error) {
    await unlink(path).catch(ignore)
    throw error
  }
}

/** Removes what killed processes left half written. Best effort: it never stands in the way of an upload. */
export async function sweepAbandoned(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => [])
  for (const name of names.filter((entry) => entry.startsWith(temporaryPrefix))) {
    const path = join(folder, name)
    const file = await statIfThere(path).catch(() => null)
    if (file && Date.now() - file.mtimeMs > abandonedAfter) await unlink(path).catch(ignore)
  }
}

/** Whether it was missing and is there now. */
export async function makeOneFolder(path: string, mode: number): Promise<boolean> {
  try {
    await mkdir(path, { mode })
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw error
  }
  // Permissions that were asked for are not narrowed by the umask.
  if (mode !== privateFolder) await chmod(path, mode)
  return true
}

export async function isFileOfSize(path: string, size: number | null): Promise<boolean> {
  const file = await statIfThere(path)
  return file?.isFile() === true && file.size === size
}

async function statIfThere(path: string): Promise<Stats | null> {
  return lstat(path).catch(nullWhenMissing)
}

export async function realpathIfThere(path: string): Promise<string | null> {
  return realpath(path).catch(nullWhenMissing)
}

function nullWhenMissing(error: unknown): null {
  if (codeOf(error) === 'ENOENT') return null
  throw error
}

export async function syncFile(path: string): Promise<void> {
  const handle = await open(path, 'r+')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** The folder, if it is not there, and those above it that are not. */
export async function missingFolders(path: string): Promise<string[]> {
  const missing: string[] = []
  for (
    let folder = path;
    (await statIfThere(folder)) === null && dirname(folder) !== folder;
    folder = dirname(folder)
  ) {
    missing.push(folder)
  }
  return missing
}

export async function syncFolder(path: string): Promise<void> {
  // Windows cannot open a folder; its file system journals names by itself.
  if (process.platform === 'win32') return
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

const statusByErrno: ReadonlyMap<string, number> = new Map([
  ['ENOSPC', 507],
  ['EDQUOT', 507],
  ['EMFILE', 503],
  ['ENFILE', 503],
  ['EROFS', 503],
  ['EACCES', 503],
  ['EBUSY', 503],
  ['EIO', 503],
])

export function toStorageError(cause: unknown): NexusUploaderError {
  if (isNexusUploaderError(cause)) return cause
  const status = statusByErrno.get(codeOf(cause) ?? '') ?? 502
  if (status !== 507) return new LocalStorageError(undefined, { status, cause })
  return new LocalStorageError('There is no room for this file right now. Try again later.', {
    status,
    cause,
    retryAfter: 30,
  })
}

export function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code
  return typeof code === 'string' ? code : undefined
}

export function ignore(): void {}
