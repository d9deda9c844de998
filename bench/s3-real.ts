/** Stands before a real S3 as the sink does before itself: makes the bucket, and tells what was stored, which it deletes. */
import { createHash } from 'node:crypto'
import type { Readable } from 'node:stream'
import { createS3Client } from './bench-s3.ts'
import { bucket, type SinkMessage } from './messages.ts'

const endpoint = process.env.S3_ENDPOINT ?? ''
const { client, sdk } = await createS3Client(endpoint)

async function storedUnder(key: string) {
  const { Body, ETag = '' } = await client.send(new sdk.GetObjectCommand({ Bucket: bucket, Key: key }))
  const hash = createHash('sha256')
  for await (const piece of Body as Readable) hash.update(piece)
  await client.send(new sdk.DeleteObjectCommand({ Bucket: bucket, Key: key }))
  return { sha256: hash.digest('hex'), parts: Number(/-(\d+)"?$/.exec(ETag)?.[1] ?? 1) }
}

async function stored(keys: readonly string[]): Promise<SinkMessage> {
  const objects = []
  for (const key of keys) objects.push(await storedUnder(key))
  // Nobody counts the calls.
  return { type: 'stored', objects, calls: {} }
}

function tell(message: SinkMessage): void {
  process.send?.(message)
}

function fail(error: Error): void {
  console.error(error.message)
  process.exit(1)
}

process.on('disconnect', () => process.exit(0))
process.on('message', (keys: readonly string[]) => {
  stored(keys).then(tell, fail)
})
client.send(new sdk.CreateBucketCommand({ Bucket: bucket })).then(
  () => tell({ type: 'ready', endpoint }),
  (error: Error) => (error.name === 'BucketAlreadyOwnedByYou' ? tell({ type: 'ready', endpoint }) : fail(error)),
)
