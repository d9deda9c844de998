/**
 * Resumable uploads into a folder of this machine, served from the same app.
 *
 *   npm install express nexus-uploader tsx
 *   UPLOAD_DIR=./uploads PORT=3000 npx tsx express-local.ts
 */
import express from 'express'
import { createChunkedUploadMiddleware, LocalStorageAdapter, uploadErrorHandler } from 'nexus-uploader'

const { UPLOAD_DIR = './uploads', PORT = '3000' } = process.env

const storage = new LocalStorageAdapter({ directory: UPLOAD_DIR, baseUrl: '/files' })
const chunkedUpload = createChunkedUploadMiddleware(storage, {
  maxFileSize: 4 * 1024 * 1024 * 1024,
  maxSessions: 200, // nobody fills the disk with uploads that never end
})

const app = express()
app.use(express.json())

app.post('/upload/init', chunkedUpload.init)
app.post('/upload/chunk', chunkedUpload.uploadChunk)
app.post('/upload/complete', chunkedUpload.complete)
app.get('/upload/progress/:uploadId', chunkedUpload.getProgress)
app.delete('/upload/:uploadId', chunkedUpload.abort)

// Strangers' files on your own origin: let browsers save them, never show them as a page of yours.
const setHeaders = (response: express.Response) => {
  response.setHeader('Content-Disposition', 'attachment')
  response.setHeader('X-Content-Type-Options', 'nosniff')
}
app.use('/files', express.static(UPLOAD_DIR, { index: false, setHeaders }))
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
