/**
 * What every storage adapter must do, as tests. The test function comes from the caller, so the suite runs under
 * vitest, jest and `node:test`.
 */
import assert from 'node:assert/strict'
import { access, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { testBodies } from './storage-conformance-body.ts'
import { testMultipart } from './storage-conformance-multipart.ts'
import { testStaging } from './storage-conformance-staging.ts'
import {
  assertObject,
  bytesOf,
  type ConformanceTest,
  cutOff,
  type FixtureTest,
  fails,
  failsWithin,
  infoFor,
  MiB,
  newKey,
  type StorageConformanceOptions,
  type StorageFixture,
  stagingFolder,
  stalled,
  streamOf,
  withTemporaryFolder,
} from './storage-conformance-support.ts'

export type { ConformanceTest, StorageConformanceOptions, StorageFixture }

const mimeType = 'application/octet-stream'

// What safe keys may still contain, and URLs and shells stumble over.
const unusualNames = [
  'with space.txt',
  'percent%20and%2Fslash.txt',
  'hash#mark.txt',
  'question?mark=1&more.txt',
  'plus+sign;semicolon.txt',
  "quote'and(brackets).txt",
  'žluťoučký-ファイル-🎉.txt',
]

/**
 * Registers the tests.
 *
 * @param test `test` of vitest, jest or `node:test`.
 * @param createAdapter makes a fresh adapter for every test.
 * @param options what this adapter can do. A capability that is declared wrongly is a failing test.
 */
export function storageAdapterConformance(
  test: ConformanceTest,
  createAdapter: () => StorageFixture | Promise<StorageFixture>,
  options: StorageConformanceOptions,
): void {
  const check: FixtureTest = (name, run) => {
    test(name, async () => {
      const fixture = await createAdapter()
      try {
        await run(fixture)
      } finally {
        await fixture.adapter.close?.()
        await fixture.cleanup?.()
      }
    })
  }
  check('has exactly the capabilities that are declared', async ({ adapter }) => {
    const has = {
      uploadBody: typeof adapter.uploadBody === 'function',
      remove: typeof adapter.remove === 'function',
      adoptFile: typeof adapter.adoptFile === 'function',
      multipart: typeof adapter.multipart === 'object',
      staging: typeof adapter.staging === 'object',
    }
    const { uploadBody = false, remove, adoptFile, multipart, staging = false } = options
    assert.deepEqual(has, { uploadBody, remove, adoptFile, multipart, staging })
  })
  testBytes(check, options)
  testKeys(check, options)
  testBrokenSources(check, options)
  if (options.checksSize ?? true) testSizes(check)
  if (options.honoursSignal ?? true) testAborting(check, options)
  if (options.uploadBody) testBodies(check, options)
  if (options.remove) testRemove(check)
  if (options.adoptFile) testAdopting(check)
  if (options.multipart) testMultipart(check, options)
  if (options.staging) testStaging(check)
}

function testBytes(check: FixtureTest, { largeSize = 6 * MiB + 1 }: StorageConformanceOptions): void {
  for (const [name, size] of [
    ['an empty file', 0],
    ['a file of one byte', 1],
    ['a large file', largeSize],
  ] as const) {
    check(`upload stores ${name} byte for byte`, async (fixture) => {
      const key = newKey()
      const bytes = bytesOf(size)
      await fixture.adapter.upload(key, streamOf(bytes), mimeType, infoFor(size))
      await assertObject(fixture, key, bytes)
    })
  }

  check('upload stores a stream of many small writes byte for byte', async (fixture) => {
    const key = newKey()
    const bytes = bytesOf(70_001)
    await fixture.adapter.upload(key, streamOf(bytes, 7), mimeType, infoFor(bytes.length))
    await assertObject(fixture, key, bytes)
  })

  check('upload stores a stream whose size nobody knows', async (fixture) => {
    const bytes = bytesOf(70_001)
    const withNull = newKey()
    await fixture.adapter.upload(withNull, streamOf(bytes, 4096), mimeType, infoFor(null))
    await assertObject(fixture, withNull, bytes)
    const withoutInfo = newKey()
    await fixture.adapter.upload(withoutInfo, streamOf(bytes, 4096), mimeType)
    await assertObject(fixture, withoutInfo, bytes)
  })

  check('uploading the same key again replaces the object and answers the same URL', async (fixture) => {
    const key = newKey()
    const [long, short] = [bytesOf(5000), bytesOf(300)]
    const first = await fixture.adapter.upload(key, streamOf(long), mimeType, infoFor(long.length))
    const second = await fixture.adapter.upload(key, streamOf(short), mimeType, infoFor(short.length))
    await assertObject(fixture, key, short)
    assert.equal(typeof first, 'string')
    assert.notEqual(first, '')
    assert.equal(second, first)
  })
}

function testKeys(check: FixtureTest, options: StorageConformanceOptions): void {
  for (const name of options.unusualNames ?? unusualNames) {
    check(`upload stores the key "${name}" apart from every other`, async (fixture) => {
      const key = newKey(name)
      const bytes = bytesOf(100)
      const url = await fixture.adapter.upload(key, streamOf(bytes), mimeType, infoFor(bytes.length))
      await assertObject(fixture, key, bytes)
      if (fixture.urlToKey) assert.equal(fixture.urlToKey(url), key)
    })
  }

  check('a key that only begins like another is another object', async (fixture) => {
    const key = newKey()
    const [one, two] = [bytesOf(100), bytesOf(200)]
    const first = await fixture.adapter.upload(key, streamOf(one), mimeType, infoFor(100))
    const second = await fixture.adapter.upload(`${key}-2`, streamOf(two), mimeType, infoFor(200))
    assert.notEqual(first, second)
    await assertObject(fixture, key, one)
    await assertObject(fixture, `${key}-2`, two)
  })

  check('parallel uploads of different keys do not mix', async (fixture) => {
    const files = Array.from({ length: 8 }, (_, index) => ({ key: newKey(), bytes: bytesOf(50_000 + index) }))
    const urls = await Promise.all(
      files.map(({ key, bytes }) =>
        fixture.adapter.upload(key, streamOf(bytes, 1000), mimeType, infoFor(bytes.length)),
      ),
    )
    assert.equal(new Set(urls).size, files.length)
    for (const { key, bytes } of files) await assertObject(fixture, key, bytes)
  })

  check('parallel uploads of one key leave one of them whole', async (fixture) => {
    const key = newKey()
    const files = [bytesOf(50_000), bytesOf(60_000)]
    await Promise.all(
      files.map((bytes) => fixture.adapter.upload(key, streamOf(bytes, 1000), mimeType, infoFor(bytes.length))),
    )
    const stored = await fixture.read(key)
    assert.ok(files.some((bytes) => stored?.equals(bytes)))
  })
}

function testBrokenSources(check: FixtureTest, options: StorageConformanceOptions): void {
  // More than one S3 part is on its way before the late failure.
  const late = options.largeSize ?? 6 * MiB + 1
  const sources: Record<string, () => Readable> = {
    'fails before its first byte': () => failing(Buffer.alloc(0)),
    'fails half way': () => failing(bytesOf(100_000)),
    'fails after many bytes': () => failing(bytesOf(late)),
    'is cut off without an error': () => cutOff(bytesOf(100_000)),
  }
  for (const [fault, open] of Object.entries(sources)) {
    check(`a source that ${fault} rejects and leaves no object`, async (fixture) => {
      const key = newKey()
      await fails(fixture.adapter.upload(key, open(), mimeType, infoFor(null)))
      assert.equal(await fixture.read(key), null)
    })
  }

  check('a failed upload leaves the older object as it was', async (fixture) => {
    const key = newKey()
    const bytes = bytesOf(1000)
    await fixture.adapter.upload(key, streamOf(bytes), mimeType, infoFor(bytes.length))
    await fails(fixture.adapter.upload(key, failing(bytesOf(100_000)), mimeType, infoFor(null)))
    await assertObject(fixture, key, bytes)
  })

  check('after a failed upload the same key can be stored', async (fixture) => {
    const key = newKey()
    const bytes = bytesOf(1000)
    await fails(fixture.adapter.upload(key, failing(bytesOf(100_000)), mimeType, infoFor(null)))
    await fixture.adapter.upload(key, streamOf(bytes), mimeType, infoFor(bytes.length))
    await assertObject(fixture, key, bytes)
  })
}

function testSizes(check: FixtureTest): void {
  for (const [name, promised] of [
    ['shorter', 100_001],
    ['longer', 99_999],
  ] as const) {
    check(`a stream ${name} than the promised size rejects and leaves no object`, async (fixture) => {
      const key = newKey()
      await fails(fixture.adapter.upload(key, streamOf(bytesOf(100_000), 1000), mimeType, infoFor(promised)))
      assert.equal(await fixture.read(key), null)
    })
  }
}

function testAborting(check: FixtureTest, { settleTime = 5000 }: StorageConformanceOptions): void {
  check('aborting while the source stalls rejects in time and leaves no object', async (fixture) => {
    const key = newKey()
    const abort = new AbortController()
    const upload = fixture.adapter.upload(key, stalled(bytesOf(100_000)), mimeType, infoFor(null, abort.signal))
    setTimeout(() => abort.abort(), 50)
    await failsWithin(settleTime, upload)
    assert.equal(await fixture.read(key), null)
  })

  check('an upload whose signal is aborted already rejects and leaves no object', async (fixture) => {
    const key = newKey()
    const info = infoFor(100, AbortSignal.abort())
    await failsWithin(settleTime, fixture.adapter.upload(key, streamOf(bytesOf(100)), mimeType, info))
    assert.equal(await fixture.read(key), null)
  })
}

function testRemove(check: FixtureTest): void {
  check('remove deletes this object and no other', async (fixture) => {
    const [key, bytes] = [newKey(), bytesOf(100)]
    for (const each of [key, `${key}-2`]) await fixture.adapter.upload(each, streamOf(bytes), mimeType, infoFor(100))
    await fixture.adapter.remove?.(key)
    assert.equal(await fixture.read(key), null)
    await assertObject(fixture, `${key}-2`, bytes)
  })

  check('removing twice, or a key that never was, is no error', async ({ adapter }) => {
    const key = newKey()
    await adapter.remove?.(key)
    await adapter.upload(key, streamOf(bytesOf(100)), mimeType, infoFor(100))
    await adapter.remove?.(key)
    await adapter.remove?.(key)
  })
}

function testAdopting(check: FixtureTest): void {
  const adopting = (name: string, run: (fixture: StorageFixture, staged: string) => Promise<void>) =>
    check(name, (fixture) =>
      withTemporaryFolder(stagingFolder(fixture.adapter), (folder) => run(fixture, join(folder, 'staged'))),
    )

  for (const [name, size] of [
    ['an empty file', 0],
    ['a file', 100_000],
  ] as const) {
    adopting(`adoptFile takes over ${name} and answers the URL that upload would`, async (fixture, staged) => {
      const [key, bytes] = [newKey(), bytesOf(size)]
      const uploaded = await fixture.adapter.upload(key, streamOf(bytesOf(50)), mimeType, infoFor(50))
      await writeFile(staged, bytes)
      assert.equal(await fixture.adapter.adoptFile?.(key, staged, infoFor(size)), uploaded)
      await assertObject(fixture, key, bytes)
      await assert.rejects(access(staged), { code: 'ENOENT' })
    })
  }

  adopting('adopting again after it succeeded answers the same URL', async (fixture, staged) => {
    const [key, bytes] = [newKey(), bytesOf(1000)]
    await writeFile(staged, bytes)
    const first = await fixture.adapter.adoptFile?.(key, staged, infoFor(1000))
    assert.equal(await fixture.adapter.adoptFile?.(key, staged, infoFor(1000)), first)
    await assertObject(fixture, key, bytes)
  })

  adopting('adoptFile rejects when there is neither the staged file nor the object', async (fixture, staged) => {
    const key = newKey()
    await fails(fixture.adapter.adoptFile?.(key, staged, infoFor(1000)))
    assert.equal(await fixture.read(key), null)
  })

  adopting('adoptFile takes no object of another size for its own', async (fixture, staged) => {
    const [key, bytes] = [newKey(), bytesOf(999)]
    await fixture.adapter.upload(key, streamOf(bytes), mimeType, infoFor(999))
    await fails(fixture.adapter.adoptFile?.(key, staged, infoFor(1000)))
    await assertObject(fixture, key, bytes)
  })
}

function failing(bytes: Buffer): Readable {
  return Readable.from(
    (async function* () {
      if (bytes.length > 0) yield bytes
      throw new Error('the source failed')
    })(),
    { objectMode: false },
  )
}
