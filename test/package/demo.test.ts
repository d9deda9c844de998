/** `npm run demo` tells the truth: it succeeds, it can fail, and it leaves nothing behind, however it ends. */
import { describe, expect, it } from 'vitest'
import { isAlive, startDemo as start, until } from '../support/demo-process.ts'

const runTimeout = 120_000
const startDemo = (args: string[], env?: Record<string, string>) =>
  start('scripts/demo.ts', ['--size', '48', ...args], env)

describe('the demo', () => {
  it(
    'survives the cut and the kill, sends only what is missing, and the checksum matches',
    async () => {
      const demo = startDemo(['--once'])
      expect(await demo.ended, demo.output()).toBe(0)
      const output = demo.output()
      expect(output).toMatch(/connection cut in the middle of chunk \d+/)
      expect(output).toMatch(/The server counts nothing of it/)
      expect(output).toMatch(/killed with SIGKILL/)
      expect(output).toMatch(/GET \/upload\/progress: ECONNREFUSED/)
      expect(output).toMatch(/Server killed +after \d+ chunks acknowledged; 0 of them lost/)
      const [, missing, sent] = /Resumed +\d+ missing chunks?, ([\d.]+ MiB); sent ([\d.]+ MiB)/.exec(output) ?? []
      expect(missing).toBeDefined()
      expect(sent).toBe(missing)
      expect(output).toMatch(/File +48\.0 MiB, SHA-256 [0-9a-f]{64}/)
      expect(output).toMatch(/SHA-256 of the stored file is the same/)
      expect(output).toMatch(/All was right/)
      expect(demo.leftovers()).toEqual([])
    },
    runTimeout,
  )

  it(
    'fails when one byte of the stored file is wrong',
    async () => {
      const demo = startDemo(['--once'], { NEXUS_DEMO_CORRUPT: '1' })
      expect(await demo.ended, demo.output()).toBe(1)
      expect(demo.output()).toMatch(/SHA-256 of the stored file IS DIFFERENT/)
      expect(demo.output()).toMatch(/NOT RIGHT/)
      expect(demo.leftovers()).toEqual([])
    },
    runTimeout,
  )

  it(
    'keeps its page open until Ctrl+C',
    async () => {
      const demo = startDemo([])
      const [, url = ''] = await demo.said(/Try it in a browser: (\S+)/)
      const page = await (await fetch(url)).text()
      const assets = [...page.matchAll(/(?:src|href)="(\/\w[^"]*)"/g)].map(([, path]) => path ?? '')
      expect(assets).toEqual(['/assets/page.css', '/assets/main.js'])
      const imported = (script: string) =>
        [...script.matchAll(/"(\.\/[\w-]+\.js)"/g)].map(([, path]) => `/assets/${path}`)
      const modules = imported(await (await fetch(new URL('/assets/main.js', url))).text())
      // Each client library is loaded when it is chosen.
      expect(modules.length).toBeGreaterThanOrEqual(4)
      for (const path of [...assets, ...modules, '/assets/sha256-worker.js']) {
        const answer = await fetch(new URL(path, url))
        expect(answer.status, path).toBe(200)
        // Nothing comes from a network.
        expect(answer.headers.get('content-security-policy'), path).toMatch(/^default-src 'none'; script-src 'self'/)
      }
      demo.child.kill('SIGINT')
      expect(await demo.ended, demo.output()).toBe(0)
      expect(demo.leftovers()).toEqual([])
    },
    runTimeout,
  )

  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    it(
      `leaves no process and no file when ${signal} ends it half way`,
      async () => {
        const demo = startDemo(['--speed', '20'])
        const [, pid] = await demo.said(/Server process (\d+)/)
        await demo.said(/Uploading/)
        demo.child.kill(signal)
        expect(await demo.ended).toBe(signal === 'SIGTERM' ? 130 : null)
        await until(() => !isAlive(Number(pid)), 'the server to end')
        await until(() => demo.leftovers().length === 0, 'the temp folder to go')
      },
      runTimeout,
    )
  }

  it('refuses options that make no sense', async () => {
    const demo = startDemo(['--size', '1'])
    expect(await demo.ended).toBe(2)
    expect(demo.output()).toMatch(/--size must be a whole number from 32 to 2048, got "1"/)
  })
})
