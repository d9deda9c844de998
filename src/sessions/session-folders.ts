/**
 * One folder per record: `<id>/<incarnation>.log` is its first journal file and stays until the record is deleted.
 * When a journal has grown it is sealed and goes on in `<id>/<incarnation>.<generation>.<nonce>.log`, which the
 * first file names.
 *
 * Any number of processes work in these folders without a lock, and each of them can be stopped or killed between
 * any two calls. What makes that safe:
 * - Who wins is decided by the order of lines in one file, or by the one rename that makes the folder.
 * - A file's name is random and never comes back. Whoever removes or opens a file by a name from long ago hits that
 *   file or none, never a newer one.
 * - The folder is made whole by renaming it into place, which fails while there is anything in the old one; and an
 *   empty folder is all that `rmdir` ever removes.
 */
import { randomBytes } from 'node:crypto'
import { basename, join } from 'node:path'
import { StorageUnavailableError } from '../errors.ts'
import type { SessionRecord } from '../types.ts'
import { hasCode } from './session-file-system.ts'
import { damageIn, type SessionFiles } from './session-files.ts'
import { Journal, JournalNewer, type LineKind } from './session-journal.ts'
import { parseRecord } from './session-record.ts'

const rootName = /^[0-9a-z]{1,32}\.log$/
const fileName = /^[0-9a-z]{1,32}(\.\d{1,15}\.[0-9a-z]{1,32})?\.log$/
// Every further attempt means that another process has got something done, so this many are never needed.
const maxAttempts = 200

/** Where a record was found. Its journal may have fallen behind. */
export class FoundRecord {
  readonly id: string
  /** Tells this record from an earlier one of the same id. */
  readonly incarnation: string
  readonly generation: number
  /** The newest file. */
  readonly path: string
  readonly journal: Journal
  #record: SessionRecord | undefined

  constructor(id: string, incarnation: string, generation: number, path: string, journal: Journal) {
    this.id = id
    this.incarnation = incarnation
    this.generation = generation
    this.path = path
    this.journal = journal
  }

  /** Frozen; parsed once per version. */
  get record(): SessionRecord {
    if (this.#record === undefined || this.#record.version !== this.journal.version) {
      this.#record = parseRecord(this.id, this.path, this.journal)
    }
    return this.#record
  }
}

export class SessionFolders {
  readonly files: SessionFiles
  readonly directory: string
  readonly #writer = randomBytes(6).toString('hex')
  #lines = 0

  constructor(files: SessionFiles, directory: string) {
    this.files = files
    this.directory = directory
  }

  /** Names of folders that are being made or removed. No id begins with a dot. */
  static readonly making = '.new-'
  static readonly removing = '.old-'

  /** The record, which may be `sealed` (nobody has begun the next file yet) or `dead` (not removed yet). */
  async find(id: string, flush = true): Promise<FoundRecord | null> {
    let missing = ''
    for (let attempt = 0; attempt < maxAttempts; attempt++) {
      const incarnation = await this.#incarnationOf(id)
      if (incarnation === null) return null
      const root = await this.#read(id, incarnation, 0, `${incarnation}.log`, flush)
      if (root === null) continue
      const { generation, nonce } = root.journal.successor
      if (root.journal.status !== 'sealed' || generation === 0) return root
      const name = `${incarnation}.${generation}.${nonce}.log`
      // Sealed is good enough: when the first file was read, nothing had come after this.
      const found = await this.#read(id, incarnation, generation, name, flush)
      if (found !== null) return found
      // Gone since there is a newer one, unless the first file, read once more, still names this one.
      if (name === missing) throw damageIn(root.path, `${name} is missing`)
      missing = name
    }
    throw exhausted()
  }

  /**
   * Takes in what was appended since.
   * @returns `false` when the file is gone or no longer what it was: look for the record again
   */
  async refresh(found: FoundRecord): Promise<boolean> {
    try {
      const size = await this.files.lengthOf(found.path)
      if (size < found.journal.seen) return false
      if (size > found.journal.seen) await this.files.readMore(found.path, found.journal)
      return true
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return false
      throw error
    }
  }

  /** Appends a line: whether it counts; `null` when the file is gone. */
  async append(found: FoundRecord, kind: LineKind, number: number, json = ''): Promise<boolean | null> {
    try {
      return await this.files.append(found.path, { kind, number, nonce: this.#nonce(), json }, found.journal)
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return null
      throw error
    }
  }

  /** Adds a record; `null` when there is one. */
  async place(record: { readonly id: string; readonly version: number }, json: string): Promise<FoundRecord | null> {
    const { id, version } = record
    const incarnation = randomBytes(10).toString('hex')
    const name = `${incarnation}.log`
    const making = join(this.directory, SessionFolders.making + incarnation)
    await this.files.fs.mkdir(making, { mode: 0o700 })
    try {
      const line = { kind: 'r', number: version, nonce: this.#nonce(), json } as const
      const journal = await this.files.make(join(making, name), line)
      await this.files.flushFolder(making)
      if (await this.#putInPlace(making, id)) {
        const path = join(this.directory, id, name)
        this.files.handles.rename(join(making, name), path)
        return new FoundRecord(id, incarnation, 0, path, journal)
      }
    } catch (error) {
      await this.#discard(making, name)
      throw error
    }
    await this.#discard(making, name)
    return null
  }

  /**
   * Begins the next file of a sealed journal.
   * @returns the record there; `null` when another process was faster or the record is gone: look for it again
   */
  async succeed(found: FoundRecord): Promise<FoundRecord | null> {
    const { id, incarnation, journal } = found
    const nonce = this.#nonce()
    const generation = found.generation + 1
    const path = join(this.directory, id, `${incarnation}.${generation}.${nonce}.log`)
    const next = await this.#makeNext(path, journal)
    if (next === null) return null
    const rootPath = join(this.directory, id, `${incarnation}.log`)
    if (!(await this.#nameNext(rootPath, generation, nonce))) {
      await this.files.remove(path)
      return null
    }
    // The sealed file is of no more use; the first one is: it names the newest.
    if (found.generation > 0) await this.files.remove(found.path).catch(() => {})
    return new FoundRecord(id, incarnation, generation, path, next)
  }

  /**
   * Marks the record as deleted: from then on it is, for every process.
   * @returns `false` when that has to be tried again on what `find` gives then
   */
  async bury(found: FoundRecord): Promise<boolean> {
    const { journal, generation } = found
    if (journal.status === 'dead') return true
    if (journal.status === 'live') return (await this.append(found, 'd', generation)) === true
    const path = join(this.directory, found.id, `${found.incarnation}.log`)
    try {
      const root = await this.files.read(path)
      if (root.status === 'dead') return true
      return await this.files.append(path, { kind: 'd', number: generation, nonce: this.#nonce(), json: '' }, root)
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return false
      throw error
    }
  }

  /**
   * Removes the files of a deleted record and its folder.
   * @param incarnations what was deleted; empty: a folder in which no record was found
   * @param buried whether every process knows; if not, the order must be one in which nobody takes it for alive
   */
  async clear(id: string, incarnations: readonly string[], buried = true): Promise<void> {
    const folder = join(this.directory, id)
    const ours = (name: string) => incarnations.some((incarnation) => name.startsWith(`${incarnation}.`))
    const names = await this.#namesIn(folder)
    const roots = names.filter(isRoot)
    // Somebody has already cleared it and made a new record: none of these names is ours to remove.
    if (!roots.every(ours)) return
    const others = names.filter((name) => !isRoot(name))
    for (const name of buried ? [...roots, ...others] : [...others, ...roots])
      await this.files.remove(join(folder, name))
    // Somebody who was about to begin the next file may have made it in between; without the first file nobody can.
    const late = await this.#namesIn(folder)
    for (const name of late) if (ours(name)) await this.files.remove(join(folder, name))
    await this.files.removeFolder(folder)
    await this.files.flushFolder(this.directory)
  }

  /** Removes a record that cannot be read, whatever is there under its name. */
  async clearUnreadable(id: string): Promise<void> {
    const folder = join(this.directory, id)
    if (!(await this.files.fs.lstat(folder)).isDirectory()) return this.files.remove(folder)
    const roots = (await this.#namesIn(folder)).filter(isRoot)
    await this.clear(
      id,
      roots.map((name) => name.slice(0, -'.log'.length)),
      false,
    )
  }

  /** Keeps a second name of a damaged file for whoever looks into it. The file itself stays where it is. */
  async quarantine(id: string, path: string): Promise<void> {
    const { fs } = this.files
    const folder = join(this.directory, 'quarantine')
    const target = join(folder, `${id}.${basename(path)}`)
    try {
      await fs.mkdir(folder, { mode: 0o700, recursive: true })
      await fs.link(path, target)
    } catch (error) {
      if (hasCode(error, 'EEXIST')) return
      // A disk without hard links; what cannot be copied either (a folder) is at least still in its place.
      await fs.copyFile(path, target).catch(() => {})
    }
  }

  #nonce(): string {
    this.#lines++
    return this.#writer + this.#lines.toString(36)
  }

  async #namesIn(folder: string): Promise<string[]> {
    try {
      return await this.files.withRoom(() => this.files.fs.readdir(folder))
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return []
      if (hasCode(error, 'ENOTDIR')) throw damageIn(folder, 'no folder')
      throw error
    }
  }

  async #incarnationOf(id: string): Promise<string | null> {
    const names = await this.#namesIn(join(this.directory, id))
    const roots = names.filter(isRoot)
    if (roots.length > 1) throw damageIn(join(this.directory, id), 'two first files')
    if (roots[0] !== undefined) return roots[0].slice(0, -'.log'.length)
    if (names.some((name) => !fileName.test(name) && !name.startsWith('.'))) throw new JournalNewer('unknown files')
    return null
  }

  async #read(id: string, incarnation: string, generation: number, name: string, flush: boolean) {
    const path = join(this.directory, id, name)
    try {
      return new FoundRecord(id, incarnation, generation, path, await this.files.read(path, flush))
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return null
      throw error
    }
  }

  async #putInPlace(making: string, id: string): Promise<boolean> {
    const folder = join(this.directory, id)
    for (let attempt = 0; attempt < maxAttempts; attempt++) {
      try {
        await this.files.fs.rename(making, folder)
        await this.files.flushFolder(this.directory)
        return true
      } catch (error) {
        // EPERM and EACCES are what Windows says when a folder is in the way; elsewhere, and when none is, they mean it.
        const refused = hasCode(error, 'EPERM', 'EACCES')
        if (!refused && !hasCode(error, 'ENOTEMPTY', 'EEXIST', 'ENOTDIR')) throw error
        const found = await this.find(id)
        if (found !== null && found.journal.status !== 'dead') return false
        if (refused && found === null && attempt > 2) throw error
        await this.clear(id, found === null ? [] : [found.incarnation])
      }
    }
    throw exhausted()
  }

  async #makeNext(path: string, { version, json }: Journal): Promise<Journal | null> {
    try {
      const next = await this.files.make(path, { kind: 'r', number: version ?? 0, nonce: this.#nonce(), json })
      await this.files.flushFolder(join(path, '..'))
      return next
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return null
      await this.files.remove(path).catch(() => {})
      throw error
    }
  }

  /** After an error it is not known whether the name counts, so the file it names has to stay. */
  async #nameNext(rootPath: string, generation: number, nonce: string): Promise<boolean> {
    try {
      return await this.files.append(rootPath, { kind: 'n', number: generation, nonce, json: '' }, new Journal())
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return false
      throw error
    }
  }

  async #discard(folder: string, name: string): Promise<void> {
    await this.files.remove(join(folder, name)).catch(() => {})
    await this.files.removeFolder(folder).catch(() => {})
  }
}

function isRoot(name: string): boolean {
  return rootName.test(name)
}

function exhausted(): Error {
  return new StorageUnavailableError(undefined, { cause: new Error('The record does not hold still.') })
}
