/** Faults at the other ends of uploads: small files, aborted ones, refused ones, and uploads that come by tus. */
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ProcessingError } from '../../src/errors.ts'
import { survived } from '../support/fault-points.ts'
import { bytes, sha256 } from '../support/random.ts'
import { S3Double } from '../support/s3-double.ts'
import {
  afterRestart,
  bodyLies,
  bounded,
  CHUNK,
  checkText,
  lastingFaults,
  PART,
  passingFaults,
  plantNeighbours,
  refusals,
  retried,
  type SweepFault,
  sendChunks,
  sweepBucket,
  sweepChunks,
  sweepFile,
  sweepServer,
  withParts,
} from '../support/s3-sweep.ts'
import { idIn, metadataHeader, tusServer } from '../support/tus-client.ts'

let double: S3Double

beforeAll(async () => {
  double = await S3Double.start({ minPart: 1 })
})
afterAll(() => double?.close())

const everything = [...passingFaults, ...lastingFaults, ...refusals]

/** A server that says it has deleted an object is believed: there is nothing that would tell otherwise but a look at it. */
const isBelieved = ({ order }: SweepFault) =>
  ['empty-200', 'error-in-200', 'drip-error', 'NoSuchUpload'].includes(`${order.status}`)

async function start(fault: SweepFault, size: number, options: Parameters<typeof sweepServer>[2] = {}) {
  const bucket = await sweepBucket(double, fault)
  const bench = await sweepServer(double, bucket, options)
  const id = await bench.client.start(size, { chunkSize: CHUNK })
  const key = await bench.keyOf(id)
  return { ...bench, bucket, id, key, neighbours: await plantNeighbours(bucket, key) }
}

describe('PutObject of a small file', () => {
  const small = bytes(CHUNK + 7, 3)

  it.each([...everything, ...bodyLies])(
    '$name: stored whole, or to be completed again [F01, F02, F06, F08]',
    async (fault) => {
      const { client, id, key, bucket, neighbours, checkFailure, checkLogs, sweep, epilogue } = await start(
        fault,
        small.length,
      )
      for (const [index, data] of [small.subarray(0, CHUNK), small.subarray(CHUNK)].entries()) {
        expect((await client.raw(id, index, data)).status).toBe(200)
      }
      double.fail('PutObject', fault.order)
      let result = await bounded(client.complete(id), 'complete')
      if (result.status !== 200) {
        checkFailure(result, retried, 'complete')
        expect((await client.progress(id)).body).toMatchObject({ uploadedChunks: 2, state: 'active' })
        double.reset()
        result = await bounded(client.complete(id), 'complete')
      }
      expect(result.status, result.text).toBe(200)
      double.reset()
      expect(sha256(await double.read(bucket.bucket, key))).toBe(sha256(small))
      expect(neighbours.ours()).toEqual({ objects: [key], uploads: [] })
      await sweep()
      neighbours.check()
      checkLogs()
      await epilogue()
      survived('s3', `PutObject#1 ${fault.name}`)
    },
  )
})

describe.each(['AbortMultipartUpload', 'ListMultipartUploads'])(
  '%s, when the client gives its upload up',
  (operation) => {
    it.each(everything)(
      '$name: what is left is counted, and gone after the next sweep [F10, F01, F08]',
      async (fault) => {
        const bench = await start(fault, sweepFile.length)
        const { server, client, id, key, neighbours, checkLogs, told, clock, epilogue } = bench
        await sendChunks(client, id, new Set(), sweepChunks.slice(0, 5))
        await expect.poll(() => double.log('UploadPart').filter(({ status }) => status === 200).length).toBe(2)
        expect(neighbours.ours().uploads).toHaveLength(1)
        double.fail(operation, fault.order)
        const answer = await bounded(client.abort(id), 'abort')
        expect([204, ...retried]).toContain(answer.status)
        expect((await client.progress(id)).status).toBe(410)
        const left = neighbours.ours().uploads.length
        if (left > 0) {
          expect(told).toContainEqual(expect.objectContaining({ code: 'CLEANUP_FAILED' }))
        }
        // The record is swept while S3 still fails: it stays, and is counted.
        clock.ahead += 7_200_000
        const failing = await server.middleware.engine.sweep()
        if (neighbours.ours().uploads.length > 0) {
          expect(failing).toMatchObject({ failed: 1, forgotten: 0 })
        }
        double.reset()
        clock.ahead += 7_200_000
        const { failed } = await server.middleware.engine.sweep()
        expect(failed).toBe(0)
        expect(neighbours.ours(), `${left} left by the abort, ${JSON.stringify(failing)}`).toEqual({
          objects: [],
          uploads: [],
        })
        expect(key).not.toBe('')
        neighbours.check()
        checkLogs()
        await epilogue()
        survived('s3', `${operation}#1 ${fault.name}`)
      },
    )
  },
)

describe('DeleteObject of a file that the application refuses', () => {
  it.each(everything)(
    '$name: the refusal stands, and the object goes with the next sweep [F10, F06, F08]',
    async (fault) => {
      let refuses = true
      const onComplete = () => {
        if (refuses) throw new ProcessingError('No such pictures here.')
      }
      const bench = await start(fault, sweepFile.length, { hooks: { onComplete } })
      const { server, client, id, neighbours, checkLogs, clock, epilogue } = bench
      await sendChunks(client, id, new Set())
      double.fail('DeleteObject', fault.order)
      const answer = await bounded(client.complete(id), 'complete')
      expect([answer.status, answer.body.code]).toEqual([422, 'PROCESSING_FAILED'])
      expect((await bounded(client.complete(id), 'again')).status).toBe(422)
      clock.ahead += 7_200_000
      const failing = await server.middleware.engine.sweep()
      if (neighbours.ours().objects.length > 0 && !isBelieved(fault)) {
        expect(failing).toMatchObject({ failed: 1, forgotten: 0 })
      }
      double.reset()
      clock.ahead += 7_200_000
      expect((await server.middleware.engine.sweep()).failed).toBe(0)
      if (!isBelieved(fault)) expect(neighbours.ours()).toEqual({ objects: [], uploads: [] })
      neighbours.check()
      checkLogs()
      refuses = false
      await epilogue()
      survived('s3', `DeleteObject#1 ${fault.name}`)
    },
  )
})

describe.each([
  ['CreateMultipartUpload', 1],
  ['UploadPart', 1],
  ['UploadPart', 3],
  ['ListParts', 1],
  ['CompleteMultipartUpload', 1],
  ['HeadObject', 1],
] as const)('%s, request %i and on, under tus', (operation, nth) => {
  const faults = [...lastingFaults, ...refusals].filter(({ order }) => order.status !== 'drip-error')

  it.each(faults)(
    '$name: no client gives up, and HEAD never sends it back to the start [F01, F03, F06, F08, F13]',
    async (fault) => {
      const bucket = await sweepBucket(double, fault)
      const parts = withParts(bucket.adapter, PART)
      const storage = operation === 'ListParts' ? afterRestart(parts) : parts
      const server = await tusServer({ storage, maxChunkSize: 150_000, storageTimeout: 10_000 })
      const url = await server.create(sweepFile.length, { 'Upload-Metadata': metadataHeader({ filename: 'a.bin' }) })
      const { key } = await server.engine.get({ uploadId: idIn(url), protocol: 'tus' })
      const neighbours = await plantNeighbours(bucket, key)
      double.fail(operation, { ...fault.order, skip: nth - 1 })
      const mayEnd = operation === 'ListParts' && fault.order.status === 'NoSuchUpload'
      let offset = 0
      let ended = false
      const patchFrom = async (from: number, to: number) => {
        const answer = await bounded(server.patch(url, from, sweepFile.subarray(from, to)), 'PATCH')
        if (answer.status === 204) {
          offset = Number(answer.headers['upload-offset'])
          return answer
        }
        expect(mayEnd ? [...retried, 410] : retried, answer.body).toContain(answer.status)
        checkText(answer.body, bucket.names)
        if (answer.status === 410) ended = true
        const head = await server.head(url)
        expect(mayEnd ? [200, 423, 410] : [200, 423]).toContain(head.status)
        if (head.status === 200) {
          const reached = Number(head.headers['upload-offset'])
          expect(reached).toBeGreaterThanOrEqual(offset)
          // An offset at the end says to a tus client that the file is stored.
          if (reached === sweepFile.length) expect(double.object(bucket.bucket, key), 'offset = length').toBeDefined()
          offset = reached
        }
        return answer
      }
      for (const to of [100_000, 150_000, sweepFile.length]) if (offset < to && !ended) await patchFrom(offset, to)
      double.reset()
      for (let round = 0; round < 20 && !ended; round++) {
        const head = await server.head(url)
        if (head.status === 410) ended = true
        else if (head.status === 200) offset = Number(head.headers['upload-offset'])
        if (head.status === 200 && offset === sweepFile.length) break
        if (head.status === 200) await patchFrom(offset, sweepFile.length)
        else await pause(50)
      }
      if (ended) expect(mayEnd).toBe(true)
      else expect(sha256(await double.read(bucket.bucket, key))).toBe(sha256(sweepFile))
      expect(neighbours.ours().objects).toEqual(ended ? [] : [key])
      neighbours.check()
      survived('s3', `tus ${operation}#${nth} ${fault.name}`)
    },
  )
})
