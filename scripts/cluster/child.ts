/** Child processes that end with the demo, whoever ends it. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { bundleOf } from '../../test/support/bundle.ts'

const startTimeout = 30_000
const root = fileURLToPath(new URL('../..', import.meta.url))
interface More {
  readonly env?: NodeJS.ProcessEnv
  readonly execArgv?: readonly string[]
}

/** @param source relative to the root of the project */
export function forkSource(source: string, args: readonly string[], more: More = {}): ChildProcess {
  const { env, execArgv = [] } = more
  return fork(bundleOf(source), args, {
    cwd: root,
    env: { ...process.env, ...env },
    execArgv: ['--disable-warning=ExperimentalWarning', ...execArgv],
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
}

/** The first message of a process; what it printed, when it ends before. */
export async function firstMessage(child: ChildProcess, signal: AbortSignal): Promise<unknown> {
  const ready = AbortSignal.any([signal, AbortSignal.timeout(startTimeout)])
  const [message] = await Promise.race([once(child, 'message', { signal: ready }), failureOf(child)])
  return message
}

export function failureOf(child: ChildProcess): Promise<never> {
  let printed = ''
  const keep = (text: Buffer) => {
    printed = (printed + text).slice(-2_000)
  }
  child.stdout?.on('data', keep)
  child.stderr?.on('data', keep)
  return new Promise((_, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) => reject(new Error(`A process ended with ${signal ?? code}: ${printed}`)))
  })
}

export function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}

/** Resolves when it has ended: by itself within `patience` ms, else killed. */
export async function end(child: ChildProcess, ask: () => unknown, patience: number): Promise<void> {
  if (!isRunning(child)) return
  const exited = once(child, 'exit')
  const timer = setTimeout(() => child.kill('SIGKILL'), patience)
  ask()
  await exited
  clearTimeout(timer)
}
