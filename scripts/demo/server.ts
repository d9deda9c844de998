/**
 * The demo's server: the library mounted as an app would mount it, in a process of its own so that it can be killed.
 * Started by `server-process.ts` with the folder and the port as arguments.
 */
import { rmSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import express from 'express'
import { createChunkedUploadMiddleware, LocalStorageAdapter, uploadErrorHandler } from '../../src/index.ts'
import { resumableJsHandler } from '../../src/resumablejs.ts'
import { tusHandler } from '../../src/tus.ts'
import { uppyS3Handler } from '../../src/uppy.ts'
import { storedFolder } from './layout.ts'

const [folder, port = '0'] = process.argv.slice(2)
if (!folder || !process.send) throw new Error('This is a part of the demo: npm run demo')
const directory = storedFolder(folder)

const storage = new LocalStorageAdapter({ directory, baseUrl: '/stored' })
const owner = () => 'the person at the page'
const chunkedUpload = createChunkedUploadMiddleware(storage, { owner })
const { engine } = chunkedUpload
engine.events.on('storageError', ({ operation, error }) => console.error(`storage: ${operation}`, error))
engine.events.on('warning', ({ message, error }) => console.error(`warning: ${message}`, error ?? ''))

const app = express()
app.disable('x-powered-by')

app.post('/upload/init', chunkedUpload.init)
app.post('/upload/chunk', chunkedUpload.uploadChunk)
app.post('/upload/complete', chunkedUpload.complete)
app.get('/upload/progress/:uploadId', chunkedUpload.getProgress)
app.delete('/upload/:uploadId', chunkedUpload.abort)
app.use('/tus', tusHandler(engine, { owner, cors: false }))
app.use('/companion', uppyS3Handler(engine, { owner, cors: false }))
app.use('/resumable', resumableJsHandler(engine, { owner, cors: false }))

// Uploaded files are somebody else's content: a browser may save them, never run them on this origin.
const setHeaders = (response: express.Response) => {
  response.setHeader('Content-Disposition', 'attachment')
  response.setHeader('X-Content-Type-Options', 'nosniff')
  response.setHeader('Content-Security-Policy', 'sandbox')
}
app.use('/stored', express.static(directory, { setHeaders, index: false }))
app.use(uploadErrorHandler())

const server = app.listen(Number(port), '127.0.0.1', (error?: Error) => {
  if (error) {
    console.error(error.message)
    process.exit(1)
  }
  process.send?.({ port: (server.address() as AddressInfo).port })
})
// A whole file in one request may take long; the handlers watch for silence themselves.
server.requestTimeout = 0

/** Lets requests under way end, but nobody waits for long. */
async function stop(): Promise<void> {
  server.close()
  server.closeIdleConnections()
  await chunkedUpload.close({ timeout: 1_000 })
  server.closeAllConnections()
  process.exit(0)
}

process.on('message', () => void stop())
process.on('SIGTERM', () => void stop())
// Ctrl+C reaches every process of the terminal; the demo decides when this one ends.
for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => {})
// The demo was killed: nobody else is left to clean up.
process.on('disconnect', () => {
  rmSync(folder, { recursive: true, force: true })
  process.exit(1)
})
