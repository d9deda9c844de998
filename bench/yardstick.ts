/** The same routes and libraries as ours with nothing behind them: no records, no checks, nothing survives. What ours could reach at most. */
import { randomUUID } from 'node:crypto'
import { type FileHandle, open, rename } from 'node:fs/promises'
import type { RequestListener } from 'node:http'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import express, { type Request } from 'express'
import multer, { type StorageEngine } from 'multer'
import { writeBatches } from './bare-servers.ts'

interface Upload {
  readonly handle: FileHandle
  readonly chunkSize: number
}

export function expressWrites(directory: string): RequestListener {
  const uploads = new Map<string, Upload>()
  const write = (fields: { readonly uploadId?: string; readonly chunkIndex?: string }, body: Readable) => {
    const upload = uploads.get(String(fields.uploadId))
    if (!upload) throw new Error('unknown upload')
    return writeBatches(upload.handle, body, Number(fields.chunkIndex) * upload.chunkSize)
  }
  const storage: StorageEngine = {
    _handleFile(request, file, done) {
      write(request.body, file.stream).then(() => done(null, {}), done)
    },
    _removeFile(_request, _file, done) {
      done(null)
    },
  }
  const receive = multer({ storage }).single('chunk')
  const app = express()
  app.use(express.json())
  app.post('/upload/init', async (request: Request, response) => {
    const uploadId = randomUUID()
    const handle = await open(join(directory, `${uploadId}.tmp`), 'w')
    uploads.set(uploadId, { handle, chunkSize: request.body.chunkSize })
    response.json({ uploadId })
  })
  app.post('/upload/chunk', async (request: Request, response, next) => {
    if (request.is('multipart/form-data')) return next()
    await write(request.query, request)
    response.json({ success: true })
  })
  app.post('/upload/chunk', receive, (_request, response) => {
    response.json({ success: true })
  })
  app.post('/upload/complete', async (request: Request, response) => {
    const { uploadId } = request.body
    await uploads.get(uploadId)?.handle.close()
    await rename(join(directory, `${uploadId}.tmp`), join(directory, uploadId))
    response.json({ url: `/${uploadId}` })
  })
  return app
}
