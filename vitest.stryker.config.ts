import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

// Uploads straight to the storage have no other tests of the whole engine.
const all = ['test/unit/*.test.ts', 'test/engine/*.test.ts', 'test/protocols/uppy-direct.test.ts']

/** A change is tried until the first test fails, so the quick ones come first: pure functions, then what waits least. */
const slowFiles = /protocols|shared-|completion|concurrency|model|chunks\.test|sweeper/

class QuickFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) =>
      moduleId.includes('/test/unit/') ? 0 : slowFiles.test(moduleId) ? 2 : 1
    return files.toSorted((a, b) => rank(a) - rank(b) || (a.moduleId < b.moduleId ? -1 : 1))
  }
}

/**
 * The tests that Stryker runs against each change of src/engine. `STRYKER_TESTS` names others, divided by commas: the pure parts have
 * quick tests of their own.
 */
export default defineConfig({
  test: {
    // Stryker runs tests in worker threads, where the umask that one of these sets cannot be set. They are about storages.
    exclude: ['test/unit/*-storage*.test.ts'],
    include: process.env.STRYKER_TESTS?.split(',') ?? all,
    testTimeout: 30_000,
    pool: 'forks',
    sequence: { sequencer: QuickFirst },
  },
})
