/** What we rely on in the multipart uploads of S3; see `s3-contract.test.ts`. */
import { createHash, randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import {
  AbortMultipartUploadCommand,
  type CompletedPart,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  type CreateMultipartUploadCommandInput,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  type ListMultipartUploadsCommandOutput,
  ListPartsCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MIN_PART, refusalOf, S3Fixture } from '../support/s3-fixture.ts'

const big = randomBytes(MIN_PART)
const small = Buffer.from('the last part may be small')

let fx: S3Fixture
let Bucket: string

beforeAll(async () => {
  fx = await S3Fixture.start()
  Bucket = fx.bucket
})

afterAll(() => fx?.close())

async function open(Key: string, more: Partial<CreateMultipartUploadCommandInput> = {}): Promise<string> {
  const { UploadId } = await fx.s3.send(new CreateMultipartUploadCommand({ ...more, Bucket, Key }))
  if (!UploadId) throw new Error('no UploadId')
  return UploadId
}

async function part(Key: string, UploadId: string, PartNumber: number, Body: Buffer): Promise<CompletedPart> {
  const { ETag } = await fx.s3.send(new UploadPartCommand({ Bucket, Key, UploadId, PartNumber, Body }))
  if (!ETag) throw new Error('no ETag')
  return { PartNumber, ETag }
}

function complete(Key: string, UploadId: string, Parts: CompletedPart[]) {
  return fx.s3.send(new CompleteMultipartUploadCommand({ Bucket, Key, UploadId, MultipartUpload: { Parts } }))
}

describe('multipart uploads', () => {
  it('makes one object from parts that came in any order, and shows it only then', async () => {
    const id = await open('order')
    const parts = [await part('order', id, 3, small), await part('order', id, 1, big), await part('order', id, 2, big)]
    expect((await refusalOf(fx.read('order'))).name).toBe('NoSuchKey')
    await complete(
      'order',
      id,
      parts.sort((a, b) => Number(a.PartNumber) - Number(b.PartNumber)),
    )
    expect((await fx.read('order')).equals(Buffer.concat([big, big, small]))).toBe(true)
  })

  it('takes part numbers with gaps', async () => {
    const id = await open('gaps')
    const parts = [
      await part('gaps', id, 2, big),
      await part('gaps', id, 7, big),
      await part('gaps', id, 10_000, small),
    ]
    await complete('gaps', id, parts)
    expect((await fx.s3.send(new HeadObjectCommand({ Bucket, Key: 'gaps' }))).ContentLength).toBe(
      2 * MIN_PART + small.length,
    )
  })

  it('makes an empty object from one empty part', async () => {
    const id = await open('void')
    await complete('void', id, [await part('void', id, 1, Buffer.alloc(0))])
    expect((await fx.s3.send(new HeadObjectCommand({ Bucket, Key: 'void' }))).ContentLength).toBe(0)
  })

  it('keeps the type and the metadata that it was opened with', async () => {
    const id = await open('marked', { ContentType: 'image/png', Metadata: { 'nexus-upload-id': 'abc' } })
    await complete('marked', id, [await part('marked', id, 1, small)])
    const head = await fx.s3.send(new HeadObjectCommand({ Bucket, Key: 'marked' }))
    expect(head).toMatchObject({ ContentType: 'image/png', Metadata: { 'nexus-upload-id': 'abc' } })
  })

  it('takes the last of two bodies for the same part and no longer knows the ETag of the first', async () => {
    const id = await open('again')
    const first = await part('again', id, 1, Buffer.from('first'))
    const second = await part('again', id, 1, Buffer.from('second'))
    const { Parts = [] } = await fx.s3.send(new ListPartsCommand({ Bucket, Key: 'again', UploadId: id }))
    expect(Parts.map(({ PartNumber, Size, ETag }) => [PartNumber, Size, ETag])).toEqual([[1, 6, second.ETag]])
    expect(await refusalOf(complete('again', id, [first]))).toEqual({ name: 'InvalidPart', status: 400 })
    await complete('again', id, [second])
    expect(String(await fx.read('again'))).toBe('second')
  })

  it('lists parts page by page, with their sizes', async () => {
    const id = await open('pages')
    for (let n = 1; n <= 5; n++) await part('pages', id, n, Buffer.alloc(n))
    const found: unknown[] = []
    let marker: string | undefined
    do {
      const more = marker ? { PartNumberMarker: marker } : {}
      const page = await fx.s3.send(new ListPartsCommand({ Bucket, Key: 'pages', UploadId: id, MaxParts: 2, ...more }))
      for (const { PartNumber, Size } of page.Parts ?? []) found.push([PartNumber, Size])
      marker = page.IsTruncated ? page.NextPartNumberMarker : undefined
    } while (marker)
    expect(found).toEqual([[1, 1], [2, 2], [3, 3], [4, 4], [5, 5]]) // biome-ignore format: one line reads better
  })

  it('lists open uploads by prefix, page by page, several of the same key too', async () => {
    const ids = [await open('open/a'), await open('open/a'), await open('open/a.longer'), await open('open/b')]
    await open('elsewhere')
    const found: string[] = []
    let place: { KeyMarker?: string; UploadIdMarker?: string } | null = {}
    while (place) {
      const command = new ListMultipartUploadsCommand({ Bucket, Prefix: 'open/', MaxUploads: 1, ...place })
      const page: ListMultipartUploadsCommandOutput = await fx.s3.send(command)
      for (const { UploadId, Initiated } of page.Uploads ?? []) {
        expect(Math.abs(Date.now() - Number(Initiated))).toBeLessThan(15 * 60_000)
        found.push(UploadId ?? '')
      }
      const { NextKeyMarker = '', NextUploadIdMarker = '' } = page
      place = page.IsTruncated ? { KeyMarker: NextKeyMarker, UploadIdMarker: NextUploadIdMarker } : null
    }
    expect(found.sort()).toEqual(ids.sort())
  })

  it('refuses to complete with a part below 5 MiB that is not the last', async () => {
    const id = await open('tiny')
    const parts = [await part('tiny', id, 1, small), await part('tiny', id, 2, small)]
    expect(await refusalOf(complete('tiny', id, parts))).toEqual({ name: 'EntityTooSmall', status: 400 })
    expect((await refusalOf(fx.read('tiny'))).name).toBe('NoSuchKey')
  })

  it('refuses to complete with an ETag it never gave, and with no parts at all', async () => {
    const id = await open('wrong')
    await part('wrong', id, 1, small)
    const wrong = complete('wrong', id, [{ PartNumber: 1, ETag: '"00000000000000000000000000000000"' }])
    expect(await refusalOf(wrong)).toEqual({ name: 'InvalidPart', status: 400 })
    expect(await refusalOf(complete('wrong', id, []))).toEqual({ name: 'MalformedXML', status: 400 })
  })

  it('never mixes up parts that are named in the wrong order', async () => {
    const id = await open('shuffled')
    const parts = [await part('shuffled', id, 1, big), await part('shuffled', id, 2, small)]
    // AWS refuses, Ceph sorts; nobody makes an object with the bytes in another order.
    const error = await complete('shuffled', id, parts.reverse()).then(
      () => null,
      (reason: Error) => reason.name,
    )
    if (error !== null) expect(error).toBe('InvalidPartOrder')
    else expect((await fx.read('shuffled')).equals(Buffer.concat([big, small]))).toBe(true)
  })

  it('answers a second complete with success', async () => {
    const id = await open('twice')
    const parts = [await part('twice', id, 1, small)]
    await complete('twice', id, parts)
    await complete('twice', id, parts)
    expect((await fx.read('twice')).equals(small)).toBe(true)
  })

  it('knows nothing of an upload after it was completed', async () => {
    const id = await open('over')
    await complete('over', id, [await part('over', id, 1, small)])
    expect((await refusalOf(part('over', id, 2, small))).name).toBe('NoSuchUpload')
    const list = await refusalOf(fx.s3.send(new ListPartsCommand({ Bucket, Key: 'over', UploadId: id })))
    expect(list.status).toBe(404)
    expect(['NoSuchUpload', 'NoSuchKey']).toContain(list.name)
  })

  it('knows nothing of an upload after it was aborted, and leaves no object', async () => {
    const id = await open('aborted')
    const parts = [await part('aborted', id, 1, small)]
    const abort = () => fx.s3.send(new AbortMultipartUploadCommand({ Bucket, Key: 'aborted', UploadId: id }))
    await abort()
    expect(await refusalOf(part('aborted', id, 1, small))).toEqual({ name: 'NoSuchUpload', status: 404 })
    expect(await refusalOf(abort())).toEqual({ name: 'NoSuchUpload', status: 404 })
    const list = await refusalOf(fx.s3.send(new ListPartsCommand({ Bucket, Key: 'aborted', UploadId: id })))
    expect(list.status).toBe(404)
    expect(['NoSuchUpload', 'NoSuchKey']).toContain(list.name)
    // Ceph says 500 here.
    expect((await refusalOf(complete('aborted', id, parts))).status).toBeGreaterThanOrEqual(404)
    expect((await refusalOf(fx.read('aborted'))).name).toBe('NoSuchKey')
  })

  it('refuses a part whose body does not match its Content-MD5', async () => {
    const id = await open('part-md5')
    const ContentMD5 = createHash('md5').update('other').digest('base64')
    const input = { Bucket, Key: 'part-md5', UploadId: id, PartNumber: 1, Body: 'this', ContentMD5 }
    expect(await refusalOf(fx.s3.send(new UploadPartCommand(input)))).toEqual({ name: 'BadDigest', status: 400 })
    const { Parts = [] } = await fx.s3.send(new ListPartsCommand({ Bucket, Key: 'part-md5', UploadId: id }))
    expect(Parts).toEqual([])
  })

  it('keeps no part of a body that was cut off', async () => {
    const id = await open('cut')
    const stop = new AbortController()
    const slow = Readable.from(
      (async function* () {
        yield big.subarray(0, 1_000_000)
        await new Promise((resolve) => setTimeout(resolve, 200))
        stop.abort()
      })(),
      { objectMode: false },
    )
    const input = { Bucket, Key: 'cut', UploadId: id, PartNumber: 1, Body: slow, ContentLength: MIN_PART }
    await expect(fx.s3.send(new UploadPartCommand(input), { abortSignal: stop.signal })).rejects.toThrow()
    await new Promise((resolve) => setTimeout(resolve, 300))
    const { Parts = [] } = await fx.s3.send(new ListPartsCommand({ Bucket, Key: 'cut', UploadId: id }))
    expect(Parts).toEqual([])
  })
})
