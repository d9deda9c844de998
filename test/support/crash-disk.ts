/**
 * A real file system in a file, and what is left of it when the power goes: a copy of that file, made at any moment. What
 * the system has not written to its disk yet is not in the copy. Needs root and loop devices.
 */
import { execFileSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'

/** Why there is no such disk here; `null` when there can be one. */
export function crashDiskMissing(): string | null {
  if (process.platform !== 'linux') return 'crash images need Linux'
  if (process.getuid?.() !== 0) return 'crash images need root'
  if (!existsSync('/dev/loop-control')) return 'crash images need loop devices'
  try {
    run('mkfs.ext4', '-V')
    return null
  } catch {
    return 'crash images need mkfs.ext4'
  }
}

function run(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

/** In memory if possible: what counts is what was written when, not how fast. */
const shelf = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()

const prefix = 'nexus-power-'

export class CrashDisk {
  readonly folder: string
  /** Where the file system is mounted. */
  readonly path: string
  readonly #image: string
  readonly #device: string
  #images = 0

  constructor(megabytes = 32) {
    removeLeftovers()
    this.folder = mkdtempSync(join(shelf, `${prefix}${process.pid}-`))
    this.path = join(this.folder, 'disk')
    this.#image = join(this.folder, 'disk.img')
    mkdirSync(this.path)
    writeFileSync(this.#image, '')
    truncateSync(this.#image, megabytes * 2 ** 20)
    try {
      run('mkfs.ext4', '-q', '-m', '0', '-N', '16384', '-E', 'lazy_itable_init=0,lazy_journal_init=0', this.#image)
      // Nothing is written by itself, and a rename does not flush what it renames.
      mount(this.#image, this.path, 'commit=600,noauto_da_alloc')
      this.#device = basename(run('findmnt', '-n', '-o', 'SOURCE', this.path).trim())
    } catch (error) {
      this.remove()
      throw error
    }
  }

  /** What of the disk is left if the power goes now. The process that writes on it stands still meanwhile. */
  async cut(pid: number): Promise<string> {
    const image = join(this.folder, `crash-${this.#images++}.img`)
    for (;;) {
      process.kill(pid, 'SIGSTOP')
      try {
        await standsStill(pid)
        const before = await this.#idle()
        run('cp', '--sparse=always', this.#image, image)
        // The kernel may have been writing while it was read; no disk ever looks like that.
        if ((await this.#idle()) === before) return image
      } finally {
        process.kill(pid, 'SIGCONT')
      }
    }
  }

  /** Mounts the image, for as long as `look` takes, and removes it. */
  async on<Result>(image: string, look: (path: string) => Promise<Result>): Promise<Result> {
    const path = `${image}.mounted`
    mkdirSync(path)
    try {
      mount(image, path, 'noatime')
      return await look(path)
    } finally {
      unmount(path)
      rmSync(path, { recursive: true })
      rmSync(image)
    }
  }

  /** Everything: whatever is still mounted, its loop devices, its files. */
  remove(): void {
    removeDisk(this.folder)
  }

  async #idle(): Promise<string> {
    for (;;) {
      const stat = readFileSync(`/sys/block/${this.#device}/stat`, 'utf8').trim().split(/\s+/)
      if (stat[8] === '0') return stat.join(' ')
      await wait(1)
    }
  }
}

function removeDisk(folder: string): void {
  for (const name of readdirSync(folder)) unmount(join(folder, name))
  rmSync(folder, { recursive: true, force: true })
}

/** Of runs that were killed. */
function removeLeftovers(): void {
  for (const name of readdirSync(shelf)) {
    const [, pid] = /^nexus-power-(\d+)-/.exec(name) ?? []
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) removeDisk(join(shelf, name))
  }
}

export function mount(image: string, path: string, options: string): void {
  run('mount', '-t', 'ext4', '-o', `loop,${options}`, image, path)
}

/** Also what is busy, and what is no mount at all. */
export function unmount(path: string): void {
  try {
    run('mountpoint', '-q', path)
  } catch {
    return
  }
  try {
    run('umount', path)
  } catch {
    run('umount', '-l', path)
  }
}

async function standsStill(pid: number): Promise<void> {
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    for (;;) {
      const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8')
      if (stat.slice(stat.lastIndexOf(')') + 2).startsWith('T')) break
      await wait(1)
    }
  }
}
