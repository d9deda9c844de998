/**
 * Runs the sweeps of test/faults and counts what they provoked: `npm run test:faults [-- arguments of vitest]`. With
 * `FAULTS_WRITE=1` also the quick tests of faults, and the counts go into docs/reliability.md.
 */
import { spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

interface Point {
  readonly kind: string
  readonly point: string
  readonly count: number
}
interface Figure {
  readonly figure: string
  readonly value: number
  readonly unit: string
}

const meanings: Readonly<Record<string, string>> = {
  fs: 'file-system calls that failed (call × error)',
  crash: 'calls at which the process ended',
  power: 'power cuts (crash images, and orders of system calls)',
  s3: 'S3 operations that failed, lied or hung (operation × fault)',
  redis: 'Redis faults',
  attack: 'hostile inputs',
  kill: 'acknowledged chunks that outlived a SIGKILL',
  race: 'orders of concurrent calls',
}
const document = join(import.meta.dirname, '../docs/reliability.md')
const marks = ['<!-- counted by npm run test:faults -->', '<!-- end of the count -->'] as const

const folder = await mkdtemp(join(tmpdir(), 'nexus-faults-'))
const vitest = join(import.meta.dirname, '../node_modules/vitest/vitest.mjs')
const child = spawn(
  process.execPath,
  [vitest, 'run', '--config', 'vitest.faults.config.ts', ...process.argv.slice(2)],
  { stdio: 'inherit', env: { ...process.env, FAULT_POINTS: folder } },
)
const code = await new Promise<number>((resolve) => child.once('exit', (status) => resolve(status ?? 1)))
const table = await counted()
console.log(`\n${table}`)
if (code === 0 && process.env.FAULTS_WRITE) await writeDocument(table)
await rm(folder, { recursive: true, force: true })
process.exit(code)

async function counted(): Promise<string> {
  const entries: (Point | Figure)[] = []
  for (const name of await readdir(folder)) {
    const lines = (await readFile(join(folder, name), 'utf8')).trim().split('\n')
    for (const line of lines) entries.push(JSON.parse(line) as Point | Figure)
  }
  const points = entries.filter((entry) => 'point' in entry)
  const rows = Object.entries(meanings).flatMap(([kind, meaning]) => {
    const own = points.filter((point) => point.kind === kind)
    if (own.length === 0) return []
    const most = new Map<string, number>()
    for (const { point, count } of own) most.set(point, Math.max(count, most.get(point) ?? 0))
    const total = [...most.values()].reduce((sum, count) => sum + count, 0)
    return [`| ${meaning} | ${total} |`]
  })
  const figures = entries.filter((entry) => 'figure' in entry)
  return [
    '| Provoked and survived (a point that is not survived fails the run) | Points |',
    '|---|---:|',
    ...rows,
    ...(figures.length > 0 ? ['', '| Measured in the same run | |', '|---|---:|'] : []),
    ...figures.map(({ figure, value, unit }) => `| ${figure} | ${value} ${unit} |`),
  ].join('\n')
}

async function writeDocument(text: string): Promise<void> {
  const before = await readFile(document, 'utf8')
  const [start, end] = marks.map((mark) => before.indexOf(mark)) as [number, number]
  if (start < 0 || end < start) throw new Error(`docs/reliability.md has no place for the count: ${marks.join(' … ')}`)
  const day = new Date().toISOString().slice(0, 10)
  const counted = `\nCounted on ${day} with Node ${process.versions.node}.\n\n${text}\n\n`
  await writeFile(document, before.slice(0, start + marks[0].length) + counted + before.slice(end))
}
