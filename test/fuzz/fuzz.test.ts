/** A short run of `npm run fuzz` with fixed seeds, after everything that longer runs have kept. */
import { describe, expect, it } from 'vitest'
import { corpusOf } from './corpus.ts'
import { fuzz } from './fuzzer.ts'
import { type Target, targets } from './targets.ts'

describe.each(targets)('$name', (target) => {
  it('stands what longer runs have found, and 600 inputs more (seed 1) [A05]', async () => {
    const corpus = await corpusOf(target.name)
    const count = target.seeds.length + corpus.length + 600
    const report = await fuzz(target, { seed: 1, count, until: Date.now() + 45_000, corpus })
    expect(report.findings).toEqual([])
    expect(report.inputs).toBeGreaterThan(corpus.length + 200)
    // A parser that says the same of everything is not being tested.
    expect(report.outcomes.size).toBeGreaterThan(2)
  })
})

it('an input that breaks a parser is found and told', async () => {
  const fragile: Target = {
    name: 'fragile',
    seeds: [Buffer.from('a=1,b=2')],
    words: [Buffer.from('crash')],
    run: async (data) => {
      if (data.includes('crash')) throw new Error('broken')
      return 'fine'
    },
  }
  const { findings } = await fuzz(fragile, { seed: 3, count: 5000, until: Date.now() + 10_000 })
  expect(findings).toHaveLength(1)
  expect(findings[0]?.input.toString()).toContain('crash')
})
