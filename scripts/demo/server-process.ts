/** The server as a child process that can be started, killed and started again on the same port and folder. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const startTimeout = 30_000
const stopTimeout = 5_000

export class ServerProcess {
  readonly #folder: string
  /** 0 until the first start: any free one, then always the same. */
  #port = 0
  #child: ChildProcess | null = null

  constructor(folder: string) {
    this.#folder = folder
  }

  get origin(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  async start(signal: AbortSignal): Promise<void> {
    const child = fork(fileURLToPath(new URL('server.ts', import.meta.url)), [this.#folder, String(this.#port)], {
      execArgv: ['--import', import.meta.resolve('tsx')],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    this.#child = child
    const ready = AbortSignal.any([signal, AbortSignal.timeout(startTimeout)])
    const [message] = await Promise.race([once(child, 'message', { signal: ready }), failureOf(child)])
    this.#port = (message as { port: number }).port
  }

  /** SIGKILL: the process gets no chance to save anything. */
  async kill(): Promise<void> {
    await this.#end((child) => child.kill('SIGKILL'))
  }

  /** Asks it to end, and kills it when it does not. */
  async stop(): Promise<void> {
    await this.#end((child) => child.connected && child.send('stop', () => {}))
  }

  /** When the process has ended, for whatever reason. */
  async ended(signal: AbortSignal): Promise<void> {
    if (this.#child && isRunning(this.#child)) await once(this.#child, 'exit', { signal })
  }

  async #end(ask: (child: ChildProcess) => unknown): Promise<void> {
    const child = this.#child
    if (!child) return
    this.#child = null
    if (!isRunning(child)) return
    const exited = once(child, 'exit')
    const timer = setTimeout(() => child.kill('SIGKILL'), stopTimeout)
    ask(child)
    await exited
    clearTimeout(timer)
  }
}

function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}

function failureOf(child: ChildProcess): Promise<never> {
  return new Promise((_, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) => reject(new Error(`The server ended at once (${signal ?? `exit ${code}`}).`)))
  })
}
