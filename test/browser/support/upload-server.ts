/** The server that the pages upload to: every protocol on one engine, in a process that can be killed. */
import express, { type NextFunction, type Request, type Response } from 'express'
import {
  type ChunkedUploadConfig,
  createChunkedUploadMiddleware,
  LocalStorageAdapter,
  S3StorageAdapter,
  uploadErrorHandler,
} from '../../../src/index.ts'
import { resumableJsHandler } from '../../../src/resumablejs.ts'
import { tusHandler } from '../../../src/tus.ts'
import { uppyS3Handler } from '../../../src/uppy.ts'
import type { ServerSettings } from '../../support/server-process.ts'

export interface UploadServerSettings extends Omit<ServerSettings, 'config'> {
  config?: Pick<ChunkedUploadConfig, 'maxFileSize' | 'allowedMimeTypes'>
  /** As browsers see this server. */
  origin: string
  /** Cross-origin access is the app's: it sets these headers on every answer, and the handlers none. */
  appCors?: Record<string, string>
}

const settings = JSON.parse(process.argv[2] ?? '') as UploadServerSettings
const directory = settings.directory ?? ''
const storage = settings.s3
  ? new S3StorageAdapter(settings.s3)
  : new LocalStorageAdapter({ directory, baseUrl: '/stored' })

/** Stands for a login: the cookie says who it is. */
function owner(request: { headers: { cookie?: string | undefined } }): string {
  return /(?:^|; )user=(\w+)/.exec(request.headers.cookie ?? '')?.[1] ?? 'nobody'
}

const uploads = createChunkedUploadMiddleware(storage, { ...settings.config, tempDir: settings.tempDir, owner })
const { engine } = uploads
const options = { owner, ...(settings.appCors && { cors: false as const }) }
const app = express()

if (settings.appCors) app.use(setHeaders(settings.appCors))
/** What the documents tell apps to do for the routes that send no CORS headers themselves. */
const forms = { 'Access-Control-Allow-Methods': 'POST, GET, DELETE', 'Access-Control-Allow-Headers': 'Content-Type' }
app.use('/upload', setHeaders({ 'Access-Control-Allow-Origin': '*', ...forms }), answerPreflight)
app.post('/upload', uploads.upload)
app.use('/upload', express.json())
app.post('/upload/init', uploads.init)
app.post('/upload/chunk', uploads.uploadChunk)
app.post('/upload/complete', uploads.complete)
app.get('/upload/progress/:uploadId', uploads.getProgress)
app.delete('/upload/:uploadId', uploads.abort)
app.use('/files', tusHandler(engine, options))
app.use('/resumable', resumableJsHandler(engine, options))
const companion = uppyS3Handler(engine, { ...options, formUrl: `${settings.origin}/stored` })
app.use('/companion', companion)
// Uppy 6 builds the URL of a file that it sent as a form out of this one and the key.
app.post('/stored', companion).options('/stored', companion)
if (settings.s3) {
  const bucket = `${settings.s3.endpoint}/${settings.s3.bucket}`
  app.get('/stored/*key', (request, response) => response.redirect(bucket + request.path.slice('/stored'.length)))
} else {
  app.use('/stored', express.static(directory))
}
app.use(uploadErrorHandler())

const server = app.listen(settings.port ?? 0, '127.0.0.1', () => {
  const address = server.address()
  process.send?.({ port: typeof address === 'object' ? address?.port : 0 })
})
server.requestTimeout = 0

function setHeaders(headers: Record<string, string>) {
  return (_request: Request, response: Response, next: NextFunction) => {
    response.set(headers)
    next()
  }
}

function answerPreflight(request: Request, response: Response, next: NextFunction) {
  if (request.method === 'OPTIONS') response.status(204).end()
  else next()
}
