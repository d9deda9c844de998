/** What there is in the bucket at the end: the three files, every byte of them, and nothing else. */
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3'
import { createUploadEngine, S3StorageAdapter } from 'nexus-uploader'
import { RedisLocker, RedisSessionStore } from 'nexus-uploader/redis'
import { createClient } from 'redis'
import { clientOf } from '../../test/support/s3-target.ts'
import { sha256Of } from '../demo/source-file.ts'
import { count } from '../demo/text.ts'
import type { Bucket, Services } from './services.ts'
import type { Timeline } from './timeline.ts'
import type { ClusterUpload } from './upload.ts'

/** For how long nodes may clean up after a file is stored, ms. */
const patience = 10_000
const day = 24 * 60 * 60_000
const stagingPrefix = '.nexus-staging/'

interface Contents {
  readonly files: string[]
  readonly pieces: string[]
  readonly open: number
}

/** Returns what is wrong. */
export async function check(
  uploads: readonly ClusterUpload[],
  { s3: bucket, redisUrl }: Services,
  folder: string,
  timeline: Timeline,
  corrupt: boolean,
): Promise<string[]> {
  const s3 = clientOf(bucket)
  try {
    const problems: string[] = []
    for (const upload of uploads) problems.push(...(await checkFile(upload, s3, bucket, timeline, corrupt)))
    let contents = await settled(s3, bucket)
    if (!isClean(contents)) {
      // Of a node that was killed between storing a file and removing its pieces: the sweeper's work, once they are old.
      timeline.say('bucket', `killed nodes have left ${leftovers(contents)}; sweeping as two days later`)
      await sweepLater(bucket, redisUrl, folder)
      contents = await settled(s3, bucket)
    }
    const { files } = contents
    timeline.say('bucket', `${files.length} files, ${leftovers(contents)}`)
    if (!isClean(contents)) problems.push(`The bucket holds ${leftovers(contents)}.`)
    if (files.length !== uploads.length) problems.push(`The bucket holds ${files.length} files: ${files.join(', ')}`)
    return problems
  } finally {
    s3.destroy()
  }
}

async function checkFile(upload: ClusterUpload, s3: S3Client, bucket: Bucket, timeline: Timeline, corrupt: boolean) {
  const { kind, fileName, sha256, url, failure } = upload
  if (url === null) return [`${kind.name} failed: ${failure}`]
  const { files } = await contentsOf(s3, bucket)
  const key = files.find((name) => name.endsWith(`-${fileName}`))
  if (!key) return [`There is no file ${fileName}.`]
  if (corrupt) await corruptObject(s3, bucket.bucket, key)
  const { Body } = await s3.send(new GetObjectCommand({ Bucket: bucket.bucket, Key: key }))
  const stored = await sha256Of(Body as Readable)
  const isSame = stored.sha256 === sha256
  timeline.say(
    kind.name,
    `SHA-256 ${sha256.slice(0, 16)}… of the stored file ${isSame ? 'is the same' : 'IS DIFFERENT'}`,
  )
  const problems: string[] = []
  if (!isSame) problems.push(`The file of ${kind.name} has wrong bytes: SHA-256 ${stored.sha256}, not ${sha256}.`)
  if (!decodeURIComponent(new URL(url).pathname).endsWith(`/${key}`)) problems.push(`${kind.name} was told ${url}.`)
  return problems
}

async function settled(s3: S3Client, bucket: Bucket): Promise<Contents> {
  const deadline = performance.now() + patience
  for (;;) {
    const contents = await contentsOf(s3, bucket)
    if (isClean(contents) || performance.now() > deadline) return contents
    await sleep(100)
  }
}

async function contentsOf(s3: S3Client, { bucket: Bucket }: Bucket): Promise<Contents> {
  const { Contents = [] } = await s3.send(new ListObjectsV2Command({ Bucket }))
  const { Uploads = [] } = await s3.send(new ListMultipartUploadsCommand({ Bucket }))
  const keys = Contents.map(({ Key = '' }) => Key)
  const isPiece = (key: string) => key.startsWith(stagingPrefix)
  return { files: keys.filter((key) => !isPiece(key)), pieces: keys.filter(isPiece), open: Uploads.length }
}

function isClean({ pieces, open }: Contents): boolean {
  return pieces.length === 0 && open === 0
}

function leftovers({ pieces, open }: Contents): string {
  return `${count(pieces.length, 'staged piece')}, ${count(open, 'open multipart upload')}`
}

/** What the next sweep of any node would do when all that is left has grown old. */
async function sweepLater(bucket: Bucket, redisUrl: string, tempDir: string): Promise<void> {
  const redis = await createClient({ url: redisUrl }).connect()
  const { endpoint, region, accessKeyId, secretAccessKey } = bucket
  const engine = createUploadEngine({
    storage: new S3StorageAdapter({ endpoint, region, accessKeyId, secretAccessKey, bucket: bucket.bucket }),
    sessions: new RedisSessionStore(redis),
    locker: new RedisLocker(redis),
    tempDir,
    clock: () => Date.now() + 2 * day,
  })
  try {
    await engine.sweep()
  } finally {
    await engine.close()
    redis.destroy()
  }
}

/** Changes one byte. */
async function corruptObject(s3: S3Client, Bucket: string, Key: string): Promise<void> {
  const { Body } = await s3.send(new GetObjectCommand({ Bucket, Key }))
  const bytes = Buffer.from((await Body?.transformToByteArray()) ?? [])
  bytes.writeUInt8(bytes.readUInt8(0) ^ 1, 0)
  await s3.send(new PutObjectCommand({ Bucket, Key, Body: bytes }))
}
