/**
 * The marks that claims are made of: symbolic links whose target names their holder. Making and deleting one for every
 * chunk would cost an inode each time, and some file systems (ext4 without a journal) go through all inodes deleted in the last
 * minutes whenever a file is made. So a mark that has done its work is parked, and is lent out again under a new name.
 *
 * A token stands for one piece of work at a time. A mark is parked only when its name among the claims is gone for
 * certain; in every other case the token is dropped, and whatever is left under it counts as dead.
 */
import { randomBytes } from 'node:crypto'
import { link, lstat, lutimes, readdir, readFile, readlink, rename, symlink, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isMainThread } from 'node:worker_threads'
import { dropToken, hasCode, isDead, takeToken } from './processes.ts'

/** How often a mark is touched while its work goes on, ms. */
export const touchEvery = 30_000
/** Whoever takes a living process for dead has waited for much longer, ms. */
const youngFor = 5_000
const mostParked = 256
/** Or a sweep removes it, ms. */
const neededWithin = 60_000
/** A new name of a mark that was touched longer ago than this may look dead to somebody who judges by that, ms. */
const lentWithin = 1_000
/** What is not of this form was not made here. */
const tokenForm = /^[\w-]*\.\d+\.\w+\.\d+\.\d+\.[0-9a-f]{8}$/
/** What file systems without them answer. */
const withoutHardLinks = ['EPERM', 'EOPNOTSUPP', 'ENOTSUP', 'ENOSYS', 'EXDEV']

/** Windows wants a privilege for symbolic links; there it is a file, whose holder counts as alive until it is written. */
const asFile = process.platform === 'win32'
/** Elsewhere a hard link to a symbolic link leads to what that points to; and nobody sees that another thread has ended. */
const canPark = process.platform === 'linux' && isMainThread

export interface Mark {
  readonly token: string
  /** Its name in the parking place, if it has one. */
  parkedAs: string | null
  /** `Date.now()` when it was made or touched, and when it was last written under a name. */
  touched: number
  written: number
  /** Whether there may be other marks with its token. */
  isSpent: boolean
}

/** What is there under a name. */
export interface FoundMark {
  readonly token: string
  /** Since it was made or touched, ms. */
  readonly idle: number
}

export class ClaimMarks {
  readonly #folder: string | null
  readonly #parked: Mark[] = []
  #parks: boolean

  /** @param folder where marks are parked, on the file system of the claims; `null`: nowhere */
  constructor(folder: string | null) {
    this.#folder = folder
    this.#parks = canPark && folder !== null
  }

  take(): Mark {
    const now = Date.now()
    return this.#parked.pop() ?? { token: takeToken(), parkedAs: null, touched: now, written: now, isSpent: false }
  }

  /** Makes the mark under this name. @throws EEXIST when there is one */
  async write(mark: Mark, path: string): Promise<void> {
    // Before it is there: this process may be frozen just after.
    mark.written = Date.now()
    const isLent = mark.parkedAs !== null && (await this.#lend(mark, mark.parkedAs, path))
    if (!isLent) await writeMark(mark.token, path)
  }

  /** Whether it is still under this name: who was frozen meanwhile may have been taken for dead. */
  async isStill(mark: Mark, path: string): Promise<boolean> {
    return since(mark.written) < youngFor || isUnder(mark, path)
  }

  /** Removes the mark from under this name. It must not be used any more. */
  async giveBack(mark: Mark, path: string): Promise<void> {
    if (since(mark.written) < youngFor && (await this.#park(mark, path))) {
      if (this.#parked.length < mostParked) this.#parked.push(mark)
      else await this.drop(mark)
      return
    }
    // Whoever took this process for dead has put their own mark in its place.
    if (await isUnder(mark, path)) await unlink(path).catch(() => {})
    await this.drop(mark)
  }

  /** For a mark that was not written under any name. */
  async giveBackUnused(mark: Mark): Promise<void> {
    if (mark.parkedAs !== null && !mark.isSpent) this.#parked.push(mark)
    else await this.drop(mark)
  }

  /** What cannot be removed counts as dead. */
  async drop(mark: Mark): Promise<void> {
    dropToken(mark.token)
    if (mark.parkedAs !== null) await unlink(mark.parkedAs).catch(() => {})
  }

  async close(): Promise<void> {
    this.#parks = false
    for (const mark of this.#parked.splice(0)) await this.drop(mark)
  }

  /** Removes what killed processes left in the parking place, and what nobody here has needed for a while. */
  async sweep(): Promise<void> {
    if (!this.#parks || this.#folder === null) return
    const idle = this.#parked.filter((mark) => since(mark.written) >= neededWithin)
    this.#parked.splice(0, this.#parked.length, ...this.#parked.filter((mark) => !idle.includes(mark)))
    for (const mark of idle) await this.drop(mark)
    for (const name of await readdir(this.#folder)) {
      const path = join(this.#folder, name)
      const found = await markAt(path).catch(() => null)
      if (found && tokenForm.test(found.token) && !isAlive(found)) await unlink(path).catch(() => {})
    }
  }

  /** `false` when there is nothing to lend. */
  async #lend(mark: Mark, parkedAs: string, path: string): Promise<boolean> {
    try {
      // A new name does not make it look newer to those who go by that.
      if (since(mark.touched) >= lentWithin) {
        const now = Date.now()
        await touch(parkedAs)
        mark.touched = now
      }
      await link(parkedAs, path)
    } catch (error) {
      if (hasCode(error, 'EEXIST')) throw error
      // Removed by a cleaner of temporary folders, refused, whatever: a mark of its own may still work.
      if (withoutHardLinks.some((code) => hasCode(error, code))) this.#parks = false
      mark.parkedAs = null
      await unlink(parkedAs).catch(() => {})
      return false
    }
    // Frozen meanwhile: under its new name it may have been taken for dead already.
    if (since(mark.touched) >= touchEvery) throw Object.assign(new Error('The mark came too late.'), { code: 'EAGAIN' })
    return true
  }

  /** Removes it from under this name. `false` when it cannot be parked, or the name may still be there. */
  async #park(mark: Mark, path: string): Promise<boolean> {
    const folder = this.#parks && !mark.isSpent && this.#parked.length < mostParked ? this.#folder : null
    if (folder === null || !(await isUnder(mark, path))) return false
    try {
      if (mark.parkedAs !== null) {
        await unlink(path)
        return true
      }
      const parkedAs = join(folder, randomBytes(8).toString('hex'))
      await rename(path, parkedAs)
      mark.parkedAs = parkedAs
      if (await isUnder(mark, parkedAs)) return true
      // Another came between the look and the move.
      await link(parkedAs, path)
      return false
    } catch {
      return false
    }
  }
}

/** ms; a clock that was set back makes it long. */
function since(time: number): number {
  return Math.abs(Date.now() - time)
}

export function writeMark(token: string, path: string): Promise<void> {
  return asFile ? writeFile(path, token, { flag: 'wx' }) : symlink(token, path)
}

/** Processes that cannot see this one (another container) take a mark that is not touched for dead. */
export function touch(path: string): Promise<void> {
  const now = new Date()
  return lutimes(path, now, now)
}

function readMark(path: string): Promise<string> {
  return asFile ? readFile(path, 'utf8') : readlink(path)
}

async function isUnder(mark: Mark, path: string): Promise<boolean> {
  return (await readMark(path).catch(() => null)) === mark.token
}

export async function markAt(path: string): Promise<FoundMark | null> {
  try {
    const [token, { mtimeMs }] = await Promise.all([readMark(path), lstat(path)])
    return { token, idle: Date.now() - mtimeMs }
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return null
    throw error
  }
}

export function isAlive(mark: FoundMark | null): boolean {
  return mark !== null && !isDead(mark.token, mark.idle)
}
