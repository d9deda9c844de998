/** `npm run demo:cluster` tells the truth: it succeeds, it can fail, and it leaves nothing behind, however it ends. */
import { mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { isAlive, startDemo as start, until } from '../support/demo-process.ts'
import { describeRedis } from '../support/redis-server.ts'
import { tempFolder } from '../support/temp-folder.ts'

const runTimeout = 180_000
const startDemo = (args: string[], env?: Record<string, string>) => start('scripts/cluster.ts', args, env)
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
