/** Finished files on a local or mounted disk. A file appears under its key whole, by rename, or not at all. */
import { randomUUID } from 'node:crypto'
import { createReadStream, constants as flags } from 'node:fs'
import { chmod, lstat, open, realpath, rename, unlink } from 'node:fs/promises'
import { dirname, isAbsolute, join, relative, resolve, sep } from 'node:path'
import { addAbortSignal, type Readable } from 'node:stream'
import fs from 'fs-extra'
import { LocalStorageError } from '../errors.ts'
import type { ObjectInfo, StorageAdapter } from '../types.ts'
import {
  batchBytes,
  codeOf,
  copyInto,
  ignore,
  isFileOfSize,
  makeOneFolder,
  missingFolders,
  realpathIfThere,
  removeWhenFailing,
  sweepAbandoned,
  syncFile,
  syncFolder,
  temporaryPrefix,
  toStorageError,
  wrongSize,
} from './local-files.ts'
import {
  checkOptions,
  type LocalStorageOptions,
  privateFile,
  privateFolder,
  withoutTrailingSlashes,
} from './local-options.ts'

export type { LocalStorageOptions }

interface Target {
  readonly folder: string
  readonly path: string
}

const reservedName = '.nexus-uploader'

/**
 * Stores files below `directory` under their keys and answers `<baseUrl>/<key>`, every part of the key URL-encoded;
 * without `baseUrl` it is `/<key>`, never a path of the server.
 *
 * Keys are checked again here: nothing is ever written, replaced or removed outside `directory`, also not through
 * symbolic links. Every failure is a `LocalStorageError` (507 no room, 503 the disk cannot be used now, 502 else; 500
 * `INVALID_KEY`) whose message names no path; an aborted call rejects with the reason of its signal.
 */
export class LocalStorageAdapter implements StorageAdapter {
  /** `<directory>/.nexus-uploader`: a dot folder, so `express.static` does not serve it. Made on first use, `0o700`. */
  readonly stagingDir: string
  readonly #root: string
  readonly #baseUrl: string
  readonly #durable: boolean
  readonly #fileMode: number
  readonly #directoryMode: number
  /** Folders above the root with names that a power cut may still take. */
  readonly #unsynced = new Set<string>()
  #swept = false

  /** @throws TypeError when an option cannot work. */
  constructor(options: LocalStorageOptions) {
    const checked = checkOptions(options)
    this.#root = resolve(checked.directory)
    this.stagingDir = join(this.#root, reservedName)
    this.#baseUrl = withoutTrailingSlashes(checked.baseUrl ?? '')
    this.#durable = checked.durability === 'power'
    this.#fileMode = checked.fileMode ?? privateFile
    this.#directoryMode = checked.directoryMode ?? privateFolder
  }

  /**
   * Writes the stream to a temporary file and renames it into place. When `info.size` is known, a stream of another
   * length is an error. Whatever goes wrong, an older file under the key stays as it was.
   */
  async upload(fileKey: string, stream: Readable, _mimeType: string, info?: ObjectInfo): Promise<string> {
    const signal = info?.signal
    // A stream that fails before it is read would end the process if nobody listened.
    stream.on('error', ignore)
    try {
      signal?.throwIfAborted()
      const segments = checkKey(fileKey, this.#root)
      const target = await this.#makeTarget(segments)
      const source = signal ? addAbortSignal(signal, stream) : stream
      const temporary = join(await this.#prepareStaging(), `${temporaryPrefix}${randomUUID()}.tmp`)
      await this.#write(temporary, source, info?.size ?? null, this.#durable)
      await removeWhenFailing(temporary, async () => {
        signal?.throwIfAborted()
        await this.#move(temporary, target, signal)
      })
      if (this.#durable) await syncFolder(target.folder)
      return this.#urlOf(segments)
    } catch (error) {
      stream.destroy()
      throw signal?.aborted ? signal.reason : toStorageError(error)
    }
  }

  /**
   * Renames the file at `path` into place; from another file system it is copied, flushed, renamed and only then
   * removed. Repeatable: when `path` is gone and the object has exactly `info.size` bytes, the answer is the same URL.
   */
  async adoptFile(fileKey: string, path: string, info: ObjectInfo): Promise<string> {
    try {
      info.signal?.throwIfAborted()
      const segments = checkKey(fileKey, this.#root)
      const target = await this.#makeTarget(segments)
      await this.#takeOver(path, target, info).catch(async (error) => {
        const adoptedBefore = codeOf(error) === 'ENOENT' && (await isFileOfSize(target.path, info.size))
        if (!adoptedBefore) throw error
      })
      if (this.#durable) await syncFolder(target.folder)
      return this.#urlOf(segments)
    } catch (error) {
      throw info.signal?.aborted ? info.signal.reason : toStorageError(error)
    }
  }

  /** Deletes the file; folders stay. */
  async remove(fileKey: string): Promise<void> {
    try {
      const segments = checkKey(fileKey, this.#root)
      const root = await realpath(this.#root)
      const folder = await realpath(join(root, ...segments.slice(0, -1)))
      checkFolder(root, folder)
      await unlink(join(folder, segments.at(-1) ?? ''))
    } catch (error) {
      const code = codeOf(error)
      if (code !== 'ENOENT' && code !== 'ENOTDIR') throw toStorageError(error)
    }
  }

  async #takeOver(path: string, target: Target, { size, signal }: ObjectInfo): Promise<void> {
    const file = await lstat(path)
    if (!file.isFile()) throw new LocalStorageError('The staged file is not a regular file.')
    if (size !== null && file.size !== size) throw wrongSize()
    if (this.#fileMode !== privateFile) await chmod(path, this.#fileMode)
    if (this.#durable) await syncFile(path)
    await this.#move(path, target, signal)
  }

  async #move(from: string, target: Target, signal?: AbortSignal): Promise<void> {
    try {
      await rename(from, target.path)
    } catch (error) {
      if (codeOf(error) !== 'EXDEV') throw error
      await this.#moveAcrossDisks(from, target, signal)
    }
  }

  /** The temporary copy lies beside the target: only there a rename is certain to stay on one file system. */
  async #moveAcrossDisks(from: string, target: Target, signal?: AbortSignal): Promise<void> {
    const temporary = join(target.folder, `${reservedName}-${randomUUID()}.tmp`)
    const { size } = await lstat(from)
    const source = createReadStream(from, { highWaterMark: batchBytes }).on('error', ignore)
    try {
      await this.#write(temporary, signal ? addAbortSignal(signal, source) : source, size, true)
    } finally {
      source.destroy()
    }
    await removeWhenFailing(temporary, () => rename(temporary, target.path))
    if (this.#durable) await syncFolder(target.folder)
    // The object is in place. Whoever owns the old folder clears what cannot be removed here.
    await unlink(from).catch(ignore)
  }

  /** A new file at `path` with exactly the bytes of the stream, or no file. */
  async #write(path: string, stream: Readable, size: number | null, sync: boolean): Promise<void> {
    const handle = await open(
      path,
      flags.O_WRONLY | flags.O_CREAT | flags.O_EXCL | (flags.O_NOFOLLOW ?? 0),
      privateFile,
    )
    await removeWhenFailing(path, async () => {
      try {
        await copyInto(handle, stream, size)
        if (this.#fileMode !== privateFile) await handle.chmod(this.#fileMode)
        if (sync) await handle.sync()
      } finally {
        await handle.close()
      }
    })
  }

  async #prepareStaging(): Promise<string> {
    const folder = await this.#makeFolder(await this.#makeRoot(), [reservedName], privateFolder)
    if (!this.#swept) {
      this.#swept = true
      await sweepAbandoned(folder)
    }
    return folder
  }

  async #makeTarget(segments: readonly string[]): Promise<Target> {
    const { root, folder } = (await this.#knownFolder(segments)) ?? (await this.#madeFolder(segments))
    checkFolder(root, folder)
    await this.#syncNames(root, folder)
    return { folder, path: join(folder, segments.at(-1) ?? '') }
  }

  /** Asks the disk once: no link on the way to the folder, so it is in the root. */
  async #knownFolder(segments: readonly string[]): Promise<{ root: string; folder: string } | null> {
    const path = join(this.#root, ...segments.slice(0, -1))
    const folder = await realpathIfThere(path)
    return folder === path ? { root: this.#root, folder } : null
  }

  async #madeFolder(segments: readonly string[]): Promise<{ root: string; folder: string }> {
    const root = await this.#makeRoot()
    return { root, folder: await this.#makeFolder(root, segments.slice(0, -1), this.#directoryMode) }
  }

  async #makeRoot(): Promise<string> {
    const existing = await realpathIfThere(this.#root)
    if (existing !== null) return existing
    for (const folder of await missingFolders(this.#root)) this.#unsynced.add(dirname(folder))
    await fs.ensureDir(this.#root, { mode: this.#directoryMode })
    return realpath(this.#root)
  }

  /**
   * The real path of a folder below the real `root`. Missing folders are made one by one, each below a parent that was
   * resolved and checked: a recursive mkdir would follow a link out of the root before anybody could look.
   */
  async #makeFolder(root: string, segments: readonly string[], mode: number): Promise<string> {
    const folder = join(root, ...segments)
    const existing = await realpathIfThere(folder)
    if (existing !== null) return checkInside(root, existing)
    const parent = await this.#makeFolder(root, segments.slice(0, -1), mode)
    await makeOneFolder(join(parent, segments.at(-1) ?? ''), mode)
    return checkInside(root, await realpath(folder))
  }

  /**
   * The names of all folders on the way, before anything moves there: one that is there already may have been made by
   * another upload just now, or by a process that was killed before it came to this.
   */
  async #syncNames(root: string, folder: string): Promise<void> {
    if (!this.#durable) return
    for (const above of [...this.#unsynced]) {
      await syncFolder(above)
      this.#unsynced.delete(above)
    }
    for (let at = folder; at.length > root.length; at = dirname(at)) await syncFolder(dirname(at))
  }

  #urlOf(segments: readonly string[]): string {
    return `${this.#baseUrl}/${segments.map(encodeURIComponent).join('/')}`
  }
}

/** The parts of a key that can only mean a place below `root`, on every platform. */
function checkKey(key: string, root: string): string[] {
  const segments = key.split('/')
  const strange = segments.some((part) => part === '' || part === '.' || part === '..') || isReserved(segments[0])
  // Lone surrogates all become the same replacement character on disk: two keys would share one file.
  if (strange || /[\0\\]/.test(key) || /^[a-z]:/i.test(key) || !key.isWellFormed()) throw invalidKey()
  // A colon names a stream or a drive on Windows and nothing special elsewhere.
  if (sep === '\\' && key.includes(':')) throw invalidKey()
  checkInside(root, resolve(root, ...segments))
  return segments
}

function isReserved(segment: string | undefined): boolean {
  return segment?.toLowerCase().startsWith(reservedName) ?? false
}

function checkInside(root: string, path: string): string {
  const inside = relative(root, path)
  if (inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside)) throw invalidKey()
  return path
}

/** A link may lead to the staging folder as well as out of the root. */
function checkFolder(root: string, folder: string): void {
  if (isReserved(relative(root, checkInside(root, folder)).split(sep)[0])) throw invalidKey()
}

/** Not the client's fault: the engine or a `key` hook let it through. */
function invalidKey(): LocalStorageError {
  return new LocalStorageError('The key of this file is not a safe relative path.', {
    code: 'INVALID_KEY',
    status: 500,
  })
}
