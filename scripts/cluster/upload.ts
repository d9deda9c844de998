/** One client at work: a process of its own, and what it has told so far. */
import type { ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { makeSourceFile } from '../demo/source-file.ts'
import { end, forkSource } from './child.ts'
import type { Report, Task } from './clients/report.ts'

export interface Kind {
  readonly name: string
  readonly source: string
  /** The first segment of its paths. */
  readonly wire: string
}

export const kinds: readonly Kind[] = [
  { name: 'our client', source: 'scripts/cluster/clients/ours.ts', wire: '/upload' },
  { name: 'Uppy Tus', source: 'scripts/cluster/clients/uppy.ts', wire: '/files' },
  { name: 'Resumable.js', source: 'scripts/cluster/clients/resumable.ts', wire: '/resumable' },
]

export class ClusterUpload {
  readonly kind: Kind
  readonly fileName: string
  readonly sha256: string
  /** How much of the file the client has sent, 0 to 1. It may lie in buffers on its way. */
  sent = 0
  /** Kills that a body of it was under way to. */
  kills = 0
  /** What had come over its line by the last one. */
  bytesAtKill = 0
  /** What the client was told. */
  url: string | null = null
  failure: string | null = null
  readonly #path: string
  readonly #folder: string
  #child: ChildProcess | null = null

  private constructor(kind: Kind, folder: string, file: { name: string; sha256: string }) {
    this.kind = kind
    this.#folder = folder
    this.fileName = file.name
    this.sha256 = file.sha256
    this.#path = join(folder, file.name)
  }

  /** Makes the file. */
  static async prepare(kind: Kind, folder: string, size: number, signal: AbortSignal): Promise<ClusterUpload> {
    const name = kind.source.replace(/^.*\/(\w+)\.ts$/, '$1.bin')
    const own = join(folder, name.replace('.bin', ''))
    await mkdir(own)
    const { sha256, handle } = await makeSourceFile(join(own, name), size, signal)
    await handle.close()
    return new ClusterUpload(kind, own, { name, sha256 })
  }

  get isRunning(): boolean {
    return this.url === null && this.failure === null
  }

  /** Resolves when it has ended, one way or the other. */
  async run(origin: string): Promise<void> {
    const cookie = `visitor=${randomUUID()}`
    const task: Task = { origin, path: this.#path, name: this.fileName, cookie, folder: this.#folder }
    const child = forkSource(this.kind.source, [JSON.stringify(task)])
    this.#child = child
    let printed = ''
    child.stdout?.resume()
    child.stderr?.on('data', (text) => {
      printed = (printed + text).slice(-1_000)
    })
    child.on('message', (message) => this.#take(message as Report))
    const [code] = await once(child, 'close')
    if (this.isRunning) this.failure = `its process ended with ${code}: ${printed}`
  }

  async stop(): Promise<void> {
    const child = this.#child
    if (child) await end(child, () => child.kill('SIGKILL'), 5_000)
  }

  #take(message: Report): void {
    if (message.kind === 'progress') this.sent = message.share
    else if (message.kind === 'done') this.url = message.url
    else this.failure = message.message
  }
}
