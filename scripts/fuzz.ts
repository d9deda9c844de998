/**
 * Fuzzes the parsers of what clients send. `npm run fuzz -- --seconds 60 [--target multipart] [--seed 7] [--keep]`.
 * Ends with 1 and prints the input when one of them fails; `--keep` adds inputs with new outcomes to the corpus.
 */
import { parseArgs } from 'node:util'
import { addToCorpus, corpusOf } from '../test/fuzz/corpus.ts'
import { fuzz } from '../test/fuzz/fuzzer.ts'
import { targets } from '../test/fuzz/targets.ts'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    target: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    keep: { type: 'boolean', default: false },
  },
})
const chosen = targets.filter(({ name }) => values.target === undefined || name === values.target)
if (chosen.length === 0) throw new Error(`no such target; there are ${targets.map(({ name }) => name).join(', ')}`)
const seed = Number(values.seed)
const share = (Number(values.seconds) * 1000) / chosen.length
let failed = false
for (const target of chosen) {
  const corpus = await corpusOf(target.name)
  const limits = { seed, count: Number.POSITIVE_INFINITY, until: Date.now() + share }
  const { inputs, outcomes, kept, findings } = await fuzz(target, { ...limits, corpus })
  console.log(`${target.name}: ${inputs} inputs, ${outcomes.size} outcomes, ${kept.length} of them new (seed ${seed})`)
  for (const { input, reason } of findings) {
    failed = true
    console.error(`${reason}\ninput (base64): ${input.toString('base64')}`)
  }
  if (values.keep) await addToCorpus(target.name, kept)
}
process.exit(failed ? 1 : 0)
