/**
 * Uppy over tus: resumable, into a folder of this machine.
 *
 *   npm install express nexus-uploader tsx esbuild @uppy/core @uppy/dashboard @uppy/tus
 *   UPLOAD_DIR=./uploads PORT=3000 npx tsx uppy-tus.ts
 */
import express from 'express'
import { createUploadEngine, LocalStorageAdapter } from 'nexus-uploader'
import { tusHandler } from 'nexus-uploader/tus'
import { uppyPage } from './uppy-page.ts'

const { UPLOAD_DIR = './uploads', PORT = '3000' } = process.env

const engine = createUploadEngine({
  storage: new LocalStorageAdapter({ directory: UPLOAD_DIR, baseUrl: '/stored' }),
  sessionTtl: 24 * 60 * 60_000, // a laptop may be closed over night
})

const page = `
  import Uppy from '@uppy/core'
  import Dashboard from '@uppy/dashboard'
  import Tus from '@uppy/tus'

  const uppy = new Uppy()
    .use(Dashboard, { inline: true, target: '#uppy' })
    .use(Tus, {
      endpoint: '/files',
      retryDelays: [0, 1000, 3000, 5000, 10000, 20000, 30000],
      removeFingerprintOnSuccess: true, // a second upload of the same file is a new one
    })
  uppy.on('upload-success', (file, { body }) => {
    // uploadURL is where the upload was; this is where the file is.
    console.log(file.name, body.xhr.getResponseHeader('Content-Location'))
  })
`

const app = express()
app.use(await uppyPage(page))
app.use('/files', tusHandler(engine))

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error
  const address = server.address()
  console.log(`listening on http://127.0.0.1:${typeof address === 'object' ? address?.port : PORT}`)
})
// Node would cut every request after five minutes; the handler ends silent ones itself.
server.requestTimeout = 0

process.once('SIGTERM', async () => {
  server.close()
  await engine.close()
  process.exit(0)
})
