/**
 * tus 1.0 into a folder of this machine: for tus-js-client, Uppy and every other tus client.
 *
 *   npm install express nexus-uploader tsx
 *   UPLOAD_DIR=./uploads PORT=3000 npx tsx tus.ts
 */
import express from 'express'
import { createUploadEngine, InvalidRequestError, LocalStorageAdapter } from 'nexus-uploader'
import { tusHandler } from 'nexus-uploader/tus'

const { UPLOAD_DIR = './uploads', PORT = '3000' } = process.env

const engine = createUploadEngine({
  storage: new LocalStorageAdapter({ directory: UPLOAD_DIR, baseUrl: '/stored' }),
  maxFileSize: 64 * 1024 * 1024 * 1024,
  sessionTtl: 24 * 60 * 60_000, // a laptop may be closed over night
  hooks: {
    onCreate(draft) {
      if (draft.fileName === 'file') throw new InvalidRequestError('Send Upload-Metadata with a filename.')
    },
    onComplete(session, object) {
      console.log(`${session.fileName} is at ${object.url}`)
    },
  },
})

const app = express()
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
