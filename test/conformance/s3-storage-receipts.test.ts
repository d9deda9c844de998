/** A success of S3 is believed when it says what it must, and S3 has what was sent. Always against the double. */
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { S3StorageAdapter } from '../../src/s3.ts'
import { failureOf, MIN_PART, objectInfo, S3Fixture } from '../support/s3-fixture.ts'
import { clientOf, doubleTarget } from '../support/s3-target.ts'

const bytes = randomBytes(20_000)
const untrue = { status: 502, retryable: true, code: 'S3_UPLOAD_FAILED' }
const lies = ['empty-200', 'no-etag', 'truncated', 'damaged'] as const

let fx: S3Fixture

beforeAll(async () => {
  fx = await S3Fixture.start(await doubleTarget())
})
afterEach(() => fx.double.reset())
afterAll(() => fx?.close())

/** An adapter that has seen that the ETags of this server are MD5 sums. */
async function knowing() {
  const storage = fx.adapter()
  await storage.upload('known', Readable.from([bytes]), 'text/plain')
  fx.double.requests.length = 0
  return storage
}

async function open(storage = fx.storage) {
  return { fileKey: 'part', multipartId: await storage.multipart.create('part', objectInfo()) }
}

describe('a part', () => {
  it.each(lies)('is sent again when the answer is %s [F02]', async (status) => {
    const storage = await knowing()
    const ref = await open(storage)
    fx.double.fail('UploadPart', { status })
    await storage.multipart.uploadPart(ref, 1, await fx.part(bytes))
    expect(fx.double.log('UploadPart')).toHaveLength(2)
    expect(await fx.parts(ref)).toMatchObject([{ partNumber: 1, size: bytes.length }])
  })

  it.each(lies)('is not called stored when the answer is %s every time [F02]', async (status) => {
    const storage = await knowing()
    const ref = await open(storage)
    fx.double.fail('UploadPart', { status, times: 9 })
    const part = await fx.part(bytes)
    expect(await failureOf(storage.multipart.uploadPart(ref, 1, part))).toMatchObject(untrue)
    expect(fx.double.log('UploadPart')).toHaveLength(4)
  })

  it('that was cut short is found by its size, whatever ETags the server has [F02]', async () => {
    const storage = fx.adapter()
    const ref = await open(storage)
    fx.double.fail('UploadPart', { status: 'truncated', times: 2 })
    await storage.multipart.uploadPart(ref, 2, await fx.part(bytes))
    expect(fx.double.log('UploadPart')).toHaveLength(3)
    expect(await fx.parts(ref)).toMatchObject([{ partNumber: 2, size: bytes.length }])
  })

  it('counts when the ETags of the server are no MD5 sums, and it has the right size; that is learned once', async () => {
    const storage = fx.adapter()
    const ref = await open(storage)
    fx.double.fail('UploadPart', { status: 'damaged', times: 9 })
    await storage.multipart.uploadPart(ref, 1, await fx.part(bytes))
    expect([fx.double.log('UploadPart').length, fx.double.log('ListParts').length]).toEqual([2, 2])
    await storage.multipart.uploadPart(ref, 2, await fx.part(bytes))
    expect([fx.double.log('UploadPart').length, fx.double.log('ListParts').length]).toEqual([3, 3])
  })

  it('that was damaged is found also when it is the first of a process [F02]', async () => {
    const storage = fx.adapter()
    const ref = await open(storage)
    fx.double.fail('UploadPart', { status: 'damaged' })
    await storage.multipart.uploadPart(ref, 1, await fx.part(bytes))
    const info = objectInfo()
    await storage.multipart.complete(ref, await fx.parts(ref), info).catch(() => {})
    expect((await fx.double.read(fx.bucket, 'part')).equals(bytes)).toBe(true)
  })

  it.each(['empty-200', 'no-etag'])('of a client that adds checksums needs an ETag too: %s [F02]', async (status) => {
    const client = clientOf(fx.target, { requestChecksumCalculation: 'WHEN_SUPPORTED' })
    const storage = fx.adapter({ client, endpoint: undefined, accessKeyId: undefined, secretAccessKey: undefined })
    const ref = await open(storage)
    fx.double.fail('UploadPart', { status })
    await storage.multipart.uploadPart(ref, 1, await fx.part(bytes))
    expect(fx.double.log('UploadPart')).toHaveLength(2)
    expect(await fx.parts(ref)).toMatchObject([{ partNumber: 1, size: bytes.length }])
    client.destroy()
  })

  it('costs no request more when all is well', async () => {
    const storage = fx.adapter()
    const ref = await open(storage)
    fx.double.requests.length = 0
    await storage.multipart.uploadPart(ref, 1, await fx.part(bytes))
    const asked = fx.double.requests.map(({ op }) => op)
    // The adapter looks at the rules of the bucket once, whenever that is.
    expect(asked.filter((op) => op !== 'GetBucketLifecycleConfiguration')).toEqual(['UploadPart'])
  })
})

describe('a stream', () => {
  const stream = (size = bytes.length) =>
    Readable.from(Array.from({ length: Math.ceil(size / bytes.length) }, () => bytes))

  it.each(lies)('of one request is sent again when the answer is %s [F02]', async (status) => {
    const storage = await knowing()
    fx.double.fail('PutObject', { status })
    await storage.upload(`put/${status}`, stream(), 'text/plain')
    expect((await fx.double.read(fx.bucket, `put/${status}`)).equals(bytes)).toBe(true)
    fx.double.fail('PutObject', { status, times: 9 })
    expect(await failureOf(storage.upload(`put/${status}`, stream(), 'text/plain'))).toMatchObject(untrue)
  })

  it('in parts has the bytes that were sent, although a part of it was damaged on its way [F02]', async () => {
    const storage = await knowing()
    fx.double.fail('UploadPart', { status: 'damaged', skip: 1 })
    const size = 2 * MIN_PART + bytes.length
    await storage.upload('damaged', stream(size), 'text/plain')
    const stored = await fx.double.read(fx.bucket, 'damaged')
    for (let at = 0; at < stored.length; at += bytes.length) {
      expect(stored.subarray(at, at + bytes.length).equals(bytes), `at ${at}`).toBe(true)
    }
  })

  it('is stored by credentials that may write and not look, where ETags are no sums', async () => {
    const storage = fx.adapter()
    fx.double.fail('PutObject', { status: 'wrong-etag' })
    fx.double.fail('HeadObject', { status: 'AccessDenied' })
    await storage.upload('blind', stream(), 'text/plain')
    expect((await fx.double.read(fx.bucket, 'blind')).equals(bytes)).toBe(true)
  })
})

describe('a file', () => {
  const send = async (storage: S3StorageAdapter, key: string) => {
    const body = await fx.part(bytes)
    return storage.uploadBody(key, body, objectInfo({ size: body.size }))
  }

  it.each(lies)('is sent again, from its first byte, when the answer is %s [F02]', async (status) => {
    const storage = await knowing()
    fx.double.fail('PutObject', { status })
    await send(storage, `file/${status}`)
    expect(fx.double.log('PutObject')).toHaveLength(2)
    expect((await fx.double.read(fx.bucket, `file/${status}`)).equals(bytes)).toBe(true)
    fx.double.fail('PutObject', { status, times: 9 })
    expect(await failureOf(send(storage, `file/${status}`))).toMatchObject(untrue)
  })

  it.each(['SlowDown', 'InternalError', 'reset'])(
    'is sent again after %s, and its streams are closed',
    async (status) => {
      const storage = fx.adapter()
      const body = await fx.part(bytes)
      fx.double.fail('PutObject', { status, times: 2 })
      await storage.uploadBody(`file/${status}`, body, objectInfo({ size: body.size }))
      expect((await fx.double.read(fx.bucket, `file/${status}`)).equals(bytes)).toBe(true)
      expect(body.opened).toHaveLength(3)
      expect(body.opened.every((stream) => stream.destroyed)).toBe(true)
    },
  )
})

describe('a piece of an upload', () => {
  const staging = () => {
    const { staging } = fx.adapter({ stagingPrefix: 'pieces' })
    if (!staging) throw new Error('no staging')
    return staging
  }

  it.each(lies)('is sent again when the answer is %s [F02]', async (status) => {
    const pieces = staging()
    fx.double.fail('PutObject', { status })
    await pieces.put('one', await fx.part(bytes))
    expect(fx.double.log('PutObject')).toHaveLength(2)
    expect((await pieces.open('one').then(readAll)).equals(bytes)).toBe(true)
    fx.double.fail('PutObject', { status: 'empty-200', times: 9 })
    expect(await failureOf(pieces.put('two', await fx.part(bytes)))).toMatchObject(untrue)
  })

  it('may be larger than any answer that is parsed', async () => {
    const pieces = staging()
    const large = randomBytes(6 * 1024 * 1024)
    await pieces.put('large', await fx.part(large))
    expect((await pieces.open('large').then(readAll)).equals(large)).toBe(true)
  })
})

async function readAll(stream: Readable): Promise<Buffer> {
  const data: Buffer[] = []
  for await (const piece of stream) data.push(piece)
  return Buffer.concat(data)
}

describe('an empty success', () => {
  it('is no list of parts: not an upload that has none [F04]', async () => {
    const ref = await open()
    await fx.storage.multipart.uploadPart(ref, 1, await fx.part(bytes))
    fx.double.fail('ListParts', { status: 'empty-200', times: 2 })
    expect(await fx.parts(ref)).toHaveLength(1)
    fx.double.fail('ListParts', { status: 'empty-200', times: 9 })
    expect(await failureOf(fx.storage.multipart.listParts(ref))).toMatchObject(untrue)
  })

  it.each([
    [
      'a list of something else',
      '<ListPartsResult><Bucket>b</Bucket><IsTruncated>false</IsTruncated></ListPartsResult>',
    ],
    ['20 MiB of text', `<ListPartsResult><Bucket>${'x'.repeat(20 * 1024 * 1024)}</Bucket></ListPartsResult>`],
  ])('and %s are not the parts of an upload either [F04, A14]', async (_, body) => {
    const ref = await open()
    await fx.storage.multipart.uploadPart(ref, 1, await fx.part(bytes))
    fx.double.fail('ListParts', { status: 'reply', times: 9, reply: { status: 200, body } })
    const start = performance.now()
    expect(await failureOf(fx.storage.multipart.listParts(ref))).toMatchObject(untrue)
    expect(performance.now() - start).toBeLessThan(10_000)
    fx.double.reset()
    expect(await fx.parts(ref)).toHaveLength(1)
  })

  it('is no list of uploads: nothing is taken for aborted [F10]', async () => {
    await open()
    fx.double.fail('ListMultipartUploads', { status: 'empty-200', times: 9 })
    const all = { fileKey: 'part', multipartId: null }
    expect(await failureOf(fx.storage.multipart.abort(all))).toMatchObject(untrue)
    fx.double.reset()
    await fx.storage.multipart.abort(all)
    expect(fx.double.openUploads(fx.bucket)).toEqual([])
  })

  it('opens no multipart upload, and is asked for again [F01]', async () => {
    fx.double.fail('CreateMultipartUpload', { status: 'empty-200', times: 3 })
    expect(await fx.storage.multipart.create('again', objectInfo())).not.toBe('')
    fx.double.fail('CreateMultipartUpload', { status: 'empty-200', times: 4 })
    expect(await failureOf(fx.storage.multipart.create('never', objectInfo()))).toMatchObject(untrue)
  })
})

describe('an object that is looked for', () => {
  /** Complete of an upload that S3 no longer lists, as the engine asks for it. */
  async function completed() {
    const content = Buffer.concat([Buffer.alloc(MIN_PART), bytes])
    const info = objectInfo()
    const ref = await fx.sendParts('sought', info, content)
    const parts = await fx.parts(ref)
    const url = await fx.storage.multipart.complete(ref, parts, info)
    fx.double.requests.length = 0
    const again = parts.map((part) => ({ ...part, etag: '' }))
    return { url, look: () => fx.storage.multipart.complete(ref, again, info) }
  }

  it.each(['empty-200', 'error-in-200'])('is not called missing after %s to HEAD [F13]', async (status) => {
    const { url, look } = await completed()
    fx.double.fail('HeadObject', { status, times: 9 })
    expect(await failureOf(look())).toMatchObject(untrue)
    fx.double.reset()
    expect(await look()).toBe(url)
  })

  it('is found by a GET when a HEAD says 404, which has no body to say what is missing [F13]', async () => {
    const { url, look } = await completed()
    fx.double.fail('HeadObject', { status: 404, times: 9 })
    expect(await look()).toBe(url)
    for (const status of ['NoSuchBucket', 404, 'html', 'empty-200']) {
      fx.double.fail('GetObject', { status, times: 4 })
      expect((await failureOf(look())).code, `${status}`).not.toBe('MULTIPART_GONE')
      fx.double.reset()
      fx.double.fail('HeadObject', { status: 404, times: 9 })
    }
    await fx.storage.remove('sought')
    expect(await failureOf(look())).toMatchObject({ code: 'MULTIPART_GONE' })
  })

  it('a multipart upload is aborted when it is no longer listed, not when S3 says so [F10]', async () => {
    await open()
    const all = { fileKey: 'part', multipartId: null }
    for (const status of ['empty-200', 'NoSuchUpload']) {
      fx.double.fail('AbortMultipartUpload', { status })
      expect(await failureOf(fx.storage.multipart.abort(all))).toMatchObject(untrue)
    }
    await fx.storage.multipart.abort(all)
    expect(fx.double.openUploads(fx.bucket).filter(({ key }) => key === 'part')).toEqual([])
  })
})
