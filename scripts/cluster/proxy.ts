/**
 * A load balancer as simple as they come: every request goes to the next node. A node that cannot be reached is left out for a
 * moment, and the request goes to the next one, as none of its body has been read. So does a GET or HEAD that breaks off: tus
 * clients begin anew when their HEAD fails. What has a body is never repeated here: the client is told with 502, and decides.
 * Each wire has a line of its own, as slow as it is told to be.
 */
import { createServer, request as httpRequest, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { Transform, type TransformCallback } from 'node:stream'

/** Ms that a node is left out after it could not be reached. */
const leftOutFor = 500
const connectTimeout = 2_000
/** Ms that the rest of a body is still taken in after it has been refused. */
const lingering = 500
/** Bytes: a body that has less to come may be through in a moment. */
const middle = 256 * 1024
/** Headers that are about one connection only. */
const perConnection = new Set(['connection', 'keep-alive', 'transfer-encoding'])

export interface Upstream {
  readonly name: string
  readonly port: number
}

export interface NodeCount {
  requests: number
  /** Of bodies, towards the node. */
  bytes: number
  /** Broke off. */
  broken: number
}

export interface WireCount {
  /** Of bodies. */
  bytes: number
  /** How often its client was given each status that means "again". */
  readonly refusals: Map<number, number>
  /** 1: as fast as the line is; less is slower. */
  pace: number
  /** When the next bytes may pass. */
  mayGoOnAt: number
}

export class RoundRobinProxy {
  readonly counts = new Map<Upstream, NodeCount>()
  /** By the first segment of the path. */
  readonly wires = new Map<string, WireCount>()
  /** Requests that found their node gone and went to the next one. */
  movedOn = 0
  readonly #nodes: readonly Upstream[]
  readonly #bytesPerMs: number
  readonly #leftOutUntil = new Map<Upstream, number>()
  readonly #busy = new Map<IncomingMessage, { readonly wire: string; readonly node: Upstream; left: number }>()
  readonly #server: Server
  #turn = 0

  private constructor(nodes: readonly Upstream[], bytesPerSecond: number) {
    this.#nodes = nodes
    this.#bytesPerMs = bytesPerSecond / 1000
    for (const node of nodes) this.counts.set(node, { requests: 0, bytes: 0, broken: 0 })
    this.#server = createServer((request, response) => void this.#serve(request, response))
    this.#server.requestTimeout = 0
    this.#server.keepAliveTimeout = 65_000
  }

  static async start(nodes: readonly Upstream[], bytesPerSecond: number): Promise<RoundRobinProxy> {
    const proxy = new RoundRobinProxy(nodes, bytesPerSecond)
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once('error', reject)
      proxy.#server.listen(0, '127.0.0.1', resolve)
    })
    return proxy
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** The nodes that are in the middle of receiving a body over this wire. */
  receiving(wire: string): Upstream[] {
    const bodies = [...this.#busy.values()].filter((busy) => busy.wire === wire && busy.left > middle)
    return [...new Set(bodies.map(({ node }) => node))]
  }

  wire(name: string): WireCount {
    const known = this.wires.get(name) ?? { bytes: 0, refusals: new Map(), pace: 1, mayGoOnAt: 0 }
    this.wires.set(name, known)
    return known
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    request.on('error', () => {})
    response.on('error', () => {})
    const reached = await this.#reach()
    if (response.destroyed) return void reached?.socket.destroy()
    if (!reached) return this.#refuse(request, response, 503)
    this.#forward(request, response, reached.node, reached.socket)
  }

  /** A connection to the node whose turn it is, or to the first after it that can be reached. */
  async #reach(): Promise<{ node: Upstream; socket: Socket } | null> {
    const first = this.#turn++
    for (let step = 0; step < this.#nodes.length; step++) {
      const node = this.#nodes[(first + step) % this.#nodes.length] as Upstream
      if ((this.#leftOutUntil.get(node) ?? 0) > performance.now()) continue
      const socket = await connected(node.port)
      if (socket) return { node, socket }
      this.#leftOutUntil.set(node, performance.now() + leftOutFor)
      this.movedOn += 1
    }
    return null
  }

  #forward(request: IncomingMessage, response: ServerResponse, node: Upstream, socket: Socket): void {
    const { method = '', url: path = '', headers } = request
    const wire = wireOf(path)
    const count = this.counts.get(node) ?? { requests: 0, bytes: 0, broken: 0 }
    count.requests += 1
    const upstream = httpRequest({ createConnection: () => socket, method, path, headers })
    const busy = { wire, node, left: Number(headers['content-length'] ?? 0) }
    this.#busy.set(request, busy)
    const line = this.#line(this.wire(wire), (bytes) => {
      count.bytes += bytes
      busy.left -= bytes
    })
    request.once('end', () => this.#busy.delete(request))
    response.once('close', () => {
      this.#busy.delete(request)
      // The client may have gone, or not have sent all when the answer came.
      request.unpipe(line)
      request.resume()
      upstream.destroy()
      socket.destroy()
    })
    const isRepeatable = method === 'GET' || method === 'HEAD'
    let answered = false
    upstream.on('response', (answer) => {
      answered = true
      const status = answer.statusCode ?? 502
      this.#count(request, status)
      response.writeHead(status, headersOf(answer))
      // Half an answer is none.
      answer.on('error', () => response.destroy())
      answer.on('aborted', () => response.destroy())
      answer.pipe(response)
    })
    upstream.on('error', () => {
      if (answered || response.destroyed) return
      count.broken += 1
      request.unpipe(line)
      if (!isRepeatable) return this.#refuse(request, response, 502)
      this.movedOn += 1
      void this.#serve(request, response)
    })
    // The second time its end has been read already.
    if (request.readableEnded) upstream.end()
    else request.pipe(line).pipe(upstream)
  }

  /** Of the proxy itself, as nginx has them. */
  #refuse(request: IncomingMessage, response: ServerResponse, status: 502 | 503): void {
    this.#count(request, status)
    const headers = { 'Retry-After': '1', 'Content-Type': 'text/plain' }
    response.writeHead(status, headers).end(status === 502 ? 'Bad Gateway' : 'Service Unavailable')
    // So that a client that is still sending gets to read it.
    request.resume()
    setTimeout(() => request.complete || request.destroy(), lingering).unref()
  }

  #count({ url = '' }: IncomingMessage, status: number): void {
    if (status !== 423 && status !== 429 && status < 500) return
    const { refusals } = this.wire(wireOf(url))
    refusals.set(status, (refusals.get(status) ?? 0) + 1)
  }

  #line(wire: WireCount, passed: (bytes: number) => void): Transform {
    const transform = (piece: Buffer, _encoding: BufferEncoding, pass: TransformCallback) => {
      passed(piece.length)
      wire.bytes += piece.length
      const now = performance.now()
      const start = Math.max(now, wire.mayGoOnAt)
      wire.mayGoOnAt = start + piece.length / (this.#bytesPerMs * wire.pace)
      if (start > now) setTimeout(pass, start - now, null, piece)
      else pass(null, piece)
    }
    return new Transform({ transform })
  }
}

/** `/upload`, `/files`, `/resumable`. */
function wireOf(path: string): string {
  return /^\/[^/?]*/.exec(path)?.[0] ?? '/'
}

function connected(port: number): Promise<Socket | null> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    const settle = (reached: Socket | null) => {
      socket.setTimeout(0)
      if (!reached) socket.destroy()
      resolve(reached)
    }
    socket.once('connect', () => settle(socket))
    socket.on('error', () => settle(null))
    socket.setTimeout(connectTimeout, () => settle(null))
  })
}

function headersOf(answer: IncomingMessage): string[] {
  const headers: string[] = []
  for (let at = 0; at < answer.rawHeaders.length; at += 2) {
    const [name = '', value = ''] = answer.rawHeaders.slice(at, at + 2)
    if (!perConnection.has(name.toLowerCase())) headers.push(name, value)
  }
  return headers
}
