/**
 * Every S3 operation of an upload in parts × everything that S3 can do wrong, at the first call and at a later one, while a real
 * upload goes through the documented routes.
 */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { survived } from '../support/fault-points.ts'
import { sha256 } from '../support/random.ts'
import { S3Double } from '../support/s3-double.ts'
import {
  asking,
  bodyLies,
  bounded,
  CHUNK,
  lastingFaults,
  passingFaults,
  plantNeighbours,
  redirects,
  refusals,
  retried,
  type SweepFault,
  sendChunks,
  sweepBucket,
  sweepFile,
  sweepServer,
} from '../support/s3-sweep.ts'

let double: S3Double
let elsewhere: Server
let strangers = 0

beforeAll(async () => {
  double = await S3Double.start({ minPart: 1 })
  elsewhere = createServer((_, response) => {
    strangers += 1
    response.end()
  })
  await new Promise<void>((resolve) => elsewhere.listen(0, '127.0.0.1', resolve))
})

afterAll(async () => {
  elsewhere?.close()
  await double?.close()
})

const placeholder = 'http://elsewhere.invalid/'
const everything = [...passingFaults, ...lastingFaults, ...refusals, ...redirects(placeholder)]

interface Place {
  readonly operation: string
  /** Which of its requests is the first to get the fault. */
  readonly nth: number
  readonly faults: readonly SweepFault[]
}

const places: readonly Place[] = [
  { operation: 'CreateMultipartUpload', nth: 1, faults: everything },
  { operation: 'UploadPart', nth: 1, faults: [...everything, ...bodyLies] },
  { operation: 'UploadPart', nth: 4, faults: [...everything, ...bodyLies] },
  { operation: 'ListParts', nth: 1, faults: everything },
  { operation: 'ListParts', nth: 2, faults: everything },
  { operation: 'CompleteMultipartUpload', nth: 1, faults: everything },
  { operation: 'HeadObject', nth: 1, faults: everything },
]

/** Only S3's own word that the multipart upload is no longer there may end an upload. */
function mayEnd(operation: string, { order }: SweepFault): boolean {
  return operation === 'ListParts' && order.status === 'NoSuchUpload'
}

describe.each(places)('$operation, request $nth and on', ({ operation, nth, faults }) => {
  it.each(faults)(
    '$name: nothing is lost, nothing is claimed [F01, F02, F03, F05, F06, F08, F09, F12, F13]',
    async (fault) => {
      const bucket = await sweepBucket(double, fault)
      const { server, client, keyOf, sweep, checkFailure, checkLogs, epilogue } = await sweepServer(
        double,
        bucket,
        asking(operation, bucket),
      )
      double.pageSize = 2
      const id = await client.start(sweepFile.length, { chunkSize: CHUNK })
      const key = await keyOf(id)
      const neighbours = await plantNeighbours(bucket, key)
      const { port } = elsewhere.address() as AddressInfo
      const location = fault.order.location && `http://127.0.0.1:${port}/${bucket.bucket}/${key}`
      double.fail(operation, { ...fault.order, skip: nth - 1, ...(location && { location }) })

      const acknowledged = new Set<number>()
      const refused = await sendChunks(client, id, acknowledged)
      if (refused) checkFailure(refused, retried, 'chunk')
      let result = await bounded(client.complete(id), 'complete')
      let tries = 1
      const isThere = async () => sha256(await double.read(bucket.bucket, key)) === sha256(sweepFile)
      if (result.status !== 200) {
        checkFailure(result, mayEnd(operation, fault) ? [...retried, 410] : retried, 'complete')
        const progress = await client.progress(id)
        if (result.status !== 410) {
          expect([progress.status, progress.body.uploadedChunks]).toEqual([200, acknowledged.size])
        }
      } else expect(await isThere(), 'the object that the success tells of').toBe(true)
      double.reset()
      double.pageSize = 2
      if (result.status !== 200 && result.status !== 410) {
        expect(await sendChunks(client, id, acknowledged)).toBeNull()
        result = await bounded(client.complete(id), 'complete')
        tries += 1
        expect(result.status, `the next complete: ${result.text}`).toBe(200)
      }
      if (result.status === 200) {
        expect(await isThere()).toBe(true)
        expect(await client.complete(id)).toMatchObject({ status: 200, body: { url: result.body.url } })
        expect(neighbours.ours().objects).toEqual([key])
      } else {
        expect(result.body.code).toBe('UPLOAD_EXPIRED')
        expect(neighbours.ours().objects).toEqual([])
      }
      await sweep()
      expect(neighbours.ours().uploads, `open multipart uploads after ${tries} tries`).toEqual([])
      expect(neighbours.ours().objects).toEqual(result.status === 200 ? [key] : [])
      neighbours.check()
      checkLogs()
      expect(strangers).toBe(0)
      await epilogue()
      expect(server.errors.length).toBeLessThan(30)
      survived('s3', `${operation}#${nth} ${fault.name}`)
    },
  )
})
