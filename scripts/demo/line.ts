/**
 * The network between the browser and the upload server: passes requests on, at a speed that can be set, and can be
 * cut. Nothing of it is an answer: when the line is cut or nobody is behind it, the browser sees its connection break.
 */
import { request as httpRequest, type IncomingMessage, type RequestOptions, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Transform, type TransformCallback } from 'node:stream'

/** Headers that are about one connection only. */
const perConnection = new Set(['connection', 'keep-alive', 'transfer-encoding'])

export class Line {
  /** Bytes per second from the browser, over all requests; `Infinity` for as fast as it goes. */
  speed = Number.POSITIVE_INFINITY
  readonly #target: () => URL
  readonly #busy = new Set<Socket>()
  #mayGoOnAt = 0
  #cutUntil = 0

  constructor(target: () => URL) {
    this.#target = target
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
    const { socket } = request
    if (this.isCut) {
      socket.resetAndDestroy()
      return
    }
    const { hostname, port } = this.#target()
    const options: RequestOptions = { hostname, port, method: request.method, path: request.url, agent: false }
    const upstream = httpRequest({ ...options, headers: request.headers })
    this.#busy.add(socket)
    response.on('close', () => {
      this.#busy.delete(socket)
      upstream.destroy()
    })
    upstream.on('response', (answer) => {
      response.writeHead(answer.statusCode ?? 502, headersOf(answer))
      answer.on('error', () => socket.destroy())
      answer.pipe(response)
    })
    // After an early answer nobody reads the rest, and the browser may still be sending it.
    upstream.on('error', () => (response.headersSent ? request.resume() : socket.resetAndDestroy()))
    request.on('error', () => upstream.destroy())
    request.pipe(this.#pacer()).pipe(upstream)
  }

  #pacer(): Transform {
    const transform = (piece: Buffer, _encoding: BufferEncoding, pass: TransformCallback) => {
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
