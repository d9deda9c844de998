/**
 * What we rely on in S3, asked of whatever `s3Target()` is: the double, or a real server named by the environment. Where
 * servers differ, the common promise is asserted.
 */
import { createHash, randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import {
  DeleteObjectCommand,
  DeleteObjectsCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
} from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { refusalOf, S3Fixture } from '../support/s3-fixture.ts'
import { clientOf } from '../support/s3-target.ts'

const big = randomBytes(9000)
const small = Buffer.from('some bytes')

let fx: S3Fixture
let Bucket: string

beforeAll(async () => {
  fx = await S3Fixture.start()
  Bucket = fx.bucket
})

afterAll(() => fx?.close())

describe('objects', () => {
  it('keeps bytes, type, disposition, cache control and metadata of an object', async () => {
    const headers = {
      ContentType: 'video/mp4',
      ContentDisposition: `inline; filename="a b.mp4"; filename*=UTF-8''%C3%A4%20b.mp4`,
      CacheControl: 'max-age=60',
      Metadata: { 'nexus-upload-id': 'abc', 'nexus-meta-a%5fb': '%E2%9C%93' },
    }
    await fx.s3.send(new PutObjectCommand({ Bucket, Key: 'kept', Body: small, ...headers }))
    const head = await fx.s3.send(new HeadObjectCommand({ Bucket, Key: 'kept' }))
    expect(head).toMatchObject({ ...headers, ContentLength: small.length })
    expect(await fx.read('kept')).toEqual(small)
  })

  it('keeps an empty object', async () => {
    await fx.s3.send(new PutObjectCommand({ Bucket, Key: 'empty', Body: '' }))
    expect((await fx.s3.send(new HeadObjectCommand({ Bucket, Key: 'empty' }))).ContentLength).toBe(0)
  })

  it('takes a stream of known length without framing', async () => {
    const Body = Readable.from([big.subarray(0, 1000), big.subarray(1000, 9000)], { objectMode: false })
    await fx.s3.send(new PutObjectCommand({ Bucket, Key: 'stream', Body, ContentLength: 9000 }))
    expect((await fx.read('stream')).equals(big.subarray(0, 9000))).toBe(true)
  })

  it('keeps keys with spaces, umlauts and URL characters apart and lists them as they are', async () => {
    const keys = ["odd/ä ö+&%#?'()*!.txt", 'odd/日本.mp4', 'odd/a b', 'odd/a+b', 'odd/a%20b', 'odd/<&">']
    for (const Key of keys) await fx.s3.send(new PutObjectCommand({ Bucket, Key, Body: Key }))
    const { Contents = [] } = await fx.s3.send(new ListObjectsV2Command({ Bucket, Prefix: 'odd/' }))
    expect(Contents.map(({ Key }) => Key).sort()).toEqual([...keys].sort())
    for (const key of keys) expect(String(await fx.read(key))).toBe(key)
  })

  it('answers ranges: from, to the end, the last bytes, and 416 behind the end', async () => {
    await fx.s3.send(new PutObjectCommand({ Bucket, Key: 'range', Body: '0123456789' }))
    expect(String(await fx.read('range', 'bytes=2-4'))).toBe('234')
    expect(String(await fx.read('range', 'bytes=7-'))).toBe('789')
    expect(String(await fx.read('range', 'bytes=-2'))).toBe('89')
    expect((await refusalOf(fx.read('range', 'bytes=10-'))).status).toBe(416)
  })

  it('answers 404 for an object that is not there: NoSuchKey on GET, NotFound on HEAD', async () => {
    expect(await refusalOf(fx.read('nothing'))).toEqual({ name: 'NoSuchKey', status: 404 })
    const head = fx.s3.send(new HeadObjectCommand({ Bucket, Key: 'nothing' }))
    expect(await refusalOf(head)).toEqual({ name: 'NotFound', status: 404 })
  })

  it('deletes an object, and one that is not there as well', async () => {
    await fx.s3.send(new PutObjectCommand({ Bucket, Key: 'gone', Body: 'x' }))
    for (let time = 0; time < 2; time++) await fx.s3.send(new DeleteObjectCommand({ Bucket, Key: 'gone' }))
    expect((await refusalOf(fx.read('gone'))).name).toBe('NoSuchKey')
  })

  it('deletes several objects at once', async () => {
    for (const Key of ['many/1', 'many/2', 'many/3']) await fx.s3.send(new PutObjectCommand({ Bucket, Key, Body: 'x' }))
    await fx.s3.send(new DeleteObjectsCommand({ Bucket, Delete: { Objects: [{ Key: 'many/1' }, { Key: 'many/3' }] } }))
    const { Contents = [] } = await fx.s3.send(new ListObjectsV2Command({ Bucket, Prefix: 'many/' }))
    expect(Contents.map(({ Key }) => Key)).toEqual(['many/2'])
  })

  it('lists page by page', async () => {
    for (let n = 0; n < 5; n++) await fx.s3.send(new PutObjectCommand({ Bucket, Key: `page/${n}`, Body: 'x' }))
    const found: string[] = []
    let ContinuationToken: string | undefined
    do {
      const more = ContinuationToken ? { ContinuationToken } : {}
      const page = await fx.s3.send(new ListObjectsV2Command({ Bucket, Prefix: 'page/', MaxKeys: 2, ...more }))
      for (const { Key } of page.Contents ?? []) found.push(Key ?? '')
      ContinuationToken = page.NextContinuationToken
    } while (ContinuationToken)
    expect(found).toEqual(['page/0', 'page/1', 'page/2', 'page/3', 'page/4'])
  })

  it('writes a new object under If-None-Match: * and refuses to overwrite one', async () => {
    const put = (Body: string) => fx.s3.send(new PutObjectCommand({ Bucket, Key: 'once', Body, IfNoneMatch: '*' }))
    await put('first')
    expect((await refusalOf(put('second'))).status).toBe(412)
    expect(String(await fx.read('once'))).toBe('first')
  })

  it('refuses a body that does not match its Content-MD5, and keeps nothing of it', async () => {
    const ContentMD5 = createHash('md5').update('other').digest('base64')
    const put = fx.s3.send(new PutObjectCommand({ Bucket, Key: 'md5', Body: 'this', ContentMD5 }))
    expect(await refusalOf(put)).toEqual({ name: 'BadDigest', status: 400 })
    expect((await refusalOf(fx.read('md5'))).name).toBe('NoSuchKey')
  })

  it('refuses a body that was changed after it was signed', async () => {
    const client = clientOf(fx.target)
    const { requestHandler } = client.config
    const handle = requestHandler.handle.bind(requestHandler)
    requestHandler.handle = (request, options) => {
      return handle(Object.assign(request, { body: Buffer.from('that') }), options)
    }
    const put = client.send(new PutObjectCommand({ Bucket, Key: 'tampered', Body: 'this' }))
    expect((await refusalOf(put)).status).toBe(400)
    expect((await refusalOf(fx.read('tampered'))).name).toBe('NoSuchKey')
    client.destroy()
  })
})

describe('access', () => {
  it('refuses a wrong secret', async () => {
    const { accessKeyId } = fx.target
    const client = clientOf(fx.target, { credentials: { accessKeyId, secretAccessKey: 'wrong' } })
    const put = client.send(new PutObjectCommand({ Bucket, Key: 'secret', Body: 'x' }))
    expect(await refusalOf(put)).toEqual({ name: 'SignatureDoesNotMatch', status: 403 })
    client.destroy()
  })

  it('refuses an unknown access key', async () => {
    const client = clientOf(fx.target, { credentials: { accessKeyId: 'nobody', secretAccessKey: 'wrong' } })
    const put = client.send(new PutObjectCommand({ Bucket, Key: 'secret', Body: 'x' }))
    expect(await refusalOf(put)).toEqual({ name: 'InvalidAccessKeyId', status: 403 })
    client.destroy()
  })

  it('refuses to show an object to somebody without a signature', async () => {
    await fx.s3.send(new PutObjectCommand({ Bucket, Key: 'private', Body: 'x' }))
    const response = await fetch(`${fx.target.endpoint}/${Bucket}/private`)
    expect(response.status).toBe(403)
    await response.body?.cancel()
  })

  it('finds its bucket, and no other', async () => {
    await fx.s3.send(new HeadBucketCommand({ Bucket }))
    expect((await refusalOf(fx.s3.send(new HeadBucketCommand({ Bucket: `${Bucket}-x` })))).status).toBe(404)
    const put = fx.s3.send(new PutObjectCommand({ Bucket: `${Bucket}-x`, Key: 'x', Body: 'x' }))
    expect(await refusalOf(put)).toEqual({ name: 'NoSuchBucket', status: 404 })
  })
})
