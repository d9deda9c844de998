/** The servers of others, each as its documentation shows it. */
import { randomUUID } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import type { RequestListener } from 'node:http'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import express, { type RequestHandler } from 'express'
import multer from 'multer'
import { type S3Access, type ServerSettings, secretOfRedis } from './messages.ts'

export interface Running {
  readonly listener: RequestListener
  /** Removes what has expired; not there when the server does that by a timer, or not at all. */
  readonly cleanup?: () => Promise<unknown>
  /** Whatever the documentation wants done after the HTTP server is closed. */
  readonly close?: () => Promise<unknown>
  /** What an application is likely to print or to log. */
  readonly objects: readonly unknown[]
}

/** From `bench/node_modules`. Not a literal: the scoreboard is type-checked without the peers. */
function peer<Entry>(name: string): Promise<Entry> {
  return import(new URL(`../bench/node_modules/${name}`, import.meta.url).href)
}

interface Stores {
  readonly FileStore: new (options: { directory: string; expirationPeriodInMilliseconds: number }) => object
  readonly S3Store: new (options: {
    partSize: number
    s3ClientConfig: object
    expirationPeriodInMilliseconds: number
  }) => object
}

interface TusServer {
  readonly Server: new (options: {
    path: string
    datastore: object
  }) => {
    handle(...exchange: Parameters<RequestListener>): Promise<unknown>
    cleanUpExpiredUploads(): Promise<unknown>
  }
}

export async function tusServer({ directory, s3, expiry = 0 }: ServerSettings): Promise<Running> {
  const { Server } = await peer<TusServer>('@tus/server/dist/index.js')
  const datastore = await (s3 ? s3Store(s3, expiry) : fileStore(directory, expiry))
  const server = new Server({ path: '/files', datastore })
  const app = quiet().use('/files', server.handle.bind(server) as unknown as RequestHandler)
  return { listener: app, cleanup: () => server.cleanUpExpiredUploads(), objects: [server, datastore] }
}

async function fileStore(directory: string, expiry: number): Promise<object> {
  const { FileStore } = await peer<Stores>('@tus/file-store/dist/index.js')
  return new FileStore({ directory, expirationPeriodInMilliseconds: expiry })
}

async function s3Store(s3: S3Access, expiry: number): Promise<object> {
  const { S3Store } = await peer<Stores>('@tus/s3-store/dist/index.js')
  const { accessKeyId, secretAccessKey, ...place } = s3
  const s3ClientConfig = {
    ...{ ...place, credentials: { accessKeyId, secretAccessKey }, forcePathStyle: true },
    // The double is strict about checksums of parts that were not announced; many servers are.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  }
  return new S3Store({ partSize: 8 * 1024 * 1024, s3ClientConfig, expirationPeriodInMilliseconds: expiry })
}

interface Uploadx {
  readonly DiskStorage: new (options: object) => { readonly isReady: boolean; purge(): Promise<unknown> }
  readonly tus: (options: object) => RequestHandler
  readonly RedisMetaStorage: new (options: object) => { client: { disconnect(): void } }
}

export async function uploadx({ directory, expiry }: ServerSettings): Promise<Running> {
  const library = await peer<Uploadx>('@uploadx/core/lib/index.js')
  const storage = new library.DiskStorage({
    ...{ uploadDir: directory, maxFileSize: '10GB' },
    ...(expiry !== undefined && { expiration: { maxAge: expiry, rolling: true } }),
  })
  const app = quiet().use('/files', library.tus({ storage }))
  // It answers 503 until it has looked at its folder.
  while (!storage.isReady) await sleep(10)
  const redis = new library.RedisMetaStorage({ host: '127.0.0.1', password: secretOfRedis, lazyConnect: true })
  redis.client.disconnect()
  return { listener: app, cleanup: () => storage.purge(), objects: [storage, redis] }
}

/**
 * What the usual guide shows for the four routes: multer keeps every chunk as a file, `complete` joins them in order. Progress
 * is what lies in the folder, so that it outlives a restart.
 */
export async function multerAndConcatenation({ directory }: ServerSettings): Promise<Running> {
  const chunkFolder = (uploadId: string) => join(directory, 'chunks', uploadId)
  const chunksOf = async (uploadId: string) =>
    (await readdir(chunkFolder(uploadId))).sort((left, right) => Number(left) - Number(right))
  const totals = new Map<string, number>()
  const receive = multer({ dest: join(directory, 'incoming') })
  await mkdir(join(directory, 'files'), { recursive: true })
  const app = quiet().use(express.json())
  app.post('/upload/init', async (request, response) => {
    const uploadId = randomUUID()
    const { totalSize } = request.body as { totalSize: number }
    totals.set(uploadId, totalSize)
    await mkdir(chunkFolder(uploadId), { recursive: true })
    response.json({ uploadId })
  })
  app.post('/upload/chunk', receive.single('chunk'), async (request, response) => {
    const { uploadId, chunkIndex } = request.body as { uploadId: string; chunkIndex: string }
    await rename(request.file?.path ?? '', join(chunkFolder(uploadId), chunkIndex))
    response.json({ success: true })
  })
  app.post('/upload/complete', async (request, response) => {
    const { uploadId } = request.body as { uploadId: string }
    const target = join(directory, 'files', uploadId)
    for (const name of await chunksOf(uploadId)) {
      await pipeline(createReadStream(join(chunkFolder(uploadId), name)), createWriteStream(target, { flags: 'a' }))
    }
    await rm(chunkFolder(uploadId), { recursive: true })
    response.json({ url: `/${uploadId}` })
  })
  app.get('/upload/progress/:uploadId', async (request, response) => {
    const { uploadId } = request.params
    response.json({ uploadedChunks: (await chunksOf(uploadId)).length, totalSize: totals.get(uploadId) })
  })
  return { listener: app, objects: [receive] }
}

/** Without the stack of every expected error in the output. */
function quiet(): express.Express {
  return express().set('env', 'test')
}
