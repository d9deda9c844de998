/**
 * Serves the page, and everything else over the line to the upload server. It stays when that one is killed: the page
 * needs somebody to tell it what is going on.
 */
import { readFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Asset, bundlePage } from './bundle.ts'
import { Line } from './line.ts'
import type { Status } from './page/status.ts'
import type { ServerProcess } from './server-process.ts'
import { sha256Of } from './source-file.ts'

const cutDuration = 3_000
/** How long the server stays dead after a kill, ms. */
const restartDelay = 2_000
/** How long a checksum waits for a server that is not there, ms. */
const checkTimeout = 60_000
const defaultPort = 3000
/** Bytes per second; on a machine's own network even big files would be over before anything could be tried. */
const startSpeed = 5_000_000

const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "worker-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data: blob:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

export class PageServer {
  readonly #server: Server
  readonly #uploads: ServerProcess
  readonly #line: Line
  readonly #assets: Map<string, Asset>
  readonly #readers = new Set<ServerResponse>()
  #isUp = true
  #broken = 0

  private constructor(uploads: ServerProcess, assets: Map<string, Asset>) {
    this.#uploads = uploads
    this.#line = new Line(() => new URL(uploads.origin))
    this.#line.speed = startSpeed
    this.#assets = assets
    this.#server = createServer((request, response) => this.#serve(request, response))
    // An upload may take longer than Node allows a request by default.
    this.#server.requestTimeout = 0
  }

  /** @param port 0: the usual one when it is free, else any */
  static async start(uploads: ServerProcess, port: number): Promise<PageServer> {
    const assets = await bundlePage()
    const html = await readFile(new URL('page/index.html', import.meta.url))
    assets.set('/', { body: html, type: 'text/html; charset=utf-8' })
    const server = new PageServer(uploads, assets)
    await listen(server.#server, port)
    return server
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`
  }

  /** Starts the upload server again whenever it has ended. Rejects when `signal` aborts, or when it does not start. */
  async supervise(signal: AbortSignal): Promise<never> {
    for (;;) {
      await this.#uploads.ended(signal)
      this.#isUp = false
      this.#tell()
      await sleep(restartDelay, undefined, { signal })
      await this.#uploads.start(signal)
      this.#isUp = true
      this.#tell()
    }
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve))
    this.#server.closeAllConnections()
    await closed
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://page')
    const asset = this.#assets.get(pathname)
    if (asset && request.method === 'GET') sendAsset(response, asset)
    else if (pathname.startsWith('/demo/')) this.#control(request, response, pathname, searchParams)
    else this.#line.forward(request, response)
  }

  #control(request: IncomingMessage, response: ServerResponse, path: string, query: URLSearchParams): void {
    if (!isFromPage(request)) response.writeHead(403).end()
    else if (request.method === 'GET' && path === '/demo/events') this.#read(response)
    else if (request.method === 'GET' && path === '/demo/sha256') void this.#check(response, query.get('url') ?? '')
    else if (request.method !== 'POST') response.writeHead(404).end()
    else if (path === '/demo/cut') this.#cut(response)
    else if (path === '/demo/kill') this.#kill(response)
    else if (path === '/demo/speed') this.#setSpeed(response, Number(query.get('bytes')))
    else response.writeHead(404).end()
  }

  #read(response: ServerResponse): void {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' })
    this.#readers.add(response)
    response.on('close', () => this.#readers.delete(response))
    response.write(this.#statusEvent())
  }

  #cut(response: ServerResponse): void {
    this.#broken = this.#line.cut(cutDuration)
    this.#tell()
    setTimeout(() => this.#tell(), cutDuration + 1).unref()
    response.writeHead(204).end()
  }

  #kill(response: ServerResponse): void {
    if (this.#isUp) {
      this.#broken = this.#line.underWay
      this.#isUp = false
      void this.#uploads.kill()
      this.#tell()
    }
    response.writeHead(204).end()
  }

  #setSpeed(response: ServerResponse, bytes: number): void {
    this.#line.speed = bytes > 0 ? bytes : Number.POSITIVE_INFINITY
    this.#tell()
    response.writeHead(204).end()
  }

  /** Of the stored file, fetched as anybody would: a file that cannot be downloaded is not identical to anything. */
  async #check(response: ServerResponse, url: string): Promise<void> {
    const gone = new AbortController()
    response.on('close', () => gone.abort())
    const path = URL.canParse(url, this.url) ? new URL(url, this.url).pathname : ''
    if (!path.startsWith('/stored/')) {
      response.writeHead(400).end()
      return
    }
    try {
      const file = await this.#fetchStored(path, AbortSignal.any([gone.signal, AbortSignal.timeout(checkTimeout)]))
      const checked = file.ok && file.body ? await sha256Of(file.body) : null
      response.writeHead(checked ? 200 : 404, { 'Content-Type': 'application/json' }).end(JSON.stringify(checked))
    } catch {
      response.writeHead(502).end()
    }
  }

  async #fetchStored(path: string, signal: AbortSignal): Promise<Response> {
    for (;;) {
      try {
        return await fetch(new URL(path, this.#uploads.origin), { signal })
      } catch (error) {
        // The server may be dead just now.
        if (signal.aborted) throw error
        await sleep(250, undefined, { signal })
      }
    }
  }

  #tell(): void {
    for (const reader of this.#readers) reader.write(this.#statusEvent())
  }

  #statusEvent(): string {
    const status: Status = {
      network: this.#line.isCut ? 'cut' : 'up',
      speed: Number.isFinite(this.#line.speed) ? this.#line.speed : null,
      serverPid: (this.#isUp && this.#uploads.pid) || null,
      broken: this.#broken,
    }
    return `data: ${JSON.stringify(status)}\n\n`
  }
}

async function listen(server: Server, port: number): Promise<void> {
  const attempt = (number: number) =>
    new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(number, '127.0.0.1', () => {
        server.off('error', reject)
        resolve()
      })
    })
  if (port !== 0) return attempt(port)
  // Taken, as this port often is: then any other one will do.
  await attempt(defaultPort).catch(() => attempt(0))
}

/** Other web pages that are open in the same browser have no business here. */
function isFromPage({ headers }: IncomingMessage): boolean {
  return headers.origin === undefined || headers.origin === `http://${headers.host}`
}

function sendAsset(response: ServerResponse, { body, type }: Asset): void {
  response.writeHead(200, {
    'Content-Type': type,
    'Content-Security-Policy': policy,
    'X-Content-Type-Options': 'nosniff',
    'Cache-Control': 'no-cache',
  })
  response.end(body)
}
