/**
 * Metrics for Prometheus at /metrics, and a span for every call of the engine, from what it tells by `diagnostics_channel`.
 *
 *   npm install express nexus-uploader prom-client @opentelemetry/api @opentelemetry/sdk-trace-base tsx
 *   UPLOAD_DIR=./uploads PORT=3000 npx tsx metrics.ts
 */
import { subscribe, tracingChannel } from 'node:diagnostics_channel'
import { type Span, SpanStatusCode, type Tracer } from '@opentelemetry/api'
import { BasicTracerProvider, ConsoleSpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import express from 'express'
import {
  createChunkedUploadMiddleware,
  LocalStorageAdapter,
  type TracedCall,
  type UploadEvents,
  uploadErrorHandler,
} from 'nexus-uploader'
import { Counter, Histogram, Registry } from 'prom-client'

const { UPLOAD_DIR = './uploads', PORT = '3000' } = process.env
const verbs = ['create', 'compose', 'writeChunk', 'append', 'retrieveOffset', 'complete', 'abort', 'sweep']

/** Counts what all engines of this process do. */
function countUploads(registry: Registry): void {
  const registers = [registry]
  const uploads = new Counter({
    name: 'uploads_total',
    help: 'Uploads by what became of them',
    labelNames: ['event'],
    registers,
  })
  const bytes = new Counter({ name: 'upload_bytes_total', help: 'Bytes that were stored', registers })
  const chunks = new Counter({
    name: 'upload_chunks_total',
    help: 'Chunks that were stored or came again',
    labelNames: ['duplicate'],
    registers,
  })
  const errors = new Counter({
    name: 'upload_storage_errors_total',
    help: 'Calls of the storage that failed and are repeated',
    labelNames: ['operation'],
    registers,
  })
  const seconds = new Histogram({
    name: 'upload_call_seconds',
    help: 'How long the calls of the engine take, with the body that comes in meanwhile',
    labelNames: ['verb', 'outcome'],
    buckets: [0.005, 0.02, 0.1, 0.5, 2, 10, 60],
    registers,
  })
  const on = <Name extends keyof UploadEvents>(name: Name, listener: (event: UploadEvents[Name][0]) => void) =>
    subscribe(`nexus-uploader:${name}`, (event) => listener(event as UploadEvents[Name][0]))

  for (const event of ['created', 'completed', 'aborted', 'expired'] as const) on(event, () => uploads.inc({ event }))
  on('chunk', ({ size, duplicate }) => {
    chunks.inc({ duplicate: String(duplicate) })
    if (!duplicate) bytes.inc(size)
  })
  on('appended', ({ size }) => bytes.inc(size))
  on('storageError', ({ operation }) => errors.inc({ operation }))
  for (const verb of verbs) {
    const started = new WeakMap<object, () => void>()
    tracingChannel<unknown, TracedCall>(`nexus-uploader.${verb}`).subscribe({
      start: (call) => {
        const end = seconds.startTimer({ verb })
        started.set(call, () => end({ outcome: (call as { error?: unknown }).error ? 'error' : 'ok' }))
      },
      asyncEnd: (call) => started.get(call)?.(),
      end: () => {},
      asyncStart: () => {},
      error: () => {},
    })
  }
}

/** A span for every call, below the one that is active: that of the HTTP request, if that is traced too. */
function traceUploads(tracer: Tracer): void {
  for (const verb of verbs) {
    const spans = new WeakMap<object, Span>()
    tracingChannel<unknown, TracedCall>(`nexus-uploader.${verb}`).subscribe({
      start: (call) => {
        const { uploadId = '', protocol = '' } = call
        spans.set(call, tracer.startSpan(`upload ${verb}`, { attributes: { uploadId, protocol } }))
      },
      // The message is made for clients: it tells nothing of the inside.
      error: (call) => {
        spans.get(call)?.setStatus({ code: SpanStatusCode.ERROR, message: (call.error as Error).message })
      },
      asyncEnd: (call) => spans.get(call)?.end(),
      end: () => {},
      asyncStart: () => {},
    })
  }
}

const registry = new Registry()
countUploads(registry)
const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(new ConsoleSpanExporter())] })
traceUploads(provider.getTracer('uploads'))

const storage = new LocalStorageAdapter({ directory: UPLOAD_DIR, baseUrl: '/files' })
const uploads = createChunkedUploadMiddleware(storage)
const app = express()
app.use(express.json())
app.post('/upload/init', uploads.init)
app.post('/upload/chunk', uploads.uploadChunk)
app.post('/upload/complete', uploads.complete)
app.get('/upload/progress/:uploadId', uploads.getProgress)
// For the collector only: keep it off the public address.
app.get('/metrics', async (_request, response) => {
  response.type(registry.contentType).send(await registry.metrics())
})
app.use(uploadErrorHandler())

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error
  const address = server.address()
  console.log(`listening on http://127.0.0.1:${typeof address === 'object' ? address?.port : PORT}`)
})
