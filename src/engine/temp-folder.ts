/** `tempDir` itself: made when it is missing, private, flushed into what is above it, and still where it was. */
import type { Stats } from 'node:fs'
import { lstat } from 'node:fs/promises'
import { dirname } from 'node:path'
import fs from 'fs-extra'
import { StorageUnavailableError } from '../errors.ts'
import { missingFolders, ownFolder, syncFolder } from './staged-files.ts'

/** A folder that was fine is looked at again no sooner than this, ms. */
const lookEvery = 200

export class TempFolder {
  readonly #path: string
  readonly #inner: readonly string[]
  readonly #durable: boolean
  /** Folders with names that a power cut may still take. */
  readonly #unsynced = new Set<string>()
  #device: number | null = null
  #lookedAt = Number.NEGATIVE_INFINITY
  #looking: Promise<void> = Promise.resolve()
  #making: Promise<void> | null = null

  /** @param inner folders in it that have to be there as well */
  constructor(path: string, inner: readonly string[], durable: boolean) {
    this.#path = path
    this.#inner = inner
    this.#durable = durable
  }

  /**
   * Call it before anything is done in the folder. One that a cleaner of temporary files took is made again; but when its
   * disk is not there any more, nothing is made in its place: what is on that disk has to be found again later.
   * @throws StorageUnavailableError also when somebody else owns it or it is a link
   */
  ready(): Promise<void> {
    if (performance.now() - this.#lookedAt < lookEvery) return this.#looking
    this.#lookedAt = performance.now()
    this.#looking = this.#look().catch((error) => {
      this.#lookedAt = Number.NEGATIVE_INFINITY
      throw error
    })
    return this.#looking
  }

  async #look(): Promise<void> {
    if (this.#device !== null && (await this.#isThere(this.#device))) return
    this.#making ??= this.#make().finally(() => {
      this.#making = null
    })
    await this.#making
  }

  async #isThere(device: number): Promise<boolean> {
    const [info, ...inner] = await Promise.all([this.#path, ...this.#inner].map(infoOf))
    if (info) await ownFolder(this.#path)
    const complete = inner.every((each) => each !== null)
    if (info?.dev === device) return complete
    // Mounted anew, it may have another number.
    if (info && complete) this.#device = info.dev
    else if ((await deviceAbove(this.#path)) !== device) {
      throw new StorageUnavailableError(undefined, { cause: new Error(`the disk of ${this.#path} is not there`) })
    }
    return info !== null && complete
  }

  async #make(): Promise<void> {
    for (const folder of await missingFolders(this.#path)) this.#unsynced.add(dirname(folder))
    await fs.ensureDir(this.#path, { mode: 0o700 })
    await ownFolder(this.#path)
    for (const folder of this.#inner) {
      await fs.ensureDir(folder, { mode: 0o700 })
      await ownFolder(folder)
    }
    if (this.#durable) {
      for (const folder of this.#unsynced) await syncFolder(folder)
      await syncFolder(this.#path)
    }
    this.#unsynced.clear()
    this.#device = (await lstat(this.#path)).dev
  }
}

async function infoOf(path: string): Promise<Stats | null> {
  return lstat(path).catch((error) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return null
    throw error
  })
}

/** Of the folder, or of the nearest one above it that is there. */
async function deviceAbove(path: string): Promise<number> {
  const missing = await missingFolders(path)
  return (await lstat(missing.length > 0 ? dirname(missing.at(-1) ?? path) : path)).dev
}
