/** Journal files on the disk: made, read, appended to and flushed. Which file is which is not known here. */
import { constants } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { JournalHandles, type OpenFile } from './journal-handles.ts'
import { hasCode, type SessionFileSystem } from './session-file-system.ts'
import { encodeLine, Journal, JournalDamage, type Line } from './session-journal.ts'

// Windows has no O_NOFOLLOW.
const noFollow = constants.O_NOFOLLOW ?? 0
const toRead = constants.O_RDONLY | noFollow
// Never O_CREAT: who comes late must not bring back a file that somebody removed. Readable, to see who was in between.
const toAppend = constants.O_RDWR | constants.O_APPEND | noFollow
const toRewrite = constants.O_RDWR | noFollow
const toMake = toAppend | constants.O_CREAT | constants.O_EXCL

export class SessionFiles {
  readonly fs: SessionFileSystem
  /** Whether everything is flushed to the disk before anybody is told of it. */
  readonly power: boolean
  /** Files that were written to last stay open. */
  readonly handles: JournalHandles
  /** Files of which a flush failed: the system has cast off what it was to write, and flushing again would not. */
  readonly #castOff = new Set<string>()

  constructor(fs: SessionFileSystem, power: boolean) {
    this.fs = fs
    this.power = power
    this.handles = new JournalHandles(fs)
  }

  /**
   * Makes the file, which must not exist, with this one line in it.
   * @returns its journal
   */
  async make(path: string, line: Line): Promise<Journal> {
    const bytes = encodeLine(line)
    const journal = new Journal()
    const write = async (handle: FileHandle) => {
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await handle.write(bytes, done)
        if (bytesWritten === 0) throw shortWrite()
        done += bytesWritten
      }
      if (this.power) await handle.sync()
      journal.foldOwn(line, bytes.length)
    }
    await this.#with(path, toMake, write, journal)
    return journal
  }

  /** Reads the whole file. `flush: false` for a look that nobody is told of. */
  async read(path: string, flush = true): Promise<Journal> {
    const journal = new Journal()
    await this.readMore(path, journal, flush)
    if (journal.version === null) throw damageIn(path, 'no record')
    return journal
  }

  /** Takes in what was appended since. */
  async readMore(path: string, journal: Journal, flush = true): Promise<void> {
    if (flush) await this.#rewrite(path)
    const take = async (handle: FileHandle) => {
      await this.#foldRest(path, handle, journal, await this.handles.lengthOf(handle))
      // The one who wrote it may not have flushed it yet, and may never.
      if (flush) await this.#flush(path, handle)
    }
    // Flushing needs a writable descriptor on some systems.
    await this.#with(path, this.power && flush ? toAppend : toRead, take, journal)
  }

  /** Length of the file, bytes. */
  async lengthOf(path: string): Promise<number> {
    return this.handles.lengthAt(path) ?? (await this.fs.stat(path)).size
  }

  /**
   * Appends the line with one write and finds out whether it counts. When it does not, `journal` has what came first.
   * After an error it is not known whether the line counts; `journal` must not be used any more.
   */
  async append(path: string, line: Line, journal: Journal): Promise<boolean> {
    const bytes = encodeLine(line)
    await this.#rewrite(path)
    const write = async (handle: FileHandle) => {
      const { bytesWritten } = await handle.write(bytes)
      const size = await this.handles.lengthOf(handle)
      const alone = bytesWritten === bytes.length && size === journal.seen + bytes.length
      const counts = alone
        ? journal.foldOwn(line, bytes.length)
        : await this.#foldRest(path, handle, journal, size, line.nonce)
      if (!counts && bytesWritten < bytes.length) throw shortWrite()
      await this.#flush(path, handle)
      return counts
    }
    return this.#with(path, toAppend, write, journal)
  }

  /** Removes the file; a missing one is no error. */
  async remove(path: string): Promise<void> {
    this.#castOff.delete(path)
    await this.handles.release(path)
    try {
      await this.fs.unlink(path)
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return
      // Not made by us: a folder under the name of a file.
      if (!hasCode(error, 'EISDIR', 'EPERM')) throw error
      await this.fs.rm(path, { recursive: true, force: true })
    }
  }

  /** Removes the folder if it is empty. */
  async removeFolder(path: string): Promise<void> {
    try {
      await this.fs.rmdir(path)
    } catch (error) {
      if (!hasCode(error, 'ENOENT', 'ENOTEMPTY', 'EEXIST', 'ENOTDIR')) throw error
    }
  }

  /** Makes the names in the folder survive a power cut. Windows cannot and need not. */
  async flushFolder(path: string): Promise<void> {
    if (!this.power || process.platform === 'win32') return
    await this.#with(path, constants.O_RDONLY, (handle) => handle.sync())
  }

  async #flush(path: string, handle: FileHandle): Promise<void> {
    if (!this.power) return
    try {
      await handle.datasync()
    } catch (error) {
      this.#castOff.add(path)
      throw error
    }
  }

  /** Bytes that are there never change, so writing them once more disturbs nobody who appends meanwhile. */
  async #rewrite(path: string): Promise<void> {
    if (!this.#castOff.has(path)) return
    await this.#with(path, toRewrite, async (handle) => {
      const bytes = await handle.readFile()
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, done)
        if (bytesWritten === 0) throw shortWrite()
        done += bytesWritten
      }
      await handle.datasync()
    })
    this.#castOff.delete(path)
  }

  /**
   * Uses the file and closes it.
   * @param journal what is folded from it: as long as that goes on, the file stays open for the next one who appends
   */
  async #with<T>(path: string, flags: number, use: (handle: FileHandle) => Promise<T>, journal?: Journal): Promise<T> {
    let file: OpenFile | undefined = journal && this.handles.take(path)
    const mayStay = file !== undefined || (journal !== undefined && (flags & constants.O_APPEND) !== 0)
    try {
      file ??= { handle: await this.withRoom(() => this.fs.open(path, flags, 0o600)) }
      const result = await use(file.handle)
      if (mayStay && journal?.status === 'live' && this.handles.keep(path, file)) file = undefined
      return result
    } catch (error) {
      throw hasCode(error, 'EISDIR', 'ELOOP') ? damageIn(path, 'no file') : error
    } finally {
      // What was to be done is done and checked; a failing close takes nothing back.
      await file?.handle.close().catch(() => {})
    }
  }

  /** What needs a descriptor does not fail because files are kept open. */
  async withRoom<T>(open: () => Promise<T>): Promise<T> {
    try {
      return await open()
    } catch (error) {
      if (!hasCode(error, 'EMFILE', 'ENFILE') || !(await this.handles.makeRoom())) throw error
      return open()
    }
  }

  async #foldRest(path: string, handle: FileHandle, journal: Journal, size: number, nonce?: string): Promise<boolean> {
    if (size < journal.seen) throw damageIn(path, 'the file has become shorter')
    const bytes = Buffer.allocUnsafe(size - journal.offset)
    let filled = 0
    while (filled < bytes.length) {
      const { bytesRead } = await handle.read(bytes, filled, bytes.length - filled, journal.offset + filled)
      if (bytesRead === 0) throw damageIn(path, 'the file has become shorter')
      filled += bytesRead
    }
    try {
      return journal.fold(bytes, nonce)
    } catch (error) {
      if (error instanceof JournalDamage) error.path = path
      throw error
    }
  }
}

export function damageIn(path: string, reason: string): JournalDamage {
  const error = new JournalDamage(reason)
  error.path = path
  return error
}

/** A disk that takes only a part of a write has no room for the rest, even if it does not say so. */
function shortWrite(): Error {
  return Object.assign(new Error('The file took only a part of the bytes.'), { code: 'ENOSPC' })
}
