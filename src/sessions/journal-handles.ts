/**
 * Journal files that stay open between calls: those that were written to last, for some seconds. A change then takes one call
 * to Node's thread pool, the write; handing a call over costs far more than most of them take.
 *
 * Two questions are asked synchronously, and nothing else is: how long an open file is (`fstatSync`), and whether it is still
 * the one at its path, as it was (`statSync`), which opening it anew would have told. Neither waits for a disk: the file
 * that is open keeps itself and every folder of its path in the kernel's memory, unless somebody has removed it. That holds
 * for Linux and its own file systems, all the way up; with any other, no file stays open.
 */
import type { Stats } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { isOnLocalDisk, type SessionFileSystem } from './session-file-system.ts'

const defaultMaxFiles = 256
// A file is closed when it has not been used for this long, at the latest after twice as long, ms.
const defaultIdle = 5_000

export interface OpenFile {
  readonly handle: FileHandle
  /** Which file it is and who may open it; not known until it is kept. */
  readonly stats?: Stats
}

interface KeptFile extends Required<OpenFile> {
  readonly usedAt: number
}

const identity = ['dev', 'ino', 'mode', 'uid', 'gid'] as const

export class JournalHandles {
  readonly #fs: SessionFileSystem
  readonly #maxFiles: number
  readonly #idle: number
  // In the order of their last use. A file in use is not among them, so nothing closes it meanwhile.
  readonly #kept = new Map<string, KeptFile>()
  readonly #closing = new Set<Promise<void>>()
  #timer: NodeJS.Timeout | undefined
  #isLocal = false
  #closed = false
  #restUntil = 0

  constructor(fs: SessionFileSystem, { maxFiles = defaultMaxFiles, idle = defaultIdle } = {}) {
    this.#fs = fs
    this.#maxFiles = maxFiles
    this.#idle = idle
  }

  /** Finds out whether files of this folder may stay open. */
  async allowFor(folder: string): Promise<void> {
    this.#isLocal = await isOnLocalDisk(this.#fs, folder)
  }

  /** Length of the file, bytes, whatever became of its name. */
  async lengthOf(handle: FileHandle): Promise<number> {
    return (this.#isLocal ? this.#fs.fstatSync(handle.fd) : await handle.stat()).size
  }

  /** Length of the file at this path, bytes, if it is kept open and could be opened again; `null`: ask the slow way. */
  lengthAt(path: string): number | null {
    const kept = this.#kept.get(path)
    if (kept === undefined) return null
    try {
      const stats = this.#fs.statSync(path, { throwIfNoEntry: false })
      if (stats !== undefined && identity.every((key) => stats[key] === kept.stats[key])) return stats.size
    } catch {
      // The slow way meets the same error, and tells it.
    }
    void this.release(path)
    return null
  }

  /** The open file, to be used and kept again or closed, if it is still the one at this path. */
  take(path: string): OpenFile | undefined {
    if (this.lengthAt(path) === null) return undefined
    const kept = this.#kept.get(path)
    this.#kept.delete(path)
    return kept
  }

  /** @returns `false` when it cannot stay open: close it */
  keep(path: string, { handle, stats }: OpenFile): boolean {
    const usedAt = performance.now()
    if (!this.#isLocal || this.#closed || usedAt < this.#restUntil) return false
    const known = stats ?? this.#statsOf(handle)
    if (known === undefined) return false
    void this.release(path)
    this.#kept.set(path, { handle, stats: known, usedAt })
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= this.#maxFiles) break
      void this.release(oldest)
    }
    this.#timer ??= setTimeout(() => this.#releaseIdle(), this.#idle).unref()
    return true
  }

  /** The file has another name now. */
  rename(from: string, to: string): void {
    const kept = this.#kept.get(from)
    if (kept === undefined) return
    this.#kept.delete(from)
    this.#kept.set(to, kept)
  }

  async release(path: string): Promise<void> {
    const kept = this.#kept.get(path)
    if (kept === undefined) return
    this.#kept.delete(path)
    // What was written is written; a failing close takes nothing back.
    const closing = kept.handle.close().catch(() => {})
    this.#closing.add(closing)
    await closing
    this.#closing.delete(closing)
  }

  /**
   * There are no descriptors left: gives back those of the files that are not in use, and takes no more for a while.
   * @returns whether there were any
   */
  async makeRoom(): Promise<boolean> {
    this.#restUntil = performance.now() + this.#idle
    const hadSome = this.#kept.size + this.#closing.size > 0
    await this.#releaseAll()
    return hadSome
  }

  /** Closes all of them. From now on no file stays open. */
  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    await this.#releaseAll()
  }

  #statsOf(handle: FileHandle): Stats | undefined {
    try {
      return this.#fs.fstatSync(handle.fd)
    } catch {
      return undefined
    }
  }

  async #releaseAll(): Promise<void> {
    for (const path of this.#kept.keys()) void this.release(path)
    await Promise.all(this.#closing)
  }

  #releaseIdle(): void {
    this.#timer = undefined
    const now = performance.now()
    for (const [path, { usedAt }] of this.#kept) {
      if (usedAt + this.#idle <= now) void this.release(path)
    }
    if (this.#kept.size > 0) this.#timer = setTimeout(() => this.#releaseIdle(), this.#idle).unref()
  }
}
