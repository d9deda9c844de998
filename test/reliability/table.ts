/** The table of promises in docs/reliability.md, made from the tests themselves. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, sep } from 'node:path'
import { mutants } from './mutants.ts'
import { promises } from './promises.ts'

const root = join(import.meta.dirname, '../..')

/** Which files name each row of the catalogue, in the title of a test or at the head of a script. */
export function filesByRow(): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, Set<string>>()
  const names = ['test', 'scripts'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => /(\.test|\.sweep|\.browser)\.ts$/.test(name) || folder === 'scripts')
      .filter((name) => name.endsWith('.ts'))
      .map((name) => `${folder}/${name.split(sep).join('/')}`),
  )
  for (const name of names.sort()) {
    const text = readFileSync(join(root, name), 'utf8')
    for (const [, ids = ''] of text.matchAll(/\[([A-I]\d\d(?:, ?[A-I]\d\d)*)\]/g)) {
      for (const id of ids.split(/, ?/)) found.set(id, (found.get(id) ?? new Set()).add(name))
    }
  }
  return new Map([...found].map(([id, files]) => [id, [...files]]))
}

export function promiseTable(): string {
  const files = filesByRow()
  const lines = promises.map(({ id, sentence, rows }) => {
    const proofs = rows.map((row) => `${row}: ${(files.get(row) ?? []).map(shortName).join(', ')}`)
    const killed = mutants.filter(({ promise }) => promise === id).map(({ name }) => name)
    return `| ${id} | ${sentence} | ${proofs.join('<br>')} | ${killed.join('<br>')} |`
  })
  return ['| | Promise | Proved by | Damages that turn a test red |', '|---|---|---|---|', ...lines].join('\n')
}

const shortName = (name: string) => `\`${name.replace(/^test\//, '').replace(/\.ts$/, '')}\``
