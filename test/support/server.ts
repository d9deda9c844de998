import { createServer, type Server } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo, Socket } from 'node:net'
import express5 from 'express'
import { afterEach } from 'vitest'
import {
  type ChunkedUploadConfig,
  type ChunkedUploadMiddleware,
  createChunkedUploadMiddleware,
  uploadErrorHandler,
} from '../../src/protocols/native/create-chunked-upload-middleware.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import type { StorageAdapter } from '../../src/types.ts'
import { tempFolder } from './temp-folder.ts'

/** `EXPRESS=4` runs the tests on Express 4. */
export const express: typeof express5 =
  process.env.EXPRESS === '4' ? createRequire(import.meta.url)('express4') : express5

export interface TestServer {
  readonly url: string
  readonly port: number
  readonly server: Server
  readonly middleware: ChunkedUploadMiddleware
  readonly tempDir: string
  /** Errors that reached the app's error handler. */
  readonly errors: unknown[]
  close(): Promise<void>
}

interface ServerOptions extends ChunkedUploadConfig {
  storage?: StorageAdapter
  /** Whether `express.json()` is mounted, as in the documented example. Default true. */
  json?: boolean
  /** Whether `uploadErrorHandler()` is mounted. Default true. */
  errorHandler?: boolean
}

const running: TestServer[] = []

afterEach(async () => {
  for (const server of running.splice(0)) await server.close()
})

/** The documented example on a free port of 127.0.0.1; stopped after the test. */
export async function testServer(options: ServerOptions = {}): Promise<TestServer> {
  const { storage, json = true, errorHandler = true, ...config } = options
  const tempDir = config.tempDir ?? tempFolder()
  const middleware = createChunkedUploadMiddleware(storage ?? new LocalStorageAdapter({ directory: tempFolder() }), {
    ...config,
    tempDir,
  })
  const errors: unknown[] = []
  const app = express()
  // Express' own error handler would print every expected error of a test.
  app.set('env', 'development')
  if (json) app.use(express.json())
  app.post('/upload/init', middleware.init)
  app.post('/upload/chunk', middleware.uploadChunk)
  app.post('/upload/complete', middleware.complete)
  app.get('/upload/progress/:uploadId', middleware.getProgress)
  app.delete('/upload/:uploadId', middleware.abort)
  app.post('/upload', middleware.upload)
  app.use((error: unknown, _request: express5.Request, _response: express5.Response, next: express5.NextFunction) => {
    errors.push(error)
    next(error)
  })
  if (errorHandler) app.use(uploadErrorHandler())
  const server = createServer(app)
  const sockets = new Set<Socket>()
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const result: TestServer = {
    url: `http://127.0.0.1:${port}`,
    port,
    server,
    middleware,
    tempDir,
    errors,
    async close() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
      await middleware.close({ timeout: 1000 })
    },
  }
  running.push(result)
  return result
}
