/** A thousand random histories of uploads against a model. `FC_SEED` repeats them, `FC_RUNS` says how many. */
import fc from 'fast-check'
import { describe, it } from 'vitest'
import { appendHistories, runAppendHistory } from '../support/append-commands.ts'
import { survived } from '../support/fault-points.ts'
import { histories, runHistory } from '../support/upload-commands.ts'
import { systemKinds } from '../support/upload-system.ts'

const seed = Number(process.env.FC_SEED ?? Date.now() % 2 ** 31)
const runs = Number(process.env.FC_RUNS ?? 1000)
// Making a failure smaller may take long; what has been found until then is shown.
const limit = { seed, interruptAfterTimeLimit: 280_000, markInterruptAsFailure: true }

describe.each(systemKinds)('chunked uploads on %s', (kind) => {
  it(`answer as the model does, whatever comes after whatever (FC_SEED=${seed}) [C01]`, async () => {
    const history = fc.asyncProperty(histories(50), (commands) => runHistory(kind, commands))
    await fc.assert(history, { numRuns: runs, ...limit })
    survived('race', `histories of chunked uploads on ${kind}`, runs)
  })
})

describe.each(systemKinds)('uploads that grow at their end, on %s', (kind) => {
  it(`answer as the model does, whatever comes after whatever (FC_SEED=${seed}) [C01]`, async () => {
    const history = fc.asyncProperty(appendHistories(50), (commands) => runAppendHistory(kind, commands))
    await fc.assert(history, { numRuns: runs / 2, ...limit })
    survived('race', `histories of growing uploads on ${kind}`, runs / 2)
  })
})
