/** Requests that can also be wrong or broken off. */
import { type ClientRequest, type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

export type Headers = Readonly<Record<string, string | number>>

export interface OpenRequest {
  readonly request: ClientRequest
  /** `null` when the connection ended without an answer. */
  readonly answer: Promise<Answer | null>
  write(data: Buffer): void
  /** Sends what the wire wants after the data. */
  end(): void
  /** Breaks the connection. */
  cut(): void
}

/** How long an answer may take, ms. */
const patience = 40_000

/** @param tail is sent by `end` */
export function open(method: string, port: number, path: string, headers: Headers, tail?: Buffer): OpenRequest {
  const sent = request({ method, host: '127.0.0.1', port, path, headers: { ...headers }, agent: false })
  sent.setTimeout(patience, () => sent.destroy())
  const answer = new Promise<Answer | null>((resolve) => {
    sent.on('response', (response) => resolve(read(response)))
    sent.on('error', () => resolve(null))
    sent.on('close', () => setImmediate(resolve, null))
  })
  return {
    request: sent,
    answer,
    write: (data) => void sent.write(data),
    end: () => void sent.end(tail),
    cut: () => void sent.destroy(),
  }
}

function read(response: IncomingMessage): Promise<Answer> {
  return new Promise((resolve) => {
    const pieces: Buffer[] = []
    const finish = () =>
      resolve({
        status: response.statusCode ?? 0,
        headers: response.headers,
        body: Buffer.concat(pieces).toString(),
      })
    response.on('data', (piece) => pieces.push(piece))
    response.on('end', finish).on('error', finish).on('close', finish)
  })
}

/** Status 0: the connection ended without an answer. */
export async function send(
  method: string,
  port: number,
  path: string,
  headers: Headers = {},
  body: Buffer = Buffer.alloc(0),
): Promise<Answer> {
  const length: Headers =
    body.length > 0 || method === 'POST' || method === 'PATCH' ? { 'Content-Length': body.length } : {}
  const sent = open(method, port, path, { ...length, ...headers })
  if (body.length > 0) sent.write(body)
  sent.end()
  return (await sent.answer) ?? { status: 0, headers: {}, body: '' }
}

export function isOk({ status }: Answer): boolean {
  return status >= 200 && status < 300
}
