import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import fs from 'fs-extra'
import type { ObjectInfo, StorageAdapter } from '../../src/types.ts'

export const mime = 'application/octet-stream'

export interface Sandbox {
  /** Everything of one test is in here. */
  readonly folder: string
  /** What the adapter stores into; not there yet. */
  readonly directory: string
  remove(): Promise<void>
}

export async function makeSandbox(): Promise<Sandbox> {
  const folder = await mkdtemp(join(tmpdir(), 'sandbox-'))
  return { folder, directory: join(folder, 'served'), remove: () => fs.remove(folder) }
}

export function infoOf(size: number | null, more: Partial<ObjectInfo> = {}): ObjectInfo {
  const uploadId = '0f0e1d0c-0b0a-4999-8888-777766665555'
  return { size, fileName: 'a.bin', mimeType: mime, uploadId, metadata: {}, ...more }
}

export function storeBytes(
  adapter: StorageAdapter,
  key: string,
  bytes: string | Buffer = 'bytes',
  size: number | null = null,
): Promise<string> {
  return adapter.upload(key, Readable.from([Buffer.from(bytes)]), mime, infoOf(size))
}

/** A staged file, like the engine makes them. */
export async function stageBytes(folder: string, bytes: string | Buffer): Promise<string> {
  await mkdir(folder, { recursive: true })
  const path = join(folder, `staged-${randomBytes(6).toString('hex')}`)
  await writeFile(path, bytes, { mode: 0o600 })
  return path
}

/** Every path below the folder, links not followed, with `/` at the end of folders. */
export async function tree(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true })
  return entries
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length) + (entry.isDirectory() ? '/' : ''))
    .sort()
}

export async function modeOf(path: string): Promise<string> {
  return ((await stat(path)).mode & 0o777).toString(8)
}
