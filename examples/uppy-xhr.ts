/**
 * Uppy's XHRUpload: every file in one request, not resumable; for small files.
 *
 *   npm install express nexus-uploader tsx esbuild @uppy/core @uppy/dashboard @uppy/xhr-upload
 *   UPLOAD_DIR=./uploads PORT=3000 npx tsx uppy-xhr.ts
 */
import express from 'express'
import { createChunkedUploadMiddleware, LocalStorageAdapter, uploadErrorHandler } from 'nexus-uploader'
import { uppyPage } from './uppy-page.ts'

const { UPLOAD_DIR = './uploads', PORT = '3000' } = process.env

const uploads = createChunkedUploadMiddleware(new LocalStorageAdapter({ directory: UPLOAD_DIR, baseUrl: '/stored' }), {
  maxFileSize: 100 * 1024 * 1024,
})

const page = `
  import Uppy from '@uppy/core'
  import Dashboard from '@uppy/dashboard'
  import XHRUpload from '@uppy/xhr-upload'

  const uppy = new Uppy({ restrictions: { maxFileSize: 100 * 1024 * 1024 } })
    .use(Dashboard, { inline: true, target: '#uppy' })
    .use(XHRUpload, {
      endpoint: '/upload',
      // By default it would send a file that was refused four times.
      shouldRetry: ({ status }) => status === 0 || status === 429 || status >= 500,
    })
  uppy.on('upload-success', (file, { uploadURL }) => console.log(file.name, uploadURL))
`

const app = express()
app.use(await uppyPage(page))
app.post('/upload', uploads.upload)
app.use(uploadErrorHandler())

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error
  const address = server.address()
  console.log(`listening on http://127.0.0.1:${typeof address === 'object' ? address?.port : PORT}`)
})

process.once('SIGTERM', async () => {
  server.close()
  await uploads.close()
  process.exit(0)
})
