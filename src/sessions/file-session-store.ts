import { join, resolve } from 'node:path'
import { fromFileSystemError, StorageUnavailableError } from '../errors.ts'
import type { Durability, SessionRecord, SessionStore } from '../types.ts'
import { checkSameDirectory, type DirectoryIdentity, openPrivateDirectory } from './private-directory.ts'
import { SessionCache } from './session-cache.ts'
import { hasCode, nodeFileSystem, type SessionFileSystem } from './session-file-system.ts'
import { SessionFiles } from './session-files.ts'
import { type FoundRecord, SessionFolders } from './session-folders.ts'
import { type IndexEntry, SessionIndex } from './session-index.ts'
import { JournalDamage, JournalNewer } from './session-journal.ts'
import { checkNextVersion, isSessionId, newerState, unreadableState } from './session-record.ts'

export interface FileSessionStoreOptions {
  /**
   * The folder for the records. Made with mode 0700 when it is missing; must be on a local disk, and not a symbolic
   * link, another user's or writable by everybody.
   */
  directory: string
  /** What a stored change survives: the kill of the process, or also a power cut. Default: `process`. */
  durability?: Durability
  /** @internal The file system, for tests. */
  fs?: SessionFileSystem
  /** @internal Bytes after which a journal is begun anew. */
  journalLimit?: number
}

// A journal is read whole when a process first needs it, and copied when it is begun anew: 64 KiB is little to read and
// enough to make copying rare. With large records it is the ratio that keeps it rare.
const defaultJournalLimit = 64 * 1024
const minGrowth = 4
const leftoverAge = 60 * 60_000
const maxAttempts = 200

/**
 * Keeps session records as files. They survive restarts and the kill of a process at any moment; several processes of
 * one host may use one folder at the same time.
 *
 * Every method fails with `StorageUnavailableError` (503) when the disk does, with the code `STATE_UNREADABLE` when
 * a record is damaged (it stays, with a second name in `quarantine/`) and `STATE_NEWER` when a newer release wrote it;
 * and with `InsufficientStorageError` (507) when the disk is full. A change that failed may have been stored
 * or not, never by half.
 */
export class FileSessionStore implements SessionStore {
  readonly shared = false
  readonly #directory: string
  readonly #fs: SessionFileSystem
  readonly #files: SessionFiles
  readonly #folders: SessionFolders
  readonly #index: SessionIndex
  readonly #cache = new SessionCache<FoundRecord>()
  readonly #journalLimit: number
  readonly #tails = new Map<string, Promise<void>>()
  #opening: Promise<DirectoryIdentity> | undefined

  /** @throws TypeError when an option is not usable */
  constructor(options: FileSessionStoreOptions) {
    const { directory, durability = 'process', fs = nodeFileSystem, journalLimit = defaultJournalLimit } = options
    if (typeof directory !== 'string' || directory === '') {
      throw new TypeError(`directory must be the path of a folder, not ${JSON.stringify(directory)}`)
    }
    if (durability !== 'process' && durability !== 'power') {
      throw new TypeError(`durability must be 'process' or 'power', not ${JSON.stringify(durability)}`)
    }
    this.#directory = resolve(directory)
    this.#fs = fs
    this.#files = new SessionFiles(fs, durability === 'power')
    this.#folders = new SessionFolders(this.#files, this.#directory)
    this.#journalLimit = journalLimit
    this.#index = new SessionIndex({ list: () => this.#list(), look: (id, known) => this.#look(id, known) })
  }

  /** @throws TypeError when the record's id is no session id */
  async create(record: SessionRecord): Promise<boolean> {
    if (!isSessionId(record.id)) throw new TypeError(`No session id: ${JSON.stringify(record.id)}`)
    const json = JSON.stringify(record)
    const key = { id: record.id, version: record.version }
    return this.#run(key.id, async () => {
      const found = await this.#withDirectory(() => this.#folders.place(key, json))
      if (found === null) return false
      this.#remember(found)
      await this.#letGoOfEnded(found)
      return true
    })
  }

  async get(id: string): Promise<SessionRecord | null> {
    if (!isSessionId(id)) return null
    return this.#run(id, async () => (await this.#current(id))?.record ?? null)
  }

  /** @throws TypeError when `next.version` is not `expectedVersion + 1` */
  async replace(next: SessionRecord, expectedVersion: number): Promise<boolean> {
    checkNextVersion(next, expectedVersion)
    const { id, version } = next
    if (!isSessionId(id)) return false
    const json = JSON.stringify(next)
    return this.#run(id, async () => {
      for (let attempt = 0; attempt < maxAttempts; attempt++) {
        const found = await this.#current(id, expectedVersion)
        if (found === null || found.journal.version !== expectedVersion) return false
        if (found.journal.status === 'sealed') await this.#moveOn(found)
        else if (await this.#folders.append(found, 'r', version, json)) {
          this.#remember(found)
          await this.#compact(found)
          await this.#letGoOfEnded(found)
          return true
        } else if (found.journal.status === 'live' && found.journal.version !== expectedVersion) return false
        else this.#cache.delete(id)
      }
      throw new StorageUnavailableError()
    })
  }

  async delete(id: string): Promise<void> {
    if (!isSessionId(id)) return
    await this.#run(id, async () => {
      this.#cache.delete(id)
      for (let attempt = 0; attempt < maxAttempts; attempt++) {
        const found = await this.#findToDelete(id)
        // Nothing, or what a `delete` left that was killed.
        if (found === null) {
          await this.#folders.clear(id, [])
          return this.#index.forget(id)
        }
        const buried = await this.#folders.bury(found).catch(() => 'failed' as const)
        // No room for the mark, or no way to write it: removing the files may still work, and makes room.
        if (buried === false) continue
        await this.#folders.clear(id, [found.incarnation], buried === true)
        return this.#index.forget(id)
      }
      throw new StorageUnavailableError()
    })
  }

  /** Reads every record, 32 at a time, and removes what killed processes left behind more than an hour ago. */
  async *listExpired(now: number): AsyncGenerator<string, void, undefined> {
    try {
      await this.#open()
      await this.#withDirectory(() => this.#removeLeftovers())
      for await (const [id, { expiresAt }] of this.#index.scan()) if (expiresAt <= now) yield id
    } catch (error) {
      throw fromFileSystemError(error)
    }
  }

  /**
   * Exact for what this process does. What other processes do is seen at once while there are few records; with
   * thousands it is seen within two seconds.
   */
  async countOpen(owner?: string): Promise<number> {
    try {
      await this.#open()
      return await this.#index.countOpen(owner)
    } catch (error) {
      throw fromFileSystemError(error)
    }
  }

  /**
   * Waits for what is under way and closes the files that were kept open: those of at most 256 records that were changed
   * in the last seconds. Without it they are closed soon, and they keep no process alive.
   */
  async close(): Promise<void> {
    await Promise.all(this.#tails.values())
    this.#cache.clear()
    await this.#files.handles.close()
  }

  /** Where the record is now. One that is still at `version` as far as we know is not looked at again. */
  async #current(id: string, version?: number): Promise<FoundRecord | null> {
    const cached = this.#cache.get(id)
    if (cached !== undefined) {
      if (cached.journal.version === version) return cached
      if ((await this.#folders.refresh(cached)) && cached.journal.status === 'live') {
        await this.#letGoOfEnded(cached)
        return cached
      }
      this.#cache.delete(id)
    }
    const found = await this.#folders.find(id)
    if (found === null) await checkSameDirectory(this.#fs, this.#directory, await this.#open())
    if (found === null || found.journal.status === 'dead') return null
    // Parsed now, so that a record that cannot be read is not built upon either.
    void found.record
    if (found.journal.status === 'live') this.#cache.set(id, found, found.journal.json.length)
    return found
  }

  #remember(found: FoundRecord): void {
    this.#cache.set(found.id, found, found.journal.json.length)
    this.#index.note(found.id, entryOf(found))
  }

  /** It is hardly ever changed again. */
  async #letGoOfEnded({ record, path }: FoundRecord): Promise<void> {
    if (!record.open) await this.#files.handles.release(path)
  }

  /** Begins the journal anew when it has grown. The change is stored already; if this fails, the next one does it. */
  async #compact(found: FoundRecord): Promise<void> {
    const { seen, baseLength, version } = found.journal
    if (seen < this.#journalLimit || seen < minGrowth * baseLength) return
    try {
      if (await this.#folders.append(found, 's', version ?? 0)) await this.#moveOn(found)
    } catch {
      this.#cache.delete(found.id)
    }
  }

  async #moveOn(sealed: FoundRecord): Promise<void> {
    this.#cache.delete(sealed.id)
    const next = await this.#folders.succeed(sealed)
    if (next !== null) this.#remember(next)
  }

  /** What `delete` has to bury; what cannot be read is cleared right away, since nobody can say it is alive. */
  async #findToDelete(id: string): Promise<FoundRecord | null> {
    try {
      const found = await this.#folders.find(id)
      if (found === null) await checkSameDirectory(this.#fs, this.#directory, await this.#open())
      // A record of a newer release throws here and stays.
      if (found !== null && found.journal.status !== 'dead') void found.record
      return found
    } catch (error) {
      if (!(error instanceof JournalDamage)) throw error
      await this.#folders.clearUnreadable(id)
      return null
    }
  }

  #open(): Promise<DirectoryIdentity> {
    this.#opening ??= this.#openDirectory().catch((error: unknown) => {
      this.#opening = undefined
      throw error
    })
    return this.#opening
  }

  async #openDirectory(): Promise<DirectoryIdentity> {
    const identity = await openPrivateDirectory(this.#files, this.#directory)
    await this.#files.handles.allowFor(this.#directory)
    return identity
  }

  /** Makes the folder once more if it is gone: cleaners of temporary folders remove those that were idle for days. */
  async #withDirectory<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw error
      this.#opening = undefined
      await this.#open()
      return work()
    }
  }

  /** Runs one thing at a time for each id, so that what we know of a record changes only under one hand. */
  async #run<T>(id: string, work: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(id)
    const result = this.#work(id, work, before)
    const tail = result.then(nothing, nothing)
    this.#tails.set(id, tail)
    try {
      return await result
    } finally {
      if (this.#tails.get(id) === tail) this.#tails.delete(id)
    }
  }

  async #work<T>(id: string, work: () => Promise<T>, before: Promise<void> | undefined): Promise<T> {
    try {
      await before
      await this.#open()
      return await work()
    } catch (error) {
      this.#cache.delete(id)
      if (error instanceof JournalNewer) throw newerState(error)
      if (!(error instanceof JournalDamage)) throw fromFileSystemError(error)
      if (error.path !== undefined) await this.#folders.quarantine(id, error.path)
      throw unreadableState(error)
    }
  }

  async #list(): Promise<string[]> {
    const names = await this.#withDirectory(() => this.#files.withRoom(() => this.#fs.readdir(this.#directory)))
    await checkSameDirectory(this.#fs, this.#directory, await this.#open())
    return names.filter(isSessionId)
  }

  async #look(id: string, known: IndexEntry | undefined): Promise<IndexEntry | null> {
    try {
      if (known !== undefined && (await this.#sizeOf(known.path)) === known.size) return known
      const found = await this.#folders.find(id, false)
      if (found !== null && found.journal.status !== 'dead') return entryOf(found)
      await this.#removeRemains(id, found)
      return null
    } catch (error) {
      // A disk that fails for a moment is no reason to forget what is known.
      return error instanceof JournalDamage || error instanceof JournalNewer ? null : (known ?? null)
    }
  }

  async #sizeOf(path: string): Promise<number | null> {
    try {
      return await this.#files.lengthOf(path)
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return null
      throw error
    }
  }

  /** A `delete` was killed: what it buried is of no use to anybody, what it emptied may be about to be used again. */
  async #removeRemains(id: string, dead: FoundRecord | null): Promise<void> {
    if (dead !== null) return this.#folders.clear(id, [dead.incarnation])
    if (await this.#isLeftover(join(this.#directory, id))) await this.#folders.clear(id, [])
  }

  /** Folders of creations that were killed. Renamed first: one that only sleeps must not find a half-empty one. */
  async #removeLeftovers(): Promise<void> {
    const { making, removing } = SessionFolders
    for (const name of await this.#files.withRoom(() => this.#fs.readdir(this.#directory))) {
      const path = join(this.#directory, name)
      if (!(name.startsWith(making) || name.startsWith(removing)) || !(await this.#isLeftover(path))) continue
      const target = join(this.#directory, removing + name.slice(making.length))
      try {
        if (target !== path) await this.#fs.rename(path, target)
        await this.#fs.rm(target, { recursive: true, force: true })
      } catch {
        // Next time.
      }
    }
  }

  async #isLeftover(path: string): Promise<boolean> {
    try {
      return (await this.#fs.lstat(path)).mtimeMs < Date.now() - leftoverAge
    } catch {
      return false
    }
  }
}

function entryOf({ record, path, journal }: FoundRecord): IndexEntry {
  const { open, owner, expiresAt } = record
  return { open, owner, expiresAt, path, size: journal.seen }
}

function nothing(): void {}
