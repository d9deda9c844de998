/**
 * Uploads that wait in the storage, through two engines that share nothing but S3 and Redis: every S3 request and every Redis
 * command of an upload goes wrong once, and for as long as the client sees no failure, in every way.
 */
import { Readable } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { isNexusUploaderError } from '../../src/errors.ts'
import { RedisLocker, RedisSessionStore } from '../../src/redis.ts'
import { S3StorageAdapter } from '../../src/storage/s3-storage.ts'
import type { UploadEngine } from '../../src/types.ts'
import { epilogue } from '../support/epilogue.ts'
import { survived } from '../support/fault-points.ts'
import { type RedisFault, RedisFaults } from '../support/faulty-redis.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { describeRedis, newPrefix, type RedisServer, startRedis } from '../support/redis-server.ts'
import type { S3Double } from '../support/s3-double.ts'
import type { OrderedFault } from '../support/s3-fault.ts'
import { doubleTarget, type S3Target } from '../support/s3-target.ts'
import { type TestServer, testServer } from '../support/server.ts'
import { withParts } from '../support/small-parts.ts'
import { eventually } from '../support/tus-client.ts'

const PART = 48_000
const hour = 60 * 60_000
/** Longest wait for an answer that never comes, ms; elsewhere a busy machine has more time. */
const short = 300
const long = 5_000
/** Statuses after which every client comes again. */
const retried = [423, 502, 503, 504, 507]

interface Workload {
  readonly name: string
  readonly file: Buffer
  /** How its clients send it, in steps that may be repeated until they succeed. */
  steps(file: Buffer): Step[]
}

/** `id` is empty before the first step, which returns it. */
type Step = (engine: UploadEngine, id: string) => Promise<string>

const protocol = 'native'

const create: (size: number, chunkSize?: number) => Step = (totalSize, chunkSize) => async (engine) => {
  const more = chunkSize === undefined ? {} : { chunkSize }
  return (await engine.create({ fileName: 'a.bin', totalSize, protocol, ...more })).session.id
}
const chunks = (chunkSize: number) => (file: Buffer) => [
  create(file.length, chunkSize),
  ...cut(file, chunkSize).map(
    (data, index): Step =>
      async (engine, uploadId) => {
        await engine.writeChunk({ uploadId, index, protocol, size: data.length, body: Readable.from([data]) })
        return uploadId
      },
  ),
]
/** As tus clients do: after a failure they ask for the offset. */
const appends = (size: number) => (file: Buffer) => [
  create(file.length),
  ...cut(file, size).map(
    (data, i): Step =>
      async (engine, uploadId) => {
        const { offset } = await engine.retrieveOffset({ uploadId, protocol })
        expect(offset, 'an acknowledged offset').toBeGreaterThanOrEqual(i * size)
        const rest = data.subarray(offset - i * size)
        if (rest.length > 0) {
          await engine.append({ uploadId, protocol, offset, size: rest.length, body: Readable.from([rest]) })
        }
        return uploadId
      },
  ),
]
const workloads: readonly Workload[] = [
  { name: 'chunks smaller than parts', file: bytes(2 * PART + 500, 1), steps: chunks(PART / 2) },
  { name: 'chunks that are parts', file: bytes(2 * PART + 500, 2), steps: chunks(PART) },
  { name: 'appends across parts', file: bytes(2 * PART + 500, 3), steps: appends(31_000) },
  { name: 'a file of one part', file: bytes(PART - 5, 4), steps: chunks(20_000) },
]

describeRedis('two engines on one S3 and one Redis', () => {
  let redis: RedisServer
  let target: S3Target & { readonly double: S3Double }
  let clients: Redis[] = []
  let faults: RedisFaults
  let nodes: TestServer[]
  let clock: number

  beforeAll(async () => {
    redis = await startRedis()
  })
  afterAll(() => redis.stop())
  async function begin({ s3 = long, redis: command = long }): Promise<void> {
    target = await doubleTarget({ minPart: 1 })
    faults = new RedisFaults()
    clock = 0
    const prefix = newPrefix()
    nodes = [await node(prefix, s3, command), await node(prefix, s3, command)]
  }
  afterEach(async () => {
    for (const client of clients) client.disconnect()
    clients = []
    await target.close()
  })

  async function node(prefix: string, s3Timeout: number, commandTimeout: number): Promise<TestServer> {
    const own = new Redis({ port: redis.port, host: '127.0.0.1' })
    clients.push(own)
    const client = faults.client(own, commandTimeout + 50)
    const { endpoint, region, accessKeyId, secretAccessKey, bucket } = target
    const s3 = { endpoint, region, accessKeyId, secretAccessKey, bucket, retryDelay: 4, maxAttempts: 1 }
    const storage = new S3StorageAdapter({ ...s3, attemptTimeout: s3Timeout, completeTimeout: s3Timeout })
    // An adapter at work has stored something before.
    await storage.upload('before', Readable.from(['something']), 'text/plain')
    await storage.remove('before')
    return testServer({
      ...{ storage: withParts(storage, PART, PART), staging: 'storage', maxChunkSize: 150_000 },
      sessions: new RedisSessionStore(client, { prefix, commandTimeout }),
      locker: new RedisLocker(client, { prefix, commandTimeout, ttl: 600 }),
      clock: () => Date.now() + clock,
      ...{ sessionTtl: hour, completedTtl: hour, cleanupInterval: 24 * hour },
    })
  }

  const engine = (number: number) => (nodes[number % 2] as TestServer).middleware.engine

  /** Each step at the other engine than the one before, and again until it succeeds. */
  async function upload({ file, steps }: Workload, lift: () => void): Promise<void> {
    let turn = 0
    const insist = async <Result>(step: (engine: UploadEngine) => Promise<Result>): Promise<Result> => {
      for (const deadline = Date.now() + 15_000; ; ) {
        turn += 1
        try {
          return await step(engine(turn))
        } catch (error) {
          if (!isNexusUploaderError(error) || Date.now() > deadline) throw error
          expect(retried, `${error.code}: ${error.message}`).toContain(error.status)
          expect(error.retryable).toBe(true)
          lift()
          await pause(error.status === 423 ? 50 : 0)
        }
      }
    }
    let id = ''
    for (const step of steps(file)) id = await insist((there) => step(there, id))
    const { url, key } = await insist((there) => there.complete({ uploadId: id, protocol }))
    expect(sha256(await target.double.read(target.bucket, key))).toBe(sha256(file))
    lift()
    for (const number of [0, 1]) expect((await engine(number).complete({ uploadId: id, protocol })).url).toBe(url)
    await Promise.all([0, 1].map((number) => engine(number).get({ uploadId: id, protocol })))
  }

  const kept = () => [...(target.double.buckets.get(target.bucket)?.objects.keys() ?? [])]

  async function end(uploads: number): Promise<void> {
    await eventually(() => expect(target.double.openRequests).toBe(0))
    expect(kept().filter((key) => key.startsWith('uploads/'))).toHaveLength(uploads)
    for (const { url, tempDir } of nodes) {
      await epilogue({ url, tempDir, read: (key) => target.double.read(target.bucket, key) })
    }
    for (const number of [0, 1]) {
      clock += 5 * hour
      await eventually(async () => expect((await engine(number).sweep()).failed).toBe(0))
    }
    expect(kept().filter((key) => !key.startsWith('uploads/'))).toEqual([])
    expect(target.double.openUploads(target.bucket)).toEqual([])
    expect(kept()).toHaveLength(uploads + nodes.length)
  }

  const once = ['lost-response', 'empty-200', 'close', 'error-in-200', 'wrong-etag', 'hang'] as const
  const lasting = [500, 503, 'reset', 'lost-response'] as const
  const s3Faults: readonly (readonly [name: string, operation: string, order: OrderedFault])[] = [
    ...once.map((status) => [`${status} of each S3 request`, '*', { status }] as const),
    ...lasting.map((status) => {
      const order = { status, times: Number.POSITIVE_INFINITY }
      return [`${status} of each S3 request until it is seen`, '*', order] as const
    }),
    ['another byte in each piece', 'PutObject', { status: 'damaged' }],
    ['another byte in each part', 'UploadPart', { status: 'damaged' }],
  ]

  describe.each(workloads)('with $name', (workload) => {
    it.each(s3Faults)('%s: nothing lost, nothing left [F01, F02, F03, F08, F12]', async (name, operation, order) => {
      await begin(order.status === 'hang' ? { s3: short } : {})
      const struck = () => {
        const { requests } = target.double
        return operation === '*' ? requests : target.double.log(operation)
      }
      let n = 1
      for (; ; n++) {
        target.double.reset()
        target.double.fail(operation, { ...order, skip: n - 1 })
        await upload(workload, () => target.double.recover())
        target.double.recover()
        const request = struck()[n - 1]
        if (!request) break
        survived('s3', `shared staging, ${workload.name}: ${request.op} (request ${n}), ${name}`)
      }
      if (operation === '*') expect(n).toBeGreaterThan(4)
      await end(n)
    })

    const redisFaults: readonly (readonly [string, RedisFault, boolean])[] = [
      ['error', 'error', false],
      ['errors until one is seen', 'error', true],
      ['lost answer', 'lost', false],
      ['lost answers until one is seen', 'lost', true],
      ['line that is down until it is seen', 'unsent', true],
      ['late answer', 'late', false],
    ]
    it.each(redisFaults)(
      '%s for each Redis command: nothing lost, nothing left [G01, G02, G06, G09]',
      async (name, fault, isLasting) => {
        await begin(fault === 'late' ? { redis: short } : {})
        let n = 1
        for (; ; n++) {
          faults.order(fault, n, isLasting)
          await upload(workload, () => faults.lift())
          const wasStruck = faults.count >= n
          faults.lift()
          if (!wasStruck) break
          survived('redis', `shared staging, ${workload.name}: ${name}, command ${n}`)
        }
        expect(n).toBeGreaterThan(6)
        await end(n)
      },
    )
  })
})
