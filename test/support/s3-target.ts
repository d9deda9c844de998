/** The S3 that a test runs against: the double, or the real server that the environment names. */
import { randomUUID } from 'node:crypto'
import {
  AbortMultipartUploadCommand,
  CreateBucketCommand,
  DeleteBucketCommand,
  DeleteObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  S3Client,
} from '@aws-sdk/client-s3'
import { S3Double, type S3DoubleOptions } from './s3-double.ts'

export interface S3Target {
  /** `double`, or the address of the real server. */
  readonly name: string
  readonly endpoint: string
  readonly region: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
  /** Made for this call, empty. */
  readonly bucket: string
  readonly double?: S3Double
  /** Removes the bucket and everything in it, and ends the double. */
  close(): Promise<void>
}

/** A server and a fresh bucket in it. With `S3_ENDPOINT` … in the environment it is that real server. */
export async function s3Target(options?: S3DoubleOptions): Promise<S3Target> {
  const { S3_ENDPOINT, S3_REGION, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY } = process.env
  if (!S3_ENDPOINT || !S3_ACCESS_KEY_ID || !S3_SECRET_ACCESS_KEY) return await doubleTarget(options)
  const bucket = freshBucket()
  const real = {
    name: S3_ENDPOINT,
    endpoint: S3_ENDPOINT,
    region: S3_REGION ?? 'us-east-1',
    accessKeyId: S3_ACCESS_KEY_ID,
    secretAccessKey: S3_SECRET_ACCESS_KEY,
    bucket,
  }
  await createBucket(real)
  return { ...real, close: () => removeBucket(real) }
}

/** The double, whatever the environment says: for faults. */
export async function doubleTarget(options?: S3DoubleOptions): Promise<S3Target & { readonly double: S3Double }> {
  const double = await S3Double.start(options)
  const target = { name: 'double', endpoint: double.endpoint, ...double.keys, bucket: freshBucket(), double }
  await createBucket(target)
  double.requests.length = 0
  return { ...target, close: () => double.close() }
}

function freshBucket(): string {
  return `nexus-test-${randomUUID()}`
}

type Address = Omit<S3Target, 'close' | 'double'>

/** A plain SDK client for the target. Others' rules (path style, no framing) are the adapter's defaults too. */
export function clientOf(target: Address, changes: ConstructorParameters<typeof S3Client>[0] = {}): S3Client {
  return new S3Client({
    endpoint: target.endpoint,
    region: target.region,
    forcePathStyle: true,
    credentials: { accessKeyId: target.accessKeyId, secretAccessKey: target.secretAccessKey },
    maxAttempts: 1,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // The SDK's console warnings say nothing about the tests.
    logger: { debug() {}, info() {}, warn() {}, error() {} },
    ...changes,
  })
}

async function createBucket(target: Address): Promise<void> {
  const client = clientOf(target)
  await client.send(new CreateBucketCommand({ Bucket: target.bucket }))
  client.destroy()
}

async function removeBucket(target: Address): Promise<void> {
  const client = clientOf(target)
  const Bucket = target.bucket
  for (;;) {
    const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket }))
    for (const { Key, UploadId } of Uploads)
      await client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }))
    const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket }))
    for (const { Key } of Contents) await client.send(new DeleteObjectCommand({ Bucket, Key }))
    if (Uploads.length === 0 && Contents.length === 0) break
  }
  await client.send(new DeleteBucketCommand({ Bucket }))
  client.destroy()
}
