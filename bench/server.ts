/** One server under measurement, in a process of its own: `server.ts <kind> <directory> [S3]`. Tells its port by IPC. */
import { randomUUID } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import express from 'express'
import multer from 'multer'
import { built } from './built.ts'
import type { ServerKind, ServerMessage } from './messages.ts'
import { tusListeners } from './tus-servers.ts'

type Listener = (directory: string, endpoint: string) => RequestListener | Promise<RequestListener>

const listeners: Record<ServerKind, Listener> = {
  pipe: barePipe,
  multer: multerAndConcatenation,
  ours,
  ...tusListeners,
}

/** The least a server can do: the body of one request goes to one file. */
function barePipe(directory: string): RequestListener {
  return (request, response) => {
    const name = randomUUID()
    pipeline(request, createWriteStream(join(directory, name))).then(
      () => response.end(JSON.stringify({ url: `/${name}` })),
      () => response.destroy(),
    )
  }
}

/** What the usual guide shows: multer keeps every chunk as a file, `complete` joins them in order. */
function multerAndConcatenation(directory: string): RequestListener {
  const chunkFolder = (uploadId: string) => join(directory, 'chunks', uploadId)
  const receive = multer({ dest: join(directory, 'incoming') })
  const chunks = new Map<string, number>()
  const app = express()
  app.use(express.json())
  app.post('/upload/init', async (_request, response) => {
    const uploadId = randomUUID()
    chunks.set(uploadId, 0)
    await mkdir(chunkFolder(uploadId), { recursive: true })
    response.json({ uploadId })
  })
  app.post('/upload/chunk', receive.single('chunk'), async (request, response) => {
    const { uploadId, chunkIndex } = request.body as { uploadId: string; chunkIndex: string }
    await rename(request.file?.path ?? '', join(chunkFolder(uploadId), chunkIndex))
    chunks.set(uploadId, Math.max(chunks.get(uploadId) ?? 0, Number(chunkIndex) + 1))
    response.json({ success: true })
  })
  app.post('/upload/complete', async (request, response) => {
    const { uploadId } = request.body as { uploadId: string }
    const target = join(directory, uploadId)
    for (let index = 0; index < (chunks.get(uploadId) ?? 0); index++) {
      const chunk = createReadStream(join(chunkFolder(uploadId), String(index)))
      await pipeline(chunk, createWriteStream(target, { flags: 'a' }))
    }
    await rm(chunkFolder(uploadId), { recursive: true })
    response.json({ url: `/${uploadId}` })
  })
  return app
}

/** The built package, mounted as documented. */
async function ours(directory: string): Promise<RequestListener> {
  const { LocalStorageAdapter, createChunkedUploadMiddleware } = await built<typeof import('../src/index.ts')>('index')
  const chunked = createChunkedUploadMiddleware(new LocalStorageAdapter({ directory }), {
    maxChunkSize: 64 * 1024 * 1024,
    maxFileSize: 1024 ** 4,
  })
  const app = express()
  app.use(express.json())
  app.post('/upload/init', chunked.init)
  app.post('/upload/chunk', chunked.uploadChunk)
  app.post('/upload/complete', chunked.complete)
  app.get('/upload/progress/:uploadId', chunked.getProgress)
  return app
}

function tell(message: ServerMessage): void {
  process.send?.(message)
}

async function main(): Promise<void> {
  const [kind, directory, endpoint = ''] = process.argv.slice(2) as [ServerKind, string, string?]
  // What is staged in the system's temporary folder lies on the same disk, and is removed with the rest.
  process.env.TMPDIR = directory
  const server = createServer(await listeners[kind](directory, endpoint))
  server.requestTimeout = 0
  // An abandoned server must not outlive the bench.
  process.on('disconnect', () => process.exit(0))
  process.on('message', () => tell({ type: 'cpu', seconds: cpuSeconds() }))
  server.listen(0, '127.0.0.1', () => tell({ type: 'ready', port: (server.address() as AddressInfo).port }))
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

main().catch((error: Error) => {
  tell({ type: 'failed', reason: error.message })
  process.disconnect?.()
})
