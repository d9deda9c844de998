/** Random histories of uploads against a model; test/faults/model.sweep.ts runs ten times as many. */
import fc from 'fast-check'
import { describe, it } from 'vitest'
import { appendHistories, runAppendHistory } from '../support/append-commands.ts'
import { histories, runHistory } from '../support/upload-commands.ts'
import { systemKinds } from '../support/upload-system.ts'

const seed = Number(process.env.FC_SEED ?? 20_260_101)
// Making a failure smaller may take long; what has been found until then is shown.
const limit = { seed, interruptAfterTimeLimit: 45_000 }

describe.each(systemKinds)('chunked uploads on %s', (kind) => {
  it('answer as the model does, whatever comes after whatever [C01]', async () => {
    const history = fc.asyncProperty(histories(30), (commands) => runHistory(kind, commands))
    await fc.assert(history, { numRuns: Number(process.env.FC_RUNS ?? 50), ...limit })
  })
})

describe.each(systemKinds)('uploads that grow at their end, on %s', (kind) => {
  it('answer as the model does, whatever comes after whatever [C01]', async () => {
    const history = fc.asyncProperty(appendHistories(30), (commands) => runAppendHistory(kind, commands))
    await fc.assert(history, { numRuns: Number(process.env.FC_RUNS ?? 30), ...limit })
  })
})
