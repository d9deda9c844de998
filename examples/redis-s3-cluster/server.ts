/**
 * One node of a cluster: start as many as you like behind a load balancer, any node takes any request of any upload.
 * Records and locks are in Redis, all bytes in S3; a node that is lost takes nothing with it. See README.md.
 *
 *   npm install express nexus-uploader redis tsx
 *   REDIS_URL=redis://redis.example.com:6379 S3_BUCKET=my-bucket S3_ENDPOINT=https://s3.example.com \
 *   S3_ACCESS_KEY_ID=… S3_SECRET_ACCESS_KEY=… HOST=0.0.0.0 PORT=3000 npx tsx server.ts
 */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import express from 'express'
import { createChunkedUploadMiddleware, S3StorageAdapter, uploadErrorHandler } from 'nexus-uploader'
import { RedisLocker, RedisSessionStore } from 'nexus-uploader/redis'
import { resumableJsHandler } from 'nexus-uploader/resumablejs'
import { tusHandler } from 'nexus-uploader/tus'
import { createClient } from 'redis'

const { REDIS_URL = 'redis://127.0.0.1:6379', LOCK_TTL = '10000', HOST = '127.0.0.1', PORT = '3000' } = process.env
const { S3_ENDPOINT, S3_REGION, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_BUCKET } = process.env
if (!S3_BUCKET) throw new Error('Set S3_BUCKET to the name of the bucket')

// A client connects again by itself, and gives up a connection that has fallen silent.
const redis = createClient({ url: REDIS_URL, pingInterval: 2_000, socket: { socketTimeout: 10_000 } })
redis.on('error', (error) => console.error('Redis:', error.message))
await redis.connect()

const storage = new S3StorageAdapter({
  endpoint: S3_ENDPOINT,
  region: S3_REGION,
  accessKeyId: S3_ACCESS_KEY_ID,
  secretAccessKey: S3_SECRET_ACCESS_KEY,
  bucket: S3_BUCKET,
  partSize: 5 * 1024 * 1024, // the client's chunks are as large, so that a chunk is a part
})

/** A visitor without a login is known by a random id that only this browser has. With logins: the id of the user. */
const owner = ({ headers }: IncomingMessage) => /(?:^|; )visitor=([0-9a-f-]{36})(?:;|$)/.exec(headers.cookie ?? '')?.[1]

const uploads = createChunkedUploadMiddleware(storage, {
  sessions: new RedisSessionStore(redis),
  locker: new RedisLocker(redis, { ttl: Number(LOCK_TTL) }),
  staging: 'storage', // chunks wait in the bucket, and no node's disk matters
  maxFileSize: 64 * 1024 * 1024 * 1024,
  sessionTtl: 24 * 60 * 60_000, // a laptop may be closed over night
  owner,
})
const { engine } = uploads
engine.events.on('warning', ({ code, message, error }) => console.warn(code, message, error ?? ''))
engine.events.on('storageError', ({ operation, error }) => console.error('S3:', operation, error))

const app = express()
app.get('/', (request, response) => {
  const visitor = owner(request) ?? randomUUID()
  response.cookie('visitor', visitor, { httpOnly: true, sameSite: 'strict' }).send('Your page')
})

// nexus-uploader/client, and any program
app.post('/upload/init', uploads.init)
app.post('/upload/chunk', uploads.uploadChunk)
app.post('/upload/complete', uploads.complete)
app.get('/upload/progress/:uploadId', uploads.getProgress)
app.delete('/upload/:uploadId', uploads.abort)
// Uppy, tus-js-client and every other tus client
app.use('/files', tusHandler(engine, { owner }))
// Resumable.js, Flow.js, Dropzone
app.use('/resumable', resumableJsHandler(engine, { owner }))
app.use(uploadErrorHandler())

const server = app.listen(Number(PORT), HOST, (error) => {
  if (error) throw error
  const address = server.address()
  console.log(`listening on http://${HOST}:${typeof address === 'object' ? address?.port : PORT}`)
})
// Node would cut every request after five minutes; the handlers end silent ones themselves.
server.requestTimeout = 0
// Longer than the load balancer keeps its connections.
server.keepAliveTimeout = 65_000

// A deploy: lets what is running end, for ten seconds. What is cut then goes on at another node.
process.once('SIGTERM', async () => {
  server.close()
  await uploads.close({ timeout: 10_000 })
  server.closeAllConnections()
  await redis.close()
  process.exit(0)
})
