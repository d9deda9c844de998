/** The part of the storage suite that is about `StagingStorage`. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { tmpdir } from 'node:os'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import type { PartBody, StagingStorage } from '../types.ts'
import {
  bytesOf,
  type FixtureTest,
  fails,
  partBody,
  type StorageFixture,
  streamOf,
  withTemporaryFolder,
} from './storage-conformance-support.ts'

interface Trial {
  readonly fixture: StorageFixture
  readonly staging: StagingStorage
  /** Random, so that two runs on one bucket never meet. */
  readonly uploadId: string
  put(key: string, bytes: Buffer): Promise<void>
}

export function testStaging(check: FixtureTest): void {
  const trial = (name: string, run: (trial: Trial) => Promise<void>) =>
    check(`staging: ${name}`, (fixture) =>
      withTemporaryFolder(tmpdir(), async (folder) => {
        const { staging } = fixture.adapter
        assert.ok(staging, 'the adapter has no staging')
        const uploadId = randomUUID()
        const put = async (key: string, bytes: Buffer) => staging.put(key, await partBody(folder, bytes))
        try {
          await run({ fixture, staging, uploadId, put })
        } finally {
          await staging.remove(await keysOf(staging, uploadId)).catch(() => {})
        }
      }),
    )

  trial('gives back what was put, whole and in ranges', async ({ staging, uploadId, put }) => {
    for (const size of [0, 1, 200_001]) {
      const bytes = bytesOf(size)
      const key = `${uploadId}/${size}a`
      await put(key, bytes)
      assert.ok((await buffer(await staging.open(key))).equals(bytes))
    }
    const bytes = bytesOf(200_001)
    const key = `${uploadId}/b`
    await put(key, bytes)
    for (const [start, end] of [
      [0, 1],
      [0, 200_001],
      [200_000, 200_001],
      [70_000, 140_000],
    ] as const) {
      const part = await buffer(await staging.open(key, { range: { start, end } }))
      assert.ok(part.equals(bytes.subarray(start, end)), `bytes ${start} to ${end}`)
    }
  })

  trial('what was put is no file, and nobody else sees it under its key', async ({ fixture, uploadId, put }) => {
    await put(`${uploadId}/a`, bytesOf(10))
    assert.equal(await fixture.read(`${uploadId}/a`), null)
  })

  trial('an object that is not there cannot be opened', async ({ staging, uploadId }) => {
    await fails(staging.open(`${uploadId}/none`).then((stream) => buffer(stream)))
  })

  trial('a body of another size than announced is not stored', async ({ staging, uploadId }) => {
    const bytes = bytesOf(1000)
    const lying = (size: number): PartBody => ({ size, path: null, open: () => streamOf(bytes) })
    await fails(staging.put(`${uploadId}/long`, lying(999)))
    await fails(staging.put(`${uploadId}/short`, lying(1001)))
    const broken = () => {
      const stream = new Readable({ read() {} })
      stream.push(bytes)
      setImmediate(() => stream.destroy(new Error('the file cannot be read')))
      return stream
    }
    await fails(staging.put(`${uploadId}/broken`, { size: 5000, path: null, open: broken }))
    assert.deepEqual(await keysOf(staging, uploadId), [])
  })

  trial('removes exactly the keys it is given, also such as are not there', async ({ staging, uploadId, put }) => {
    for (const name of ['a', 'ab', 'b', 'c']) await put(`${uploadId}/${name}`, bytesOf(3))
    await staging.remove([`${uploadId}/a`])
    assert.deepEqual(
      await keysOf(staging, uploadId),
      ['ab', 'b', 'c'].map((name) => `${uploadId}/${name}`),
    )
    await staging.remove([`${uploadId}/b`, `${uploadId}/c`, `${uploadId}/none`])
    await staging.remove([])
    await staging.remove([`${uploadId}/none`])
    assert.deepEqual(await keysOf(staging, uploadId), [`${uploadId}/ab`])
  })

  trial('lists what begins with a prefix, with its time', async ({ staging, uploadId, put }) => {
    const before = Date.now()
    const names = Array.from({ length: 25 }, (_, n) => `${uploadId}/${n}`)
    for (const name of names) await put(name, bytesOf(1))
    assert.deepEqual(await keysOf(staging, uploadId), [...names].sort())
    assert.deepEqual(await keysOf(staging, `${uploadId}/24`), [`${uploadId}/24`])
    for await (const { modifiedAt } of staging.list(`${uploadId}/`)) {
      // Storages have clocks of their own, and some tell whole seconds.
      assert.ok(Math.abs(modifiedAt - before) < 10 * 60_000)
    }
    const all: string[] = []
    for await (const { key } of staging.list()) all.push(key)
    assert.ok(all.includes(`${uploadId}/0`))
  })

  trial('a call whose signal is aborted fails', async ({ staging, uploadId, put }) => {
    await put(`${uploadId}/a`, bytesOf(10))
    const signal = AbortSignal.abort()
    await fails(staging.open(`${uploadId}/a`, { signal }).then((stream) => buffer(stream)))
    const body: PartBody = { size: 3, path: null, open: () => streamOf(bytesOf(3)) }
    await fails(staging.put(`${uploadId}/b`, body, signal))
  })
}

async function keysOf(staging: StagingStorage, prefix: string): Promise<string[]> {
  const keys: string[] = []
  for await (const { key } of staging.list(prefix)) keys.push(key)
  return keys.sort()
}
