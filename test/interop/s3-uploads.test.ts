/** Uploads end to end into S3: the double, or the real server named by the environment. Faults need the double. */

import { join } from 'node:path'
import { GetObjectCommand, ListMultipartUploadsCommand, ListObjectsV2Command, type S3Client } from '@aws-sdk/client-s3'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { S3StorageAdapter } from '../../src/storage/s3-storage.ts'
import { type engineClient, orders, send, testEngine } from '../support/engine.ts'
import { nativeClient } from '../support/native-client.ts'
import { startServer } from '../support/process.ts'
import { bytes, cut, seeded, sha256 } from '../support/random.ts'
import { clientOf, doubleTarget, type S3Target, s3Target } from '../support/s3-target.ts'
import { testServer } from '../support/server.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const MiB = 1024 * 1024

let target: S3Target
let s3: S3Client

async function use(made: Promise<S3Target>): Promise<void> {
  target = await made
  s3 = clientOf(target)
}

afterEach(async () => {
  s3?.destroy()
  await target?.close()
})

function adapter(
  options: { maxAttempts?: number; partSize?: number; completeTimeout?: number } = {},
): S3StorageAdapter {
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = target
  return new S3StorageAdapter({ endpoint, region, accessKeyId, secretAccessKey, bucket, ...options })
}

async function stored(key: string): Promise<string> {
  const { Body } = await s3.send(new GetObjectCommand({ Bucket: target.bucket, Key: key }))
  return sha256(Buffer.from((await Body?.transformToByteArray()) ?? []))
}

async function objects(): Promise<string[]> {
  const { Contents = [] } = await s3.send(new ListObjectsV2Command({ Bucket: target.bucket }))
  return Contents.map(({ Key }) => Key ?? '')
}

async function openUploads(): Promise<number> {
  const { Uploads = [] } = await s3.send(new ListMultipartUploadsCommand({ Bucket: target.bucket }))
  return Uploads.length
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 1000; i++) {
    if (await condition()) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  throw new Error('it did not happen within 10 s')
}

describe('uploads to S3', () => {
  beforeEach(() => use(s3Target()))

  for (const order of orders) {
    it.each([2 * MiB, 5 * MiB, 5_000_001])(`arrive whole, ${order}, in chunks of %i bytes`, async (chunkSize) => {
      const { url, tempDir } = await testServer({ storage: adapter(), maxChunkSize: 6 * MiB })
      const client = nativeClient(url)
      const file = bytes(23 * MiB + 77, 4)
      const id = await client.start(file.length, chunkSize === 5 * MiB ? { chunkSize } : {})
      await send(order, cut(file, chunkSize), async (index, data) => {
        expect((await client.chunk(id, index, data)).body).toEqual({ success: true })
      })
      const { status, body } = await client.complete(id)
      expect([status, body.code]).toEqual([200, undefined])
      expect(await stored(body.key)).toBe(sha256(file))
      expect(await objects()).toEqual([body.key])
      expect(await openUploads()).toBe(0)
      expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
      expect((await client.complete(id)).body.url).toBe(body.url)
    })
  }

  it('have every whole part in S3 before complete is called, and give back its temp space', async () => {
    const { engine, client, tempDir } = testEngine({ storage: adapter({ partSize: 5 * MiB }) })
    const file = bytes(22 * MiB)
    const id = await client.create(file.length, { chunkSize: MiB })
    await send('in order', cut(file, MiB), (index, data) => client.write(id, index, data))
    await until(async () => (await client.get(id)).sentParts.flat().join() === '1,5')
    await until(async () => !(await filesBelow(join(tempDir, 'staging'))).some((name) => name.includes('part-')))
    expect(await openUploads()).toBe(1)
    const { key } = await client.complete(id)
    expect(await stored(key)).toBe(sha256(file))
    await engine.close()
  })

  it('of small files are one plain object', async () => {
    const { client } = testEngine({ storage: adapter() })
    for (const size of [0, 1, 3 * MiB, 8 * MiB]) {
      const file = bytes(size)
      const id = await client.create(size)
      if (size > 0) await client.write(id, 0, file.subarray(0, 5 * MiB))
      if (size > 5 * MiB) await client.write(id, 1, file.subarray(5 * MiB))
      const { key } = await client.complete(id)
      expect(await stored(key)).toBe(sha256(file))
    }
    expect(await openUploads()).toBe(0)
  })

  it('that are aborted leave no parts behind', async () => {
    const { client } = testEngine({ storage: adapter() })
    const file = bytes(20 * MiB)
    const id = await client.create(file.length, { chunkSize: 5 * MiB })
    for (const [index, data] of cut(file, 5 * MiB).entries()) await client.write(id, index, data)
    await until(async () => (await openUploads()) === 1)
    await client.abort(id)
    expect(await openUploads()).toBe(0)
    expect(await objects()).toEqual([])
  })

  it('survive SIGKILL: parts in S3 and chunks on disk make the whole file (5 seeds)', async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const random = seeded(seed)
      const tempDir = tempFolder()
      const { endpoint, region, accessKeyId, secretAccessKey, bucket } = target
      const settings = { tempDir, s3: { endpoint, region, accessKeyId, secretAccessKey, bucket } }
      const file = bytes(26 * MiB + seed, seed)
      const chunks = cut(file, 2 * MiB)
      let server = await startServer(settings)
      const id = await nativeClient(server.url).start(file.length, seed % 2 ? { chunkSize: 2 * MiB } : {})
      const done = new Set<number>()
      for (let life = 0; life < 3; life++) {
        const client = nativeClient(server.url)
        const queue = [...chunks.keys()].filter((index) => !done.has(index)).values()
        const worker = async () => {
          for (const index of queue) {
            if ((await client.chunk(id, index, chunks[index] as Buffer)).body?.success) done.add(index)
          }
        }
        const workers = Promise.allSettled([worker(), worker(), worker()])
        await new Promise((resolve) => setTimeout(resolve, random.integer(20, 250)))
        await server.kill()
        await workers
        server = await startServer(settings)
        const { body } = await nativeClient(server.url).progress(id)
        for (const index of done) {
          expect(
            body.received.some(([a, b]: [number, number]) => a <= index && index <= b),
            `${index}`,
          ).toBe(true)
        }
      }
      const client = nativeClient(server.url)
      for (const [index, data] of chunks.entries()) {
        if (!done.has(index)) expect((await client.chunk(id, index, data)).body?.success).toBe(true)
      }
      const { status, body } = await client.complete(id)
      expect([status, body.code]).toEqual([200, undefined])
      expect(await stored(body.key)).toBe(sha256(file))
      await server.kill()
    }
    expect(await objects()).toHaveLength(5)
    expect(await openUploads()).toBe(0)
    // It starts 20 processes.
  }, 240_000)
})

describe('an S3 that fails', () => {
  const file = bytes(12 * MiB, 8)
  let client: ReturnType<typeof engineClient>
  let id: string

  beforeEach(async () => {
    await use(doubleTarget())
    client = testEngine({
      storage: adapter({ maxAttempts: 2, partSize: 5 * MiB, completeTimeout: 500 }),
      storageTimeout: 3000,
    }).client
    id = await client.create(file.length, { chunkSize: 2 * MiB })
  })

  const sendAll = () => send('4 in parallel', cut(file, 2 * MiB), (index, data) => client.write(id, index, data))
  const fail = (operation: string, fault: object) => target.double?.fail(operation, { times: 50, ...fault } as never)

  for (const operation of ['CreateMultipartUpload', 'UploadPart', 'ListParts', 'CompleteMultipartUpload']) {
    for (const kind of [503, 'reset', 'lost-response'] as const) {
      it(`by ${kind} on ${operation} loses nothing: complete fails clearly, and works when S3 is back`, async () => {
        fail(operation, { status: kind })
        await sendAll()
        const first = await client.complete(id).catch((error) => error)
        // A lost answer of CompleteMultipartUpload is found out by looking; all else is an error to retry on.
        if (!first.url) expect([first.status >= 500, first.retryable]).toEqual([true, true])
        expect((await client.get(id)).state).toBe(first.url ? 'completed' : 'active')
        target.double?.reset()
        const object = await client.complete(id)
        expect(await stored(object.key)).toBe(sha256(file))
        expect(await objects()).toEqual([object.key])
        expect(await openUploads()).toBe(0)
      })
    }
  }

  it('by losing the answer to one CreateMultipartUpload leaves no multipart upload behind that nobody knows [F01, F13]', async () => {
    target.double?.fail('CreateMultipartUpload', { status: 'lost-response' })
    await sendAll()
    const { key } = await client.complete(id)
    expect(await stored(key)).toBe(sha256(file))
    expect(target.double?.log('CreateMultipartUpload')).toHaveLength(2)
    expect(await openUploads()).toBe(0)
  })

  it('by an error document in a 200 on CompleteMultipartUpload is not taken for a success [F03]', async () => {
    fail('CompleteMultipartUpload', { status: 'error-in-200' })
    await sendAll()
    await expect(client.complete(id)).rejects.toMatchObject({ retryable: true })
    expect(await objects()).toEqual([])
    target.double?.reset()
    await client.complete(id)
  })

  it('by hanging on CompleteMultipartUpload ends in bounded time [F08]', async () => {
    fail('CompleteMultipartUpload', { status: 'hang' })
    await sendAll()
    await expect(client.complete(id)).rejects.toMatchObject({ retryable: true })
    target.double?.reset()
    expect(await stored((await client.complete(id)).key)).toBe(sha256(file))
  })

  it('by dropping the multipart upload with parts in it ends the upload with 410, never with a success [F13]', async () => {
    await sendAll()
    await until(async () => (await client.get(id)).sentParts.flat().join() === '1,2')
    const { key, multipartId } = await client.get(id)
    await adapter().multipart.abort({ fileKey: key, multipartId })
    await expect(client.complete(id)).rejects.toMatchObject({ status: 410 })
    expect(await objects()).toEqual([])
  })
})

describe('a completion of parts that are in S3 already', () => {
  beforeEach(() => use(doubleTarget()))
  const file = bytes(16 * MiB + 5)

  /** Two processes on one temp folder, of which the first has sent every part. */
  async function sentByFirst() {
    const first = testEngine({ storage: adapter({ partSize: 5 * MiB }) })
    const second = testEngine({ storage: adapter({ partSize: 5 * MiB }), tempDir: first.tempDir })
    const id = await first.client.create(file.length, { chunkSize: 5 * MiB })
    for (const [index, data] of cut(file, 5 * MiB).entries()) await first.client.write(id, index, data)
    await until(async () => (await first.client.get(id)).sentParts.flat().join() === '1,4')
    if (target.double) target.double.requests.length = 0
    return { first: first.client, second: second.client, id }
  }
  const asked = () => target.double?.requests.map(({ op }) => op)

  it('asks for no list in the process that has sent them, and for one in any other', async () => {
    const own = await sentByFirst()
    expect(await stored((await own.first.complete(own.id)).key)).toBe(sha256(file))
    expect(asked()?.filter((op) => op !== 'GetObject')).toEqual(['CompleteMultipartUpload', 'HeadObject'])
    const foreign = await sentByFirst()
    expect(await stored((await foreign.second.complete(foreign.id)).key)).toBe(sha256(file))
    expect(asked()?.filter((op) => op !== 'GetObject')).toEqual(['ListParts', 'CompleteMultipartUpload', 'HeadObject'])
  })

  it.each(['lost-response', 'ok', 'error-in-200', 503, 'InvalidPart'] as const)(
    'by both processes at once is one object, when S3 answers %s to the first [C06, F03]',
    async (status) => {
      const { first, second, id } = await sentByFirst()
      target.double?.fail('CompleteMultipartUpload', { status, delayMs: 100 })
      const answers = await Promise.all([first, second, first].map((client) => client.complete(id)))
      expect(new Set(answers.map(({ url }) => url)).size).toBe(1)
      expect(await objects()).toEqual([answers[0]?.key])
      expect(await stored(answers[0]?.key ?? '')).toBe(sha256(file))
      expect(await openUploads()).toBe(0)
    },
  )

  it('ends the upload when S3 has lost one of them: no object is made without it', async () => {
    const { first, id } = await sentByFirst()
    const [upload] = target.double?.openUploads(target.bucket) ?? []
    upload?.parts.delete(2)
    await expect(first.complete(id)).rejects.toMatchObject({ code: 'UPLOAD_EXPIRED' })
    expect(asked()?.slice(0, 2)).toEqual(['CompleteMultipartUpload', 'HeadObject'])
    expect(await objects()).toEqual([])
  })

  it('finds the object that another process made of them, also when S3 no longer knows the parts [F13]', async () => {
    const { first, id } = await sentByFirst()
    // Its answer is lost, and so is every look: the completion fails, and is asked for again.
    target.double?.fail('CompleteMultipartUpload', { status: 'lost-response' })
    target.double?.fail('HeadObject', { status: 503, times: 4 })
    await expect(first.complete(id)).rejects.toMatchObject({ status: 503 })
    target.double?.recover()
    const { key } = await first.complete(id)
    expect(await stored(key)).toBe(sha256(file))
    expect(await objects()).toEqual([key])
  })
})
