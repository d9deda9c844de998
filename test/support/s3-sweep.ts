/** A bench for sweeps over S3 faults: real uploads through HTTP into the double, with others' things beside ours. */
import { Readable } from 'node:stream'
import { inspect } from 'node:util'
import { expect } from 'vitest'
import type { ChunkedUploadConfig } from '../../src/protocols/native/create-chunked-upload-middleware.ts'
import { S3StorageAdapter } from '../../src/storage/s3-storage.ts'
import type { StorageAdapter } from '../../src/types.ts'
import { epilogue } from './epilogue.ts'
import { type Answer, nativeClient } from './native-client.ts'
import { bytes, cut, sha256 } from './random.ts'
import { DoubleBucket } from './s3-bucket.ts'
import type { S3Double } from './s3-double.ts'
import type { OrderedFault } from './s3-fault.ts'
import { testServer } from './server.ts'
import { afterRestart, withParts } from './small-parts.ts'

export { afterRestart, withParts } from './small-parts.ts'

/** Small parts, so that hundreds of uploads are quick. The rest is the adapter as it is. */
export const PART = 48_000
export const CHUNK = 24_000

export interface SweepFault {
  readonly name: string
  readonly order: OrderedFault
}

const lasting = (status: OrderedFault['status'], more: Partial<OrderedFault> = {}): SweepFault => ({
  name: `${status} until lifted`,
  order: { status, times: Number.POSITIVE_INFINITY, ...more },
})
const passing = (status: OrderedFault['status'], more: Partial<OrderedFault> = {}): SweepFault => ({
  name: `${status}${more.times ? ` ${more.times} times` : ''}`,
  order: { status, ...more },
})

export const passingFaults: readonly SweepFault[] = [
  passing(503, { times: 2 }),
  passing('html', { times: 2 }),
  passing('reset', { times: 2 }),
  ...([500, 429, 502, 504, 'reset', 'close', 'hang', 'lost-response', 'error-in-200', 'empty-200'] as const).map(
    (status) => passing(status),
  ),
  passing('drip', { delayMs: 200 }),
  passing('drip-error', { delayMs: 100 }),
  passing('RequestTimeTooSkewed'),
  passing('OperationAborted'),
]
export const lastingFaults: readonly SweepFault[] = [
  ...([503, 500, 'reset', 'close', 'hang', 'html', 'lost-response', 'error-in-200', 'empty-200'] as const).map(
    (status) => lasting(status),
  ),
  lasting('drip-error', { delayMs: 40 }),
]
/** Answers that say what is wrong. */
export const refusals: readonly SweepFault[] = [
  ...['AccessDenied', 'ExpiredToken', 'InvalidAccessKeyId', 'RequestTimeTooSkewed', 'SignatureDoesNotMatch'],
  ...['NoSuchUpload', 'NoSuchBucket', 'EntityTooSmall', 'InvalidPart', 'QuotaExceeded', 'NotImplemented'],
].map((status) => lasting(status))
/** A client must not carry its signature to `location`. */
export const redirects = (location: string): readonly SweepFault[] =>
  (['redirect-301', 'redirect-307'] as const).map((status) => lasting(status, { location }))
/** Answers to a body that are not what was sent. */
export const bodyLies: readonly SweepFault[] = (['no-etag', 'wrong-etag', 'truncated', 'damaged'] as const).flatMap(
  (status) => [passing(status), lasting(status)],
)

let buckets = 0

/** A bucket of its own in the double, an adapter on it, and what is needed to look into both. */
export async function sweepBucket(double: S3Double, { order }: SweepFault) {
  buckets += 1
  const bucket = `sweep-bucket-${buckets}`
  const content = new DoubleBucket()
  double.reset()
  double.buckets.set(bucket, content)
  const adapter = new S3StorageAdapter({
    ...{ endpoint: double.endpoint, ...double.keys, bucket, partSize: 5 * 1024 * 1024 },
    ...{ retryDelay: 4, maxAttempts: 3 },
    // Short where something hangs, and long enough for a busy machine.
    ...(order.status === 'hang' ? { attemptTimeout: 700, completeTimeout: 700 } : {}),
  })
  // An adapter at work has stored something before, and knows what ETags look like here.
  await adapter.upload('before', Readable.from(['something']), 'text/plain')
  await adapter.remove('before')
  double.requests.length = 0
  const names = { endpoint: double.endpoint.replace('http://', ''), ...double.keys, bucket }
  return { bucket, content, adapter, names }
}

/** Options of a server that asks S3 for what is about to fail: else it lists only what it has not sent itself. */
export function asking(
  operation: string,
  { adapter }: SweepBucket,
): ChunkedUploadConfig & { storage?: StorageAdapter } {
  return operation === 'ListParts' ? { storage: afterRestart(withParts(adapter, PART)) } : {}
}

export type SweepBucket = Awaited<ReturnType<typeof sweepBucket>>

/** An object and a multipart upload of somebody else under each key beside ours. */
export async function plantNeighbours({ content }: SweepBucket, key: string) {
  const folder = key.slice(0, key.lastIndexOf('/') + 1)
  const keys = [`${key}.bak`, `${key}/part`, key.slice(0, -1), folder, `${folder}other.bin`, `a${key}`]
  for (const other of keys) {
    content.put(other, {}, await storedBytes(`of others: ${other}`))
    const { id } = content.createUpload(other, {}, null)
    await content.putPart(other, id, 1, await storedBytes(`part of others: ${other}`))
  }
  const seen = () => ({
    objects: [...content.objects.values()].filter((object) => keys.includes(object.key)),
    uploads: [...content.uploads.values()].filter((upload) => keys.includes(upload.key)),
    parts: [...content.uploads.values()]
      .filter((upload) => keys.includes(upload.key))
      .flatMap(({ parts }) => [...parts.values()]),
  })
  const before = seen()
  return {
    /** Everything of others is what it was, object by object. */
    check() {
      const after = seen()
      for (const name of ['objects', 'uploads', 'parts'] as const) {
        expect(after[name].length, name).toBe(before[name].length)
        expect(after[name].every((item, index) => item === before[name][index])).toBe(true)
      }
    },
    ours: () => ({
      objects: [...content.objects.keys()].filter((other) => !keys.includes(other)),
      uploads: [...content.uploads.values()].filter((upload) => !keys.includes(upload.key)),
    }),
  }
}

async function storedBytes(text: string) {
  const data = Buffer.from(text)
  const read = async function* (start: number, end: number) {
    yield data.subarray(start, end)
  }
  return { size: data.length, md5: sha256(data).slice(0, 32), crc32: null, read, discard: async () => {} }
}

/** A server whose clock can be put forward, and the uploads that a case makes on it. */
export async function sweepServer(
  double: S3Double,
  { bucket, adapter, names }: SweepBucket,
  more: ChunkedUploadConfig & { readonly storage?: StorageAdapter },
) {
  const clock = { ahead: 0 }
  const server = await testServer({
    ...{ storage: withParts(adapter, PART), storageTimeout: 10_000 },
    ...{
      maxChunkSize: 150_000,
      cleanupInterval: 3_600_000,
      sessionTtl: 3_600_000,
      completedTtl: 600_000,
      clock: () => Date.now() + clock.ahead,
    },
    ...more,
  })
  const client = nativeClient(server.url)
  const told: unknown[] = []
  server.middleware.engine.events.on('storageError', ({ error }) => told.push(error))
  server.middleware.engine.events.on('warning', (warning) => told.push(warning))
  const secrets = Object.values(names)
  return {
    ...{ server, client, clock, told },
    keyOf: async (uploadId: string) => (await server.middleware.engine.get({ uploadId, protocol: 'native' })).key,
    async sweep() {
      clock.ahead += 7_200_000
      const first = await server.middleware.engine.sweep()
      clock.ahead += 7_200_000
      return [first, await server.middleware.engine.sweep()] as const
    },
    /** A failure that a client can live with: a repetition makes sense, and nothing of the inside is shown. */
    checkFailure(answer: { status: number; text: string }, allowed: readonly number[], what: string) {
      expect(allowed, `${what}: ${answer.status} ${answer.text}`).toContain(answer.status)
      checkText(answer.text, names)
    },
    checkLogs() {
      const logged = inspect([told, server.errors], { depth: 12, showHidden: true })
      for (const secret of [names.secretAccessKey, names.accessKeyId]) expect(logged).not.toContain(secret)
      expect(secrets.length).toBeGreaterThan(3)
    },
    epilogue: () => epilogue({ url: server.url, tempDir: server.tempDir, read: (key) => double.read(bucket, key) }),
  }
}

export type SweepServer = Awaited<ReturnType<typeof sweepServer>>

/** Statuses after which every client comes again. */
export const retried = [502, 503, 504, 507]

export function checkText(text: string, names: Readonly<Record<string, string>>): void {
  for (const name of ['accessKeyId', 'secretAccessKey', 'bucket', 'endpoint'] as const) {
    expect(text).not.toContain(names[name])
  }
  expect(text).not.toMatch(
    /tx0000|ordered by|uploads\/|amazon|\bat \/|SlowDown|AccessDenied|NoSuch|Token|Skew|EPIPE|ECONN|<\w+>/,
  )
}

export const sweepFile = bytes(4 * PART + 500, 11)
export const sweepChunks = cut(sweepFile, CHUNK)

/** Within the time that any client waits. */
export async function bounded<Result>(call: Promise<Result>, what: string, limit = 20_000): Promise<Result> {
  const start = performance.now()
  const result = await call
  expect(performance.now() - start, what).toBeLessThan(limit)
  return result
}

/** Sends the chunks that are not acknowledged yet; returns the first answer that was no success. */
export async function sendChunks(
  client: SweepServer['client'],
  id: string,
  acknowledged: Set<number>,
  chunks = sweepChunks,
): Promise<Answer | null> {
  let failure: Answer | null = null
  for (const [index, data] of chunks.entries()) {
    if (acknowledged.has(index)) continue
    const answer = await bounded(client.raw(id, index, data), `chunk ${index}`)
    if (answer.status === 200) acknowledged.add(index)
    else failure ??= answer
  }
  return failure
}
