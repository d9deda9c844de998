/** A small tus client over `node:http` that can also be wrong: any method, header, body and trailer. */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { type Agent, type ClientRequest, type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import { tusHandler } from '../../src/protocols/tus/handler.ts'
import { type ProtocolServer, protocolServer } from './protocol-server.ts'

export interface TusAnswer {
  readonly status: number
  readonly statusMessage: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

/** A list is sent as several lines; `undefined` leaves a header out that would be sent otherwise. */
export type TusHeaders = Readonly<Record<string, string | number | readonly string[] | undefined>>

export interface TusBody {
  readonly body?: Buffer | string | undefined
  /** Sends the body without its length, in pieces of `pieceSize` bytes. */
  readonly chunked?: boolean
  readonly trailers?: Readonly<Record<string, string>>
  readonly agent?: Agent
}

export interface OpenRequest {
  readonly request: ClientRequest
  /** `null` when the connection ended without an answer. */
  readonly answer: Promise<TusAnswer | null>
}

const pieceSize = 16 * 1024
export const offsetType = 'application/offset+octet-stream'
export const unknownId = '00000000-0000-4000-8000-000000000000'

/** Begins a request and leaves it open. */
export function openTus(method: string, url: string, headers: TusHeaders = {}, agent?: Agent): OpenRequest {
  const all = Object.entries({ 'Tus-Resumable': '1.0.0', ...headers }).filter(([, value]) => value !== undefined)
  const options = { method, headers: Object.fromEntries(all) as Record<string, string | string[]> }
  const sent = request(url, { ...options, agent: agent ?? false })
  const answer = new Promise<TusAnswer | null>((resolve) => {
    sent.on('response', (response) => resolve(read(response)))
    sent.on('error', () => resolve(null))
    sent.on('close', () => setImmediate(resolve, null))
  })
  return { request: sent, answer }
}

function read(response: IncomingMessage): Promise<TusAnswer> {
  return new Promise((resolve) => {
    let body = ''
    const { statusCode = 0, statusMessage = '', headers } = response
    const finish = () => resolve({ status: statusCode, statusMessage, headers, body })
    response.setEncoding('utf8').on('data', (data) => {
      body += data
    })
    response.on('end', finish).on('error', finish).on('close', finish)
  })
}

/** Sends one request and waits for its answer. @throws Error when there is none */
export async function sendTus(
  method: string,
  url: string,
  headers: TusHeaders = {},
  { body, chunked = false, trailers, agent }: TusBody = {},
): Promise<TusAnswer> {
  const data = body === undefined ? undefined : Buffer.from(body)
  const length = data === undefined || chunked ? {} : { 'Content-Length': data.length }
  const { request: sent, answer } = openTus(method, url, { ...length, ...headers }, agent)
  if (chunked && data) {
    sent.flushHeaders()
    if (trailers) sent.addTrailers(trailers)
    for (let at = 0; at < data.length && !sent.destroyed; at += pieceSize) {
      if (!sent.write(data.subarray(at, at + pieceSize)))
        await Promise.race([once(sent, 'drain').catch(() => {}), answer])
    }
    sent.end()
  } else sent.end(data)
  const received = await answer
  if (!received) throw new Error(`${method} ${url} was not answered`)
  return received
}

/** `Upload-Metadata` of these values. */
export function metadataHeader(values: Readonly<Record<string, string>>): string {
  return Object.entries(values)
    .map(([key, value]) => `${key} ${Buffer.from(value).toString('base64')}`)
    .join(',')
}

export function tusClient(folder: string) {
  const resolve = (location: string | undefined): string => {
    if (location === undefined) throw new Error('there is no Location')
    return new URL(location, folder).href
  }
  const post = (headers: TusHeaders, body?: TusBody) => sendTus('POST', folder, headers, { body: '', ...body })
  return {
    folder,
    resolve,
    post,
    /** The URL of a new upload. */
    async create(length: number | 'deferred', headers: TusHeaders = {}): Promise<string> {
      const size = length === 'deferred' ? { 'Upload-Defer-Length': '1' } : { 'Upload-Length': length }
      const answer = await post({ ...size, ...headers })
      if (answer.status !== 201) throw new Error(`POST answered ${answer.status} ${answer.body}`)
      return resolve(answer.headers.location)
    },
    patch: (url: string, offset: number | string, body: Buffer | string, headers: TusHeaders = {}, how: TusBody = {}) =>
      sendTus('PATCH', url, { 'Content-Type': offsetType, 'Upload-Offset': offset, ...headers }, { body, ...how }),
    /** A PATCH that stays open after `body`. */
    openPatch(url: string, offset: number, body: Buffer, announced?: number, headers: TusHeaders = {}): OpenRequest {
      const length = announced === undefined ? {} : { 'Content-Length': announced }
      const type = { 'Content-Type': offsetType, 'Upload-Offset': offset }
      const open = openTus('PATCH', url, { ...type, ...length, ...headers })
      open.request.write(body)
      return open
    },
    head: (url: string, headers?: TusHeaders) => sendTus('HEAD', url, headers),
    remove: (url: string, headers?: TusHeaders) => sendTus('DELETE', url, headers),
    /** The URL of a whole partial upload. */
    async partial(body: Buffer): Promise<string> {
      const url = await this.create(body.length, { 'Upload-Concat': 'partial' })
      if (body.length > 0) await this.patch(url, 0, body)
      return url
    },
    concat: (urls: readonly string[], headers: TusHeaders = {}, body?: TusBody) =>
      post({ 'Upload-Concat': `final;${urls.join(' ')}`, ...headers }, body),
  }
}

type ServerOptions = NonNullable<Parameters<typeof protocolServer>[1]>
type TusOptions = NonNullable<Parameters<typeof tusHandler>[1]>

/** A server with tus at `/files`, and a client for it. */
export async function tusServer(options: ServerOptions = {}, tus?: TusOptions) {
  const server = await protocolServer((engine) => tusHandler(engine, tus), options)
  const requests: IncomingMessage[] = []
  server.server.on('request', (received) => requests.push(received))
  /** Resolves when the server has taken in all that an open request has sent. */
  const arrived = (open: OpenRequest) =>
    eventually(() => {
      const { localPort, bytesWritten } = open.request.socket ?? {}
      const there = requests.find(({ socket }) => localPort !== undefined && socket.remotePort === localPort)
      if (!there || there.socket.bytesRead !== bytesWritten || there.readableLength > 0)
        throw new Error('not all is there')
    })
  return { ...server, ...tusClient(server.url), arrived }
}

/** What the default storage has under the URL of an answer. */
export async function storedAt(server: Pick<ProtocolServer, 'directory'>, answer: TusAnswer): Promise<Buffer> {
  const location = answer.headers['content-location']
  if (location === undefined) throw new Error(`no Content-Location in the ${answer.status}`)
  return readFile(join(server.directory, decodeURIComponent(new URL(location).pathname)))
}

/** Repeats `check` until it does not throw. */
export async function eventually(check: () => unknown, timeout = 5_000): Promise<void> {
  for (const deadline = Date.now() + timeout; Date.now() < deadline; ) {
    try {
      await check()
      return
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }
  await check()
}

/** The id that an upload's URL ends with. */
export function idIn(url: string): string {
  return url.split('/').at(-1) ?? ''
}
