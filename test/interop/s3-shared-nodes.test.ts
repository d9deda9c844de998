/** Nodes with disks of their own and one S3: what it costs, and what faults of S3 do. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { S3StorageAdapter, type S3StorageOptions } from '../../src/storage/s3-storage.ts'
import { parallel } from '../support/engine.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import type { S3Double } from '../support/s3-double.ts'
import { doubleTarget, type S3Target } from '../support/s3-target.ts'
import { sharedNodes } from '../support/shared-nodes.ts'
import { eventually } from '../support/tus-client.ts'

const MiB = 1024 * 1024

let target: S3Target & { readonly double: S3Double }

beforeEach(async () => {
  target = await doubleTarget()
})
afterEach(() => target.close())

function nodesOn(options: Partial<S3StorageOptions> = {}) {
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = target
  const own = { endpoint, region, accessKeyId, secretAccessKey, bucket, retryDelay: 5 }
  // One adapter for all: what nodes have in common is the bucket.
  const storage = new S3StorageAdapter({ ...own, ...options })
  const shared = sharedNodes(2, storage, { maxChunkSize: 5 * MiB })
  const [a, b] = shared.nodes as [(typeof shared.nodes)[0], (typeof shared.nodes)[0]]
  return { a, b, storage }
}

function operations(): Record<string, number> {
  const counts: Record<string, number> = {}
  // Asked once for each adapter, for a warning.
  const asked = target.double.requests.filter(({ op }) => op !== 'GetBucketLifecycleConfiguration')
  for (const { op } of asked) counts[op] = (counts[op] ?? 0) + 1
  return counts
}

const read = (key: string) => target.double.read(target.bucket, key)
const keys = () => [...(target.double.buckets.get(target.bucket)?.objects.keys() ?? [])]

describe('nodes that share nothing but S3 and sessions', () => {
  it('cost one call for each chunk of a part, and a handful for the upload', async () => {
    const { a, b } = nodesOn()
    const file = bytes(40 * 5 * MiB + 1)
    const chunks = cut(file, 5 * MiB)
    const id = await a.client.create(file.length, { chunkSize: 5 * MiB })
    await a.client.write(id, 0, chunks[0] as Buffer)
    await parallel(4, [...chunks.entries()].slice(1), async ([index, data]) => {
      await (index % 2 === 0 ? a : b).client.write(id, index, data)
    })
    expect(operations()).toEqual({ CreateMultipartUpload: 1, UploadPart: chunks.length })
    const { key } = await b.client.complete(id)
    expect(sha256(await read(key))).toBe(sha256(file))
    expect(operations()).toEqual({
      ...{ CreateMultipartUpload: 1, UploadPart: chunks.length },
      ...{ ListParts: 1, CompleteMultipartUpload: 1, HeadObject: 1, ListObjectsV2: 1 },
    })
  })

  it('cost for smaller chunks one call to store each, one to read it, and those of the part', async () => {
    const { a, b } = nodesOn()
    const file = bytes(30 * MiB)
    const chunks = cut(file, MiB)
    const id = await a.client.create(file.length, { chunkSize: MiB })
    for (const [index, data] of chunks.entries()) await (index % 2 === 0 ? a : b).client.write(id, index, data)
    const { key } = await b.client.complete(id)
    expect(sha256(await read(key))).toBe(sha256(file))
    await eventually(async () => expect(keys()).toEqual([key]))
    const { PutObject, GetObject, UploadPart, DeleteObjects } = operations()
    expect([PutObject, GetObject, UploadPart, DeleteObjects]).toEqual([30, 30, 6, 6])
  })

  const faults = ['SlowDown', 'reset', 'lost-response', 'html'] as const
  it.each(faults)('lose nothing when S3 answers %s now and then', async (status) => {
    const { a, b } = nodesOn({ maxAttempts: 2 })
    const file = bytes(17 * MiB)
    for (const size of [5 * MiB, 2 * MiB]) {
      const id = await a.client.create(file.length, { chunkSize: size })
      for (const op of ['PutObject', 'GetObject', 'UploadPart', 'CreateMultipartUpload', 'DeleteObjects']) {
        target.double.fail(op, { status, times: 1, skip: 1 })
        if (op !== 'DeleteObjects') target.double.fail(op, { status, times: 3, skip: 1 })
      }
      const acknowledged: number[] = []
      for (const [index, data] of cut(file, size).entries()) {
        for (let attempt = 0; ; attempt++) {
          const node = (index + attempt) % 2 === 0 ? a : b
          const done = await node.client.write(id, index, data).then(
            () => true,
            (error) => {
              expect(error.retryable).toBe(true)
              return false
            },
          )
          if (done) break
          expect(attempt).toBeLessThan(5)
        }
        acknowledged.push(index)
        expect((await b.client.get(id)).chunks.reduce((sum, run) => sum + run.count, 0)).toBe(acknowledged.length)
      }
      let key = ''
      for (let attempt = 0; key === ''; attempt++) {
        const node = attempt % 2 === 0 ? b : a
        key = await node.client.complete(id).then(
          (object) => object.key,
          (error) => {
            expect(error.retryable).toBe(true)
            return ''
          },
        )
        expect(attempt).toBeLessThan(8)
      }
      expect(sha256(await read(key))).toBe(sha256(file))
      target.double.reset()
    }
  })

  it('a chunk whose part hangs is acknowledged by the other node when the client tries there', async () => {
    const { a, b } = nodesOn({ attemptTimeout: 300, maxAttempts: 1 })
    const file = bytes(11 * MiB)
    const [first, second, third] = cut(file, 5 * MiB) as [Buffer, Buffer, Buffer]
    const id = await a.client.create(file.length, { chunkSize: 5 * MiB })
    await a.client.write(id, 0, first)
    target.double.fail('UploadPart', { status: 'hang' })
    const hanging = a.client.write(id, 1, second).catch((error) => error)
    await eventually(async () => expect(target.double.log('UploadPart')).toHaveLength(2))
    expect(await b.client.write(id, 1, second)).toMatchObject({ duplicate: false })
    await b.client.write(id, 2, third)
    const { key } = await b.client.complete(id)
    expect(sha256(await read(key))).toBe(sha256(file))
    void hanging
  })
})
