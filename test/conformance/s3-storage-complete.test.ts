/** How the S3 adapter settles what became of a CompleteMultipartUpload. Always against the double. */
import { randomBytes, randomUUID } from 'node:crypto'
import { PutObjectCommand } from '@aws-sdk/client-s3'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { OrderedFault } from '../support/s3-fault.ts'
import { failureOf, MIN_PART, objectInfo, S3Fixture } from '../support/s3-fixture.ts'
import { doubleTarget } from '../support/s3-target.ts'

const bytes = randomBytes(MIN_PART + 1000)

let fx: S3Fixture

beforeAll(async () => {
  fx = await S3Fixture.start(await doubleTarget())
})

afterEach(() => {
  fx.double.reset()
})

afterAll(() => fx?.close())

async function ready(key: string) {
  const info = objectInfo()
  const ref = await fx.sendParts(key, info, bytes)
  return { info, ref, parts: await fx.parts(ref) }
}

/** Completes an upload under a fault, and makes sure that the object is there. */
async function completeUnder(fault: OrderedFault | null, storage = fx.storage): Promise<string> {
  const key = randomUUID()
  const { info, ref, parts } = await ready(key)
  if (fault) fx.double.fail('CompleteMultipartUpload', fault)
  const url = await storage.multipart.complete(ref, parts, info)
  expect(fx.double.object(fx.bucket, key)?.size).toBe(bytes.length)
  return url
}

describe('completing', () => {
  it('looks when the answer was lost, and finds the object without asking again', async () => {
    const url = await completeUnder({ status: 'lost-response' })
    expect(url).toContain(fx.bucket)
    expect(fx.double.log('CompleteMultipartUpload')).toHaveLength(1)
    expect(fx.double.log('HeadObject')).toHaveLength(1)
  })

  it('looks when the deadline has passed, and finds the object [F03, F08]', async () => {
    const storage = fx.adapter({ completeTimeout: 100 })
    await completeUnder({ status: 'drip', delayMs: 3000 }, storage)
    expect(fx.double.log('CompleteMultipartUpload')).toHaveLength(1)
  })

  it('waits for an answer that drips [F03]', async () => {
    await completeUnder({ status: 'drip', delayMs: 400 })
    expect(fx.double.log('CompleteMultipartUpload')).toHaveLength(1)
  })

  it('repeats after a 200 that turns out to be an error [F03]', async () => {
    await completeUnder({ status: 'error-in-200', times: 2 })
    expect(fx.double.log('CompleteMultipartUpload')).toHaveLength(3)
  })

  it('fails when the 200 is an error every time, and the parts stay for another try', async () => {
    const { info, ref, parts } = await ready('error-in-200')
    fx.double.fail('CompleteMultipartUpload', { status: 'error-in-200', times: 4 })
    expect(await failureOf(fx.storage.multipart.complete(ref, parts, info))).toMatchObject({
      status: 503,
      retryable: true,
    })
    expect(await fx.parts(ref)).toHaveLength(2)
    await fx.storage.multipart.complete(ref, parts, info)
  })

  it('does not believe a 200 without a body', async () => {
    const { info, ref, parts } = await ready('empty-200')
    fx.double.fail('CompleteMultipartUpload', { status: 'empty-200', times: 4 })
    await failureOf(fx.storage.multipart.complete(ref, parts, info))
    expect(await fx.exists('empty-200')).toBe(false)
  })

  it('answers the URL when the upload is gone because the object is there already', async () => {
    const { info, ref, parts } = await ready('gone-done')
    const url = await fx.storage.multipart.complete(ref, parts, info)
    fx.double.fail('CompleteMultipartUpload', { status: 'NoSuchUpload' })
    expect(await fx.storage.multipart.complete(ref, parts, info)).toBe(url)
  })

  it('fails when the upload is gone and there is no object, as after a lifecycle rule [F13]', async () => {
    const { info, ref, parts } = await ready('gone-lost')
    await fx.storage.multipart.abort(ref)
    const error = await failureOf(fx.storage.multipart.complete(ref, parts, info))
    expect(error).toMatchObject({ status: 502, code: 'MULTIPART_GONE' })
    expect(fx.double.log('CompleteMultipartUpload')).toHaveLength(1)
  })

  it('looks also when the answer names the object by the sum of its parts: Ceph does so for an upload that is gone', async () => {
    const { info, ref, parts } = await ready('gone-named')
    await fx.storage.multipart.complete(ref, parts, info)
    expect(fx.double.log('HeadObject')).toHaveLength(1)
    const etag = fx.double.object(fx.bucket, 'gone-named')?.etag
    const gone = await ready('gone-named')
    await fx.storage.multipart.abort(gone.ref)
    await fx.s3.send(new PutObjectCommand({ Bucket: fx.bucket, Key: 'gone-named', Body: bytes }))
    const body = `<CompleteMultipartUploadResult><Key>gone-named</Key><ETag>${etag}</ETag></CompleteMultipartUploadResult>`
    fx.double.fail('CompleteMultipartUpload', { status: 'reply', reply: { status: 200, body } })
    const error = await failureOf(fx.storage.multipart.complete(gone.ref, gone.parts, gone.info))
    expect(error).toMatchObject({ status: 503 })
    expect(fx.double.log('HeadObject')).toHaveLength(2)
  })

  it("does not take an object with another upload's mark for its own [F11]", async () => {
    const first = objectInfo({ uploadId: 'same' })
    const ref = await fx.sendParts('own/mark', first, bytes)
    const parts = await fx.parts(ref)
    await fx.storage.multipart.complete(ref, parts, first)
    // The double answers 200 to a repeated complete, as AWS does.
    await failureOf(fx.storage.multipart.complete(ref, parts, objectInfo({ uploadId: 'other' })))
    await fx.storage.multipart.complete(ref, parts, first)
  })

  it('trusts a plain success when it may not look, but nothing less', async () => {
    fx.double.fail('HeadObject', { status: 'AccessDenied', times: 2 })
    await completeUnder(null)
    const { info, ref, parts } = await ready('blind')
    fx.double.fail('CompleteMultipartUpload', { status: 'lost-response' })
    expect((await failureOf(fx.storage.multipart.complete(ref, parts, info))).status).toBe(503)
  })

  it('does not repeat what the server refuses for good', async () => {
    const { info, ref, parts } = await ready('refused')
    const wrong = parts.map((part) => ({ ...part, etag: '"00000000000000000000000000000000"' }))
    expect((await failureOf(fx.storage.multipart.complete(ref, wrong, info))).status).toBe(502)
    expect(fx.double.log('CompleteMultipartUpload')).toHaveLength(1)
  })
})
