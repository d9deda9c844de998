/** A small client for IETF resumable uploads over `node:http` that can also be wrong: any method, header and body. */
import { once } from 'node:events'
import { type ClientRequest, type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'
import type { Readable } from 'node:stream'
import { expect } from 'vitest'
import { type IetfOptions, ietfHandler } from '../../src/ietf.ts'
import type { StorageAdapter } from '../../src/types.ts'
import { protocolServer } from './protocol-server.ts'
import { eventually } from './tus-client.ts'

export interface InterimAnswer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
}

export interface IetfAnswer {
  readonly status: number
  readonly statusMessage: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
  /** What came before it, in order. */
  readonly interim: readonly InterimAnswer[]
}

/** A list is sent as several lines; `undefined` leaves a header out that would be sent otherwise. */
export type IetfHeaders = Readonly<Record<string, string | number | readonly string[] | undefined>>

export interface IetfBody {
  readonly body?: Buffer | string | undefined
  /** Sends the body without its length, in pieces of `pieceSize` bytes. */
  readonly chunked?: boolean
}

export interface OpenRequest {
  readonly request: ClientRequest
  readonly interim: readonly InterimAnswer[]
  /** `null` when the connection ended without an answer. */
  readonly answer: Promise<IetfAnswer | null>
}

const pieceSize = 16 * 1024
export const partialUpload = 'application/partial-upload'
export const problemTypes = 'https://iana.org/assignments/http-problem-types#'

/** Begins a request and leaves it open. */
export function openIetf(method: string, url: string, headers: IetfHeaders = {}): OpenRequest {
  const all = Object.entries(headers).filter(([, value]) => value !== undefined)
  const sent = request(url, {
    method,
    headers: Object.fromEntries(all) as Record<string, string | string[]>,
    agent: false,
  })
  const interim: InterimAnswer[] = []
  sent.on('information', ({ statusCode, headers }) => interim.push({ status: statusCode, headers }))
  const answer = new Promise<IetfAnswer | null>((resolve) => {
    sent.on('response', (response) => resolve(read(response, interim)))
    sent.on('error', () => resolve(null))
    sent.on('close', () => setImmediate(resolve, null))
  })
  return { request: sent, interim, answer }
}

function read(response: IncomingMessage, interim: readonly InterimAnswer[]): Promise<IetfAnswer> {
  return new Promise((resolve) => {
    let body = ''
    const { statusCode = 0, statusMessage = '', headers } = response
    const finish = () => resolve({ status: statusCode, statusMessage, headers, body, interim })
    response.setEncoding('utf8').on('data', (data) => {
      body += data
    })
    response.on('end', finish).on('error', finish).on('close', finish)
  })
}

/** Sends one request and waits for its answer. @throws Error when there is none */
export async function sendIetf(
  method: string,
  url: string,
  headers: IetfHeaders = {},
  { body, chunked = false }: IetfBody = {},
): Promise<IetfAnswer> {
  const data = body === undefined ? undefined : Buffer.from(body)
  const length = data === undefined || chunked ? {} : { 'Content-Length': data.length }
  const { request: sent, answer } = openIetf(method, url, { ...length, ...headers })
  if (chunked && data) {
    sent.flushHeaders()
    for (let at = 0; at < data.length && !sent.destroyed; at += pieceSize) {
      if (!sent.write(data.subarray(at, at + pieceSize)))
        await Promise.race([once(sent, 'drain').catch(() => {}), answer])
    }
  }
  sent.end(chunked ? undefined : data)
  const received = await answer
  if (!received) throw new Error(`${method} ${url} was not answered`)
  return received
}

/** The problem document of a refusal. */
export function problemIn(answer: IetfAnswer): Record<string, unknown> {
  expect(answer.headers['content-type']).toBe('application/problem+json')
  const problem = JSON.parse(answer.body) as Record<string, unknown>
  expect(problem.status).toBe(answer.status)
  expect(typeof problem.title).toBe('string')
  return problem
}

/** The members of an `Upload-Limit`. */
export function limitsIn(headers: IncomingHttpHeaders): Record<string, number> {
  const pairs = String(headers['upload-limit'] ?? '').split(', ')
  return Object.fromEntries(
    pairs.filter((pair) => pair !== '').map((pair) => [pair.split('=')[0], Number(pair.split('=')[1])]),
  )
}

/** Whether a client of one version finds the upload complete. */
export function isComplete(version: number | null, headers: IncomingHttpHeaders): boolean | undefined {
  const value = headers[version === 3 ? 'upload-incomplete' : 'upload-complete']
  if (value !== '?0' && value !== '?1') return undefined
  return (value === '?1') !== (version === 3)
}

/** Speaks one version; `null` names none, as after the end of the drafts. */
export function ietfClient(folder: string, version: number | null) {
  const named = version === null ? {} : { 'Upload-Draft-Interop-Version': version }
  const completeness = (last: boolean) =>
    version === 3 ? { 'Upload-Incomplete': last ? '?0' : '?1' } : { 'Upload-Complete': last ? '?1' : '?0' }
  const type = version === null || version >= 6 ? { 'Content-Type': partialUpload } : {}
  const resolve = (location: string | undefined): string => {
    if (location === undefined) throw new Error('there is no Location')
    return new URL(location, folder).href
  }
  const patchHeaders = (offset: number | string, last: boolean | undefined, headers: IetfHeaders): IetfHeaders => ({
    ...named,
    ...type,
    'Upload-Offset': offset,
    ...(last !== undefined && completeness(last)),
    ...headers,
  })
  return {
    folder,
    version,
    resolve,
    completeness,
    /** A creation: `last` means that this is all of the file. */
    begin: (body: Buffer | string, last: boolean, headers: IetfHeaders = {}, how: IetfBody = {}, method = 'POST') =>
      sendIetf(method, folder, { ...named, ...completeness(last), ...headers }, { body, ...how }),
    /** The URL of a new upload without content. */
    async create(headers: IetfHeaders = {}): Promise<string> {
      const answer = await sendIetf('POST', folder, { ...named, ...completeness(false), ...headers }, { body: '' })
      if (answer.status !== 201) throw new Error(`POST answered ${answer.status} ${answer.body}`)
      return resolve(answer.headers.location)
    },
    append: (
      url: string,
      offset: number | string,
      body: Buffer | string,
      last: boolean | undefined,
      headers: IetfHeaders = {},
      how: IetfBody = {},
    ) => sendIetf('PATCH', url, patchHeaders(offset, last, headers), { body, ...how }),
    /** An append that stays open after `body`. */
    openAppend(url: string, offset: number, body: Buffer, last: boolean, headers: IetfHeaders = {}): OpenRequest {
      const open = openIetf('PATCH', url, patchHeaders(offset, last, headers))
      open.request.write(body)
      return open
    },
    /** A creation that stays open after `body`. */
    openBegin(body: Buffer, last: boolean, headers: IetfHeaders = {}): OpenRequest {
      const open = openIetf('POST', folder, { ...named, ...completeness(last), ...headers })
      open.request.write(body)
      return open
    },
    head: (url: string, headers: IetfHeaders = {}) => sendIetf('HEAD', url, { ...named, ...headers }),
    get: (url: string, headers: IetfHeaders = {}) => sendIetf('GET', url, { ...named, ...headers }),
    remove: (url: string, headers: IetfHeaders = {}) => sendIetf('DELETE', url, { ...named, ...headers }),
  }
}

export type IetfClient = ReturnType<typeof ietfClient>

interface ServerOptions extends NonNullable<Parameters<typeof protocolServer>[1]> {
  version?: number | null
  ietf?: IetfOptions
}

/** A server with the IETF protocol at `/files`, and a client of one version for it. */
export async function ietfServer({ version = 9, ietf, ...options }: ServerOptions = {}) {
  const server = await protocolServer((engine) => ietfHandler(engine, ietf), options)
  const requests: IncomingMessage[] = []
  server.server.on('request', (received) => requests.push(received))
  /** Resolves when the server has taken in all that an open request has sent. */
  const arrived = (open: OpenRequest) =>
    eventually(() => {
      const { localPort, bytesWritten } = open.request.socket ?? {}
      const there = requests.find(({ socket }) => localPort !== undefined && socket.remotePort === localPort)
      if (!there || there.socket.bytesRead !== bytesWritten || there.readableLength > 0)
        throw new Error('not all has arrived')
    })
  return { ...server, ...ietfClient(server.url, version), arrived }
}

/** A storage that refuses the first `failures` objects, and keeps the others in `objects`. */
export function flakyStorage(failures: number) {
  const objects = new Map<string, Buffer>()
  let attempts = 0
  const storage: StorageAdapter = {
    async upload(fileKey: string, stream: Readable): Promise<string> {
      attempts++
      const pieces: Buffer[] = []
      for await (const piece of stream) pieces.push(piece as Buffer)
      if (attempts <= failures) throw new Error('ordered by the test')
      objects.set(fileKey, Buffer.concat(pieces))
      return `https://cdn.example.com/${fileKey}`
    },
  }
  return { storage, objects, attempts: () => attempts }
}
