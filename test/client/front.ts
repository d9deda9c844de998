/** Stands between the client and the server: counts, answers by itself, cuts, and loses answers. */
import { createServer, request as httpRequest, type IncomingHttpHeaders, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Transform } from 'node:stream'
import { afterEach } from 'vitest'

export type Route = 'init' | 'chunk' | 'complete' | 'progress' | 'abort' | 'other'

export interface Exchange {
  readonly route: Route
  readonly url: URL
  readonly headers: IncomingHttpHeaders
  /** How many came on this route before. */
  readonly before: number
  readonly at: number
  /** Bytes of its body that came in so far. */
  bytes: number
  status: number
}

/**
 * An answer of the front's own; `cut`: the connection is destroyed; `lose`: the server's answer is; `hang`: there is none;
 * `slow`: the body is read a little at a time.
 */
export type Intervention =
  | { status: number; headers?: Record<string, string>; body?: unknown }
  | 'cut'
  | 'lose'
  | 'hang'
  | 'slow'
  | undefined

export interface FrontOptions {
  /** Asked once the head of a request is there. */
  intervene?: (exchange: Exchange) => Intervention | Promise<Intervention>
}

export interface Front {
  /** Where `/upload` is. */
  readonly endpoint: string
  readonly exchanges: Exchange[]
  /** Most chunks that were under way at a time. */
  readonly mostChunks: number
  /** Bytes of chunks that came in. */
  readonly chunkBytes: number
  count(route: Route): number
  to(url: string): void
  close(): Promise<void>
}

const running: Front[] = []

afterEach(async () => {
  for (const front of running.splice(0)) await front.close()
})

export async function front(target: string, { intervene = () => undefined }: FrontOptions = {}): Promise<Front> {
  const exchanges: Exchange[] = []
  let url = target
  let chunks = 0
  let mostChunks = 0
  const server = createServer(async (request, response) => {
    const at = new URL(request.url ?? '/', 'http://front')
    const route = routeOf(request.method ?? '', at.pathname)
    const before = exchanges.filter((other) => other.route === route).length
    const { headers } = request
    const exchange: Exchange = { route, url: at, headers, before, at: performance.now(), bytes: 0, status: 0 }
    exchanges.push(exchange)
    if (route === 'chunk') {
      chunks += 1
      mostChunks = Math.max(mostChunks, chunks)
      response.on('close', () => {
        chunks -= 1
      })
    }
    request.on('error', () => {})
    const intervention = await intervene(exchange)
    if (intervention === 'cut') return void request.socket.destroy()
    request.on('data', (data: Buffer) => {
      exchange.bytes += data.length
    })
    if (intervention === 'hang') return
    if (typeof intervention === 'object') {
      request.on('end', () => {
        exchange.status = intervention.status
        const json = typeof intervention.body === 'object'
        const type = json ? 'application/json' : 'text/html'
        response.writeHead(intervention.status, { 'Content-Type': type, ...intervention.headers })
        response.end(json ? JSON.stringify(intervention.body) : intervention.body)
      })
      return
    }
    const upstream = httpRequest(new URL(request.url ?? '/', url), { method: request.method, headers }, (answer) => {
      exchange.status = answer.statusCode ?? 0
      if (intervention === 'lose') return void request.socket.destroy()
      response.writeHead(exchange.status, answer.headers)
      answer.pipe(response)
      answer.on('error', () => request.socket.destroy())
    })
    upstream.on('error', () => request.socket.destroy())
    response.on('close', () => upstream.destroy())
    if (intervention === 'slow') request.pipe(reluctant()).pipe(upstream)
    else request.pipe(upstream)
  })
  const port = await listen(server)
  const result: Front = {
    endpoint: `http://127.0.0.1:${port}/upload`,
    exchanges,
    get mostChunks() {
      return mostChunks
    },
    get chunkBytes() {
      return exchanges.filter(({ route }) => route === 'chunk').reduce((sum, { bytes }) => sum + bytes, 0)
    },
    count: (route) => exchanges.filter((exchange) => exchange.route === route).length,
    to(target) {
      url = target
    },
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await closed
    },
  }
  running.push(result)
  return result
}

/** Lets 64 KiB through every 6 ms. */
function reluctant(): Transform {
  return new Transform({
    highWaterMark: 64 * 1024,
    transform(piece, _encoding, done) {
      setTimeout(done, 6 * Math.ceil(piece.length / (64 * 1024)), null, piece)
    },
  })
}

function routeOf(method: string, path: string): Route {
  const [, , name] = path.split('/')
  if (method === 'DELETE') return 'abort'
  return name === 'init' || name === 'chunk' || name === 'complete' || name === 'progress' ? name : 'other'
}

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return (server.address() as AddressInfo).port
}
