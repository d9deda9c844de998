/**
 * The network between a browser and the upload server: passes requests on, at a speed that can be set, and can be cut.
 * Nothing of it is an answer: when the line is cut or nobody is behind it, the browser sees its connection break.
 */
import { request as httpRequest, type IncomingMessage, type RequestOptions, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Transform, type TransformCallback } from 'node:stream'

/** Headers that are about one connection only. */
const perConnection = new Set(['connection', 'keep-alive', 'transfer-encoding'])

/** One request on the line; its figures grow while it is under way. */
export interface Exchange {
  readonly method: string
  /** With the query. */
  readonly path: string
  readonly headers: IncomingMessage['headers']
  /** Bytes of the body that came from the browser, also when they went no further. */
  bytes: number
  /** 0 until it is answered, and for good when it broke off. */
  status: number
}

export class Line {
  /** Bytes per second from the browser, over all requests; `Infinity` for as fast as it goes. */
  speed = Number.POSITIVE_INFINITY
  readonly #target: () => URL
  readonly #watch: (exchange: Exchange) => void
  readonly #busy = new Set<Socket>()
  #mayGoOnAt = 0
  #cutUntil = 0

  /** @param watch is told of every request when it begins */
  constructor(target: () => URL, watch: (exchange: Exchange) => void = () => {}) {
    this.#target = target
    this.#watch = watch
  }

  /** Breaks every request under way, and all that come within `duration` ms. Returns how many were under way. */
  cut(duration: number): number {
    this.#cutUntil = performance.now() + duration
    const broken = this.#busy.size
    for (const socket of this.#busy) socket.resetAndDestroy()
    return broken
  }

  /** How many requests are on their way. */
  get underWay(): number {
    return this.#busy.size
  }

  get isCut(): boolean {
    return performance.now() < this.#cutUntil
  }

  forward(request: IncomingMessage, response: ServerResponse): void {
    const { socket, method = '', url: path = '', headers } = request
    const exchange: Exchange = { method, path, headers, bytes: 0, status: 0 }
    this.#watch(exchange)
    if (this.isCut) {
      socket.resetAndDestroy()
      return
    }
    const { hostname, port } = this.#target()
    const options: RequestOptions = { hostname, port, method, path, headers, agent: false }
    const upstream = httpRequest(options)
    const pacer = this.#pacer(exchange)
    // Nobody behind the line reads on, and the browser may still be sending: it must get rid of it to see the answer.
    const drain = () => {
      request.unpipe(pacer)
      request.resume()
    }
    this.#busy.add(socket)
    response.on('close', () => {
      this.#busy.delete(socket)
      drain()
      upstream.destroy()
    })
    upstream.on('response', (answer) => {
      exchange.status = answer.statusCode ?? 502
      response.writeHead(exchange.status, headersOf(answer))
      answer.on('error', () => socket.destroy())
      answer.pipe(response)
    })
    upstream.on('error', () => (response.headersSent ? drain() : socket.resetAndDestroy()))
    request.on('error', () => upstream.destroy())
    request.pipe(pacer).pipe(upstream)
  }

  #pacer(exchange: Exchange): Transform {
    const transform = (piece: Buffer, _encoding: BufferEncoding, pass: TransformCallback) => {
      exchange.bytes += piece.length
      const now = performance.now()
      const start = Math.max(now, this.#mayGoOnAt)
      this.#mayGoOnAt = start + (piece.length / this.speed) * 1000
      if (start > now) setTimeout(pass, start - now, null, piece)
      else pass(null, piece)
    }
    return new Transform({ transform })
  }
}

function headersOf(answer: IncomingMessage): string[] {
  const headers: string[] = []
  for (let at = 0; at < answer.rawHeaders.length; at += 2) {
    const [name = '', value = ''] = answer.rawHeaders.slice(at, at + 2)
    if (!perConnection.has(name.toLowerCase())) headers.push(name, value)
  }
  return headers
}
