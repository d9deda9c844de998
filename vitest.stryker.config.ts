import { defineConfig } from 'vitest/config'

/**
 * The tests that Stryker runs against each change of src/engine. `STRYKER_TESTS` names others, divided by commas: the pure parts have
 * quick tests of their own.
 */
const all = 'test/engine/*.test.ts,test/unit/{body,chunk-map,part-plan}.test.ts'

export default defineConfig({
  test: { include: (process.env.STRYKER_TESTS ?? all).split(','), testTimeout: 30_000, pool: 'forks' },
})
