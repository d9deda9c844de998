/**
 * Makes every small change to src/engine that Stryker knows, one at a time, and runs the tests that reach it.
 * `npm run stryker -- --sample 200 --seed 1` tries as many mutants, drawn at random; without `--sample` it tries all of
 * them, which takes hours. `--below 85` ends with 1 when the score is lower. Other arguments go to Stryker:
 * `--mutate src/engine/ranges.ts`, `--concurrency 1`. `STRYKER_TESTS` names other tests.
 */
import { spawn } from 'node:child_process'
import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

interface ReportedMutant {
  readonly id: string
  readonly mutatorName: string
  readonly replacement?: string
  readonly status: string
  readonly location: { readonly start: { readonly line: number; readonly column: number } }
}

interface Report {
  readonly files: Readonly<Record<string, { readonly mutants: readonly ReportedMutant[] }>>
}

interface Tried {
  readonly file: string
  readonly mutant: ReportedMutant
}

const root = join(import.meta.dirname, '..')
const reportPath = join(root, 'reports/mutation.json')
const drawnPath = join(root, 'reports/drawn.json')

const { own, others } = splitArguments(process.argv.slice(2))
const { values } = parseArgs({
  args: own,
  options: { sample: { type: 'string' }, seed: { type: 'string', default: '1' }, below: { type: 'string' } },
})
const sample = numberIn('sample', values.sample)
const seed = numberIn('seed', values.seed) ?? 1
const below = numberIn('below', values.below) ?? 0

await rm(reportPath, { force: true })
await rm(drawnPath, { force: true })
await runStryker(others)
const tried = await triedMutants()
const score = printScore(tried)
process.exitCode = score < below ? 1 : 0

/** Stryker's own options are not known here; each of ours has a value. */
function splitArguments(all: readonly string[]): { own: string[]; others: string[] } {
  const own: string[] = []
  const others: string[] = []
  for (let i = 0; i < all.length; i++) {
    const argument = all[i] ?? ''
    const isOurs = /^--(sample|seed|below)(=|$)/.test(argument)
    const target = isOurs ? own : others
    target.push(argument)
    if (isOurs && !argument.includes('=')) target.push(all[++i] ?? '')
  }
  return { own, others }
}

function numberIn(name: string, text: string | undefined): number | null {
  if (text === undefined) return null
  const value = Number(text)
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value))
    throw new Error(`--${name} must be a whole number, not ${text}`)
  return value
}

async function runStryker(more: readonly string[]): Promise<void> {
  const stryker = join(root, 'node_modules/@stryker-mutator/core/bin/stryker.js')
  const plugin = join(root, 'scripts/stryker-sample.mjs')
  const sampling = ['--appendPlugins', plugin, '--checkers', 'sample', '--reporters', 'json,sample']
  const child = spawn(process.execPath, [stryker, 'run', ...(sample === null ? [] : sampling), ...more], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, STRYKER_SAMPLE: String(sample), STRYKER_SEED: String(seed), STRYKER_DRAWN: drawnPath },
  })
  const code = await new Promise((resolve) => child.once('exit', resolve))
  if (code !== 0) throw new Error(`Stryker ended with ${code}`)
}

/** What Stryker reports of the mutants that were to be tried; of a sample, exactly the drawn ones must have run. */
async function triedMutants(): Promise<Tried[]> {
  const { files }: Report = JSON.parse(await readFile(reportPath, 'utf8'))
  const all = Object.entries(files).flatMap(([file, { mutants }]) => mutants.map((mutant) => ({ file, mutant })))
  if (sample === null) return all
  const ids = new Set<string>(JSON.parse(await readFile(drawnPath, 'utf8')).ids)
  const drawn = all.filter(({ mutant }) => ids.has(mutant.id))
  const ran = all.filter(({ mutant }) => ['Killed', 'Survived', 'Timeout', 'RuntimeError'].includes(mutant.status))
  const strangers = ran.filter(({ mutant }) => !ids.has(mutant.id)).length
  if (strangers > 0 || drawn.length !== ids.size) throw new Error(`${strangers} mutants ran that were not drawn`)
  return drawn
}

function printScore(mutants: readonly Tried[]): number {
  const having = (status: string, list = mutants) => list.filter(({ mutant }) => mutant.status === status)
  const killedOf = (list: readonly Tried[]) => having('Killed', list).length + having('Timeout', list).length
  // Invalid mutants say nothing of the tests, and static ones are not run (`ignoreStatic`).
  const valid = mutants.filter(({ mutant }) => !['CompileError', 'RuntimeError', 'Ignored'].includes(mutant.status))

  for (const { file, mutant } of [...having('Survived'), ...having('NoCoverage')]) {
    const { line, column } = mutant.location.start
    const replacement = (mutant.replacement ?? '').replace(/\s+/g, ' ').slice(0, 120)
    console.log(`${mutant.status.padEnd(10)} ${file}:${line}:${column} ${mutant.mutatorName}: ${replacement}`)
  }
  console.log('\nFile                                        tried  killed')
  for (const file of [...new Set(valid.map((one) => one.file))].sort()) {
    const ofFile = valid.filter((one) => one.file === file)
    console.log(`${file.padEnd(42)} ${String(ofFile.length).padStart(6)} ${percent(killedOf(ofFile) / ofFile.length)}`)
  }
  const killed = killedOf(valid)
  const [low, high] = wilson(killed, valid.length)
  const score = (100 * killed) / valid.length
  const counts = ['Killed', 'Timeout', 'Survived', 'NoCoverage', 'RuntimeError', 'Ignored', 'CompileError']
    .map((status) => [status, having(status).length] as const)
    .filter(([, count]) => count > 0)
  console.log(`\n${counts.map(([status, count]) => `${status} ${count}`).join(', ')}`)
  const drawn = sample === null ? '' : ` (drawn with seed ${seed}; 95 % interval ${percent(low)} to ${percent(high)})`
  console.log(`Score: ${killed} of ${valid.length} mutants, ${percent(killed / valid.length).trim()}${drawn}`)
  return score
}

/** The 95 % interval of a share that was counted in a sample (Wilson score interval). */
function wilson(hits: number, count: number): [low: number, high: number] {
  const z = 1.96
  const share = hits / count
  const middle = share + z ** 2 / (2 * count)
  const half = z * Math.sqrt((share * (1 - share)) / count + z ** 2 / (4 * count ** 2))
  const whole = 1 + z ** 2 / count
  return [(middle - half) / whole, (middle + half) / whole]
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1).padStart(6)} %`
}
