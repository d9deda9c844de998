/** The S3 adapter's options, its silence about secrets, and when it loads the SDK. */
import { Readable } from 'node:stream'
import { inspect } from 'node:util'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { S3StorageAdapter, type S3StorageOptions } from '../../src/s3.ts'
import { S3Connection } from '../../src/storage/s3-connection.ts'
import { readCredentials, readSettings } from '../../src/storage/s3-options.ts'
import { failureOf, MIN_PART, S3Fixture } from '../support/s3-fixture.ts'

let fx: S3Fixture

beforeAll(async () => {
  fx = await S3Fixture.start()
})

afterAll(() => fx?.close())

describe('options', () => {
  it.each<[string, unknown, RegExp]>([
    ['no bucket', {}, /`bucket`.*undefined/],
    ['a bucket with a slash', { bucket: 'a/b' }, /`bucket`.*'a\/b'/],
    ['an endpoint of another scheme', { bucket: 'b-b', endpoint: 'ftp://x' }, /`endpoint`.*'ftp:\/\/x'/],
    ['an endpoint with a query', { bucket: 'b-b', endpoint: 'https://x/?a=1' }, /`endpoint`/],
    ['one key without the other', { bucket: 'b-b', secretAccessKey: 'hush-hush' }, /both `accessKeyId` and/],
    ['a key that is no string', { bucket: 'b-b', accessKeyId: 5 }, /`accessKeyId`.*number/],
    ['small parts', { bucket: 'b-b', partSize: MIN_PART - 1 }, /`partSize`.*5242880.*5242879/],
    ['zero attempts', { bucket: 'b-b', maxAttempts: 0 }, /`maxAttempts`.*1/],
    ['a text as flag', { bucket: 'b-b', forcePathStyle: 'yes' }, /`forcePathStyle`.*'yes'/],
    ['a text as list', { bucket: 'b-b', inlineTypes: 'image/*' }, /`inlineTypes`.*'image\/\*'/],
    ['a prefix that climbs', { bucket: 'b-b', prefix: 'a/../b' }, /`prefix`/],
    ['a staging prefix that is all of the bucket', { bucket: 'b-b', stagingPrefix: '/' }, /`stagingPrefix`/],
    ['nothing', undefined, /needs options/],
  ])('are refused with a TypeError that shows %s', (_name, options, text) => {
    const make = () => new S3StorageAdapter(options as S3StorageOptions)
    expect(make).toThrow(TypeError)
    expect(make).toThrow(text)
    expect(make).not.toThrow(/hush/)
  })

  it('are refused when the endpoint holds a password, without showing it', () => {
    const make = () => new S3StorageAdapter({ bucket: 'b-b', endpoint: 'https://user:hush@x' })
    expect(make).toThrow(/must not hold credentials/)
    expect(make).not.toThrow(/hush/)
  })

  it('are read once: changing them afterwards changes nothing', async () => {
    const options = { ...fx.target, partSize: MIN_PART, forcePathStyle: true, bucket: fx.target.bucket }
    const before = structuredClone({ ...options, double: undefined, close: undefined })
    const own = new S3StorageAdapter(options)
    expect(structuredClone({ ...options, double: undefined, close: undefined })).toEqual(before)
    Object.assign(options, { bucket: 'other', secretAccessKey: 'other', partSize: 1 })
    await own.upload('read-once', Readable.from([Buffer.from('x')]), 'text/plain')
    expect((await fx.head('read-once')).ContentLength).toBe(1)
  })

  async function urlOf(options: Partial<S3StorageOptions>): Promise<string> {
    const full = { bucket: 'my-bucket', accessKeyId: 'a', secretAccessKey: 'b', ...options }
    const connection = new S3Connection(readSettings(full), readCredentials(full), null)
    const url = await connection.url('a b')
    await connection.close()
    return url
  }

  it.each<[Partial<S3StorageOptions>, string]>([
    [{ region: 'eu-west-1' }, 'https://my-bucket.s3.eu-west-1.amazonaws.com/a%20b'],
    [{ region: 'eu-west-1', forcePathStyle: true }, 'https://s3.eu-west-1.amazonaws.com/my-bucket/a%20b'],
    [{ endpoint: 'localhost:9000' }, 'http://localhost:9000/my-bucket/a%20b'],
    [{ endpoint: '10.0.0.7:9000' }, 'http://10.0.0.7:9000/my-bucket/a%20b'],
    [{ endpoint: '[::1]:9000' }, 'http://[::1]:9000/my-bucket/a%20b'],
    [{ endpoint: 's3.example.com' }, 'https://my-bucket.s3.example.com/a%20b'],
    [{ endpoint: 's3.example.com', forcePathStyle: true }, 'https://s3.example.com/my-bucket/a%20b'],
    [{ endpoint: 'http://minio:9000/', forcePathStyle: true }, 'http://minio:9000/my-bucket/a%20b'],
    [{ endpoint: 'https://127.0.0.1', forcePathStyle: false }, 'https://127.0.0.1/my-bucket/a%20b'],
    [
      { endpoint: 'https://gateway.example.com/s3', forcePathStyle: true },
      'https://gateway.example.com/s3/my-bucket/a%20b',
    ],
  ])('%j make the URL %s', async (options, expected) => {
    expect(await urlOf(options)).toBe(expected)
  })
})

describe('secrets', () => {
  it('show neither in the adapter nor in its errors, whatever prints them', async () => {
    const secrets = { accessKeyId: 'AKIDNOBODY', secretAccessKey: 'hush-hush-secret', sessionToken: 'hush-hush-token' }
    const own = fx.adapter({ ...secrets, maxAttempts: 1 })
    const error = await failureOf(own.upload('x', Readable.from([Buffer.from('x')]), 'text/plain'))
    expect(error).toMatchObject({ status: 502, code: 'S3_UPLOAD_FAILED' })
    const printed = [own, own.multipart, error, error.cause].flatMap((value) => [
      inspect(value, { depth: Infinity, showHidden: true }),
      String(value),
      JSON.stringify(value),
      JSON.stringify(value, Object.getOwnPropertyNames(value)),
    ])
    for (const secret of Object.values(secrets)) expect(printed.join('\n')).not.toContain(secret)
    const shown = JSON.stringify({ ...error, message: error.message, stack: error.stack, cause: undefined })
    for (const internal of [fx.target.bucket, fx.target.endpoint, 'tx0', 'InvalidAccessKeyId'])
      expect(shown).not.toContain(internal)
    expect(inspect(error.cause)).toContain('InvalidAccessKeyId')
  })
})

describe('the AWS SDK', () => {
  it('is loaded with the first call and not before', async () => {
    let loaded = 0
    vi.resetModules()
    vi.doMock('@aws-sdk/client-s3', async (original) => {
      loaded += 1
      return await original<object>()
    })
    vi.doMock('@aws-sdk/lib-storage', async (original) => {
      loaded += 1
      return await original<object>()
    })
    const fresh = await import('../../src/s3.ts')
    const { endpoint, accessKeyId, secretAccessKey, bucket } = fx.target
    const own = new fresh.S3StorageAdapter({ endpoint, accessKeyId, secretAccessKey, bucket })
    expect(own.multipart.partSize).toBe(8 * 1024 * 1024)
    expect(loaded).toBe(0)
    await own.upload('lazy', Readable.from([Buffer.from('x')]), 'text/plain')
    expect(loaded).toBe(2)
    await own.close()
    vi.doUnmock('@aws-sdk/client-s3')
    vi.doUnmock('@aws-sdk/lib-storage')
  })
})
