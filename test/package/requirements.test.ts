/** Every MUST and SHOULD of the protocols is named by a test: `[T8]` is a row on tus 1.0, `[R31]` one on the IETF draft. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'

const folder = join(import.meta.dirname, '../protocols')

function namedBy(prefix: string): string[] {
  const names = readdirSync(folder).filter((name) => name.startsWith(prefix))
  const text = names.map((name) => readFileSync(join(folder, name), 'utf8')).join('\n')
  const titles = [...text.matchAll(/\[((?:[TR]\d+)(?:[ ,\][]+[TR]\d+)*)\]/g)].map(([, ids = '']) => ids)
  return [...new Set(titles.flatMap((ids) => ids.match(/[TR]\d+/g) ?? []))].sort()
}

const tus = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 21, 22, 24, 30, 35, 40, 45, 46, 50, 51, 52, 53, 54, 55, 60]
const ietf = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 21, 22, 23, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 50, 51]

it.each([
  ['tus', 'T', tus],
  ['ietf', 'R', ietf],
] as const)('the requirements of %s have tests that name them', (prefix, letter, rows) => {
  const named = namedBy(prefix)
  console.log(`${prefix}: ${named.length} requirements named by tests: ${named.join(' ')}`)
  expect(rows.map((row) => `${letter}${row}`).filter((row) => !named.includes(row))).toEqual([])
})
