/** What a client says to each kind of server. */
import { randomUUID } from 'node:crypto'
import { checksumOf, content, type Range } from './content.ts'
import type { Answer, Exchange, Http } from './http.ts'
import type { Contact, Load, WireKind } from './messages.ts'

export interface Wire {
  /** Whether the file is the body of one request. Default: each chunk is. */
  readonly inOneBody?: boolean
  /** Opens the upload of a file; what it resolves with is the `upload` of the other calls. */
  start(file: number): Promise<string>
  /** The request for these bytes of the file; a `cut` one has only those up to `cut`. */
  send(upload: string, file: number, range: Range, cut?: number): Exchange
  /** How many bytes the server has kept. Without it, a cut chunk counts for nothing. */
  offset?(upload: string): Promise<number>
  /** Resolves with the URL of the file. Without it, the answer to the last bytes has it. */
  complete?(upload: string): Promise<string>
  /** The URL, from the answer to the last bytes. */
  urlOf?(upload: string, last: Answer): string
}

type WireMaker = (http: Http, load: Load, contact: Contact) => Wire

const octets = 'application/octet-stream'
const boundary = 'bench-5f0c2b7a91d84e36'
const formEnd = Buffer.from(`\r\n--${boundary}--\r\n`)
const formType = `multipart/form-data; boundary=${boundary}`

const makers: Record<WireKind, WireMaker> = {
  whole,
  'whole-form': wholeForm,
  form: (http, load, contact) => chunked(http, load, contact, inForm),
  raw: (http, load, contact) => chunked(http, load, contact, inRawBody),
  tus: (http, load) => tus(http, load),
  'tus-one-patch': (http, load) => ({ ...tus(http, load), inOneBody: true }),
  uploadx,
}

export function wireOf(http: Http, load: Load, contact: Contact): Wire {
  return makers[contact.wire](http, load, contact)
}

function whole(_http: Http, load: Load): Wire {
  return {
    inOneBody: true,
    start: async () => `/${randomUUID()}`,
    send: (path, file, range) => ({ method: 'PUT', path, ...plain(load, file, range), statuses: [200, 201, 204] }),
    urlOf: (path) => path,
  }
}

function wholeForm(_http: Http, load: Load): Wire {
  return {
    inOneBody: true,
    start: async () => '/upload',
    send: (path, file, range) => ({ method: 'POST', path, ...form('file', {}, load, file, range), statuses: [200] }),
    urlOf: (_path, last) => String(JSON.parse(last.text).url),
  }
}

type ChunkSender = (upload: string, index: number, load: Load, file: number, range: Range, more: Fields) => Exchange
type Fields = Readonly<Record<string, string>>

function chunked(http: Http, load: Load, { declared = true, checksum }: Contact, sender: ChunkSender): Wire {
  const { size, chunkSize } = load
  const sums = new Map<string, string>()
  for (let file = 0; checksum && file < load.files; file++) {
    for (let at = 0; at < size; at += chunkSize) {
      sums.set(`${file}/${at}`, checksumOf(checksum, load, file, [at, Math.min(size, at + chunkSize)]))
    }
  }
  return {
    async start() {
      const init = { fileName: 'bench.bin', totalSize: size, mimeType: octets, ...(declared && { chunkSize }) }
      return String((await sendJson(http, '/upload/init', init)).uploadId)
    },
    send(upload, file, range, cut) {
      const sum = sums.get(`${file}/${range[0]}`)
      const exchange = sender(
        upload,
        range[0] / chunkSize,
        load,
        file,
        range,
        sum === undefined ? {} : { checksum: sum },
      )
      // What is missing of a form's body is taken from its end, however much the rest has before the bytes.
      return cut === undefined ? exchange : { ...exchange, body: firstBytes(exchange, cut - range[0]) }
    },
    complete: async (uploadId) => String((await sendJson(http, '/upload/complete', { uploadId })).url),
  }
}

function* firstBytes({ body = [] }: Exchange, count: number): Generator<Buffer> {
  let left = count
  for (const piece of body) {
    if (left <= 0) return
    yield piece.subarray(0, left)
    left -= piece.length
  }
}

const inForm: ChunkSender = (uploadId, index, load, file, range, more) => ({
  method: 'POST',
  path: '/upload/chunk',
  ...form('chunk', { uploadId, chunkIndex: String(index), ...more }, load, file, range),
  statuses: [200],
})

const inRawBody: ChunkSender = (uploadId, index, load, file, range, more) => ({
  method: 'POST',
  path: `/upload/chunk?${new URLSearchParams({ uploadId, chunkIndex: String(index), ...more })}`,
  ...plain(load, file, range),
  statuses: [200],
})

function plain(load: Load, file: number, range: Range) {
  return { headers: { 'Content-Type': octets }, body: content(load, file, range), length: range[1] - range[0] }
}

/** The file part comes last. */
function form(name: string, fields: Fields, load: Load, file: number, range: Range) {
  const disposition = (field: string) => `--${boundary}\r\nContent-Disposition: form-data; name="${field}"`
  const texts = Object.entries(fields).map(([field, value]) => `${disposition(field)}\r\n\r\n${value}\r\n`)
  const head = Buffer.from(`${texts.join('')}${disposition(name)}; filename="blob"\r\nContent-Type: ${octets}\r\n\r\n`)
  function* body() {
    yield head
    yield* content(load, file, range)
    yield formEnd
  }
  const length = head.length + range[1] - range[0] + formEnd.length
  return { headers: { 'Content-Type': formType }, body: body(), length }
}

async function sendJson(http: Http, path: string, value: object): Promise<Record<string, unknown>> {
  const body = Buffer.from(JSON.stringify(value))
  const headers = { 'Content-Type': 'application/json' }
  const { text } = await http.exchange({
    method: 'POST',
    path,
    headers,
    body: [body],
    length: body.length,
    statuses: [200],
  })
  return JSON.parse(text)
}

const resumable = { 'Tus-Resumable': '1.0.0' }
const tusName = `filename ${Buffer.from('bench.bin').toString('base64')}`

function tus(http: Http, load: Load): Wire {
  return {
    async start() {
      const headers = { ...resumable, 'Upload-Length': load.size, 'Upload-Metadata': tusName }
      return pathOf(await http.exchange({ method: 'POST', path: '/files', headers, statuses: [201] }))
    },
    send: (path, file, [from, to], cut = to) => ({
      method: 'PATCH',
      path,
      headers: { ...resumable, 'Content-Type': 'application/offset+octet-stream', 'Upload-Offset': from },
      body: content(load, file, [from, cut]),
      length: to - from,
      statuses: [204],
    }),
    async offset(path) {
      const { headers } = await http.exchange({ method: 'HEAD', path, headers: resumable, statuses: [200] })
      return Number(headers['upload-offset'])
    },
    // Where the file is: some servers tell, for the others it has the name of the upload.
    urlOf: (path, { headers }) => headers['content-location'] ?? path,
  }
}

function uploadx(http: Http, load: Load): Wire {
  const { size } = load
  return {
    async start(file) {
      const body = Buffer.from(JSON.stringify({ name: `bench-${file}-${randomUUID()}.bin` }))
      const headers = { 'Content-Type': 'application/json', 'X-Upload-Content-Length': size }
      const asked = { method: 'POST', path: '/files', headers, body: [body], length: body.length, statuses: [201] }
      return pathOf(await http.exchange(asked))
    },
    send: (path, file, [from, to], cut = to) => ({
      method: 'PUT',
      path,
      headers: { 'Content-Type': octets, 'Content-Range': `bytes ${from}-${to - 1}/${size}` },
      body: content(load, file, [from, cut]),
      length: to - from,
      statuses: [to === size ? 200 : 308],
    }),
    async offset(path) {
      const headers = { 'Content-Range': `bytes */${size}` }
      const answer = await http.exchange({ method: 'PUT', path, headers, statuses: [308] })
      return Number(/-(-?\d+)$/.exec(answer.headers.range ?? '')?.[1]) + 1
    },
    urlOf: (_path, last) => `/${JSON.parse(last.text).name}`,
  }
}

function pathOf({ headers: { location } }: Answer): string {
  if (location === undefined) throw new Error('the creation has no Location')
  const { pathname, search } = new URL(location, 'http://127.0.0.1')
  return pathname + search
}
