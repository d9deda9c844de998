/** A mutation fuzzer without coverage: what leads to an outcome that was not seen before is kept and mutated further. */
import { seeded } from '../support/random.ts'
import { mutate } from './mutations.ts'
import type { Target } from './targets.ts'

const maxSize = 16 * 1024

export interface Finding {
  readonly target: string
  readonly input: Buffer
  readonly reason: string
}

export interface FuzzReport {
  readonly inputs: number
  readonly outcomes: ReadonlySet<string>
  /** Inputs beside the seeds that had an outcome of their own. */
  readonly kept: readonly Buffer[]
  readonly findings: readonly Finding[]
}

/** Ends after `count` inputs, at `until` (ms since the epoch), or with the first finding. */
export async function fuzz(
  target: Target,
  { seed, count, until, corpus = [] }: { seed: number; count: number; until: number; corpus?: readonly Buffer[] },
): Promise<FuzzReport> {
  const random = seeded(seed)
  const pool = [...target.seeds, ...corpus]
  const outcomes = new Set<string>()
  const kept: Buffer[] = []
  const findings: Finding[] = []
  let inputs = 0
  for (; inputs < count && Date.now() < until && findings.length === 0; inputs++) {
    const known = pool[inputs]
    const input = known ?? mutate(pool[random.integer(0, pool.length - 1)] as Buffer, random, target.words, maxSize)
    try {
      const outcome = await target.run(input, random)
      if (!known && !outcomes.has(outcome)) {
        pool.push(input)
        kept.push(input)
      }
      outcomes.add(outcome)
    } catch (error) {
      findings.push({ target: target.name, input, reason: (error as Error).stack ?? String(error) })
    }
  }
  return { inputs, outcomes, kept, findings }
}
