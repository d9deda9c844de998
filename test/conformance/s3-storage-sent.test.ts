/** What the S3 adapter remembers of the parts it has sent, so that nobody has to ask for it. Always against the double. */
import { randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { SentParts } from '../../src/storage/s3-sent-parts.ts'
import { failureOf, MIN_PART, objectInfo, S3Fixture } from '../support/s3-fixture.ts'
import { clientOf, doubleTarget } from '../support/s3-target.ts'

const bytes = randomBytes(MIN_PART + 1000)

let fx: S3Fixture

beforeAll(async () => {
  fx = await S3Fixture.start(await doubleTarget())
})
afterEach(() => fx.double.reset())
afterAll(() => fx?.close())

async function sent(key: string, storage = fx.adapter()) {
  const info = objectInfo()
  const ref = await fx.sendParts(key, info, bytes, storage)
  return { storage, ref, info, known: () => storage.multipart.sentParts?.(ref) ?? [] }
}

describe('parts that were sent', () => {
  it('are known as S3 lists them, make the object without a list, and are forgotten then', async () => {
    const { storage, ref, info, known } = await sent('known')
    expect(known()).toEqual(await fx.parts(ref))
    fx.double.requests.length = 0
    await storage.multipart.complete(ref, known(), info)
    expect(fx.double.requests.map(({ op }) => op)).toEqual(['CompleteMultipartUpload', 'HeadObject'])
    expect((await fx.read('known')).equals(bytes)).toBe(true)
    expect(known()).toEqual([])
  })

  it('are not known where the client adds checksums, as nobody has compared them; one list serves a completion there', async () => {
    const client = clientOf(fx.target, { requestChecksumCalculation: 'WHEN_SUPPORTED' })
    const storage = fx.adapter({ client, endpoint: undefined, accessKeyId: undefined, secretAccessKey: undefined })
    const { ref, info, known } = await sent('crc', storage)
    expect(known()).toEqual([])
    const listed = await fx.parts(ref, storage)
    expect(listed.map((part) => part.crc32)).toEqual([
      crc32(bytes.subarray(0, MIN_PART)),
      crc32(bytes.subarray(MIN_PART)),
    ])
    fx.double.requests.length = 0
    await storage.multipart.complete(ref, listed, info)
    expect(fx.double.requests.map(({ op }) => op)).toEqual(['CompleteMultipartUpload', 'HeadObject'])
    expect((await fx.read('crc')).equals(bytes)).toBe(true)
    client.destroy()
  })

  it('are known to nobody else, and not after an abort', async () => {
    const { storage, ref, known } = await sent('aborted')
    expect(fx.adapter().multipart.sentParts?.(ref)).toEqual([])
    await storage.multipart.abort(ref)
    expect(known()).toEqual([])
  })

  it.each(['wrong-etag', 'lost-response'])('are not known when the answer was %s every time', async (status) => {
    const { storage, ref, known } = await sent('unproven')
    expect(known()).toHaveLength(2)
    fx.double.fail('UploadPart', { status, times: 9 })
    await storage.multipart.uploadPart(ref, 2, await fx.part(bytes.subarray(MIN_PART))).catch(() => {})
    expect(known().map(({ partNumber }) => partNumber)).toEqual([1])
  })

  it('are not known while they are being sent again', async () => {
    const { storage, ref, known } = await sent('replaced')
    fx.double.fail('UploadPart', { status: 'ok', delayMs: 200 })
    const sending = storage.multipart.uploadPart(ref, 1, await fx.part(bytes.subarray(0, MIN_PART)))
    expect(known().map(({ partNumber }) => partNumber)).toEqual([2])
    await sending
    expect(known()).toEqual(await fx.parts(ref))
  })

  it('that somebody has replaced since are refused by S3: nothing is made of other bytes', async () => {
    const { storage, ref, info, known } = await sent('others')
    await fx.storage.multipart.uploadPart(ref, 1, await fx.part(randomBytes(MIN_PART)))
    expect(await failureOf(storage.multipart.complete(ref, known(), info))).toMatchObject({ status: 502 })
    expect(await fx.exists('others')).toBe(false)
    // The next try asks for a list.
    expect(known()).toEqual([])
  })
})

describe('the memory for them', () => {
  const part = (partNumber: number, etag = 'e') => ({ partNumber, etag, size: 1 })

  it('lists them in order, each as it was sent last', () => {
    const memory = new SentParts()
    for (const number of [3, 1, 2, 1]) memory.add('a', part(number, `e${number}`))
    memory.add('a', part(2, 'new'))
    expect(memory.of('a')).toEqual([part(1, 'e1'), part(2, 'new'), part(3, 'e3')])
    memory.remove('a', 2)
    memory.remove('b', 1)
    expect(memory.of('a').map(({ partNumber }) => partNumber)).toEqual([1, 3])
    expect(memory.of('b')).toEqual([])
  })

  it('ends at 20 000 parts: those of the upload that was begun first go', () => {
    const memory = new SentParts()
    const fill = (id: string, count: number) => {
      for (let number = 1; number <= count; number++) memory.add(id, part(number))
    }
    fill('first', 9_000)
    fill('first', 9_000)
    fill('second', 9_000)
    memory.forget('none')
    memory.remove('second', 9_000)
    fill('third', 2_001)
    expect(['first', 'second', 'third'].map((id) => memory.of(id).length)).toEqual([9_000, 8_999, 2_001])
    memory.add('third', part(2_002))
    expect(['first', 'second', 'third'].map((id) => memory.of(id).length)).toEqual([0, 8_999, 2_002])
    memory.forget('second')
    fill('fourth', 10_000)
    fill('fifth', 7_998)
    expect(memory.of('third')).toHaveLength(2_002)
  })
})
