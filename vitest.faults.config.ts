import { defineConfig } from 'vitest/config'

const quickOnes = ['test/faults/**/*.test.ts', 'test/protocols/{*hostile*,advisories}*.test.ts', 'test/fuzz/*.test.ts']

/**
 * Faults, every one at every place where it can strike: `npm run test:faults`. The quick ones run with `npm test`, and here only
 * to be counted for docs/reliability.md.
 */
export default defineConfig({
  test: {
    include: ['test/faults/**/*.sweep.ts', ...(process.env.FAULTS_WRITE ? quickOnes : [])],
    testTimeout: 300_000,
    hookTimeout: 120_000,
    pool: 'forks',
    maxWorkers: 2,
    retry: process.env.CI ? 1 : 0,
  },
})
