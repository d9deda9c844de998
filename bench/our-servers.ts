/** This package, built, mounted as documented. */
import type { RequestListener } from 'node:http'
import express, { type ErrorRequestHandler, type RequestHandler } from 'express'
import type { SessionRecord, SessionStore, StorageAdapter } from '../src/index.ts'
import { accessKeyId, partSize, region, secretAccessKey } from './bench-s3.ts'
import { built } from './built.ts'
import { bucket } from './messages.ts'

type Package = typeof import('../src/index.ts')
type Config = NonNullable<Parameters<Package['createChunkedUploadMiddleware']>[1]>

/** No limit of ours ends an upload of the bench. */
const limits = { maxChunkSize: 64 * 1024 * 1024, maxFileSize: 1024 ** 4, maxSessions: 1_000_000 }

export async function ours(directory: string): Promise<RequestListener> {
  return mounted(await localStorage(directory))
}

/** A chunk is answered when it would survive a power cut. */
export async function oursWithPower(directory: string): Promise<RequestListener> {
  return mounted(await localStorage(directory), { durability: 'power' })
}

export async function oursOnS3(_directory: string, endpoint: string): Promise<RequestListener> {
  return mounted(await s3Storage(endpoint))
}

export async function tus(directory: string): Promise<RequestListener> {
  return tusOn(await localStorage(directory))
}

export async function tusOnS3(_directory: string, endpoint: string): Promise<RequestListener> {
  return tusOn(await s3Storage(endpoint))
}

/**
 * Whose session store takes all chunks for received once the last one is: so a completion of 16 GiB can be measured
 * without sending them. The staged file is as large as it should be; what was not sent is a hole in it.
 */
export async function sparse(directory: string): Promise<RequestListener> {
  const { FileSessionStore } = await built<Package>('index')
  const store = new FileSessionStore({ directory: `${directory}/sessions` })
  const sessions: SessionStore = {
    shared: store.shared,
    create: (record) => store.create(record),
    get: (id) => store.get(id),
    replace: (next, version) => store.replace(withEarlierChunks(next), version),
    delete: (id) => store.delete(id),
    listExpired: (now) => store.listExpired(now),
    countOpen: (owner) => store.countOpen(owner),
  }
  return mounted(await localStorage(directory), { sessions })
}

function withEarlierChunks(record: SessionRecord): SessionRecord {
  if (record.kind !== 'upload' || record.chunkSize === null) return record
  const [last] = record.chunks
  if (!last || last.index === 0) return record
  const earlier = { index: 0, count: last.index, size: record.chunkSize, offset: 0, loose: 0 }
  return { ...record, chunks: [earlier, last] }
}

async function mounted(storage: StorageAdapter, config: Config = {}): Promise<RequestListener> {
  const { createChunkedUploadMiddleware, uploadErrorHandler } = await built<Package>('index')
  const chunked = createChunkedUploadMiddleware(storage, { ...limits, ...config })
  const app = express()
  app.use(express.json())
  app.post('/upload/init', chunked.init)
  app.post('/upload/chunk', chunked.uploadChunk)
  app.post('/upload/complete', chunked.complete)
  app.get('/upload/progress/:uploadId', chunked.getProgress)
  app.post('/upload', chunked.upload)
  app.use(uploadErrorHandler() as ErrorRequestHandler)
  return app
}

async function tusOn(storage: StorageAdapter): Promise<RequestListener> {
  const { createUploadEngine } = await built<Package>('index')
  const { tusHandler } = await built<typeof import('../src/tus.ts')>('tus')
  return express().use('/files', tusHandler(createUploadEngine({ storage, ...limits })) as RequestHandler)
}

async function localStorage(directory: string): Promise<StorageAdapter> {
  const { LocalStorageAdapter } = await built<Package>('index')
  return new LocalStorageAdapter({ directory })
}

async function s3Storage(endpoint: string): Promise<StorageAdapter> {
  const { S3StorageAdapter } = await built<Package>('index')
  return new S3StorageAdapter({ bucket, endpoint, region, accessKeyId, secretAccessKey, partSize })
}
