/** A server, a front and what the tests of the client ask of them. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'vitest'
import type { UploadOptions, UploadResult } from '../../src/client/types.ts'
import type { ChunkedUploadConfig } from '../../src/index.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { bytes, sha256 } from '../support/random.ts'
import { testServer } from '../support/server.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'
import { type FrontOptions, front } from './front.ts'

export const KiB = 1024
export const MiB = 1024 * KiB

/** Waits that no test has time for. */
export const fast = { retryDelay: 5, maxRetryDelay: 40 } satisfies UploadOptions

export async function stage(config: ChunkedUploadConfig & { errorHandler?: boolean } = {}, options: FrontOptions = {}) {
  const directory = tempFolder()
  const server = await testServer({ ...config, storage: new LocalStorageAdapter({ directory }) })
  const between = await front(server.url, options)
  return {
    server,
    directory,
    front: between,
    /** For the client: through the front, in small chunks. */
    to: { endpoint: between.endpoint, chunkSize: 64 * KiB, ...fast } satisfies UploadOptions,
    stored: () => filesBelow(join(directory, 'uploads')),
    async expectStored(result: UploadResult, data: Uint8Array) {
      expect(sha256(await readFile(join(directory, result.key ?? '')))).toBe(sha256(Buffer.from(data)))
      expect(result.size).toBe(data.length)
    },
  }
}

/** A line on which a chunk takes a while, so that there is a middle of an upload to stop in. */
export const slowLine: FrontOptions = {
  async intervene({ route }) {
    if (route === 'chunk') await pause(20)
    return undefined
  },
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** As from an `<input type="file">`. */
export function fileOf(data: Uint8Array, name = 'film.mp4', lastModified = 1_700_000_000_000): File {
  return new File([data as Uint8Array<ArrayBuffer>], name, { type: 'video/mp4', lastModified })
}

export function data(size: number, seed = 1): Buffer {
  return bytes(size, seed)
}

/** Waits until it is so. */
export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 2000; tries++) {
    if (await isSo()) return
    await pause(5)
  }
  throw new Error('it did not happen within 10 s')
}
