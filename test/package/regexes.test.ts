/** No regular expression of the source takes more than linear time, whatever a client sends. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { checkSync } from 'recheck'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'

const src = resolve(import.meta.dirname, '../../src')

interface Found {
  readonly where: string
  readonly source: string
  readonly flags: string
}

const found: Found[] = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .flatMap((name) => regexesOf(name))

function regexesOf(name: string): Found[] {
  const file = ts.createSourceFile(name, readFileSync(join(src, name), 'utf8'), ts.ScriptTarget.ES2022, true)
  const regexes: Found[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isRegularExpressionLiteral(node)) {
      const [, source = '', flags = ''] = /^\/(.*)\/([a-z]*)$/s.exec(node.text) ?? []
      regexes.push({ where: `${name}: ${node.text}`, source, flags })
    } else if (ts.isNewExpression(node) && node.expression.getText() === 'RegExp') {
      throw new Error(`${name} makes a regular expression at run time; this test cannot see it`)
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  return regexes
}

describe('regular expressions', () => {
  it('are found', () => {
    expect(found.length).toBeGreaterThan(30)
  })

  it.each(found)('$where is linear [A12]', ({ source, flags }) => {
    expect(checkSync(source, flags, { timeout: 20_000 })).toMatchObject({ status: 'safe' })
  })

  it('that are not linear are told', () => {
    expect(checkSync('^(a|a)*$', '', { timeout: 20_000 }).status).toBe('vulnerable')
  })
})
