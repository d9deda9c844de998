import { defineConfig } from 'vitest/config'

/** Faults, every one at every place where it can strike: `npm run test:faults`. */
export default defineConfig({
  test: {
    include: [
      'test/faults/**/*.{test,sweep}.ts',
      'test/protocols/{*hostile*,advisories}*.test.ts',
      'test/fuzz/*.test.ts',
    ],
    testTimeout: 300_000,
    hookTimeout: 120_000,
    pool: 'forks',
    maxWorkers: 2,
    retry: process.env.CI ? 1 : 0,
  },
})
