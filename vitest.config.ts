import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    pool: 'forks',
    // A machine that is busy with other things is late now and then. What fails twice is broken; the report tells both.
    retry: process.env.CI ? 1 : 0,
  },
})
