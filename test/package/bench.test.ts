/** `npm run bench` measures what it says: the ratios add up, and a stored file with a wrong byte ends it. */
import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { tempFolder } from '../support/temp-folder.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const sizes = ['--size', '4M', '--chunk-size', '1M', '--clients', '3', '--files', '20', '--warm-up', '2']
const small = ['--sources', '--rounds', '1', ...sizes]

interface Row {
  readonly workload: string
  readonly load: string
  readonly server: string
  readonly rounds: readonly Record<string, number>[]
}

interface Target {
  readonly workload: string
  readonly measure: string
  readonly measured: string
}

function bench(folder: string, args: string[], env: Record<string, string> = {}) {
  const command = ['--import', 'tsx', 'bench/run.ts', ...small, '--dir', folder, ...args]
  return promisify(execFile)(process.execPath, command, { cwd: root, env: { ...process.env, ...env } })
}

function benchLeftovers(folder: string): string[] {
  return readdirSync(folder).filter((name) => name.startsWith('bench-'))
}

it('the bench compares servers in plausible figures and leaves nothing behind', async () => {
  const folder = tempFolder()
  const files = { json: join(folder, 'out.json'), markdown: join(folder, 'out.md') }
  const args = ['--workloads', 'W1,W2,W3,W4', '--servers', 'pipe,chunk-files,form']
  await bench(folder, [...args, '--json', files.json, '--markdown', files.markdown])
  const { rows, targets } = JSON.parse(await readFile(files.json, 'utf8')) as { rows: Row[]; targets: Target[] }

  const measured = rows.map(({ workload, server }) => `${workload} ${server}`)
  expect(measured).toEqual([
    ...['W1 pipe', 'W1 chunk-files', 'W1 form', 'W2 chunk-files', 'W2 form'],
    ...['W3 chunk-files', 'W3 pipe', 'W3 form', 'W4 pipe', 'W4 form'],
  ])
  for (const { workload, server, rounds } of rows) {
    const [round, ...more] = rounds
    expect(more).toEqual([])
    for (const name of ['mbPerSecond', 'filesPerSecond', 'chunkP50', 'serverCpuPerGiB'] as const) {
      expect(round?.[name], `${workload} ${server} ${name}`).toBeGreaterThan(0)
    }
    expect(round?.chunkP99).toBeGreaterThanOrEqual(round?.chunkP50 ?? Number.NaN)
    expect(round?.sentRatio).toBe(1)
  }

  const speed = (server: string) => rows.find((row) => row.workload === 'W1' && row.server === server)?.rounds[0]
  const ratio = (speed('form')?.mbPerSecond ?? 0) / (speed('pipe')?.mbPerSecond ?? 0)
  expect(ratio).toBeGreaterThan(0.01)
  expect(ratio).toBeLessThan(100)
  const target = targets.find(({ measure }) => measure === 'form ÷ pipe, MB/s')
  expect(target?.measured).toBe(ratio.toFixed(2))
  const report = await readFile(files.markdown, 'utf8')
  expect(report).toContain(`| W1 4M | form ÷ pipe, MB/s | ${ratio.toFixed(2)} | ≥ 1.2 | ≥ 1.7 |`)
  for (const title of ['### W1: ', '### W2: ', '### W3: ', '### W4: ']) expect(report).toContain(title)
  expect(benchLeftovers(folder)).toEqual([])
})

it('the bench ends with an error when one byte of a stored file is wrong', async () => {
  const folder = tempFolder()
  const run = bench(folder, ['--workloads', 'W4', '--servers', 'form'], { BENCH_CORRUPT: '1' })
  await expect(run).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/W4 .*: the stored file \S+ has other bytes/),
  })
  expect(benchLeftovers(folder)).toEqual([])
})
