/** The part of the storage suite that is about `uploadBody`. */
import assert from 'node:assert/strict'
import { createReadStream } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { PartBody } from '../types.ts'
import {
  assertObject,
  bytesOf,
  cutOff,
  type FixtureTest,
  fails,
  failsWithin,
  infoFor,
  MiB,
  newKey,
  partBody,
  type StorageConformanceOptions,
  type StorageFixture,
  stalled,
  streamOf,
  withTemporaryFolder,
} from './storage-conformance-support.ts'

type Upload = (key: string, body: PartBody, signal?: AbortSignal) => Promise<string>
type BodyTest = (name: string, run: (fixture: StorageFixture, upload: Upload, folder: string) => Promise<void>) => void

export function testBodies(check: FixtureTest, options: StorageConformanceOptions): void {
  const trial: BodyTest = (name, run) =>
    check(`uploadBody: ${name}`, (fixture) =>
      withTemporaryFolder(tmpdir(), (folder) => {
        const { adapter } = fixture
        assert.ok(adapter.uploadBody)
        const upload = adapter.uploadBody.bind(adapter)
        return run(fixture, (key, body, signal) => upload(key, body, infoFor(body.size, signal)), folder)
      }),
    )
  testStoring(trial, options)
  testFailing(trial, options)
}

function testStoring(trial: BodyTest, { largeSize = 6 * MiB + 1 }: StorageConformanceOptions): void {
  for (const [name, size] of [
    ['an empty file', 0],
    ['a file of one byte', 1],
    ['a large file', largeSize],
  ] as const) {
    trial(`${name} is stored byte for byte, at the URL that upload answers`, async (fixture, upload, folder) => {
      const [key, bytes] = [newKey(), bytesOf(size)]
      const uploaded = await fixture.adapter.upload(key, streamOf(bytesOf(50)), 'text/plain', infoFor(50))
      assert.equal(await upload(key, await partBody(folder, bytes)), uploaded)
      await assertObject(fixture, key, bytes)
    })
  }

  trial('bytes that lie in several files are stored as well', async (fixture, upload) => {
    const [key, bytes] = [newKey(), bytesOf(70_001)]
    await upload(key, { path: null, size: bytes.length, open: () => streamOf(bytes, 4096) })
    await assertObject(fixture, key, bytes)
  })
}

function testFailing(trial: BodyTest, options: StorageConformanceOptions): void {
  const { settleTime = 5000, checksSize = true, honoursSignal = true } = options
  const bytes = bytesOf(100_000)

  trial('a file that is not there rejects and leaves no object', async (fixture, upload, folder) => {
    const [key, path] = [newKey(), join(folder, 'gone')]
    await fails(upload(key, { path, size: bytes.length, open: () => createReadStream(path) }))
    assert.equal(await fixture.read(key), null)
  })

  trial('a file that cannot be read to its end leaves the older object as it was', async (fixture, upload) => {
    const key = newKey()
    await fixture.adapter.upload(key, streamOf(bytes), 'text/plain', infoFor(bytes.length))
    await fails(upload(key, { path: null, size: bytes.length, open: () => cutOff(bytes.subarray(1)) }))
    await assertObject(fixture, key, bytes)
  })

  for (const [name, size] of checksSize
    ? ([
        ['shorter', 100_001],
        ['longer', 99_999],
      ] as const)
    : []) {
    // Without a path: that may lead to a file which goes on behind its bytes.
    trial(`a stream ${name} than promised rejects and leaves no object`, async (fixture, upload) => {
      const key = newKey()
      await fails(upload(key, { path: null, size, open: () => streamOf(bytes, 1000) }))
      assert.equal(await fixture.read(key), null)
    })
  }

  if (!honoursSignal) return
  trial('aborting while the bytes stall rejects in time and leaves no object', async (fixture, upload) => {
    const [key, abort] = [newKey(), new AbortController()]
    const uploading = upload(key, { path: null, size: 200_000, open: () => stalled(bytes) }, abort.signal)
    setTimeout(() => abort.abort(), 50)
    await failsWithin(settleTime, uploading)
    assert.equal(await fixture.read(key), null)
  })

  trial('a signal that is aborted already rejects and leaves no object', async (fixture, upload, folder) => {
    const key = newKey()
    await failsWithin(settleTime, upload(key, await partBody(folder, bytes), AbortSignal.abort()))
    assert.equal(await fixture.read(key), null)
  })
}
