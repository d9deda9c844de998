import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { afterEach } from 'vitest'
import { createUploadEngine, type UploadEngineOptions } from '../../src/create-upload-engine.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import type { StorageAdapter, UploadEngine } from '../../src/types.ts'
import { express } from './server.ts'
import { tempFolder } from './temp-folder.ts'

/** `(request, response)` on a bare server, with `next` below Express. */
export type ProtocolHandler = (
  request: IncomingMessage,
  response: ServerResponse,
  next?: (error?: unknown) => void,
) => void

export interface ProtocolServer {
  /** Of the mount point: `http://127.0.0.1:<port>/files`. */
  readonly url: string
  readonly port: number
  readonly server: Server
  readonly engine: UploadEngine
  readonly tempDir: string
  /** Of the default storage. */
  readonly directory: string
  /** Events `warning` of the engine, by code. */
  readonly warnings: string[]
  close(): Promise<void>
}

interface Options extends Partial<UploadEngineOptions> {
  storage?: StorageAdapter
  /** `express` (default) mounts at `/files`; `bare` is a plain `node:http` server. */
  on?: 'express' | 'bare'
  /** Before the handler: settings, body parsers. */
  prepare?: (app: ReturnType<typeof express>) => void
}

const running: ProtocolServer[] = []

afterEach(async () => {
  for (const server of running.splice(0)) await server.close()
})

/** A server with one protocol at `/files` on a free port of 127.0.0.1; stopped after the test. */
export async function protocolServer(
  handlerOf: (engine: UploadEngine) => ProtocolHandler,
  { on = 'express', prepare, ...options }: Options = {},
): Promise<ProtocolServer> {
  const tempDir = options.tempDir ?? tempFolder()
  const directory = tempFolder()
  const engine = createUploadEngine({
    ...options,
    storage: options.storage ?? new LocalStorageAdapter({ directory, baseUrl: 'https://cdn.example.com' }),
    tempDir,
  })
  const warnings: string[] = []
  engine.events.on('warning', ({ code }) => warnings.push(code))
  const handler = handlerOf(engine)
  const app = express()
  prepare?.(app)
  app.use('/files', handler as never)
  const server = createServer(on === 'bare' ? (request, response) => handler(request, response) : app)
  // Node would cut long requests; tests of exactly that set it back.
  server.requestTimeout = 0
  const sockets = new Set<Socket>()
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  let closed: Promise<void> | null = null
  const close = async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
    await engine.close({ timeout: 1000 })
  }
  const result: ProtocolServer = {
    url: `http://127.0.0.1:${port}/files`,
    port,
    server,
    engine,
    tempDir,
    directory,
    warnings,
    close: () => {
      closed ??= close()
      return closed
    },
  }
  running.push(result)
  return result
}
