/** Writes the table of promises, tests and mutants into docs/reliability.md: `npm run reliability`. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promiseTable } from '../test/reliability/table.ts'

const path = join(import.meta.dirname, '../docs/reliability.md')
const marks = ['<!-- promises -->', '<!-- end of promises -->'] as const
const text = readFileSync(path, 'utf8')
const [start, end] = marks.map((mark) => text.indexOf(mark)) as [number, number]
if (start < 0 || end < start) throw new Error(`docs/reliability.md has no place for the table: ${marks.join(' … ')}`)
writeFileSync(path, `${text.slice(0, start + marks[0].length)}\n\n${promiseTable()}\n\n${text.slice(end)}`)
