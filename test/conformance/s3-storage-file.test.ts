/** Files and parts that go to S3 in one request: over lines that change bytes, with clients of all kinds. Always against the double. */
import { createHash, randomBytes } from 'node:crypto'
import { createServer, type Server, request as send } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { crc32 } from 'node:zlib'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { S3StorageAdapter } from '../../src/s3.ts'
import { BodySums } from '../../src/storage/body-sums.ts'
import type { ObjectInfo } from '../../src/types.ts'
import { failureOf, objectInfo, S3Fixture } from '../support/s3-fixture.ts'
import { clientOf, doubleTarget } from '../support/s3-target.ts'

const bytes = randomBytes(20_000)
const info = objectInfo({ size: bytes.length })
/** More than is sent from memory. */
const large = randomBytes(700_000)

let fx: S3Fixture
let line: Line

beforeAll(async () => {
  fx = await S3Fixture.start(await doubleTarget())
  line = await Line.start(fx.target.endpoint)
})
afterEach(() => {
  fx.double.reset()
  line.changes = 0
})
afterAll(async () => {
  await line?.stop()
  await fx?.close()
})

/** Between the adapter and S3. */
class Line {
  /** How many bodies it will still change a byte of. */
  changes = 0
  readonly #server: Server
  readonly endpoint: string

  private constructor(server: Server) {
    this.#server = server
    this.endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  static async start(endpoint: string): Promise<Line> {
    const server = createServer(async (request, response) => {
      const body = await buffer(request)
      if (body.length > 0 && line.changes > 0) {
        line.changes -= 1
        body.writeUInt8(body.readUInt8(100) ^ 1, 100)
      }
      const { method, url, headers } = request
      send(endpoint + url, { method, headers, agent: false }, (answer) => {
        response.writeHead(answer.statusCode ?? 500, answer.headers)
        answer.pipe(response)
      }).end(body)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return new Line(server)
  }

  stop(): Promise<unknown> {
    this.#server.closeAllConnections()
    return new Promise((resolve) => this.#server.close(resolve))
  }
}

const given = { endpoint: undefined, accessKeyId: undefined, secretAccessKey: undefined }
/** The SDK's default for a client without an endpoint. */
const adding = () =>
  clientOf({ ...fx.target, endpoint: line.endpoint }, { requestChecksumCalculation: 'WHEN_SUPPORTED' })

/** A sum of the bytes goes ahead, where the signature covers it. */
function expectSummed(headers: Record<string, unknown> | undefined, content: Buffer): void {
  expect(headers?.['content-md5']).toBe(createHash('md5').update(content).digest('base64'))
  expect(headers?.authorization).toMatch(/SignedHeaders=[^,]*content-md5/)
}

describe.each([
  ['few', bytes],
  ['many', large],
])('bytes that change on their way, %s of them', (_, content) => {
  const info = objectInfo({ size: content.length })
  const statuses = (call: string) => fx.double.log(call).map(({ status }) => status)

  it('are refused by S3 and sent again, though nobody may look [F02]', async () => {
    const storage = fx.adapter({ endpoint: line.endpoint })
    fx.double.fail('HeadObject', { status: 'AccessDenied', times: 9 })
    line.changes = 1
    await storage.uploadBody('changed', await fx.part(content), info)
    expect(statuses('PutObject')).toEqual([400, 200])
    expectSummed(fx.double.log('PutObject')[1]?.headers, content)
    expect((await fx.double.read(fx.bucket, 'changed')).equals(content)).toBe(true)
  })

  it('of a part are refused and sent again, though nobody may look [F02]', async () => {
    const storage = fx.adapter({ endpoint: line.endpoint })
    const ref = { fileKey: 'part', multipartId: await storage.multipart.create('part', info) }
    fx.double.fail('ListParts', { status: 'AccessDenied', times: 9 })
    line.changes = 1
    await storage.multipart.uploadPart(ref, 1, await fx.part(content))
    expect(statuses('UploadPart')).toEqual([400, 200])
    expectSummed(fx.double.log('UploadPart')[1]?.headers, content)
    expect(storage.multipart.sentParts?.(ref)).toMatchObject([{ partNumber: 1, size: content.length }])
    fx.double.reset()
    await storage.multipart.complete(ref, await fx.parts(ref), info)
    expect((await fx.double.read(fx.bucket, 'part')).equals(content)).toBe(true)
  })

  it('of a part that lies in several files are refused as well [F02]', async () => {
    const storage = fx.adapter({ endpoint: line.endpoint })
    const ref = { fileKey: 'joined', multipartId: await storage.multipart.create('joined', info) }
    line.changes = 1
    await storage.multipart.uploadPart(ref, 1, { ...(await fx.part(content)), path: null })
    expect(statuses('UploadPart')).toEqual([400, 200])
    expectSummed(fx.double.log('UploadPart')[1]?.headers, content)
  })

  it('of a part are refused also when the client adds checksums, and nothing is framed for them [F02]', async () => {
    const client = adding()
    const storage = fx.adapter({ client, ...given })
    const ref = { fileKey: 'summed', multipartId: await storage.multipart.create('summed', info) }
    line.changes = 1
    await storage.multipart.uploadPart(ref, 1, await fx.part(content))
    expect(statuses('UploadPart')).toEqual([400, 200])
    const { headers } = fx.double.log('UploadPart')[1] ?? {}
    expectSummed(headers, content)
    expect(headers).toMatchObject({ 'content-length': `${content.length}`, 'x-amz-checksum-crc32': expect.any(String) })
    expect(headers).not.toHaveProperty('content-encoding')
    expect(await storage.multipart.listParts(ref)).toMatchObject([{ crc32: crc32(content) }])
    client.destroy()
  })

  it('of a part are sent without a sum where there is none to be had', async () => {
    const noHash = vi.spyOn(BodySums.prototype, 'newHash').mockReturnValue(null)
    const ref = { fileKey: 'fips', multipartId: await fx.storage.multipart.create('fips', info) }
    await fx.storage.multipart.uploadPart(ref, 1, await fx.part(content))
    noHash.mockRestore()
    const { headers } = fx.double.log('UploadPart')[0] ?? {}
    expect(headers).not.toHaveProperty('content-md5')
    // S3 takes it only where the multipart upload was opened for it.
    expect(headers).not.toHaveProperty('x-amz-checksum-crc32')
    expect(fx.storage.multipart.sentParts?.(ref)).toEqual([])
  })
})

describe('bytes that change on their way', () => {
  it('are never published, however often they change [F02]', async () => {
    const storage = fx.adapter({ endpoint: line.endpoint })
    line.changes = 99
    expect(await failureOf(storage.uploadBody('never', await fx.part(bytes), info))).toMatchObject({ retryable: true })
    expect(await fx.exists('never')).toBe(false)
  })

  it('are refused also when the client adds checksums, and nothing is framed for them [F02]', async () => {
    const client = adding()
    const storage = fx.adapter({ client, ...given })
    line.changes = 1
    await storage.uploadBody('summed', await fx.part(bytes), info)
    const [first, second] = fx.double.log('PutObject')
    expect([first?.status, second?.status]).toEqual([400, 200])
    expect(second?.headers).toMatchObject({ 'content-length': '20000', 'x-amz-checksum-crc32': expect.any(String) })
    expect(second?.headers).not.toHaveProperty('content-encoding')
    // For servers that look at no CRC-32.
    expect(second?.headers['content-md5']).toBe(createHash('md5').update(bytes).digest('base64'))
    expect(second?.headers.authorization).toMatch(/SignedHeaders=[^,]*content-md5/)
    expect((await fx.double.read(fx.bucket, 'summed')).equals(bytes)).toBe(true)
    client.destroy()
  })

  it.each(['InvalidDigest', 'XAmzContentChecksumMismatch'])(
    'are sent again whatever the server calls it: %s',
    async (status) => {
      fx.double.fail('PutObject', { status })
      await fx.storage.uploadBody(status, await fx.part(bytes), info)
      expect(fx.double.log('PutObject')).toHaveLength(2)
    },
  )

  it('of a piece of an upload are refused as well [F02]', async () => {
    const { staging } = fx.adapter({ endpoint: line.endpoint, stagingPrefix: 'pieces' })
    line.changes = 1
    await staging?.put('one', await fx.part(bytes))
    expect(fx.double.log('PutObject').map(({ status }) => status)).toEqual([400, 200])
  })
})

describe('what goes to `upload` instead', () => {
  it('is all of an adapter that overrides it', async () => {
    const scanned: Buffer[] = []
    class Scanning extends S3StorageAdapter {
      override async upload(key: string, stream: Readable, type: string, about?: ObjectInfo): Promise<string> {
        scanned.push(await buffer(stream))
        return super.upload(key, (await fx.part(bytes)).open(), type, about)
      }
    }
    const { endpoint, region, accessKeyId, secretAccessKey, bucket } = fx.target
    const storage = new Scanning({ endpoint, region, accessKeyId, secretAccessKey, bucket, forcePathStyle: true })
    const body = await fx.part(bytes)
    await storage.uploadBody('scanned', body, info)
    expect(scanned.map((each) => each.equals(bytes))).toEqual([true])
    expect(body.opened.map(({ destroyed }) => destroyed)).toEqual([true])
    await storage.close()
  })

  it('is what is too large for one request', async () => {
    const upload = vi.spyOn(S3StorageAdapter.prototype, 'upload').mockResolvedValue('url')
    const { storage } = fx
    const body = { ...(await fx.part(bytes)), size: storage.multipart.maxPartSize + 1 }
    expect(await storage.uploadBody('large', body, { ...info, size: body.size })).toBe('url')
    upload.mockRestore()
    expect(fx.double.log('PutObject')).toEqual([])
  })

  it('is all where there is no MD5', async () => {
    const noHash = vi.spyOn(BodySums.prototype, 'newHash').mockReturnValue(null)
    await fx.storage.uploadBody('unhashed', await fx.part(bytes), info)
    noHash.mockRestore()
    expect(fx.double.log('PutObject')[0]?.headers['x-amz-content-sha256']).toMatch(/^[0-9a-f]{64}$/)
  })

  it('is what a client sends that follows S3 to other regions', async () => {
    const client = clientOf(fx.target, { followRegionRedirects: true })
    const storage = fx.adapter({ client, ...given })
    await storage.uploadBody('redirected', await fx.part(bytes), info)
    // From memory, so that it can be sent again: then the request has the sum of its bytes.
    expect(fx.double.log('PutObject')[0]?.headers['x-amz-content-sha256']).toMatch(/^[0-9a-f]{64}$/)
    client.destroy()
  })
})

describe('servers that take no MD5 ahead of a body', () => {
  const md5s = (call: string) => fx.double.log(call).map(({ headers }) => 'content-md5' in headers)

  const refusal = (more: string) => {
    const body = `<Error><Code>NotImplemented</Code>${more}</Error>`
    return { status: 'reply', reply: { status: 501, headers: { 'content-type': 'application/xml' }, body } }
  }
  const byName = '<Message>This bucket does not support Content Md5 header</Message>'
  const byHeader = '<Message>A header you provided implies functionality that is not implemented</Message>'

  it.each([byName, `${byHeader}<Header>Content-MD5</Header>`])(
    'get none from then on, and a CRC-32 instead where they take it: %s',
    async (words) => {
      const storage = fx.adapter()
      const ref = { fileKey: 'part', multipartId: await storage.multipart.create('part', info) }
      fx.double.fail('UploadPart', refusal(words))
      await storage.multipart.uploadPart(ref, 1, await fx.part(large))
      await storage.multipart.uploadPart(ref, 2, await fx.part(bytes))
      expect(md5s('UploadPart')).toEqual([true, false, false])
      expect(storage.multipart.sentParts?.(ref)).toHaveLength(2)
      await storage.uploadBody('without', await fx.part(bytes), info)
      expect(md5s('PutObject')).toEqual([false])
      expect(fx.double.log('PutObject')[0]?.headers).toHaveProperty('x-amz-checksum-crc32')
      expect((await fx.double.read(fx.bucket, 'without')).equals(bytes)).toBe(true)
    },
  )

  it('are not those that refuse something else, or the request without it as well', async () => {
    const storage = fx.adapter()
    const put = async () => storage.uploadBody('other', await fx.part(bytes), info)
    fx.double.fail('PutObject', refusal(`${byHeader}<Header>x-amz-storage-class</Header>`))
    expect(await failureOf(put())).toMatchObject({ status: 502 })
    fx.double.fail('PutObject', { ...refusal(byName), times: 2 })
    expect(await failureOf(put())).toMatchObject({ status: 502 })
    await put()
    expect(md5s('PutObject')).toEqual([true, true, false, true])
  })
})

describe('an S3 that looks at the CRC-32 which clients add', () => {
  const md5s = (call: string) => fx.double.log(call).map(({ headers }) => 'content-md5' in headers)

  it('is given no MD5 from then on, and still refuses bytes that change on their way [F02]', async () => {
    const client = adding()
    const storage = fx.adapter({ client, ...given })
    const ref = { fileKey: 'parts', multipartId: await storage.multipart.create('parts', info) }
    for (const partNumber of [1, 2]) await storage.multipart.uploadPart(ref, partNumber, await fx.part(large))
    for (const content of [large, bytes]) await storage.uploadBody('file', await fx.part(content), info)
    line.changes = 1
    const hashes = vi.spyOn(BodySums.prototype, 'newHash')
    await storage.multipart.uploadPart(ref, 3, await fx.part(bytes))
    expect(hashes).not.toHaveBeenCalled()
    hashes.mockRestore()
    line.changes = 1
    await storage.uploadBody('file', await fx.part(large), info)
    expect(fx.double.log('UploadPart').map(({ status }) => status)).toEqual([200, 200, 400, 200])
    expect(md5s('UploadPart')).toEqual([true, false, false, false])
    expect(fx.double.log('PutObject').map(({ status }) => status)).toEqual([200, 200, 400, 200])
    expect(md5s('PutObject')).toEqual([true, false, false, false])
    for (const { headers } of [...fx.double.log('PutObject'), ...fx.double.log('UploadPart')]) {
      expect(headers).toMatchObject({ 'x-amz-checksum-crc32': expect.any(String) })
      expect(headers).not.toHaveProperty('content-encoding')
      expect(headers.authorization).toMatch(/SignedHeaders=[^,]*x-amz-checksum-crc32/)
    }
    const sums = (await storage.multipart.listParts(ref))?.map((part) => part.crc32)
    expect(sums).toEqual([large, large, bytes].map((content) => crc32(content)))
    expect((await fx.double.read(fx.bucket, 'file')).equals(large)).toBe(true)
    client.destroy()
  })

  it('gets the MD5 with what it has not answered with its CRC-32', async () => {
    const client = adding()
    const storage = fx.adapter({ client, ...given })
    const put = async () => storage.uploadBody('file', await fx.part(bytes), info)
    fx.double.fail('PutObject', { status: 'no-checksum' })
    for (let n = 0; n < 3; n++) await put()
    fx.double.fail('PutObject', { status: 'no-checksum', times: 2 })
    for (let n = 0; n < 3; n++) await put()
    // It takes turns with one that does not look: both would have to be asked every time.
    expect(md5s('PutObject')).toEqual([true, true, false, false, true, true, true])
    client.destroy()
  })

  it('is not meant where clients add none: the ETag is compared with the MD5', async () => {
    const storage = fx.adapter()
    for (let n = 0; n < 2; n++) await storage.uploadBody('file', await fx.part(bytes), info)
    expect(md5s('PutObject')).toEqual([true, true])
  })
})

describe('few bytes', () => {
  it('are read once, whatever becomes of the request', async () => {
    const body = { ...(await fx.part(bytes)), path: null }
    await fx.storage.uploadBody('once', body, info)
    const ref = { fileKey: 'part', multipartId: await fx.storage.multipart.create('part', info) }
    await fx.storage.multipart.uploadPart(ref, 1, body)
    expect(body.opened).toHaveLength(2)
    expect(body.opened.every(({ destroyed }) => destroyed)).toBe(true)
  })

  it('may come as text', async () => {
    const text = 'ä€𝄞'.repeat(50)
    const size = Buffer.byteLength(text)
    const body = { size, path: null, open: () => Readable.from([text.slice(0, 20), text.slice(20)]) }
    await fx.storage.uploadBody('text', body, { ...info, size })
    expect((await fx.double.read(fx.bucket, 'text')).toString()).toBe(text)
  })

  it('are not read on behind their end, and not waited for when nobody wants them any more', async () => {
    let pulled = 0
    const endless = new Readable({
      read() {
        pulled += 1
        this.push(Buffer.alloc(64 * 1024))
      },
    })
    const failure = failureOf(fx.storage.uploadBody('endless', { size: 1000, path: null, open: () => endless }, info))
    expect(await failure).toMatchObject({ code: 'S3_SOURCE_FAILED' })
    expect(pulled).toBeLessThan(10)
    const stuck = new Readable({ read() {} })
    const signal = AbortSignal.timeout(50)
    const given = fx.storage.uploadBody('stuck', { size: 1000, path: null, open: () => stuck }, { ...info, signal })
    expect(await failureOf(given)).toMatchObject({ code: 'S3_ABORTED' })
    expect([endless.destroyed, stuck.destroyed]).toEqual([true, true])
  })

  it.each(['PutObject', 'UploadPart'] as const)('are sent no more often by a client that repeats: %s', async (call) => {
    const client = clientOf(fx.target, { maxAttempts: 3 })
    const storage = fx.adapter({ client, ...given, maxAttempts: 4 })
    const ref = { fileKey: 'part', multipartId: await storage.multipart.create('part', info) }
    fx.double.fail(call, { status: 'SlowDown', times: 99 })
    const body = await fx.part(bytes)
    await failureOf(
      call === 'PutObject' ? storage.uploadBody('busy', body, info) : storage.multipart.uploadPart(ref, 1, body),
    )
    expect(fx.double.log(call)).toHaveLength(4)
    expect(body.opened).toHaveLength(4)
    client.destroy()
  })
})

it('a piece has a CRC-32 ahead where there is no MD5', async () => {
  const { staging } = fx.adapter({ stagingPrefix: 'pieces' })
  const noHash = vi.spyOn(BodySums.prototype, 'newHash').mockReturnValue(null)
  await staging?.put('fips', await fx.part(bytes))
  noHash.mockRestore()
  const { headers } = fx.double.log('PutObject')[0] ?? {}
  expect(headers).not.toHaveProperty('content-md5')
  expect(headers).toHaveProperty('x-amz-checksum-crc32')
})

it.each([200_000, 700_000])('%i bytes have the time that a slow line needs', async (size) => {
  const storage = fx.adapter({ attemptTimeout: 100, maxAttempts: 1 })
  fx.double.fail('PutObject', { status: 'ok', delayMs: 400 })
  const content = randomBytes(size)
  await storage.uploadBody('slow', await fx.part(content), { ...info, size })
  expect((await fx.double.read(fx.bucket, 'slow')).equals(content)).toBe(true)
})

it('opens nothing for a key among the private pieces', async () => {
  const storage = fx.adapter({ stagingPrefix: 'pieces' })
  const body = await fx.part(bytes)
  expect(await failureOf(storage.uploadBody('pieces/x', body, info))).toMatchObject({ code: 'S3_UPLOAD_FAILED' })
  expect(body.opened).toEqual([])
})

it('tells of a file that cannot be opened a second time as it does of one that never could', async () => {
  const body = { ...(await fx.part(large)), path: null }
  const open = () => {
    if (body.opened.length > 0) throw new Error('EMFILE')
    return body.open()
  }
  const failure = await failureOf(fx.storage.uploadBody('twice', { ...body, open }, { ...info, size: large.length }))
  expect(failure).toMatchObject({ status: 503, code: 'S3_SOURCE_FAILED' })
})

it.each([
  ['few', bytes],
  ['many', large],
])('sends nothing of a body that goes on behind its end: %s bytes', async (_, content) => {
  const body = await fx.part(content)
  const longer = { ...body, path: null, size: content.length - 1 }
  await failureOf(fx.storage.uploadBody('longer', longer, { ...info, size: longer.size }))
  expect(fx.double.log('PutObject')).toEqual([])
})
