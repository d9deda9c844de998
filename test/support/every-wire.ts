/** One app with every protocol on one engine, and what must hold after it was attacked. */
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { join } from 'node:path'
import fs from 'fs-extra'
import { afterEach, expect } from 'vitest'
import { ietfHandler } from '../../src/ietf.ts'
import type { CorsOptions } from '../../src/protocols/cors.ts'
import {
  type ChunkedUploadConfig,
  createChunkedUploadMiddleware,
  uploadErrorHandler,
} from '../../src/protocols/native/create-chunked-upload-middleware.ts'
import type { ResourceOptions } from '../../src/protocols/resource.ts'
import { resumableJsHandler } from '../../src/resumablejs.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { tusHandler } from '../../src/tus.ts'
import type { StorageAdapter, UploadEngine } from '../../src/types.ts'
import { uppyS3Handler } from '../../src/uppy.ts'
import { epilogue, openFiles } from './epilogue.ts'
import { ietfClient } from './ietf-client.ts'
import { nativeClient } from './native-client.ts'
import { resumableClient } from './resumable-client.ts'
import { express } from './server.ts'
import { makeFolder } from './temp-folder.ts'
import { tusClient } from './tus-client.ts'
import { uppyClient } from './uppy-client.ts'

export interface EveryWire {
  readonly url: string
  readonly port: number
  readonly server: Server
  readonly engine: UploadEngine
  readonly tempDir: string
  readonly directory: string
  /** How many uploads were begun. */
  created(): number
  /** Of whoever the header `X-User` names. */
  as(user?: string): ReturnType<typeof clientsOf>
}

interface Options extends ChunkedUploadConfig {
  storage?: StorageAdapter
  cors?: CorsOptions | false
  resource?: ResourceOptions
  prepare?: (app: ReturnType<typeof express>) => void
  /** Whether a clean upload is to work at the end. Default true. */
  ends?: boolean
}

interface Running {
  readonly wire: EveryWire
  readonly ends: boolean
  readonly filesBefore: number
  close(): Promise<void>
}

const running: Running[] = []
const unhandled: unknown[] = []
process.on('unhandledRejection', (reason) => unhandled.push(reason))
process.on('uncaughtExceptionMonitor', (error) => unhandled.push(error))

/** The epilogue: whatever was sent, a clean upload works, and nobody's promise was left to itself. */
afterEach(async () => {
  for (const { wire, ends, filesBefore, close } of running.splice(0)) {
    const { url, tempDir, directory } = wire
    const filesBeforeEnd = process.platform === 'linux' ? { filesBefore } : {}
    const read = (key: string) => fs.readFile(join(directory, key))
    try {
      if (ends) await epilogue({ url, tempDir, read, ...filesBeforeEnd })
    } finally {
      await close()
    }
  }
  expect(unhandled.splice(0)).toEqual([])
  expect(Object.keys(Object.prototype)).toEqual([])
})

export const ownerIn = ({ headers }: IncomingMessage) => (headers['x-user'] as string | undefined) ?? null

function clientsOf(url: string, user: string | undefined) {
  const headers: Record<string, string> = user === undefined ? {} : { 'X-User': user }
  return {
    headers,
    native: nativeClient(url, headers),
    tus: tusClient(`${url}/tus`),
    ietf: ietfClient(`${url}/ietf`, 9),
    resumable: resumableClient(`${url}/resumable`),
    uppy: uppyClient(`${url}/companion`, headers),
  }
}

/** The documented routes, `/tus`, `/ietf`, `/files` (both), `/resumable` and `/companion`, on a free port of 127.0.0.1. */
export async function everyWire(options: Options = {}): Promise<EveryWire> {
  const { storage, cors, resource, prepare, ends = true, owner = ownerIn, ...config } = options
  const filesBefore = process.platform === 'linux' ? openFiles() : 0
  const [temp, stored] = [makeFolder(), makeFolder()]
  const tempDir = config.tempDir ?? temp.path
  const middleware = createChunkedUploadMiddleware(
    storage ?? new LocalStorageAdapter({ directory: stored.path, baseUrl: 'https://cdn.example.com' }),
    { ...config, owner, tempDir },
  )
  const { engine } = middleware
  let created = 0
  engine.events.on('created', () => created++)
  const shared = { owner, ...(cors !== undefined && { cors }) }
  const app = express()
  prepare?.(app)
  app.use('/tus', tusHandler(engine, { ...shared, ...resource }) as never)
  app.use('/ietf', ietfHandler(engine, { ...shared, ...resource }) as never)
  app.use('/files', ietfHandler(engine, { ...shared, ...resource, others: tusHandler(engine, shared) }) as never)
  app.use('/resumable', resumableJsHandler(engine, shared) as never)
  app.use('/companion', uppyS3Handler(engine, shared) as never)
  app.post('/upload/init', middleware.init)
  app.post('/upload/chunk', middleware.uploadChunk)
  app.post('/upload/complete', middleware.complete)
  app.get('/upload/progress/:uploadId', middleware.getProgress)
  app.delete('/upload/:uploadId', middleware.abort)
  app.post('/upload', middleware.upload)
  app.use(uploadErrorHandler())
  const server = createServer(app)
  server.requestTimeout = 0
  const sockets = new Set<Socket>()
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}`
  const as = (user?: string) => clientsOf(url, user)
  const wire = { url, port, server, engine, tempDir, directory: stored.path, created: () => created, as }
  const close = async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
    await middleware.close({ timeout: 1000 })
    await Promise.all([temp.remove(), stored.remove()])
  }
  running.push({ wire, ends, filesBefore, close })
  return wire
}

/** What no answer to a client may hold, whatever happened. */
export function expectNothingInside(text: string, name?: string): void {
  expect(text, name).not.toMatch(/\/tmp\/|node_modules|\.[cm]?[jt]s:\d| {4}at |nexus-test-|\[object Object\]/)
}
