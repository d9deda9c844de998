/**
 * IETF resumable uploads (URLSession on iOS 17 and newer, for one) and tus on one path, into a folder of this machine.
 *
 *   npm install express nexus-uploader tsx
 *   UPLOAD_DIR=./uploads PORT=3000 npx tsx ietf.ts
 */
import express from 'express'
import { createUploadEngine, LocalStorageAdapter } from 'nexus-uploader'
import { ietfHandler } from 'nexus-uploader/ietf'
import { tusHandler } from 'nexus-uploader/tus'

const { UPLOAD_DIR = './uploads', PORT = '3000' } = process.env

const engine = createUploadEngine({
  storage: new LocalStorageAdapter({ directory: UPLOAD_DIR, baseUrl: '/stored' }),
})

const app = express()
// Before body parsers: they would take the body of a creation for their own.
app.use('/files', ietfHandler(engine, { others: tusHandler(engine) }))

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error
  const address = server.address()
  console.log(`listening on http://127.0.0.1:${typeof address === 'object' ? address?.port : PORT}`)
})
server.requestTimeout = 0

process.once('SIGTERM', async () => {
  server.close()
  await engine.close()
  process.exit(0)
})
