/** S3 in trouble for long: many pages, many hangs, cleanups that fail, keys that are taken, and uploads it drops by itself. */
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openFiles } from '../support/epilogue.ts'
import { survived } from '../support/fault-points.ts'
import { nativeClient } from '../support/native-client.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { S3Double } from '../support/s3-double.ts'
import {
  afterRestart,
  CHUNK,
  plantNeighbours,
  type SweepFault,
  sendChunks,
  sweepBucket,
  sweepChunks,
  sweepFile,
  sweepServer,
  withParts,
} from '../support/s3-sweep.ts'
import { testServer } from '../support/server.ts'

let double: S3Double

beforeAll(async () => {
  double = await S3Double.start({ minPart: 1 })
})
afterAll(() => double?.close())

const hang: SweepFault = { name: 'hang', order: { status: 'hang', times: Number.POSITIVE_INFINITY } }
const none: SweepFault = { name: 'none', order: { status: 'ok' } }

async function start(fault: SweepFault = none, options: Parameters<typeof sweepServer>[2] = {}) {
  const bucket = await sweepBucket(double, fault)
  const bench = await sweepServer(double, bucket, options)
  const id = await bench.client.start(sweepFile.length, { chunkSize: CHUNK })
  const key = await bench.keyOf(id)
  const stored = async () => sha256(await double.read(bucket.bucket, key))
  return { ...bench, bucket, id, key, stored, neighbours: await plantNeighbours(bucket, key) }
}

it('a file of 2500 parts is joined from all pages of the list, and not at all while a page is missing [F04]', async () => {
  const { adapter, bucket } = await sweepBucket(double, none)
  const size = 1_000
  const file = bytes(2_499 * size + 17, 4)
  const server = await testServer({ storage: afterRestart(withParts(adapter, size)), maxChunkSize: 1_000_000 })
  const client = nativeClient(server.url)
  const id = await client.start(file.length)
  const { key } = await server.middleware.engine.get({ uploadId: id, protocol: 'native' })
  for (const [index, data] of cut(file, 500_000).entries()) expect((await client.raw(id, index, data)).status).toBe(200)
  const empty = `<ListPartsResult><Bucket>${bucket}</Bucket><IsTruncated>false</IsTruncated></ListPartsResult>`
  const stuck = empty.replace('false', 'true')
  for (const body of [stuck, '', '<html></html>']) {
    double.fail('ListParts', { status: 'reply', skip: 1, times: 30, reply: { status: 200, body } })
    const { status } = await client.complete(id)
    expect(status, body).toBe(502)
    double.reset()
  }
  expect(double.object(bucket, key)).toBeUndefined()
  const done = await client.complete(id)
  expect(done.status, done.text).toBe(200)
  expect(double.log('ListParts').length).toBe(3)
  expect(sha256(await double.read(bucket, key))).toBe(sha256(file))
  survived('s3', 'ListParts 2500 parts, a page missing')
}, 180_000)

it('100 calls that hang leave no socket and no open file behind [F08]', async () => {
  const { client, id, server, stored, checkLogs } = await start(hang)
  await sendChunks(client, id, new Set())
  await client.complete(id).then(({ status }) => expect(status).toBe(200))
  const { bucket } = await sweepBucket(double, hang)
  expect(bucket).not.toBe('')
  const small = await Promise.all(Array.from({ length: 100 }, () => client.start(10)))
  await Promise.all(small.map((other) => client.raw(other, 0, bytes(10))))
  await pause(200)
  const before = openFiles()
  double.fail('PutObject', hang.order)
  const answers = await Promise.all(small.map((other) => client.complete(other)))
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([504]))
  await expect.poll(() => double.openRequests, { timeout: 10_000 }).toBe(0)
  await expect.poll(() => openFiles(), { timeout: 20_000 }).toBeLessThanOrEqual(before + 20)
  double.reset()
  for (const other of small.slice(0, 5)) expect((await client.complete(other)).status).toBe(200)
  expect(await stored()).toBe(sha256(sweepFile))
  expect(server.errors.length).toBe(100)
  checkLogs()
  survived('s3', 'PutObject hang 100 times')
}, 120_000)

it('a cleanup that fails is counted and told of in every round, and done when S3 is back [F10]', async () => {
  const { server, client, id, told, clock, neighbours } = await start()
  await sendChunks(client, id, new Set(), sweepChunks.slice(0, 5))
  await expect.poll(() => double.log('UploadPart').filter(({ status }) => status === 200).length).toBe(2)
  double.fail('AbortMultipartUpload', { status: 'AccessDenied', times: Number.POSITIVE_INFINITY })
  const { engine } = server.middleware
  clock.ahead += 7_200_000
  expect(await engine.sweep()).toMatchObject({ expired: 1, failed: 1 })
  for (let round = 2; round < 5; round++) {
    clock.ahead += 7_200_000
    expect(await engine.sweep()).toMatchObject({ expired: 0, forgotten: 0, failed: 1 })
    expect(told.filter((warning) => (warning as { code?: string }).code === 'CLEANUP_FAILED')).toHaveLength(round)
  }
  expect(neighbours.ours().uploads).toHaveLength(1)
  double.reset()
  expect(await engine.sweep()).toMatchObject({ forgotten: 1, failed: 0 })
  expect(neighbours.ours()).toEqual({ objects: [], uploads: [] })
  neighbours.check()
  survived('s3', 'AbortMultipartUpload fails in four sweeps')
})

it('a multipart upload that S3 drops by itself is begun anew while every byte is here, and is 410 after [F13]', async () => {
  const drop = (bucket: Awaited<ReturnType<typeof start>>['bucket'], key: string) => {
    for (const upload of [...bucket.content.uploads.values()])
      if (upload.key === key) bucket.content.uploads.delete(upload.id)
  }
  const early = await start()
  // Opened, and every part refused: nothing has left.
  double.fail('UploadPart', { status: 503, times: Number.POSITIVE_INFINITY })
  await sendChunks(early.client, early.id, new Set())
  await expect.poll(() => early.neighbours.ours().uploads.length).toBe(1)
  drop(early.bucket, early.key)
  double.reset()
  let result = await early.client.complete(early.id)
  for (let tries = 0; tries < 5 && result.status === 502; tries++) result = await early.client.complete(early.id)
  expect(result.status, result.text).toBe(200)
  expect(await early.stored()).toBe(sha256(sweepFile))
  await early.sweep()
  expect(early.neighbours.ours()).toEqual({ objects: [early.key], uploads: [] })

  const late = await start()
  await sendChunks(late.client, late.id, new Set())
  await expect.poll(() => double.log('UploadPart').filter(({ status }) => status === 200).length).toBeGreaterThan(2)
  drop(late.bucket, late.key)
  let gone = await late.client.complete(late.id)
  // A part may be on its way just now.
  for (let tries = 0; tries < 50 && gone.status === 423; tries++) {
    await pause(100)
    gone = await late.client.complete(late.id)
  }
  expect([gone.status, gone.body.code]).toEqual([410, 'UPLOAD_EXPIRED'])
  expect(late.neighbours.ours().objects).toEqual([])
  expect((await late.client.progress(late.id)).status).toBe(410)
  late.neighbours.check()
  survived('s3', 'a lifecycle rule drops the multipart upload, early and late', 2)
})

it('keys are new: an object that is there already is never written over, whatever clients call their files [F11]', async () => {
  const { client, bucket, server } = await start()
  const before = new Map(bucket.content.objects)
  const keys = new Set<string>()
  for (let n = 0; n < 20; n++) {
    const id = await client.start(10, { fileName: n % 2 ? 'same.bin' : '../other.bin' })
    await client.raw(id, 0, bytes(10, n))
    keys.add((await client.complete(id)).body.key)
  }
  expect(keys.size).toBe(20)
  for (const [key, object] of before) expect(bucket.content.objects.get(key)).toBe(object)
  expect(server.errors).toEqual([])
  survived('s3', 'a foreign object beside every key')
})

it('a key that onCreate chooses replaces what is there, whole, at completion and not before [F11]', async () => {
  const onCreate = (draft: { key: string }) => {
    draft.key = 'chosen/report.bin'
  }
  const { client, id, key, bucket } = await start(none, { hooks: { onCreate } })
  const small = await client.start(10)
  await client.raw(small, 0, bytes(10, 1))
  expect((await client.complete(small)).status).toBe(200)
  const first = await double.read(bucket.bucket, key)
  await sendChunks(client, id, new Set())
  expect(sha256(await double.read(bucket.bucket, key))).toBe(sha256(first))
  expect((await client.complete(id)).status).toBe(200)
  expect(sha256(await double.read(bucket.bucket, key))).toBe(sha256(sweepFile))
})
