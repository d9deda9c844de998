/** This package, from its sources, mounted as documented. */
import { join } from 'node:path'
import express, { type RequestHandler } from 'express'
import { Redis } from 'ioredis'
import {
  type ChunkedUploadConfig,
  createChunkedUploadMiddleware,
  createUploadEngine,
  LocalStorageAdapter,
  S3StorageAdapter,
  type StorageAdapter,
  uploadErrorHandler,
} from '../src/index.ts'
import { RedisSessionStore } from '../src/redis.ts'
import { tusHandler } from '../src/tus.ts'
import { type ServerSettings, secretOfRedis } from './messages.ts'
import type { Running } from './peer-servers.ts'

function storageOf({ directory, s3 }: ServerSettings): StorageAdapter {
  return s3 ? new S3StorageAdapter(s3) : new LocalStorageAdapter({ directory: join(directory, 'files') })
}

/** `tempDir` is where a test can find it. */
function configOf({ directory, expiry, bodyIdleTimeout }: ServerSettings): ChunkedUploadConfig {
  return {
    tempDir: join(directory, 'temp'),
    ...(expiry !== undefined && { sessionTtl: expiry, completedTtl: expiry }),
    ...(bodyIdleTimeout !== undefined && { bodyIdleTimeout }),
  }
}

function redisStore(): RedisSessionStore {
  const client = new Redis({ host: '127.0.0.1', password: secretOfRedis, lazyConnect: true })
  client.disconnect()
  return new RedisSessionStore(client)
}

export async function ourTus(settings: ServerSettings): Promise<Running> {
  const storage = storageOf(settings)
  const engine = createUploadEngine({ ...configOf(settings), storage })
  const app = express().use('/files', tusHandler(engine) as RequestHandler)
  return {
    listener: app,
    cleanup: () => engine.sweep(),
    close: () => engine.close({ timeout: 1000 }),
    objects: [engine, storage, redisStore()],
  }
}

export async function ourRoutes(settings: ServerSettings): Promise<Running> {
  const storage = storageOf(settings)
  const uploads = createChunkedUploadMiddleware(storage, configOf(settings))
  const app = express()
  app.use(express.json())
  app.post('/upload/init', uploads.init)
  app.post('/upload/chunk', uploads.uploadChunk)
  app.post('/upload/complete', uploads.complete)
  app.get('/upload/progress/:uploadId', uploads.getProgress)
  app.delete('/upload/:uploadId', uploads.abort)
  app.use(uploadErrorHandler())
  return {
    listener: app,
    cleanup: () => uploads.engine.sweep(),
    close: () => uploads.close({ timeout: 1000 }),
    objects: [uploads, storage],
  }
}
