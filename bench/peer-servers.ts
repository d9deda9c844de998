/** What others take today, on the same Express, each as its documentation shows it. */
import { randomUUID } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import type { RequestListener } from 'node:http'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import express, { type RequestHandler } from 'express'
import multer, { type StorageEngine } from 'multer'
import { accessKeyId, createS3Client, partSize, region, secretAccessKey } from './bench-s3.ts'
import { bucket } from './messages.ts'

/** From `bench/node_modules`. Not a literal: the bench is type-checked without the peers. */
function peer<Entry>(name: string): Promise<Entry> {
  return import(name)
}

/** What the usual guide shows: multer keeps every chunk as a file, `complete` joins them in order. */
export function multerAndConcatenation(directory: string): RequestListener {
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
  return quiet(app)
}

/** Knows no chunks: a file is one form. */
export async function multerS3(_directory: string, endpoint: string): Promise<RequestListener> {
  const { default: storageOf } = await peer<{ default: (options: object) => StorageEngine }>('multer-s3')
  const { client } = await createS3Client(endpoint)
  const receive = multer({ storage: storageOf({ s3: client, bucket }) })
  const app = express()
  app.post('/upload', receive.single('file'), (request, response) => {
    const { key } = request.file as unknown as { key: string }
    response.json({ url: `/${bucket}/${key}` })
  })
  return quiet(app)
}

interface Uploadx {
  readonly uploadx: (options: {
    uploadDir: string
    maxFileSize: string
    useRelativeLocation: boolean
  }) => RequestHandler
}

export async function uploadx(directory: string): Promise<RequestListener> {
  const { uploadx } = await peer<Uploadx>('@uploadx/core')
  const options = { uploadDir: directory, maxFileSize: '1TB', useRelativeLocation: true }
  return quiet(express().use('/files', uploadx(options)))
}

interface Stores {
  readonly FileStore: new (options: { directory: string }) => object
  readonly S3Store: new (options: { partSize: number; s3ClientConfig: object }) => object
}

interface TusServer {
  readonly Server: new (options: {
    path: string
    datastore: object
  }) => {
    handle(...exchange: Parameters<RequestListener>): Promise<unknown>
  }
}

export async function tusServer(directory: string): Promise<RequestListener> {
  const { FileStore } = await peer<Stores>('@tus/file-store')
  return tusOn(new FileStore({ directory }))
}

export async function tusServerOnS3(_directory: string, endpoint: string): Promise<RequestListener> {
  const { S3Store } = await peer<Stores>('@tus/s3-store')
  const credentials = { accessKeyId, secretAccessKey }
  // The SDK's default frames streams for checksums that nobody asked for, which Ceph refuses.
  const checksums = endpoint === process.env.S3_ENDPOINT && { requestChecksumCalculation: 'WHEN_REQUIRED' }
  const place = { bucket, endpoint, region, credentials, forcePathStyle: true, ...checksums }
  return tusOn(new S3Store({ partSize, s3ClientConfig: place }))
}

async function tusOn(datastore: object): Promise<RequestListener> {
  const { Server } = await peer<TusServer>('@tus/server')
  const server = new Server({ path: '/files', datastore })
  return express().use('/files', ((request, response) => void server.handle(request, response)) as RequestHandler)
}

/** Cut requests are part of a workload; Express would print the stack of each. */
function quiet(app: express.Express): RequestListener {
  return app.set('env', 'test')
}
