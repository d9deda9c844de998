import { defineConfig } from 'vitest/config'

const all = ['test/engine/*.test.ts', ...['body', 'chunk-map', 'part-plan'].map((name) => `test/unit/${name}.test.ts`)]

/**
 * The tests that Stryker runs against each change of src/engine. `STRYKER_TESTS` names others, divided by commas: the pure parts have
 * quick tests of their own.
 */
export default defineConfig({
  test: { include: process.env.STRYKER_TESTS?.split(',') ?? all, testTimeout: 30_000, pool: 'forks' },
})
