import { defineConfig } from 'vitest/config'

/** Real browsers: `npm run test:browser`. */
export default defineConfig({
  test: {
    include: ['test/browser/**/*.browser.ts'],
    globalSetup: 'test/browser/support/prepare.ts',
    testTimeout: 90_000,
    hookTimeout: 60_000,
    pool: 'forks',
    // Every file drives a browser, a proxy and a server.
    maxWorkers: 2,
    retry: process.env.CI ? 1 : 0,
  },
})
