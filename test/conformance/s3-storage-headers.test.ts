/** What the S3 adapter stores beside the bytes, and the URLs it answers. */
import { randomBytes, randomUUID } from 'node:crypto'
import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { S3StorageOptions } from '../../src/s3.ts'
import { MIN_PART, objectInfo, S3Fixture } from '../support/s3-fixture.ts'

const bytes = randomBytes(MIN_PART + 12_345)

let fx: S3Fixture

beforeAll(async () => {
  fx = await S3Fixture.start()
})

afterAll(() => fx?.close())

describe('what is stored beside the bytes', () => {
  async function headersOf(mimeType: string, fileName: string, changes: Partial<S3StorageOptions> = {}) {
    const key = `headers/${randomUUID()}`
    const own = fx.adapter(changes)
    await own.upload(key, Readable.from([Buffer.from('x')]), mimeType, objectInfo({ fileName }))
    return await fx.head(key)
  }

  it.each([
    ['image/png', 'inline'],
    ['IMAGE/PNG', 'inline'],
    ['image/svg+xml', 'attachment'],
    ['text/plain; charset=utf-8', 'inline'],
    ['text/html', 'attachment'],
    ['application/xhtml+xml', 'attachment'],
    ['application/pdf', 'inline'],
    ['video/mp4', 'inline'],
    ['audio/mpeg', 'inline'],
    ['application/javascript', 'attachment'],
    ['', 'attachment'],
  ])('serves %s as %s', async (mimeType, disposition) => {
    expect((await headersOf(mimeType, 'a')).ContentDisposition).toMatch(new RegExp(`^${disposition};`))
  })

  it('serves inline only what the application allows, once it says so', async () => {
    const inlineTypes = ['text/html']
    expect((await headersOf('text/html', 'a', { inlineTypes })).ContentDisposition).toMatch(/^inline/)
    expect((await headersOf('image/png', 'a', { inlineTypes })).ContentDisposition).toMatch(/^attachment/)
  })

  it.each([
    ['film.mp4', `filename="film.mp4"; filename*=UTF-8''film.mp4`],
    ['Übung 1.txt', `filename="_bung 1.txt"; filename*=UTF-8''%C3%9Cbung%201.txt`],
    ['日本.png', `filename="__.png"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.png`],
    ['a"b\\c%41.txt', `filename="a_b_c_41.txt"; filename*=UTF-8''a%22b%5Cc%2541.txt`],
    ['a\r\nSet-Cookie: x=1', `filename="a_Set-Cookie: x=1"; filename*=UTF-8''a_Set-Cookie%3A%20x%3D1`],
    ["it's (1)*.txt", `filename="it's (1)*.txt"; filename*=UTF-8''it%27s%20%281%29%2A.txt`],
    ['lone \ud800 half', `filename="lone _ half"; filename*=UTF-8''lone%20%EF%BF%BD%20half`],
    ['', `filename="file"; filename*=UTF-8''file`],
  ])('names %j in a header that nothing can break', async (fileName, expected) => {
    expect((await headersOf('text/html', fileName)).ContentDisposition).toBe(`attachment; ${expected}`)
  })

  it('is the same for a file and for a stream', async () => {
    const info = objectInfo({
      size: 1,
      fileName: 'ä.html',
      mimeType: 'text/html',
      metadata: { by: 'me' },
      uploadId: 'x',
    })
    const own = fx.adapter({ cacheControl: 'max-age=60', prefix: 'same/' })
    await own.upload('stream', Readable.from([Buffer.from('x')]), info.mimeType, info)
    await own.uploadBody('file', await fx.part(Buffer.from('x')), info)
    const { ContentType, ContentDisposition, CacheControl, Metadata } = await fx.head('same/stream')
    expect(Metadata).toHaveProperty('nexus-upload-id', 'x')
    expect(await fx.head('same/file')).toMatchObject({ ContentType, ContentDisposition, CacheControl, Metadata })
  })

  it('stores what is no media type as application/octet-stream', async () => {
    for (const type of ['', 'nonsense', 'a/b\r\nx: y', 'text/<script>']) {
      expect((await headersOf(type, 'a')).ContentType).toBe('application/octet-stream')
    }
  })

  it('sends cache control when it is set', async () => {
    expect((await headersOf('image/png', 'a', { cacheControl: 'max-age=60' })).CacheControl).toBe('max-age=60')
  })

  it('keeps metadata in a form that every server gives back, as much as fits', async () => {
    const metadata = { fileName: 'Ü 1', a_b: "it's", filler: 'x'.repeat(1500), over: 'y'.repeat(500), later: 'z' }
    const info = objectInfo({ metadata, uploadId: 'upload-1' })
    await fx.storage.upload('metadata', Readable.from([Buffer.from('x')]), 'text/plain', info)
    expect((await fx.head('metadata')).Metadata).toEqual({
      'nexus-upload-id': 'upload-1',
      'nexus-meta-file%4eame': '%C3%9C%201',
      'nexus-meta-a%5fb': 'it%27s',
      'nexus-meta-filler': 'x'.repeat(1500),
    })
  })

  it('stores keys with any characters and answers a URL that leads to them', async () => {
    const key = "uploads/ä ö+&%#?'()*!日本.mp4"
    const url = await fx.storage.upload(key, Readable.from([Buffer.from('x')]), 'text/plain')
    expect(url).toBe(
      `${fx.target.endpoint}/${fx.target.bucket}/uploads/%C3%A4%20%C3%B6%2B%26%25%23%3F%27%28%29%2A%21%E6%97%A5%E6%9C%AC.mp4`,
    )
    expect(String(await fx.read(key))).toBe('x')
  })

  it('puts the prefix before every key, also of parts, and not the other way round', async () => {
    const own = fx.adapter({ prefix: '/tenant-1/' })
    const url = await own.upload('a.txt', Readable.from([Buffer.from('x')]), 'text/plain')
    expect(url).toBe(`${fx.target.endpoint}/${fx.target.bucket}/tenant-1/a.txt`)
    const info = objectInfo()
    const ref = await fx.sendParts('b', info, bytes, own)
    await own.multipart.complete(ref, await fx.parts(ref, own), info)
    expect((await fx.read('tenant-1/b')).equals(bytes)).toBe(true)
    await own.multipart.create('c', info)
    await own.multipart.abort({ fileKey: 'c', multipartId: null })
    expect(await fx.openUploads('tenant-1/')).toEqual([])
    await own.remove('a.txt')
    expect(await fx.exists('tenant-1/a.txt')).toBe(false)
  })

  it('answers the public URL that the application wants', async () => {
    const put = async (publicUrl: S3StorageOptions['publicUrl']) => {
      const own = fx.adapter({ publicUrl, prefix: 'p' })
      const url = await own.upload('a b.txt', Readable.from([Buffer.from('x')]), 'text/plain')
      return url
    }
    expect(await put('https://cdn.example.com/files/')).toBe('https://cdn.example.com/files/p/a%20b.txt')
    expect(await put((key) => `https://cdn.example.com/?k=${key}`)).toBe('https://cdn.example.com/?k=p/a b.txt')
  })

  it('sends neither ACL nor tags nor framed bodies nor storage class by default', async ({ skip }) => {
    const { double } = fx.target
    if (!double) return skip('looks into the request log')
    const from = double.requests.length
    const info = objectInfo()
    const ref = await fx.sendParts('plain', info, bytes)
    await fx.storage.multipart.complete(ref, await fx.parts(ref), info)
    await fx.storage.upload('plain', Readable.from([bytes]), 'text/plain')
    for (const { headers } of double.requests.slice(from)) {
      const names = Object.keys(headers)
      expect(names.filter((name) => /acl|grant|tagging|storage-class|trailer|checksum|encryption/.test(name))).toEqual(
        [],
      )
      expect(headers['content-encoding']).toBeUndefined()
      expect(headers['x-amz-content-sha256']).not.toMatch(/^STREAMING/)
    }
  })

  it('sends ACL, storage class and encryption that are set', async ({ skip }) => {
    const { double } = fx.target
    if (!double) return skip('looks into the request log')
    const own = fx.adapter({
      acl: 'public-read',
      storageClass: 'STANDARD_IA',
      serverSideEncryption: 'aws:kms',
      sseKmsKeyId: 'k1',
    })
    await own.multipart.create('set', objectInfo())
    expect(double.log('CreateMultipartUpload').at(-1)?.headers).toMatchObject({
      'x-amz-acl': 'public-read',
      'x-amz-storage-class': 'STANDARD_IA',
      'x-amz-server-side-encryption': 'aws:kms',
      'x-amz-server-side-encryption-aws-kms-key-id': 'k1',
    })
  })
})
