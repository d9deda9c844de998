/** `npm run scoreboard` tells a server that keeps its promises from one that does not, and its table is up to date. */
import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import type { Case } from '../../scoreboard/case.ts'
import { fail } from '../../scoreboard/outcome.ts'
import { reportOf } from '../../scoreboard/report.ts'
import { everything, type Row, runScoreboard, survival } from '../../scoreboard/run.ts'
import { tempFolder } from '../support/temp-folder.ts'

const root = join(import.meta.dirname, '../..')

function named<Item extends { readonly name: string }>(all: readonly Item[], ...names: string[]): Item[] {
  return all.filter(({ name }) => names.includes(name))
}

/** Without what was seen, which depends on the day. */
function verdicts(rows: readonly Row[]): string[] {
  return rows.map(({ case: name, server, result }) => `${server} ${name}: ${result.verdict}`)
}

/** None of these servers needs a package that is not installed here. */
async function run(servers: string[], cases: readonly Case[], directory = tempFolder()): Promise<Row[]> {
  const contenders = named(everything.contenders, ...servers)
  return runScoreboard({ contenders, cases, directory, tell: () => {} })
}

describe('the scoreboard', () => {
  it('lets this package pass, and a server that checks nothing fail with what was seen', async () => {
    const rows = await run(['ours-routes', 'multer'], named(everything.cases, 'hole', 'sizes', 'wrong-offset'))
    expect(verdicts(rows)).toEqual([
      ...['ours-routes hole: pass', 'ours-routes wrong-offset: n.a.', 'ours-routes sizes: pass'],
      ...['ours-routes survival: pass', 'multer hole: fail', 'multer wrong-offset: n.a.', 'multer sizes: fail'],
      'multer survival: pass',
    ])
    const sizes = rows.find((row) => row.server === 'multer' && row.case === 'sizes')
    expect(sizes?.result.reason).toBe('NaN: 200, -1: 200, 1.5: 200, 12abc: 200')
  })

  it('counts a process that ends during a case against the server', async () => {
    const deadly: Case = {
      name: 'deadly',
      title: 'The process ends',
      async run(subject) {
        process.kill(subject.pid, 'SIGKILL')
        await new Promise((resolve) => setTimeout(resolve, 300))
      },
    }
    const rows = await run(['ours-tus'], [deadly])
    expect(verdicts(rows)).toEqual(['ours-tus deadly: pass', 'ours-tus survival: fail'])
    expect(rows.at(-1)?.result.reason).toBe('deadly: the process ended (SIGKILL)')
  })

  it('takes a case that breaks by itself for no verdict, and leaves nothing behind', async () => {
    const broken: Case = { name: 'broken', title: 'Breaks', run: () => Promise.reject(new Error('a typing error')) }
    const failing: Case = { name: 'failing', title: 'Fails', run: async () => fail('200, | and a\nline') }
    const directory = tempFolder()
    const rows = await run(['ours-tus'], [broken, failing], directory)
    expect(verdicts(rows).slice(0, 2)).toEqual(['ours-tus broken: n.a.', 'ours-tus failing: fail'])
    expect(readdirSync(directory)).toEqual([])
    const report = reportOf(rows, named(everything.contenders, 'ours-tus'))
    expect(report).toContain('| Breaks | n.a. (a) |\n| Fails | **fail** (1) |')
    expect(report).toContain('- 1: this package, tus: 200, \\| and a line')
    expect(report).toContain('- a: the case itself broke: a typing error')
    expect(report).toContain('| **passed** | 1 of 2 |')
  })

  it('prints a table, and refuses a name that it does not know', async () => {
    const script = (...args: string[]) =>
      promisify(execFile)(process.execPath, ['--import', 'tsx', 'scripts/scoreboard.ts', ...args], { cwd: root })
    const { stdout } = await script('--servers', 'ours-tus', '--cases', 'sizes')
    expect(stdout).toContain('| The sizes NaN, -1, 1.5 and 12abc are refused with a 4xx | pass |')
    await expect(script('--servers', 'ours')).rejects.toMatchObject({ code: 1, stderr: /"ours" is none of ours-tus,/ })
  })
})

it('docs/reliability.md has a row for every case, and none fails for this package', async () => {
  const document = await readFile(join(root, 'docs/reliability.md'), 'utf8')
  const table = document.split(/<!-- (?:end of )?scoreboard -->/)[1] ?? ''
  const rows = table.split('\n').filter((line) => line.startsWith('| '))
  const own = everything.contenders.filter(({ isOurs }) => isOurs).length
  for (const { title } of [...everything.cases, survival]) {
    const row = rows.find((line) => line.startsWith(`| ${title} |`))
    expect(row, title).toBeDefined()
    expect(
      row
        ?.split(' | ')
        .slice(1, 1 + own)
        .join(),
      title,
    ).not.toContain('fail')
  }
})
