/** A demo as a process of its own, with a temp folder of its own, so that what it leaves there can be seen. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterEach } from 'vitest'
import { tempFolder } from './temp-folder.ts'

export const root = fileURLToPath(new URL('../..', import.meta.url))
const children = new Set<ChildProcess>()

afterEach(() => {
  for (const child of children) child.kill('SIGKILL')
  children.clear()
})

export function startDemo(script: string, args: string[], env: Record<string, string> = {}) {
  const tmp = tempFolder()
  const child = spawn(process.execPath, ['--import', 'tsx', script, ...args], {
    cwd: root,
    env: { ...process.env, TMPDIR: tmp, PORT: '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.add(child)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text: Buffer) => {
      output += text
    })
  }
  return {
    child,
    ended: once(child, 'close').then(([code]) => code as number | null),
    output: () => output,
    leftovers: () => readdirSync(tmp).filter((name) => name.startsWith('nexus-uploader-')),
    /** Resolves with the match as soon as the output has it. */
    said: (pattern: RegExp) =>
      until(() => {
        const match = pattern.exec(output)
        if (!match && child.exitCode !== null) throw new Error(`the demo ended with ${child.exitCode}: ${output}`)
        return match
      }, `${pattern} in the output`),
  }
}

export async function until<Result>(look: () => Result | null | false, what: string): Promise<Result> {
  const deadline = Date.now() + 60_000
  for (;;) {
    const result = look()
    if (result) return result
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
