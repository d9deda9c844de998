import { type IncomingHttpHeaders, request } from 'node:http'
import { PassThrough, type Readable } from 'node:stream'

/** What came back, the interim responses included. */
export interface Told {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
  /** The body as JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it freely
  readonly json: any
  readonly interim: readonly { readonly status: number; readonly headers: IncomingHttpHeaders }[]
}

type Fields = Readonly<Record<string, string | undefined>>

/**
 * A speaker of one interop version; `null` names none. Locations may be paths. A `Readable` body goes out chunked, a
 * buffer with its length.
 */
export function ietfSpeaker(url: string, version: number | null, common: Fields = {}) {
  const completeness = (complete: boolean): Fields =>
    version === 3 ? { 'Upload-Incomplete': complete ? '?0' : '?1' } : { 'Upload-Complete': complete ? '?1' : '?0' }
  const type = version !== null && version < 6 ? undefined : 'application/partial-upload'
  const announced: Fields = version === null ? {} : { 'Upload-Draft-Interop-Version': String(version) }
  const send = (method: string, target: string, fields: Fields = {}, body?: Buffer | Readable): Promise<Told> =>
    exchange(method, new URL(target, url), { ...announced, ...common, ...fields }, body)
  const said = (complete: boolean | undefined) => (complete === undefined ? {} : completeness(complete))
  return {
    send,
    /** `complete` undefined: without the field. */
    create: (body: Buffer | Readable, complete: boolean | undefined, fields: Fields = {}, method = 'POST') =>
      send(method, url, { ...said(complete), ...fields }, body),
    append: (location: string, offset: number, body: Buffer | Readable, complete?: boolean, fields: Fields = {}) => {
      const head = { 'Upload-Offset': String(offset), 'Content-Type': type, ...said(complete) }
      return send('PATCH', location, { ...head, ...fields }, body)
    },
    head: (location: string, fields: Fields = {}) => send('HEAD', location, fields),
    cancel: (location: string, fields: Fields = {}) => send('DELETE', location, fields),
    /** An upload of this length (unknown: `null`) without any bytes yet; its location. */
    async open(length: number | null, fields: Fields = {}): Promise<string> {
      const declared = length === null ? {} : { 'Upload-Length': String(length) }
      const { status, headers, text } = await this.create(Buffer.alloc(0), false, { ...declared, ...fields })
      if (status !== 201 || !headers.location) throw new Error(`not opened: ${status} ${text}`)
      return headers.location
    },
    async offset(location: string): Promise<number> {
      const { status, headers } = await this.head(location)
      if (status !== 204) throw new Error(`no offset: ${status}`)
      return Number(headers['upload-offset'])
    },
  }
}

function exchange(method: string, url: URL, fields: Fields, body: Buffer | Readable | undefined): Promise<Told> {
  return new Promise((resolve, reject) => {
    const given = Object.entries(fields).filter(([, value]) => value !== undefined)
    const headers = Object.fromEntries(given) as Record<string, string>
    if (Buffer.isBuffer(body)) headers['Content-Length'] = String(body.length)
    const sent = request(url, { method, agent: false, headers })
    const interim: { status: number; headers: IncomingHttpHeaders }[] = []
    sent.on('information', (told) => interim.push({ status: told.statusCode, headers: told.headers }))
    sent.on('error', reject)
    sent.on('response', (response) => {
      const buffers: Buffer[] = []
      response.on('data', (data) => buffers.push(data))
      response.on('error', reject)
      response.on('end', () => {
        const text = Buffer.concat(buffers).toString('utf8')
        const isJson = /json/.test(response.headers['content-type'] ?? '') && text !== ''
        const json = isJson ? JSON.parse(text) : undefined
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text, json, interim })
      })
    })
    if (body === undefined || Buffer.isBuffer(body)) sent.end(body)
    else body.pipe(sent)
  })
}

/** A body without a length. */
export function chunked(...pieces: (Buffer | string)[]): Readable {
  const stream = new PassThrough()
  for (const piece of pieces) stream.write(piece)
  stream.end()
  return stream
}

/** A request head by hand, for a raw socket. */
export function rawHead(method: string, path: string, fields: Fields, protocol = 'HTTP/1.1'): string {
  const lines = Object.entries({ Host: 'x', ...fields }).map(([name, value]) => `${name}: ${value}\r\n`)
  return `${method} ${path} ${protocol}\r\n${lines.join('')}\r\n`
}
