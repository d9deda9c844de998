/**
 * Damages the code as `test/reliability/mutants.ts` says, one damage at a time in a copy, and runs the tests that must
 * turn red. `npm run mutants [-- --only 'part of a name']`. Ends with 1 when a damaged copy passes.
 */
import { spawn } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Mutant, mutants } from '../test/reliability/mutants.ts'

const root = join(import.meta.dirname, '..')
const { values } = parseArgs({ options: { only: { type: 'string', default: '' } } })
const chosen = mutants.filter(({ name }) => name.includes(values.only))
if (chosen.length === 0) throw new Error(`no mutant's name contains ${values.only}`)

const copy = await mkdtemp(join(tmpdir(), 'nexus-mutants-'))
try {
  const parts = [
    'src',
    'test',
    'docs',
    'examples',
    'scripts',
    'bench',
    'package.json',
    'package-lock.json',
    'README.md',
  ]
  const configs = ['tsconfig.json', 'tsup.config.ts', 'vitest.config.ts', 'vitest.faults.config.ts', 'CHANGELOG.md']
  const isOurs = (path: string) => !path.includes('node_modules')
  for (const part of [...parts, ...configs]) {
    await cp(join(root, part), join(copy, part), { recursive: true, filter: isOurs })
  }
  await symlink(join(root, 'node_modules'), join(copy, 'node_modules'))
  await expectGreen(chosen)
  const survivors: Mutant[] = []
  for (const mutant of chosen) {
    const killer = await killerOf(mutant)
    console.log(
      `${killer === null ? 'SURVIVED' : 'killed  '} ${mutant.promise.padEnd(3)} ${mutant.name}${killer ? ` (${killer})` : ''}`,
    )
    if (killer === null) survivors.push(mutant)
  }
  console.log(`\n${chosen.length - survivors.length} of ${chosen.length} mutants killed`)
  process.exitCode = survivors.length > 0 ? 1 : 0
} finally {
  await rm(copy, { recursive: true, force: true })
}

/** A test that fails anyway kills nothing; on a busy machine one may fail once. */
async function expectGreen(list: readonly Mutant[]): Promise<void> {
  for (const test of new Set(list.flatMap(({ tests }) => tests))) {
    if (!(await passes(test)) && !(await passes(test))) throw new Error(`${test} fails without any damage`)
  }
}

/** The first of its tests that turns red. */
async function killerOf(mutant: Mutant): Promise<string | null> {
  const path = join(copy, mutant.file)
  const source = await readFile(path, 'utf8')
  await writeFile(
    path,
    source.replace(mutant.find, () => mutant.replace),
  )
  try {
    for (const test of mutant.tests) if (!(await passes(test))) return test
    return null
  } finally {
    await writeFile(path, source)
  }
}

function passes(test: string): Promise<boolean> {
  const config = test.endsWith('.sweep.ts') ? 'vitest.faults.config.ts' : 'vitest.config.ts'
  const vitest = join(copy, 'node_modules/vitest/vitest.mjs')
  const child = spawn(process.execPath, [vitest, 'run', '--config', config, '--bail', '1', test], {
    cwd: copy,
    stdio: 'ignore',
    env: { ...process.env, CI: '', CRASH_SEEDS: '4', FC_RUNS: '250' },
  })
  // A damage may also make a test wait for ever.
  const late = setTimeout(() => child.kill('SIGKILL'), 10 * 60_000)
  return new Promise((resolve) =>
    child.once('exit', (code) => {
      clearTimeout(late)
      resolve(code === 0)
    }),
  )
}
