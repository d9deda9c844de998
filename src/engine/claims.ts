/**
 * Who is touching which bytes of the staging right now. Every writer or reader of a byte range holds a claim on it,
 * so that no two of them, in this process or in another one on the same `tempDir`, meet on the same bytes.
 *
 * A claim is a symbolic link named after its range: making it is atomic, its target says who holds it, and a killed
 * process leaves it behind with its name on it. Whoever cannot get a claim takes another way (a loose file, a
 * copy); nobody ever has to break the claim of a living process.
 */
import { createHash, randomBytes } from 'node:crypto'
import { lstat, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ByteRange } from './chunk-map.ts'
import { ClaimMarks, isAlive, type Mark, markAt, touch, touchEvery, writeMark } from './claim-marks.ts'
import { hasCode } from './processes.ts'

export interface Claim {
  readonly range: ByteRange
  release(): Promise<void>
}

interface Held {
  readonly range: ByteRange
  readonly mark: Mark
  isOver: boolean
  readonly yieldRequested: () => void
  readonly released: Promise<void>
}

const noRange: ByteRange = { start: 0, end: 0 }
export class Claims {
  readonly #folderOf: (uploadId: string) => string
  readonly #held = new Map<string, Set<Held>>()
  readonly #marks: ClaimMarks
  readonly #paths = new Set<string>()
  #heartbeat: NodeJS.Timeout | null = null

  /** @param parking where marks wait for their next use, on the same file system; `null`: they are made anew each time */
  constructor(folderOf: (uploadId: string) => string, parking: string | null = null) {
    this.#folderOf = folderOf
    this.#marks = new ClaimMarks(parking)
  }

  /**
   * Claims the range; `null` when somebody else has a part of it. `onYield` is called when a completion or an abort
   * in this process wants the bytes.
   */
  async claim(uploadId: string, range: ByteRange, onYield: () => void = () => {}): Promise<Claim | null> {
    if (this.#rivals(uploadId, range).length > 0) return null
    const mark = this.#marks.take()
    const { held, done } = this.#hold(uploadId, range, mark, onYield)
    const folder = this.#folderOf(uploadId)
    const path = join(folder, `${range.start}-${range.end}`)
    try {
      if (!(await this.#makeLink(folder, mark, path))) {
        await this.#marks.giveBackUnused(mark)
      } else if ((await isAlone(folder, range, path, mark)) && (await this.#marks.isStill(mark, path))) {
        this.#keepAlive(path)
        return { range, release: () => this.#release(uploadId, held, path, done) }
      } else {
        await this.#marks.giveBack(mark, path)
      }
    } catch (error) {
      await this.#marks.drop(mark)
      this.#letGo(uploadId, held, done)
      throw error
    }
    this.#letGo(uploadId, held, done)
    return null
  }

  /** Shows the sweeper that somebody is at work on the upload, without claiming bytes of the staging. */
  async present(uploadId: string, onYield: () => void = () => {}): Promise<Claim> {
    const mark = this.#marks.take()
    const { held, done } = this.#hold(uploadId, noRange, mark, onYield)
    const path = join(this.#folderOf(uploadId), `present-${randomBytes(8).toString('hex')}`)
    try {
      await makeFolder(this.#folderOf(uploadId), () => this.#marks.write(mark, path))
    } catch (error) {
      await this.#marks.drop(mark)
      this.#letGo(uploadId, held, done)
      throw error
    }
    this.#keepAlive(path)
    return { range: noRange, release: () => this.#release(uploadId, held, path, done) }
  }

  /**
   * Claims the range of somebody who may be at work on it: asks holders in this process to yield, leaves word for those
   * in others, and waits up to `patience` ms. `null` when a holder does not let go.
   */
  async insist(
    uploadId: string,
    range: ByteRange,
    patience: number,
    signal: AbortSignal,
    onYield: () => void = () => {},
  ): Promise<Claim | null> {
    const deadline = performance.now() + patience
    for (;;) {
      signal.throwIfAborted()
      const rivals = this.#rivals(uploadId, range)
      for (const rival of rivals) rival.yieldRequested()
      if (rivals.length === 0) {
        const claim = await this.claim(uploadId, range, onYield)
        if (claim || performance.now() >= deadline) return claim
        await writeFile(this.#requestOf(uploadId), '', { mode: 0o600 })
      } else if (performance.now() >= deadline) return null
      const time = Math.max(1, deadline - performance.now())
      await Promise.race([...rivals.map((rival) => rival.released), sleep(rivals.length > 0 ? time : 100)])
    }
  }

  /** Whether another process has left word that it wants the upload. */
  async isRequested(uploadId: string): Promise<boolean> {
    return lstat(this.#requestOf(uploadId)).then(
      () => true,
      () => false,
    )
  }

  async forgetRequest(uploadId: string): Promise<void> {
    await rm(this.#requestOf(uploadId), { force: true })
  }

  #requestOf(uploadId: string): string {
    return join(this.#folderOf(uploadId), 'requested')
  }

  /** Removes what killed processes left of their marks, apart from those on uploads. */
  sweep(): Promise<void> {
    return this.#marks.sweep()
  }

  /** Removes the marks that wait for their next use. */
  close(): Promise<void> {
    return this.#marks.close()
  }

  /** Asks everybody in this process who is at work on the upload to stop. */
  requestYield(uploadId: string): Promise<unknown> {
    const holders = [...(this.#held.get(uploadId) ?? [])]
    for (const holder of holders) holder.yieldRequested()
    return Promise.all(holders.map((holder) => holder.released))
  }

  /** Whether a living process, this or another, is at work on the upload. */
  async isBusy(uploadId: string): Promise<boolean> {
    if (this.#held.has(uploadId)) return true
    for (const name of await namesIn(this.#folderOf(uploadId))) {
      if (isClaimName(name) && isAlive(await markAt(join(this.#folderOf(uploadId), name)))) return true
    }
    return false
  }

  /** Processes that cannot see this one (another container) take a mark that is not touched for dead. */
  #keepAlive(path: string): void {
    this.#paths.add(path)
    this.#heartbeat ??= setInterval(() => {
      for (const path of this.#paths) touch(path).catch(() => {})
    }, touchEvery).unref()
  }

  #rivals(uploadId: string, range: ByteRange): Held[] {
    return [...(this.#held.get(uploadId) ?? [])].filter((held) => overlaps(held.range, range))
  }

  #hold(uploadId: string, range: ByteRange, mark: Mark, yieldRequested: () => void) {
    let done: () => void = () => {}
    const released = new Promise<void>((resolve) => {
      done = resolve
    })
    const held: Held = { range, mark, isOver: false, yieldRequested, released }
    const holders = this.#held.get(uploadId) ?? new Set()
    this.#held.set(uploadId, holders.add(held))
    return { held, done }
  }

  async #release(uploadId: string, held: Held, path: string, done: () => void): Promise<void> {
    if (held.isOver) return
    held.isOver = true
    this.#paths.delete(path)
    await this.#marks.giveBack(held.mark, path)
    this.#letGo(uploadId, held, done)
  }

  #letGo(uploadId: string, held: Held, done: () => void): void {
    if (this.#paths.size === 0 && this.#heartbeat) {
      clearInterval(this.#heartbeat)
      this.#heartbeat = null
    }
    const holders = this.#held.get(uploadId)
    holders?.delete(held)
    if (holders?.size === 0) this.#held.delete(uploadId)
    done()
  }

  /** Makes the link, over the body of a dead holder if need be; `false` when a living one has it. */
  async #makeLink(folder: string, mark: Mark, path: string): Promise<boolean> {
    for (;;) {
      try {
        await makeFolder(folder, () => this.#marks.write(mark, path))
        return true
      } catch (error) {
        if (!hasCode(error, 'EEXIST')) throw error
      }
      const holder = await markAt(path)
      if (holder === null) continue
      // The call that was refused had made it.
      if (holder.token === mark.token) mark.isSpent = true
      if (isAlive(holder) || !(await winsSteal(folder, holder.token, mark))) return false
      // Since we looked, somebody else may have taken that place, ended, and left it to a third, who is alive.
      if ((await markAt(path))?.token !== holder.token) continue
      const fresh = join(folder, `fresh-${randomBytes(8).toString('hex')}`)
      await writeMark(mark.token, fresh)
      await rename(fresh, path)
      return true
    }
  }
}

/** Looks after making the own link, so that of two overlapping newcomers at least one sees the other. */
async function isAlone(folder: string, range: ByteRange, ownPath: string, ownMark: Mark): Promise<boolean> {
  for (const name of await namesIn(folder)) {
    const other = rangeOf(name)
    const path = join(folder, name)
    if (!other || path === ownPath || !overlaps(other, range)) continue
    const found = await markAt(path)
    if (found === null) continue
    if (isAlive(found) || !(await winsSteal(folder, found.token, ownMark))) return false
    await rm(path, { force: true })
  }
  return true
}

/**
 * Of all that find the same dead holder exactly one may take its place: the one whose mark, under a name made from the
 * holder's unique token, came first; or, when that one has died over it, the one that takes its place in turn.
 */
async function winsSteal(folder: string, dead: string, mark: Mark): Promise<boolean> {
  const path = join(folder, `stolen-${createHash('sha256').update(dead).digest('hex').slice(0, 32)}`)
  // It stays there for as long as the upload.
  mark.isSpent = true
  try {
    await writeMark(mark.token, path)
    return true
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error
  }
  const thief = await markAt(path)
  if (thief === null || thief.token === mark.token) return thief?.token === mark.token
  return !isAlive(thief) && winsSteal(folder, thief.token, mark)
}

async function makeFolder(folder: string, action: () => Promise<void>): Promise<void> {
  try {
    await action()
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
    // Not recursive: when the upload's own folder is gone, the upload is over.
    await mkdir(folder, { mode: 0o700 }).catch((cause) => {
      if (!hasCode(cause, 'EEXIST')) throw cause
    })
    await action()
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return []
    throw error
  }
}

function isClaimName(name: string): boolean {
  return rangeOf(name) !== null || name.startsWith('present-')
}

function rangeOf(name: string): ByteRange | null {
  const match = /^(\d{1,16})-(\d{1,16})$/.exec(name)
  return match ? { start: Number(match[1]), end: Number(match[2]) } : null
}

function overlaps(a: ByteRange, b: ByteRange): boolean {
  return a.start < b.end && b.start < a.end
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds).unref())
}
