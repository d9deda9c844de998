/** One node: `examples/redis-s3-cluster/server.ts` in a process that can be killed and started again on its port. */
import type { ChildProcess } from 'node:child_process'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { end, failureOf, forkSource, isRunning } from './child.ts'

const startTimeout = 30_000
/** The demo was killed: nobody else is left to end its nodes. The example itself knows nothing of that. */
const endWithDemo = 'data:text/javascript,process.on("disconnect",()=>process.exit(1));process.channel.unref()'

export interface Watch {
  /** What a node prints to its error output. */
  readonly printed: (node: ClusterNode, text: string) => void
  /** It has ended, and nobody had asked it to. */
  readonly crashed: (node: ClusterNode, how: string) => void
}

export class ClusterNode {
  readonly name: string
  kills = 0
  readonly #folder: string
  readonly #env: NodeJS.ProcessEnv
  /** 0 until the first start: any free one, then always the same. */
  #port = 0
  #child: ChildProcess | null = null
  readonly #watch: Watch

  constructor(name: string, folder: string, env: NodeJS.ProcessEnv, watch: Watch) {
    this.name = name
    this.#folder = join(folder, name.replace(' ', '-'))
    this.#env = env
    this.#watch = watch
  }

  get port(): number {
    return this.#port
  }

  get pid(): number {
    return this.#child?.pid ?? 0
  }

  get isUp(): boolean {
    return this.#child !== null && isRunning(this.#child)
  }

  /** With an empty disk, as a new machine has it. */
  async start(signal: AbortSignal): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 3 })
    await mkdir(this.#folder, { recursive: true })
    const env = { ...this.#env, PORT: String(this.#port), TMPDIR: this.#folder }
    const child = forkSource('examples/redis-s3-cluster/server.ts', [], { env, execArgv: ['--import', endWithDemo] })
    this.#child = child
    child.stderr?.on('data', (text) => this.#watch.printed(this, String(text).trim()))
    this.#port = await Promise.race([portOf(child, signal), failureOf(child)])
    child.once('exit', (code, killer) => {
      if (this.#child === child) this.#watch.crashed(this, killer ?? `exit code ${code}`)
    })
  }

  /** SIGKILL: the process gets no chance to save anything, and its disk is lost with it. */
  async kill(): Promise<void> {
    this.kills += 1
    await this.#end('SIGKILL', 5_000)
  }

  /** SIGTERM: it ends what is running and closes. Resolves with its exit code. */
  async stop(patience = 15_000): Promise<number | null> {
    const child = this.#child
    await this.#end('SIGTERM', patience)
    return child?.exitCode ?? null
  }

  async #end(signal: NodeJS.Signals, patience: number): Promise<void> {
    const child = this.#child
    this.#child = null
    if (child) await end(child, () => child.kill(signal), patience)
  }
}

function portOf(child: ChildProcess, signal: AbortSignal): Promise<number> {
  return new Promise((resolve, reject) => {
    const late = AbortSignal.any([signal, AbortSignal.timeout(startTimeout)])
    late.addEventListener('abort', () => reject(late.reason), { once: true })
    let printed = ''
    child.stdout?.on('data', (text) => {
      printed += text
      const [, port] = /listening on http:\/\/\S+:(\d+)\n/.exec(printed) ?? []
      if (port) resolve(Number(port))
    })
  })
}
