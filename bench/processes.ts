/** The processes of a measurement, what they cost, and that none of them nor their files outlives the bench. */
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { mkdtemp, open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const patience = 15 * 60 * 1000
const scratch = Buffer.alloc(512 * 1024, 1)

// What an interrupted bench would leave: servers and gigabytes.
const running = new Set<ChildProcess>()
const folders = new Set<string>()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL')
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

/** A folder, and the processes that work in it. */
export class Stage {
  readonly folder: string
  readonly #children: ChildProcess[] = []

  private constructor(folder: string) {
    this.folder = folder
    folders.add(folder)
  }

  static async open(directory: string, name: string): Promise<Stage> {
    return new Stage(await mkdtemp(join(directory, `bench-${name}-`)))
  }

  /** A script of this folder. */
  start(script: string, args: readonly string[] = [], nodeFlags: readonly string[] = []): ChildProcess {
    const path = fileURLToPath(new URL(script, import.meta.url))
    return this.#keep(fork(path, args, { execArgv: [...nodeFlags, '--import', 'tsx'] }))
  }

  startProgram(command: string, args: readonly string[]): ChildProcess {
    return this.#keep(spawn(command, args, { stdio: 'ignore' }))
  }

  #keep(child: ChildProcess): ChildProcess {
    this.#children.push(child)
    running.add(child)
    child.once('exit', () => running.delete(child))
    return child
  }

  /**
   * Makes the machine have that much memory at hand. A virtual machine gives memory that lies free for some seconds back to its host,
   * and gets it again page by page: then the same write costs 1.2 s of CPU per GiB instead of 0.2, whoever makes it.
   */
  async claimMemory(bytes: number): Promise<void> {
    const file = await open(join(this.folder, 'claimed'), 'w')
    try {
      for (let written = 0; written < bytes; written += scratch.length) await file.write(scratch)
    } finally {
      await file.truncate()
      await file.close()
    }
  }

  async close(): Promise<void> {
    await this.#end()
    await rm(this.folder, { recursive: true, force: true })
    folders.delete(this.folder)
  }

  /**
   * Gives the bytes of the files back, and leaves the files until this process ends: ext4 without a journal goes through all
   * files deleted in the last minutes whenever one is made, so deleting them would make the next server slower, whichever it is.
   */
  async closeEmpty(): Promise<void> {
    await this.#end()
    for (const entry of await readdir(this.folder, { recursive: true, withFileTypes: true })) {
      if (entry.isFile()) await truncate(join(entry.parentPath, entry.name))
    }
  }

  async #end(): Promise<void> {
    for (const child of this.#children) {
      if (child.exitCode !== null || child.signalCode !== null) continue
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
    }
  }
}

/** The next message of the process. */
export async function answerOf<Message>(child: ChildProcess): Promise<Message> {
  const give = new AbortController()
  const signal = AbortSignal.any([give.signal, AbortSignal.timeout(patience)])
  try {
    return await Promise.race([
      once(child, 'message', { signal }).then(([message]) => message as Message),
      once(child, 'exit', { signal }).then(([code]) => {
        throw new Error(`a child process ended early with ${code}`)
      }),
    ])
  } finally {
    give.abort()
  }
}

export interface Memory {
  /** Resident, bytes. */
  readonly now: number
  readonly peak: number
}

/** `null` where the system does not tell; `reset` forgets the peak so far. */
export async function memoryOf({ pid }: ChildProcess, reset: boolean): Promise<Memory | null> {
  if (process.platform !== 'linux') return null
  if (reset) await writeFile(`/proc/${pid}/clear_refs`, '5').catch(() => {})
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  const bytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024
  return { now: bytes('VmRSS'), peak: bytes('VmHWM') }
}

/** Of a process that is no Node, on Linux, in steps of 10 ms. */
export async function cpuSecondsOf({ pid }: ChildProcess): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  // The name of the program, in parentheses, may hold spaces; user and system time are 12 and 13 fields further.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}
