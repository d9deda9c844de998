/** Promises, faults and damages: every promise has a proof, every fault a test, every damage its place in the code. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { mutants } from '../reliability/mutants.ts'
import { promises, rows } from '../reliability/promises.ts'
import { filesByRow, promiseTable } from '../reliability/table.ts'

const root = join(import.meta.dirname, '../..')
const read = (name: string) => readFileSync(join(root, name), 'utf8')

describe('the catalogue of faults', () => {
  it('has a test or a script for every row', () => {
    const files = filesByRow()
    expect(rows.filter((row) => !files.has(row))).toEqual([])
  })

  it('has rows for every promise, and no promise without a damage that breaks it', () => {
    expect(promises.map(({ id }) => id)).toEqual(Array.from({ length: 21 }, (_, i) => `R${i + 1}`))
    for (const promise of promises) {
      expect(promise.rows.filter((row) => !rows.includes(row))).toEqual([])
      expect(
        mutants.some((mutant) => mutant.promise === promise.id),
        `a mutant for ${promise.id}`,
      ).toBe(true)
    }
  })

  it('is what docs/reliability.md shows (npm run reliability writes it)', () => {
    expect(read('docs/reliability.md')).toContain(promiseTable())
  })
})

describe('the mutants', () => {
  it.each(mutants)('$name', ({ file, find, replace, tests }) => {
    expect(read(file).split(find), 'the text to damage occurs exactly once').toHaveLength(2)
    expect(replace).not.toBe(find)
    expect(tests.filter((test) => !existsSync(join(root, test)))).toEqual([])
  })
})
