/** Requests that cost next to nothing: keep-alive connections, prepared buffers, no copies. */
import { once } from 'node:events'
import { Agent, type ClientRequest, type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'

export interface Exchange {
  readonly method: string
  readonly path: string
  readonly headers?: Readonly<Record<string, string | number>>
  readonly body?: Iterable<Buffer>
  /** Of the body, bytes. Default 0. */
  readonly length?: number
  /** Every other status is an error. */
  readonly statuses: readonly number[]
}

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
  /** From when the last byte was handed to the socket until the answer, ms. */
  readonly waitMs: number
}

export class Http {
  readonly #port: number
  readonly #agent: Agent

  constructor(port: number, connections: number) {
    this.#port = port
    this.#agent = new Agent({ keepAlive: true, maxSockets: connections, maxFreeSockets: connections })
  }

  async exchange(asked: Exchange): Promise<Answer> {
    const outgoing = this.#open(asked)
    const answer = this.#answerOf(outgoing, asked.statuses)
    // Awaited below; a server that ends the connection early must not be an unhandled rejection before that.
    answer.catch(() => {})
    for (const piece of asked.body ?? []) {
      if (!outgoing.write(piece)) await Promise.race([once(outgoing, 'drain'), answer])
    }
    const written = performance.now()
    outgoing.end()
    return { ...(await answer), waitMs: performance.now() - written }
  }

  /** Sends the body, which is shorter than its length says, and cuts the connection. */
  async cut(asked: Exchange): Promise<void> {
    const outgoing = this.#open(asked)
    outgoing.on('error', () => {})
    const closed = new Promise((resolve) => outgoing.once('close', resolve))
    outgoing.flushHeaders()
    for (const piece of asked.body ?? []) {
      await Promise.race([new Promise((resolve) => outgoing.write(piece, resolve)), closed])
    }
    outgoing.destroy()
    await closed
  }

  close(): void {
    this.#agent.destroy()
  }

  #open({ method, path, headers, length = 0 }: Exchange): ClientRequest {
    return request({
      host: '127.0.0.1',
      port: this.#port,
      path,
      method,
      headers: { ...headers, 'Content-Length': length },
      agent: this.#agent,
    })
  }

  async #answerOf(outgoing: ClientRequest, statuses: readonly number[]) {
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
    const pieces: Buffer[] = []
    for await (const piece of response) pieces.push(piece)
    const text = Buffer.concat(pieces).toString()
    const { statusCode: status = 0, headers } = response
    if (statuses.includes(status)) return { status, headers, text }
    throw new Error(`${outgoing.method} ${outgoing.path} answered ${status}: ${text}`)
  }
}
