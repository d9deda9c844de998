/** What the S3 double has besides the contract that it shares with real servers. */
import { existsSync } from 'node:fs'
import { afterEach, describe, expect, it } from 'vitest'
import { failureOf, MIN_PART, objectInfo, S3Fixture } from '../support/s3-fixture.ts'
import { doubleTarget } from '../support/s3-target.ts'

const bytes = Buffer.alloc(2 * MIN_PART + 5, 'abcdefg')

let fx: S3Fixture | undefined

afterEach(() => fx?.close())

describe('the S3 double', () => {
  it('keeps bodies on disk on request, and removes them when it is closed', async () => {
    fx = await S3Fixture.start(await doubleTarget({ store: 'disk' }))
    const { folder } = fx.double
    const info = objectInfo()
    const ref = await fx.sendParts('disk', info, bytes)
    await fx.storage.multipart.complete(ref, await fx.parts(ref), info)
    expect((await fx.read('disk')).equals(bytes)).toBe(true)
    expect(
      (await fx.read('disk', `bytes=${MIN_PART - 2}-${MIN_PART + 1}`)).equals(
        bytes.subarray(MIN_PART - 2, MIN_PART + 2),
      ),
    ).toBe(true)
    expect(existsSync(String(folder))).toBe(true)
    await fx.close()
    fx = undefined
    expect(existsSync(String(folder))).toBe(false)
  })

  it('refuses parts of different sizes on request, as R2 does', async () => {
    fx = await S3Fixture.start(await doubleTarget({ equalParts: true }))
    const info = objectInfo()
    const ref = await fx.sendParts('equal', info, bytes)
    await fx.storage.multipart.uploadPart(ref, 2, await fx.part(Buffer.alloc(MIN_PART + 1)))
    const parts = await fx.parts(ref)
    await failureOf(fx.storage.multipart.complete(ref, parts, info))
    await fx.storage.multipart.uploadPart(ref, 2, await fx.part(Buffer.alloc(MIN_PART)))
    await fx.storage.multipart.complete(ref, await fx.parts(ref), info)
  })

  it('logs every request with operation, key, part number and size', async () => {
    fx = await S3Fixture.start(await doubleTarget())
    const ref = await fx.sendParts('log', objectInfo(), bytes)
    await fx.storage.multipart.abort(ref)
    // The adapter looks at the bucket's rules once, beside the uploads.
    const requests = fx.double.requests.filter(({ op }) => op !== 'GetBucketLifecycleConfiguration')
    expect(requests.map(({ op, key, partNumber, size, status }) => [op, key, partNumber, size, status])).toEqual([
      ['CreateMultipartUpload', 'log', null, 0, 200],
      ['UploadPart', 'log', 1, MIN_PART, 200],
      ['UploadPart', 'log', 2, MIN_PART, 200],
      ['UploadPart', 'log', 3, 5, 200],
      ['AbortMultipartUpload', 'log', null, 0, 204],
    ])
  })
})
