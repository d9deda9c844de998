/** Answers of an S3 that make no sense, and those that mean harm. What comes of them is bounded in time and memory. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { survived } from '../support/fault-points.ts'
import { seeded, sha256 } from '../support/random.ts'
import { S3Double } from '../support/s3-double.ts'
import type { OrderedFault } from '../support/s3-fault.ts'
import {
  asking,
  bounded,
  CHUNK,
  plantNeighbours,
  retried,
  type SweepFault,
  sendChunks,
  sweepBucket,
  sweepFile,
  sweepServer,
} from '../support/s3-sweep.ts'

let double: S3Double

beforeAll(async () => {
  double = await S3Double.start({ minPart: 1 })
})
afterAll(() => double?.close())

const MiB = 1024 * 1024
const roots: Readonly<Record<string, string>> = {
  CreateMultipartUpload: 'InitiateMultipartUploadResult',
  ListParts: 'ListPartsResult',
  CompleteMultipartUpload: 'CompleteMultipartUploadResult',
  UploadPart: 'UploadPartResult',
  HeadObject: 'HeadObjectResult',
  PutObject: 'PutObjectResult',
}
const doctype = (entities: string) => `<?xml version="1.0"?><!DOCTYPE r [${entities}]>`
const laughs = Array.from({ length: 12 }, (_, n) => `<!ENTITY l${n + 1} "${`&l${n};`.repeat(10)}">`).join('')

/** Bodies by name; `root` is what the operation's answer is called. */
const bodies: Readonly<Record<string, (root: string) => string>> = {
  'a web page': () => '<!DOCTYPE html><html><body><h1>Welcome</h1><p>Log in & pay<br></body></html>',
  'half of the document': (root) => `<?xml version="1.0"?><${root}><Bucket>b</Bucket><Part><PartNumber>1`,
  'a document that nothing ends': (root) => `<${root}>${'<Part>'.repeat(2_000)}`,
  'white space': () => ' \n\t'.repeat(1_000),
  zeros: () => '\0'.repeat(4_000),
  JSON: () => '{"UploadId":"x","Parts":[{"PartNumber":1}]}',
  'an external entity': (root) =>
    `${doctype('<!ENTITY x SYSTEM "file:///etc/passwd">')}<${root}><Bucket>b</Bucket><UploadId>&x;</UploadId></${root}>`,
  'a billion laughs': (root) =>
    `${doctype(`<!ENTITY l0 "lol">${laughs}`)}<${root}><Bucket>b</Bucket><UploadId>&l12;</UploadId></${root}>`,
  'quadratic entities': (root) =>
    `${doctype(`<!ENTITY a "${'a'.repeat(50_000)}">`)}<${root}><Bucket>b</Bucket><UploadId>${'&a;'.repeat(20_000)}</UploadId></${root}>`,
  'deep nesting': (root) => `<${root}>${'<a>'.repeat(20_000)}${'</a>'.repeat(20_000)}</${root}>`,
  '20 MiB of text': (root) => `<${root}><Bucket>${'x'.repeat(20 * MiB)}</Bucket></${root}>`,
  'a list of strangers': (root) =>
    `<${root}><Bucket>b</Bucket><IsTruncated>true</IsTruncated>${'<Part><PartNumber>x</PartNumber><Size>-1</Size><ETag>"e"</ETag></Part>'.repeat(50)}</${root}>`,
  'numbers that are none': (root) =>
    `<${root}><Bucket>b</Bucket><IsTruncated>perhaps</IsTruncated><Part><PartNumber>1e999</PartNumber><Size>NaN</Size><ETag>"x"</ETag></Part></${root}>`,
  'magic names': (root) =>
    `<${root}><Bucket>b</Bucket><__proto__><IsTruncated>true</IsTruncated></__proto__><constructor>x</constructor></${root}>`,
  'pages without end': (root) =>
    `<${root}><Bucket>b</Bucket><IsTruncated>true</IsTruncated><NextPartNumberMarker>0</NextPartNumberMarker></${root}>`,
}

const statuses = [200, 206, 404, 500] as const

async function upload(name: string, operation: string, orders: readonly OrderedFault[]): Promise<void> {
  const fault: SweepFault = { name, order: { status: 'reply' } }
  const bucket = await sweepBucket(double, fault)
  const { client, keyOf, checkFailure, checkLogs, epilogue } = await sweepServer(
    double,
    bucket,
    asking(operation, bucket),
  )
  const id = await client.start(sweepFile.length, { chunkSize: CHUNK })
  const neighbours = await plantNeighbours(bucket, await keyOf(id))
  for (const order of orders) double.fail(operation, order)
  const acknowledged = new Set<number>()
  await sendChunks(client, id, acknowledged)
  let result = await bounded(client.complete(id), name)
  const isThere = async (key: string) => sha256(await double.read(bucket.bucket, key)) === sha256(sweepFile)
  if (result.status !== 200) {
    checkFailure(result, retried, name)
    expect((await client.progress(id)).body.uploadedChunks).toBe(acknowledged.size)
    double.reset()
    await sendChunks(client, id, acknowledged)
    result = await bounded(client.complete(id), name)
  }
  expect(result.status, result.text).toBe(200)
  expect(await isThere(result.body.key)).toBe(true)
  expect(neighbours.ours().objects).toEqual([result.body.key])
  neighbours.check()
  checkLogs()
  expect(({} as { IsTruncated?: unknown }).IsTruncated).toBeUndefined()
  double.reset()
  await epilogue()
}

describe.each(Object.keys(roots).filter((operation) => operation !== 'PutObject'))('%s answers', (operation) => {
  it.each(Object.keys(bodies))('%s: bounded, retried, and the upload arrives [A14]', async (name) => {
    const body = bodies[name]?.(roots[operation] ?? '') ?? ''
    const before = process.memoryUsage().rss
    for (const status of body.length > MiB ? [200] : statuses) {
      await upload(`${name} with ${status}`, operation, [{ status: 'reply', times: 40, reply: { status, body } }])
    }
    expect(process.memoryUsage().rss - before).toBeLessThan(400 * MiB)
    survived('s3', `${operation} answers ${name}`)
  })
})

it('random bytes for answers of every operation, 20 seeds [A14]', async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = seeded(seed)
    const operation = Object.keys(roots)[seed % 5] ?? ''
    const text = `<${roots[operation]}><Bucket>b</Bucket><UploadId>u</UploadId><Part><Size>3</Size></Part></${roots[operation]}>`
    const orders = Array.from({ length: 12 }, (): OrderedFault => {
      const body = Buffer.from(text)
      for (let n = 0; n < 6; n++) body[random.integer(0, body.length - 1)] = random.integer(0, 255)
      const status = [200, 200, 204, 400, 403, 503][random.integer(0, 5)] ?? 200
      return { status: 'reply', reply: { status, body: status === 204 ? '' : body.toString('latin1') } }
    })
    await upload(`seed ${seed}`, operation, orders)
  }
  survived('s3', 'answers of random bytes', 20)
})
