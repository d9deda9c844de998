/**
 * Resumable uploads into S3, or into anything that speaks S3 (MinIO, Ceph, R2, …).
 *
 *   npm install express nexus-uploader tsx
 *   S3_BUCKET=my-bucket S3_ENDPOINT=https://s3.example.com \
 *   S3_ACCESS_KEY_ID=… S3_SECRET_ACCESS_KEY=… PORT=3000 npx tsx express-s3.ts
 *
 * On AWS leave S3_ENDPOINT out and set S3_REGION; without keys the SDK looks for them in the usual places.
 */
import express from 'express'
import { createChunkedUploadMiddleware, S3StorageAdapter, uploadErrorHandler } from 'nexus-uploader'

const { S3_ENDPOINT, S3_REGION, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_BUCKET, PORT = '3000' } = process.env
if (!S3_BUCKET) throw new Error('Set S3_BUCKET to the name of the bucket')

const app = express()
app.use(express.json())

// Configure storage
const storage = new S3StorageAdapter({
  endpoint: S3_ENDPOINT,
  region: S3_REGION,
  accessKeyId: S3_ACCESS_KEY_ID,
  secretAccessKey: S3_SECRET_ACCESS_KEY,
  bucket: S3_BUCKET,
})

// Create chunked upload middleware
const chunkedUpload = createChunkedUploadMiddleware(storage, {
  maxChunkSize: 2 * 1024 * 1024, // 2MB chunks
  maxFileSize: 1 * 1024 * 1024 * 1024, // 1GB max file
})

// Routes
app.post('/upload/init', chunkedUpload.init)
app.post('/upload/chunk', chunkedUpload.uploadChunk)
app.post('/upload/complete', chunkedUpload.complete)
app.get('/upload/progress/:uploadId', chunkedUpload.getProgress)

// Not needed to upload, but good to have: give up an upload, and small files in one request
app.delete('/upload/:uploadId', chunkedUpload.abort)
app.post('/upload', chunkedUpload.upload)

// Errors as JSON, after the routes
app.use(uploadErrorHandler())

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error
  const address = server.address()
  console.log(`listening on http://127.0.0.1:${typeof address === 'object' ? address?.port : PORT}`)
})

// Uploads survive any end of the process; this one also lets the chunks under way arrive.
process.once('SIGTERM', async () => {
  server.close()
  await chunkedUpload.close()
  process.exit(0)
})
