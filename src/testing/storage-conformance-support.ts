/** What the tests of the storage suite are made of. */
import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import fs from 'fs-extra'
import type { ObjectInfo, PartBody, StorageAdapter } from '../types.ts'

/** The `test(name, run)` of a test runner. */
export type ConformanceTest = (name: string, run: () => Promise<void>) => unknown

/** A fresh adapter and a way to look behind it. */
export interface StorageFixture {
  readonly adapter: StorageAdapter
  /** The bytes of the object as readers of the storage see them; `null` when they see none. Not through the adapter. */
  read(key: string): Promise<Buffer | null>
  /** The key that a URL of the adapter leads to, decoded as a web server would. Without it, URLs are only compared. */
  urlToKey?(url: string): string
  cleanup?(): void | Promise<void>
}

/** What an adapter can do, and in what it may differ. Everything optional is strict by default. */
export interface StorageConformanceOptions {
  /** Whether the adapter has `uploadBody`. Default `false`. */
  readonly uploadBody?: boolean
  /** Whether the adapter has `remove`. */
  readonly remove: boolean
  /** Whether the adapter has `adoptFile`. */
  readonly adoptFile: boolean
  /** Whether the adapter has `multipart`. */
  readonly multipart: boolean
  /** Whether the adapter has `staging`. Default `false`. */
  readonly staging?: boolean
  /** `false` when `upload` stores a stream that does not have `info.size` bytes. Default `true`. */
  readonly checksSize?: boolean
  /** `false` when `upload` does not look at `info.signal`. Default `true`. */
  readonly honoursSignal?: boolean
  /** `false` when `complete` takes parts below `minPartSize` in the middle. Default `true`. */
  readonly refusesSmallParts?: boolean
  /** `false` when `complete` refuses to leave parts out that were sent. Default `true`. */
  readonly leavesPartsOut?: boolean
  /** `false` when `complete` takes a part that was replaced after it was listed. Default `true`. */
  readonly refusesReplacedParts?: boolean
  /** Size of the large file, bytes. Default 6 MiB + 1. */
  readonly largeSize?: number
  /** Longest time until an aborted call must have settled, ms. Default 5000. */
  readonly settleTime?: number
  /** Last parts of keys that the storage must take. Default: spaces, URL characters, quotes, several scripts. */
  readonly unusualNames?: readonly string[]
}

export type FixtureTest = (name: string, run: (fixture: StorageFixture) => Promise<void>) => void

export const MiB = 1024 * 1024

/** Random, so that two runs on one bucket never meet. */
export function newKey(name = 'file.bin'): string {
  return `conformance/${randomUUID()}-${name}`
}

export function bytesOf(size: number): Buffer {
  return randomBytes(size)
}

export function infoFor(size: number | null, signal?: AbortSignal): ObjectInfo {
  return {
    size,
    fileName: 'file.bin',
    mimeType: 'application/octet-stream',
    uploadId: randomUUID(),
    metadata: {},
    ...(signal && { signal }),
  }
}

/** The bytes as a stream, in pieces of `step` bytes. */
export function streamOf(bytes: Buffer, step = 64 * 1024): Readable {
  const pieces: Buffer[] = []
  for (let at = 0; at < bytes.length; at += step) pieces.push(bytes.subarray(at, at + step))
  return Readable.from(pieces, { objectMode: false })
}

/** Gives its bytes and then nothing, not even an end. */
export function stalled(bytes: Buffer): Readable {
  const stream = new Readable({ read() {} })
  stream.push(bytes)
  return stream
}

/** Gives its bytes and is destroyed before its end, like the body of a client that went away. */
export function cutOff(bytes: Buffer): Readable {
  let sent = false
  return new Readable({
    read() {
      if (sent) this.destroy()
      else this.push(bytes)
      sent = true
    },
  })
}

/** Megabytes of difference help nobody: on failure only the sizes are told. */
export async function assertObject(fixture: StorageFixture, key: string, bytes: Buffer): Promise<void> {
  const stored = await fixture.read(key)
  assert.ok(stored, `there is no object under ${key}`)
  assert.equal(stored.length, bytes.length, 'the object has another size than what was stored')
  assert.ok(stored.equals(bytes), 'the object has other bytes than what was stored')
}

export async function fails(call: Promise<unknown> | undefined): Promise<void> {
  assert.ok(call, 'the adapter does not have this method')
  await assert.rejects(call)
}

/** An answer that comes too late is a failure of its own, not a test that hangs. */
export async function failsWithin(ms: number, call: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), ms)
  })
  const outcome = await Promise.race([
    call.then(
      () => 'fulfilled',
      () => 'rejected',
    ),
    late,
  ])
  clearTimeout(timer)
  assert.equal(outcome, 'rejected')
}

export function stagingFolder(adapter: StorageAdapter): string {
  return adapter.stagingDir ?? tmpdir()
}

/** A folder inside `parent` that is gone when `run` settles. */
export async function withTemporaryFolder(parent: string, run: (folder: string) => Promise<void>): Promise<void> {
  await fs.ensureDir(parent, { mode: 0o700 })
  const folder = await mkdtemp(join(parent, 'conformance-'))
  try {
    await run(folder)
  } finally {
    await fs.remove(folder)
  }
}

/** The bytes as a part: a file in `folder`. */
export async function partBody(folder: string, bytes: Buffer): Promise<PartBody> {
  const path = join(folder, randomUUID())
  await writeFile(path, bytes)
  return { path, size: bytes.length, open: () => createReadStream(path) }
}
