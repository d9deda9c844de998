/** A server to be killed: the documented routes in a process of their own. Settings come as JSON in the first argument. */
import express from 'express'
import { ietfHandler } from '../../src/ietf.ts'
import {
  createChunkedUploadMiddleware,
  LocalStorageAdapter,
  S3StorageAdapter,
  type StorageAdapter,
  uploadErrorHandler,
} from '../../src/index.ts'
import { RedisLocker, RedisSessionStore } from '../../src/redis.ts'
import { resumableJsHandler } from '../../src/resumablejs.ts'
import { tusHandler } from '../../src/tus.ts'
import { uppyS3Handler } from '../../src/uppy.ts'
import { type ClientKind, connectClient } from './redis-clients.ts'
import { withParts } from './small-parts.ts'

export interface ServerSettings {
  tempDir: string
  directory?: string
  s3?: { endpoint: string; region: string; accessKeyId: string; secretAccessKey: string; bucket: string }
  /** Size of the parts that go to the S3, and the smallest, bytes, also below what S3 allows; for the double. */
  partSize?: number
  port?: number
  /** How much later it is for this server than for others, ms. */
  clockAhead?: number
  /** Sessions and locks in this Redis. */
  redis?: { kind: ClientKind; port: number; prefix: string; ttl?: number; password?: string }
  config?: {
    maxChunkSize?: number
    maxFileSize?: number
    cleanupInterval?: number
    sessionTtl?: number
    minFreeBytes?: number
    /** Also of the finished files. */
    durability?: 'process' | 'power'
    maxSessions?: number
    staging?: 'disk' | 'storage'
  }
}

const settings = JSON.parse(process.argv[2] ?? '{}') as ServerSettings
const s3 = settings.s3 && new S3StorageAdapter(settings.s3)
const storage: StorageAdapter = s3
  ? settings.partSize
    ? withParts(s3, settings.partSize, settings.partSize)
    : s3
  : new LocalStorageAdapter({
      directory: settings.directory ?? settings.tempDir,
      durability: settings.config?.durability ?? 'process',
    })
const redis = settings.redis && (await connectClient(settings.redis.kind, addressOf(settings.redis)))
const { prefix = '', ttl = 10_000 } = settings.redis ?? {}
const { clockAhead = 0 } = settings
export const uploads = createChunkedUploadMiddleware(storage, {
  ...settings.config,
  ...(clockAhead > 0 && { clock: () => Date.now() + clockAhead }),
  ...(redis && {
    sessions: new RedisSessionStore(redis.client, { prefix, commandTimeout: 1_000 }),
    locker: new RedisLocker(redis.client, { prefix, ttl, commandTimeout: 1_000 }),
  }),
  tempDir: settings.tempDir,
})
const app = express()
app.use(express.json())
app.post('/upload/init', uploads.init)
app.post('/upload/chunk', uploads.uploadChunk)
app.post('/upload/complete', uploads.complete)
app.get('/upload/progress/:uploadId', uploads.getProgress)
app.delete('/upload/:uploadId', uploads.abort)
app.post('/upload', uploads.upload)
app.use('/files', ietfHandler(uploads.engine, { others: tusHandler(uploads.engine) }) as never)
app.use('/resumable', resumableJsHandler(uploads.engine, { owner: () => 'ann' }) as never)
app.use('/companion', uppyS3Handler(uploads.engine, { direct: false }) as never)
if (s3) app.use('/direct', uppyS3Handler(uploads.engine, { direct: true }) as never)
app.use(uploadErrorHandler())
export const server = app.listen(settings.port ?? 0, '127.0.0.1', () => {
  const address = server.address()
  process.send?.({ port: typeof address === 'object' ? address?.port : 0 })
})
process.on('message', (message) => {
  if (message === 'sweep') void uploads.engine.sweep().then((report) => process.send?.(report))
  if (message !== 'close') return
  server.close()
  server.closeAllConnections()
  void uploads.close({ timeout: 2000 }).then(() => {
    redis?.close()
    process.disconnect?.()
  })
})

function addressOf({ port, password }: NonNullable<ServerSettings['redis']>) {
  return { port, ...(password !== undefined && { password }) }
}
