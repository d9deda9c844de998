import { defineConfig } from 'vitest/config'

/** The tests that Stryker runs against each change of src/engine: the quick ones that know the engine. */
export default defineConfig({
  test: {
    include: ['test/engine/*.test.ts', 'test/unit/{body,chunk-map}.test.ts'],
    testTimeout: 30_000,
    pool: 'forks',
  },
})
