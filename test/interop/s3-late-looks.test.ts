/** S3 that keeps other bytes than it was sent, or shows an object late: no false success, and no end of an upload that was made. */
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { S3StorageAdapter } from '../../src/storage/s3-storage.ts'
import { type engineClient, testEngine } from '../support/engine.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { objectInfo } from '../support/s3-fixture.ts'
import { clientOf, doubleTarget } from '../support/s3-target.ts'

const MiB = 1024 * 1024
let target: Awaited<ReturnType<typeof doubleTarget>>

beforeEach(async () => {
  target = await doubleTarget()
})
afterEach(() => target.close())

function plain(): S3StorageAdapter {
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = target
  const credentials = { region, accessKeyId, secretAccessKey }
  return new S3StorageAdapter({
    endpoint,
    ...credentials,
    bucket,
    partSize: 5 * MiB,
    retryDelay: 5,
    forcePathStyle: true,
  })
}

/** As on AWS: the client adds CRC-32s, S3 compares them, and no MD5 is computed here. */
function withChecksums(): S3StorageAdapter {
  const client = clientOf(target, { requestChecksumCalculation: 'WHEN_SUPPORTED' })
  return new S3StorageAdapter({ client, bucket: target.bucket, partSize: 10 * MiB, retryDelay: 5 })
}

async function send(client: ReturnType<typeof engineClient>, file: Buffer): Promise<string> {
  const id = await client.create(file.length, { chunkSize: 5 * MiB })
  for (const [index, data] of cut(file, 5 * MiB).entries()) await client.write(id, index, data)
  return id
}

describe('S3 that answers with the checksum it was sent and keeps less', () => {
  it('makes no object of parts', async () => {
    const { client } = testEngine({ storage: withChecksums() })
    target.double.fail('UploadPart', { status: 'truncated' })
    const id = await send(client, bytes(22 * MiB, 3))
    await expect(client.complete(id)).rejects.toMatchObject({ status: 410 })
  })

  it('makes no object of a stream', async () => {
    const file = bytes(22 * MiB, 3)
    target.double.fail('UploadPart', { status: 'truncated' })
    const stored = withChecksums().upload('k', Readable.from(cut(file, MiB)), 'text/plain', {
      ...objectInfo(),
      size: file.length,
    })
    await expect(stored).rejects.toMatchObject({ status: 503 })
  })
})

describe('an object that shows late', () => {
  it.each([
    [
      'after an answer',
      () => {
        target.double.fail('HeadObject', { status: 'NoSuchKey', times: 2 })
        target.double.fail('GetObject', { status: 'NoSuchKey' })
      },
    ],
    [
      'and whose answer is lost',
      () => {
        target.double.fail('CompleteMultipartUpload', { status: 'lost-response' })
        target.double.fail('CompleteMultipartUpload', { status: 'NoSuchUpload' })
        target.double.fail('HeadObject', { status: 'NoSuchKey', times: 3 })
        target.double.fail('GetObject', { status: 'NoSuchKey' })
      },
    ],
  ])('%s is found by the next try', async (_, makeTrouble) => {
    const { client } = testEngine({ storage: plain() })
    const file = bytes(12 * MiB, 3)
    const id = await send(client, file)
    makeTrouble()
    await expect(client.complete(id)).rejects.toMatchObject({ status: 503 })
    target.double.recover()
    const { key } = await client.complete(id)
    expect(sha256(await target.double.read(target.bucket, key))).toBe(sha256(file))
  })
})
