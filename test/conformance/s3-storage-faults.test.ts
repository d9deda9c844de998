/** What the S3 adapter makes of a server that is slow, overloaded, lost, or wrong. Always against the double. */
import { randomBytes, randomUUID } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { S3StorageAdapter } from '../../src/s3.ts'
import type { OrderedFault } from '../support/s3-fault.ts'
import { failureOf, MIN_PART, objectInfo, S3Fixture } from '../support/s3-fixture.ts'
import { clientOf, doubleTarget } from '../support/s3-target.ts'

const bytes = randomBytes(MIN_PART + 1000)

let fx: S3Fixture

beforeAll(async () => {
  fx = await S3Fixture.start(await doubleTarget())
})

afterEach(() => {
  fx.double.reset()
})

afterAll(() => fx?.close())

/** Everything an adapter can be asked, by the S3 operation that gets the fault. */
const calls: Readonly<Record<string, (storage: S3StorageAdapter) => Promise<unknown>>> = {
  PutObject: (storage) => storage.upload(randomUUID(), Readable.from([bytes.subarray(0, 100)]), 'text/plain'),
  DeleteObject: (storage) => storage.remove('x'),
  CreateMultipartUpload: (storage) => storage.multipart.create(randomUUID(), objectInfo()),
  UploadPart: async (storage) => {
    const ref = { fileKey: 'part', multipartId: await storage.multipart.create('part', objectInfo()) }
    const part = await fx.part(bytes)
    await storage.multipart.uploadPart(ref, 1, part).finally(() => {
      expect(part.opened.every((stream) => stream.destroyed)).toBe(true)
    })
    expect((await fx.parts(ref))[0]?.size).toBe(bytes.length)
  },
  ListParts: async (storage) => {
    const ref = { fileKey: 'list', multipartId: await storage.multipart.create('list', objectInfo()) }
    expect(await storage.multipart.listParts(ref)).toEqual([])
  },
  CompleteMultipartUpload: (storage) => completeOne(storage, randomUUID()),
  HeadObject: (storage) => completeOne(storage, randomUUID()),
  AbortMultipartUpload: async (storage) => {
    await storage.multipart.abort({
      fileKey: 'abort',
      multipartId: await storage.multipart.create('abort', objectInfo()),
    })
  },
  ListMultipartUploads: (storage) => storage.multipart.abort({ fileKey: 'abort', multipartId: null }),
}
const operations = Object.keys(calls)

async function ready(key: string, storage = fx.storage) {
  const info = objectInfo()
  const ref = await fx.sendParts(key, info, bytes, storage)
  return { info, ref, parts: await fx.parts(ref) }
}

async function completeOne(storage: S3StorageAdapter, key: string): Promise<string> {
  const { info, ref, parts } = await ready(key)
  const url = await storage.multipart.complete(ref, parts, info)
  expect(fx.double.object(fx.bucket, key)?.size).toBe(bytes.length)
  return url
}

/** Asks for one operation under a fault. */
async function under(operation: string, fault: OrderedFault, storage = fx.storage): Promise<unknown> {
  fx.double.fail(operation, fault)
  return await calls[operation]?.(storage)
}

describe('a failure that passes', () => {
  it.each(operations)('503 twice, then an answer: %s succeeds with the third request [F01]', async (operation) => {
    await under(operation, { status: 503, times: 2 })
    expect(fx.double.log(operation)).toHaveLength(3)
  })

  it.each(operations)('two resets, then an answer: %s succeeds with the third request [F01]', async (operation) => {
    await under(operation, { status: 'reset', times: 2 })
    expect(fx.double.log(operation)).toHaveLength(3)
  })

  it.each(['InternalError', 'RequestTimeout', 'TooManyRequests', 'html', 'BadDigest', 'OperationAborted', 504])(
    'is also %s',
    async (status) => {
      await under('UploadPart', { status })
      expect(fx.double.log('UploadPart')).toHaveLength(2)
    },
  )

  it('is a kept-alive connection that the server has closed [F12]', async () => {
    await fx.storage.remove('a')
    fx.double.closeIdleConnections()
    await fx.storage.remove('b')
  })

  it('is a clock that was corrected after the first answer [F05]', async () => {
    await under('PutObject', { status: 'RequestTimeTooSkewed' })
    expect(fx.double.log('PutObject')).toHaveLength(2)
  })
})

describe('a failure that stays', () => {
  it.each(operations)('is a retryable 503 for %s after four requests and no more [F01]', async (operation) => {
    const error = await failureOf(under(operation, { status: 503, times: 4 }))
    expect(error).toMatchObject({ status: 503, retryable: true, code: 'S3_UPLOAD_FAILED' })
    expect(fx.double.log(operation)).toHaveLength(4)
  })

  it.each(operations)(
    'is a 504 for %s when no answer comes before the deadline [F08]',
    async (operation) => {
      const storage = fx.adapter({ attemptTimeout: 150, completeTimeout: 150 })
      // The size of a body adds to the deadline of its request.
      const call =
        operation === 'UploadPart' ? hangingPart(storage) : under(operation, { status: 'hang', times: 9 }, storage)
      expect(await failureOf(call)).toMatchObject({ status: 504, retryable: true })
    },
    10_000,
  )

  async function hangingPart(storage: S3StorageAdapter): Promise<void> {
    const ref = { fileKey: 'hang', multipartId: await storage.multipart.create('hang', objectInfo()) }
    fx.double.fail('UploadPart', { status: 'hang' })
    await storage.multipart.uploadPart(ref, 1, await fx.part(Buffer.alloc(0)))
  }

  it.each([
    ['AccessDenied', 502, 'S3_UPLOAD_FAILED'],
    ['InvalidAccessKeyId', 502, 'S3_UPLOAD_FAILED'],
    ['ExpiredToken', 502, 'S3_UPLOAD_FAILED'],
    ['NoSuchBucket', 502, 'S3_UPLOAD_FAILED'],
    ['QuotaExceeded', 507, 'S3_UPLOAD_FAILED'],
    ['NoSuchUpload', 502, 'MULTIPART_GONE'],
    ['InvalidArgument', 502, 'S3_UPLOAD_FAILED'],
    ['NotImplemented', 502, 'S3_UPLOAD_FAILED'],
  ])('%s is a %i at once, and its words stay inside [F06]', async (code, status, ours) => {
    const error = await failureOf(under('UploadPart', { status: code }))
    expect(error).toMatchObject({ status, code: ours, cause: { name: code, operation: 'UploadPart' } })
    expect(error.message).not.toContain(code)
    expect(fx.double.log('UploadPart')).toHaveLength(1)
  })

  it('is a 502 of its own when the clocks stay apart [F05]', async () => {
    const error = await failureOf(under('PutObject', { status: 'RequestTimeTooSkewed', times: 2 }))
    expect(error).toMatchObject({ status: 502, code: 'S3_CLOCK_SKEW' })
  })

  it('is a 503 when nobody listens', async () => {
    const storage = fx.adapter({ endpoint: 'http://127.0.0.1:1', maxAttempts: 2 })
    expect((await failureOf(storage.remove('x'))).status).toBe(503)
  })

  it('is a 503 after the adapter was closed', async () => {
    const storage = fx.adapter()
    await storage.close()
    expect((await failureOf(storage.remove('x'))).status).toBe(503)
    expect((await failureOf(storage.multipart.create('x', objectInfo()))).status).toBe(503)
  })

  it('is a 502 when the answer makes no sense', async () => {
    expect((await failureOf(under('CreateMultipartUpload', { status: 'empty-200', times: 9 }))).status).toBe(502)
  })

  it('ends while it waits to repeat, as soon as the caller gives up', async () => {
    const storage = fx.adapter({ retryDelay: 60_000 })
    const { ref } = await ready('waits')
    const stop = new AbortController()
    fx.double.fail('ListParts', { status: 503 })
    setTimeout(() => stop.abort(), 50)
    expect((await failureOf(storage.multipart.listParts(ref, stop.signal))).code).toBe('S3_ABORTED')
  }, 5_000)

  it('does not multiply with the repetitions of a client that was passed in', async () => {
    const client = clientOf(fx.target, { maxAttempts: 3 })
    const storage = fx.adapter({ client, endpoint: undefined, accessKeyId: undefined, secretAccessKey: undefined })
    await failureOf(under('UploadPart', { status: 503, times: 4 }, storage))
    expect(fx.double.log('UploadPart')).toHaveLength(4)
    await failureOf(under('DeleteObject', { status: 503, times: 9 }, storage))
    expect(fx.double.log('DeleteObject')).toHaveLength(3)
    client.destroy()
  })
})

describe('listing', () => {
  it.each<OrderedFault>([
    { status: 503, times: 4 },
    { status: 'html', times: 4 },
    { status: 404 },
    { status: 'NoSuchBucket' },
    { status: 'AccessDenied' },
    { status: 'reset', times: 4 },
  ])('never reads $status as an upload that is gone [F13]', async (fault) => {
    await failureOf(under('ListParts', fault))
  })

  it.each(['NoSuchUpload', 'NoSuchKey'])('reads %s as an upload that is gone', async (status) => {
    const { ref } = await ready(`list/${status}`)
    fx.double.fail('ListParts', { status })
    expect(await fx.storage.multipart.listParts(ref)).toBeNull()
  })

  it('reads all pages of the parts [F04]', async () => {
    const { ref } = await ready('pages')
    for (const number of [3, 4, 5])
      await fx.storage.multipart.uploadPart(ref, number, await fx.part(Buffer.alloc(number)))
    fx.double.reset()
    fx.double.pageSize = 2
    const parts = await fx.parts(ref)
    expect(parts.map(({ partNumber, size }) => [partNumber, size])).toEqual([
      [1, MIN_PART],
      [2, 1000],
      [3, 3],
      [4, 4],
      [5, 5],
    ])
    expect(fx.double.log('ListParts')).toHaveLength(3)
  })

  it('aborts all pages of the uploads of one key, and none of its neighbours', async () => {
    const bucket = fx.double.buckets.get(fx.bucket)
    for (let number = 0; number < 5; number++) bucket?.createUpload('flood/a', {}, null)
    bucket?.createUpload('flood/a.b', {}, null)
    fx.double.pageSize = 2
    await fx.storage.multipart.abort({ fileKey: 'flood/a', multipartId: null })
    // And once more, to see that they have gone.
    expect(fx.double.log('ListMultipartUploads')).toHaveLength(4)
    expect(fx.double.log('AbortMultipartUpload')).toHaveLength(5)
    const left = fx.double.openUploads(fx.bucket).filter(({ key }) => key.startsWith('flood/'))
    expect(left.map(({ key }) => key)).toEqual(['flood/a.b'])
  })
})

describe('a stream', () => {
  const openKeys = () => fx.double.openUploads(fx.bucket).map(({ key }) => key)
  const send = (key: string, storage = fx.storage) => storage.upload(key, Readable.from([bytes]), 'text/plain')

  it.each(['UploadPart', 'CompleteMultipartUpload'])(
    'leaves neither parts nor object when %s fails for good',
    async (operation) => {
      const stream = Readable.from([bytes, bytes, bytes])
      fx.double.fail(operation, { status: 'AccessDenied', times: 9 })
      fx.double.fail('AbortMultipartUpload', { status: 503, times: 2 })
      const error = await failureOf(fx.storage.upload(`fails/${operation}`, stream, 'text/plain'))
      expect(error).toMatchObject({ status: 502, cause: { name: 'AccessDenied' } })
      expect(openKeys()).not.toContain(`fails/${operation}`)
      expect(await fx.exists(`fails/${operation}`)).toBe(false)
      expect(stream.destroyed).toBe(true)
    },
  )

  it('leaves nothing when the answer to the opening was lost, neither after a success nor after a failure', async () => {
    fx.double.fail('CreateMultipartUpload', { status: 'lost-response' })
    await send('lost/success')
    fx.double.fail('CreateMultipartUpload', { status: 'lost-response', times: 4 })
    await failureOf(send('lost/failure'))
    expect(openKeys().filter((key) => key.startsWith('lost/'))).toEqual([])
  })

  it('is not sent again when only the last answer was lost', async () => {
    fx.double.fail('CompleteMultipartUpload', { status: 'lost-response' })
    await send('once')
    expect(fx.double.log('UploadPart')).toHaveLength(2)
    expect((await fx.double.read(fx.bucket, 'once')).equals(bytes)).toBe(true)
  })

  it('ends in a 504 when a part gets no answer', async () => {
    const storage = fx.adapter({ attemptTimeout: 100 })
    fx.double.fail('PutObject', { status: 'hang' })
    const stream = Readable.from([Buffer.alloc(0)])
    expect((await failureOf(storage.upload('hangs', stream, 'text/plain'))).status).toBe(504)
  }, 10_000)
})

describe('requests', () => {
  it('are at most maxSockets at the same time', async () => {
    const storage = fx.adapter({ maxSockets: 2 })
    const { ref } = await ready('slots')
    fx.double.peak = 0
    fx.double.fail('ListParts', { status: 'ok', times: 8, delayMs: 30 })
    await Promise.all(Array.from({ length: 8 }, () => storage.multipart.listParts(ref)))
    expect(fx.double.peak).toBe(2)
  })

  it('keep their connections', async () => {
    const storage = fx.adapter()
    const ref = await fx.sendParts('alive', objectInfo(), bytes, storage)
    await storage.multipart.abort(ref)
    expect(fx.double.log('UploadPart').map(({ headers }) => [headers.connection, headers.expect])).toEqual([
      ['keep-alive', undefined],
      ['keep-alive', undefined],
    ])
  })

  it.each([301, 307])('do not follow a %i to another host [F09]', async (status) => {
    let arrived = 0
    const other = await listen(createServer((_, response) => response.end(String(arrived++))))
    const location = addressOf(other)
    const first = await listen(
      createServer((_, response) => {
        response.writeHead(status, { location, 'x-amz-bucket-region': 'eu-west-1' }).end()
      }),
    )
    expect((await failureOf(fx.adapter({ endpoint: addressOf(first) }).remove('x'))).status).toBe(502)
    expect(arrived).toBe(0)
    for (const server of [first, other]) server.close().closeAllConnections()
  })
})

async function listen(server: Server): Promise<Server> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server
}

function addressOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}
