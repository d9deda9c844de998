/** The S3 adapter against `s3Target()`: the double, or a real server named by the environment. */
import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { crc32 } from 'node:zlib'
import { PutObjectCommand } from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { FileSizeExceededError } from '../../src/errors.ts'
import { S3StorageAdapter } from '../../src/s3.ts'
import { failureOf, MIN_PART, objectInfo, S3Fixture } from '../support/s3-fixture.ts'
import { clientOf } from '../support/s3-target.ts'

const bytes = randomBytes(2 * MIN_PART + 12_345)

let fx: S3Fixture

beforeAll(async () => {
  fx = await S3Fixture.start()
})

afterAll(() => fx?.close())

describe('upload', () => {
  it('stores a small stream in one object and answers its URL', async () => {
    const url = await fx.storage.upload('uploads/small.txt', Readable.from([Buffer.from('hello')]), 'text/plain')
    expect(url).toBe(`${fx.target.endpoint}/${fx.target.bucket}/uploads/small.txt`)
    expect(String(await fx.read('uploads/small.txt'))).toBe('hello')
  })

  it('stores an empty stream as an empty object', async () => {
    await fx.storage.upload('empty', Readable.from([]), 'text/plain', objectInfo({ size: 0 }))
    expect((await fx.head('empty')).ContentLength).toBe(0)
  })

  it('stores a stream of several parts, byte for byte, and leaves no multipart upload open', async () => {
    const stream = Readable.from(
      Array.from({ length: Math.ceil(bytes.length / 100_000) }, (_, n) =>
        bytes.subarray(n * 100_000, (n + 1) * 100_000),
      ),
    )
    await fx.storage.upload('several', stream, 'video/mp4', objectInfo({ size: bytes.length }))
    expect((await fx.read('several')).equals(bytes)).toBe(true)
    expect(await fx.openUploads('several')).toEqual([])
    expect(stream.destroyed).toBe(true)
  })

  it('replaces the object when the same key is stored again', async () => {
    for (const text of ['one', 'two'])
      await fx.storage.upload('twice', Readable.from([Buffer.from(text)]), 'text/plain')
    expect(String(await fx.read('twice'))).toBe('two')
  })

  it.each([
    ['less', 11, MIN_PART],
    ['more', -11, MIN_PART],
    ['less, in parts', 11, bytes.length],
    ['more, in parts', -11, bytes.length],
  ])('stores nothing when the stream has %s bytes than announced', async (name, change, length) => {
    const key = `length/${name}`
    const info = objectInfo({ size: length + change })
    const error = await failureOf(
      fx.storage.upload(key, Readable.from([bytes.subarray(0, length)]), 'text/plain', info),
    )
    expect(error.code).toBe('S3_SOURCE_FAILED')
    expect(await fx.exists(key)).toBe(false)
    expect(await fx.openUploads(key)).toEqual([])
  })

  it('stores nothing when the stream breaks, and leaves no parts behind', async () => {
    const stream = Readable.from(
      (async function* () {
        yield bytes.subarray(0, 2 * MIN_PART)
        throw new Error('the disk broke at /secret/path')
      })(),
    )
    const error = await failureOf(fx.storage.upload('broken', stream, 'text/plain', objectInfo()))
    expect(error).toMatchObject({ status: 503, code: 'S3_SOURCE_FAILED' })
    expect(error.message).not.toContain('secret')
    expect(await fx.exists('broken')).toBe(false)
    expect(await fx.openUploads('broken')).toEqual([])
  })

  it('hears a stream that breaks before the first request', async () => {
    const stream = new Readable({ read() {} })
    const storing = fx.storage.upload('early', stream, 'text/plain')
    stream.emit('error', new Error('early'))
    expect((await failureOf(storing)).code).toBe('S3_SOURCE_FAILED')
  })

  it("passes an error of this library through as it is: a client's mistake stays a 413", async () => {
    const limit = new FileSizeExceededError(5)
    const stream = Readable.from(
      (async function* () {
        yield bytes.subarray(0, 10)
        throw limit
      })(),
    )
    await expect(fx.storage.upload('limit', stream, 'text/plain')).rejects.toBe(limit)
  })

  it('stops when its signal is aborted, destroys the stream and leaves no parts behind', async () => {
    const stop = new AbortController()
    const stream = Readable.from(
      (async function* () {
        yield bytes.subarray(0, 2 * MIN_PART)
        stop.abort()
        await new Promise(() => {})
      })(),
    )
    const error = await failureOf(
      fx.storage.upload('stopped', stream, 'text/plain', objectInfo({ signal: stop.signal })),
    )
    expect(error.code).toBe('S3_ABORTED')
    expect(stream.destroyed).toBe(true)
    expect(await fx.openUploads('stopped')).toEqual([])
  })

  it('sends nothing when its signal is aborted already', async () => {
    const stream = Readable.from([bytes])
    const info = objectInfo({ signal: AbortSignal.abort() })
    expect((await failureOf(fx.storage.upload('never', stream, 'text/plain', info))).code).toBe('S3_ABORTED')
    expect(stream.destroyed).toBe(true)
  })
})

describe('remove', () => {
  it('deletes the object, and says nothing when there is none', async () => {
    await fx.storage.upload('removed', Readable.from([Buffer.from('x')]), 'text/plain')
    for (let time = 0; time < 2; time++) await fx.storage.remove('removed')
    expect(await fx.exists('removed')).toBe(false)
  })
})

describe('multipart', () => {
  it('makes the object from parts that were sent in parallel and out of order', async () => {
    const info = objectInfo({ size: bytes.length, mimeType: 'video/mp4', fileName: 'film.mp4' })
    const ref = {
      fileKey: 'uploads/film.mp4',
      multipartId: await fx.storage.multipart.create('uploads/film.mp4', info),
    }
    await Promise.all(
      [3, 1, 2].map(async (number) => {
        const part = bytes.subarray((number - 1) * MIN_PART, number * MIN_PART)
        await fx.storage.multipart.uploadPart(ref, number, await fx.part(part))
      }),
    )
    const parts = await fx.parts(ref)
    expect(parts.map(({ partNumber, size }) => [partNumber, size])).toEqual([
      [1, MIN_PART],
      [2, MIN_PART],
      [3, 12_345],
    ])
    const url = await fx.storage.multipart.complete(ref, [...parts].reverse(), info)
    expect(url).toBe(`${fx.target.endpoint}/${fx.target.bucket}/uploads/film.mp4`)
    expect((await fx.read('uploads/film.mp4')).equals(bytes)).toBe(true)
    expect(await fx.head('uploads/film.mp4')).toMatchObject({
      ContentType: 'video/mp4',
      ContentDisposition: `inline; filename="film.mp4"; filename*=UTF-8''film.mp4`,
      Metadata: { 'nexus-upload-id': info.uploadId },
    })
  })

  it('answers the same URL when it is completed again', async () => {
    const info = objectInfo()
    const ref = await fx.sendParts('again', info, bytes)
    const parts = await fx.parts(ref)
    const url = await fx.storage.multipart.complete(ref, parts, info)
    expect(await fx.storage.multipart.complete(ref, parts, info)).toBe(url)
  })

  it('replaces a part that is sent again', async () => {
    const info = objectInfo()
    const ref = { fileKey: 'replaced', multipartId: await fx.storage.multipart.create('replaced', info) }
    for (const text of ['first', 'second'])
      await fx.storage.multipart.uploadPart(ref, 1, await fx.part(Buffer.from(text)))
    await fx.storage.multipart.complete(ref, await fx.parts(ref), info)
    expect(String(await fx.read('replaced'))).toBe('second')
  })

  it('lists an upload without parts as open and empty', async () => {
    const ref = { fileKey: 'none', multipartId: await fx.storage.multipart.create('none', objectInfo()) }
    expect(await fx.storage.multipart.listParts(ref)).toEqual([])
  })

  it('answers null for the parts of an upload that was completed, and of one that was aborted', async () => {
    const info = objectInfo()
    const completed = await fx.sendParts('ended/completed', info, bytes)
    await fx.storage.multipart.complete(completed, await fx.parts(completed), info)
    expect(await fx.storage.multipart.listParts(completed)).toBeNull()
    const aborted = await fx.sendParts('ended/aborted', info, bytes)
    await fx.storage.multipart.abort(aborted)
    expect(await fx.storage.multipart.listParts(aborted)).toBeNull()
  })

  it('refuses to complete an aborted upload, and makes no object', async () => {
    const info = objectInfo()
    const ref = await fx.sendParts('refused', info, bytes)
    const parts = await fx.parts(ref)
    for (let time = 0; time < 2; time++) await fx.storage.multipart.abort(ref)
    expect((await failureOf(fx.storage.multipart.complete(ref, parts, info))).status).toBeGreaterThanOrEqual(502)
    expect(await fx.exists('refused')).toBe(false)
  })

  it("does not take somebody else's object under the same key for its own, even of the same size", async () => {
    const info = objectInfo()
    const ref = await fx.sendParts('foreign', info, bytes)
    const parts = await fx.parts(ref)
    await fx.storage.multipart.abort(ref)
    await fx.s3.send(new PutObjectCommand({ Bucket: fx.target.bucket, Key: 'foreign', Body: bytes }))
    await failureOf(fx.storage.multipart.complete(ref, parts, info))
    await fx.storage.upload('foreign', Readable.from([bytes]), 'text/plain', objectInfo())
    await failureOf(fx.storage.multipart.complete(ref, parts, info))
  })

  it('aborts by key alone when the id is lost: all of that key, and no other key', async () => {
    const info = objectInfo()
    for (let time = 0; time < 2; time++) await fx.storage.multipart.create('lost/a', info)
    const others = [
      await fx.storage.multipart.create('lost/a.longer', info),
      await fx.storage.multipart.create('lost/aa', info),
    ]
    await fx.storage.multipart.abort({ fileKey: 'lost/a', multipartId: null })
    expect((await fx.openUploads('lost/')).sort()).toEqual(others.sort())
    await fx.storage.multipart.abort({ fileKey: 'lost/a', multipartId: null })
  })

  it('refuses a part whose file is shorter or longer than it should be, soon', async () => {
    const ref = { fileKey: 'size', multipartId: await fx.storage.multipart.create('size', objectInfo()) }
    for (const change of [1, -1]) {
      const body = await fx.part(Buffer.from('0123456789'))
      const error = await failureOf(fx.storage.multipart.uploadPart(ref, 1, { ...body, size: body.size + change }))
      expect(error.code).toBe('S3_SOURCE_FAILED')
    }
    expect(await fx.storage.multipart.listParts(ref)).toEqual([])
  })

  it('refuses a part whose file is gone', async () => {
    const ref = { fileKey: 'file', multipartId: await fx.storage.multipart.create('file', objectInfo()) }
    const body = await fx.part(Buffer.from('0123456789'))
    await rm(body.path ?? '')
    expect((await failureOf(fx.storage.multipart.uploadPart(ref, 1, body))).code).toBe('S3_SOURCE_FAILED')
  })

  it('stops sending a part when the signal is aborted', async () => {
    const ref = { fileKey: 'signal', multipartId: await fx.storage.multipart.create('signal', objectInfo()) }
    const stop = new AbortController()
    const stuck = new Readable({ read() {} })
    stuck.push(bytes.subarray(0, 1000))
    const sending = fx.storage.multipart.uploadPart(
      ref,
      1,
      { size: MIN_PART, path: null, open: () => stuck },
      stop.signal,
    )
    setTimeout(() => stop.abort(), 50)
    expect((await failureOf(sending)).code).toBe('S3_ABORTED')
    expect(stuck.destroyed).toBe(true)
  })

  it('works with a client that adds checksums to everything', async ({ skip }) => {
    if (!fx.target.double) skip('many real servers refuse the framing')
    const client = clientOf(fx.target, {
      requestChecksumCalculation: 'WHEN_SUPPORTED',
      responseChecksumValidation: 'WHEN_SUPPORTED',
      maxAttempts: 3,
    })
    const own = new S3StorageAdapter({ bucket: fx.target.bucket, client, partSize: MIN_PART })
    const info = objectInfo()
    const ref = await fx.sendParts('checksums', info, bytes, own)
    const parts = await fx.parts(ref, own)
    const sums = parts.map((_, n) => crc32(bytes.subarray(n * MIN_PART, (n + 1) * MIN_PART)))
    expect(parts.map((part) => part.crc32)).toEqual(sums)
    await own.multipart.complete(ref, parts, info)
    expect((await fx.read('checksums')).equals(bytes)).toBe(true)
    await own.upload('checksums-stream', Readable.from([bytes]), 'text/plain')
    expect((await fx.read('checksums-stream')).equals(bytes)).toBe(true)
    client.destroy()
  })

  it('leaves a client that was passed in open when it is closed', async () => {
    const client = clientOf(fx.target)
    const destroy = vi.spyOn(client, 'destroy')
    const given = new S3StorageAdapter({ bucket: fx.target.bucket, client })
    await given.remove('x')
    await given.close()
    expect(destroy).not.toHaveBeenCalled()
    client.destroy()
  })
})
