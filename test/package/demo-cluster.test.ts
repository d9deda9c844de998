/** `npm run demo:cluster` tells the truth: it succeeds, it can fail, and it leaves nothing behind, however it ends. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, it } from 'vitest'
import { describeRedis } from '../support/redis-server.ts'
import { tempFolder } from '../support/temp-folder.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const runTimeout = 180_000
const children = new Set<ChildProcess>()

afterEach(() => {
  for (const child of children) child.kill('SIGKILL')
  children.clear()
})

/** The demo with small files and a temp folder of its own, so that what it leaves there can be seen. */
function startDemo(args: string[], env: Record<string, string> = {}) {
  const tmp = tempFolder()
  const child = spawn(process.execPath, ['--import', 'tsx', 'scripts/cluster.ts', ...args], {
    cwd: root,
    env: { ...process.env, TMPDIR: tmp, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.add(child)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text) => {
      output += text
    })
  }
  return {
    child,
    ended: once(child, 'close').then(([code]) => code as number | null),
    output: () => output,
    leftovers: () => readdirSync(tmp).filter((name) => name.startsWith('nexus-uploader-')),
    said: (pattern: RegExp) => until(() => pattern.exec(output), `${pattern} in ${output}`),
  }
}

async function until<Result>(look: () => Result | null | false, what: string): Promise<Result> {
  const deadline = Date.now() + 60_000
  for (;;) {
    const result = look()
    if (result) return result
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

const small = ['--size', '16M', '--kills', '3', '--seconds', '14']

describeRedis('the demo of a cluster', () => {
  it(
    'kills nodes in the middle of all three clients, and every stored byte is right',
    async () => {
      const demo = startDemo([...small, '--seed', '7'])
      expect(await demo.ended, demo.output()).toBe(0)
      const output = demo.output()
      expect(output).toMatch(/seed 7, three files of 16\.0 MiB/)
      expect(output.match(/^ +[\d.]+ s {2}node \d +kill -9 \(pid \d+\) while it receives from \w/gm)).toHaveLength(3)
      expect(output.match(/^ +[\d.]+ s {2}node \d +SIGTERM/gm)).toHaveLength(1)
      expect(output).toMatch(/node \d +has let its requests end and closed/)
      expect(output.match(/is back \(pid \d+\), with an empty disk/g)).toHaveLength(4)
      for (const client of ['our client', 'Uppy Tus', 'Resumable\\.js']) {
        expect(output).toMatch(new RegExp(`s  ${client} +is done: http`))
        expect(output).toMatch(new RegExp(`${client} +SHA-256 [0-9a-f]{16}… of the stored file is the same`))
        expect(output).toMatch(
          new RegExp(`^  ${client} +[1-9]\\d* kills? in the middle; was told .*[1-9]\\d* × 502`, 'm'),
        )
      }
      expect(output).toMatch(/bucket +3 files, 0 staged pieces, 0 open multipart uploads/)
      for (const node of [1, 2, 3]) expect(output).toMatch(new RegExp(`^  node ${node} +[1-9]\\d* requests`, 'm'))
      expect(output).toMatch(/^ {2}kills +3$/m)
      expect(output).toMatch(/^ {2}wrong bytes +0$/m)
      expect(output).toMatch(/All was right/)
      expect(demo.leftovers()).toEqual([])
    },
    runTimeout,
  )

  it(
    'fails when one byte of a stored file is wrong',
    async () => {
      const demo = startDemo([...small, '--seed', '8'], { NEXUS_DEMO_CORRUPT: '1' })
      expect(await demo.ended, demo.output()).toBe(1)
      expect(demo.output()).toMatch(/of the stored file IS DIFFERENT/)
      expect(demo.output()).toMatch(/^ {2}wrong bytes +YES$/m)
      expect(demo.output()).toMatch(/NOT RIGHT/)
      expect(demo.leftovers()).toEqual([])
    },
    runTimeout,
  )

  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    it(
      `leaves no process and no file when ${signal} ends it half way`,
      async () => {
        const demo = startDemo([...small, '--seconds', '60'])
        await demo.said(/our client +begins/)
        const pids = [...demo.output().matchAll(/pid (\d+)/g)].map(([, pid]) => Number(pid))
        expect(pids).toHaveLength(4)
        demo.child.kill(signal)
        expect(await demo.ended).toBe(signal === 'SIGTERM' ? 130 : null)
        await until(() => !pids.some(isAlive), 'the nodes and Redis to end')
        await until(() => demo.leftovers().length === 0, 'the temp folder to go')
      },
      runTimeout,
    )
  }
})

describe('the demo of a cluster without redis-server', () => {
  it('says how to install it, and ends with a code of its own', async () => {
    const bin = join(tempFolder(), 'bin')
    mkdirSync(bin)
    symlinkSync(process.execPath, join(bin, 'node'))
    const demo = startDemo([], { PATH: bin })
    expect(await demo.ended).toBe(3)
    expect(demo.output()).toMatch(/redis-server is not on the PATH[\s\S]*apt-get install redis-server/)
    expect(demo.leftovers()).toEqual([])
  })

  it('refuses options that make no sense', async () => {
    const demo = startDemo(['--size', '1M'])
    expect(await demo.ended).toBe(2)
    expect(demo.output()).toMatch(/--size must be from 8M to 8G, got "1M"/)
  })
})
