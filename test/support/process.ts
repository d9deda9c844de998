import { type ChildProcess, fork } from 'node:child_process'
import { afterEach } from 'vitest'
import { bundleOf } from './bundle.ts'
import type { ServerSettings } from './server-process.ts'

const children = new Set<ChildProcess>()

afterEach(() => {
  for (const child of children) child.kill('SIGKILL')
  children.clear()
})

export interface ServerProcess {
  readonly url: string
  readonly port: number
  readonly pid: number
  kill(signal?: NodeJS.Signals): Promise<void>
  /** Sends a message; resolves with the next one that comes back. */
  ask(message: string): Promise<unknown>
  /** Resolves with the exit code. */
  readonly exited: Promise<number | null>
  /** Asks it to close; resolves with the exit code once it has ended by itself. */
  close(timeout?: number): Promise<number | null>
}

/**
 * @param source of the server: it takes its settings as JSON and sends `{ port }` when it listens
 * @param through a command that becomes the server's process: `['prlimit', '--nofile=64']`
 * @param onOutput gets what it prints; without it errors go to the test's own
 */
export async function startServer<Settings extends object = ServerSettings>(
  settings: Settings,
  source = 'test/support/server-process.ts',
  through: readonly string[] = [],
  onOutput?: (text: string) => void,
): Promise<ServerProcess> {
  const [execPath = process.execPath, ...execArgv] = [...through, process.execPath]
  const child = fork(bundleOf(source), [JSON.stringify(settings)], {
    stdio: onOutput ? ['ignore', 'pipe', 'pipe', 'ipc'] : ['ignore', 'ignore', 'inherit', 'ipc'],
    execPath,
    execArgv,
  })
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (text) => onOutput?.(text))
  children.add(child)
  const exited = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)))
  const port = await new Promise<number>((resolve, reject) => {
    child.once('message', (message) => resolve((message as { port: number }).port))
    child.once('exit', (code) => reject(new Error(`the server ended with ${code} before it listened`)))
    child.once('error', reject)
  })
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    pid: child.pid ?? 0,
    exited,
    ask(message) {
      const answered = new Promise<unknown>((resolve) => child.once('message', resolve))
      child.send(message)
      return answered
    },
    async kill(signal = 'SIGKILL') {
      child.kill(signal)
      // A stopped one is still to be killed after the test.
      if (signal !== 'SIGKILL') return
      await exited
      children.delete(child)
    },
    async close(timeout = 10_000) {
      child.send('close')
      const late = new Promise<never>((_, reject) => {
        setTimeout(() => reject(new Error(`the process is still alive ${timeout} ms after close()`)), timeout).unref()
      })
      return Promise.race([exited, late])
    },
  }
}
