/** The two ways in which the servers are spoken to, as far as the cases need them. */
import { type Answer, type Headers, isOk, type OpenRequest, open, send } from './http.ts'

/** Size of all pieces that are sent but the last, bytes. */
export const piece = 256 * 1024

export interface Creation {
  /** Also what is no size. */
  readonly size: number | string
  readonly name: string
  /** What a browser knows of a file besides, ms. */
  readonly lastModified?: number
}

export interface Received {
  readonly status: number
  /** `null` when the server does not tell. */
  readonly bytes: number | null
}

export interface Wire {
  readonly name: 'tus' | 'routes'
  create(port: number, upload: Creation): Promise<{ answer: Answer; id: string | null }>
  /** `from` is a multiple of `piece` on wires with chunks. */
  put(port: number, id: string, from: number, data: Buffer): Promise<Answer>
  /** Announces `size` bytes and sends none of them yet. */
  openPut(port: number, id: string, from: number, size: number): OpenRequest
  received(port: number, id: string): Promise<Received>
  /** `null`: an upload is complete with its last byte, nothing is asked. */
  readonly complete: ((port: number, id: string) => Promise<Answer>) | null
}

const version = { 'Tus-Resumable': '1.0.0' }

function patchHeaders(from: number, size: number): Headers {
  const type = 'application/offset+octet-stream'
  return { ...version, 'Content-Type': type, 'Upload-Offset': from, 'Content-Length': size }
}

export const tus: Wire = {
  name: 'tus',
  async create(port, { size, name, lastModified }) {
    const encoded = (value: string) => Buffer.from(value).toString('base64')
    const modified = lastModified === undefined ? '' : `,lastModified ${encoded(String(lastModified))}`
    const metadata = `filename ${encoded(name)}${modified}`
    const answer = await send('POST', port, '/files', {
      ...version,
      'Upload-Length': size,
      'Upload-Metadata': metadata,
    })
    const { location } = answer.headers
    const id =
      isOk(answer) && location !== undefined ? new URL(location, `http://127.0.0.1:${port}/files`).pathname : null
    return { answer, id }
  },
  put: (port, id, from, data) => send('PATCH', port, id, patchHeaders(from, data.length), data),
  openPut: (port, id, from, size) => open('PATCH', port, id, patchHeaders(from, size)),
  async received(port, id) {
    const { status, headers } = await send('HEAD', port, id, version)
    const offset = Number(headers['upload-offset'] ?? Number.NaN)
    return { status, bytes: Number.isSafeInteger(offset) ? offset : null }
  },
  complete: null,
}

const boundary = 'scoreboard-boundary'

/** What comes before and after the bytes of a chunk in its form. */
function formAround(uploadId: string, index: number | string): [head: Buffer, tail: Buffer] {
  const field = (name: string, value: string) =>
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`
  const file = '--BOUNDARY\r\nContent-Disposition: form-data; name="chunk"; filename="blob"\r\n'
  const type = 'Content-Type: application/octet-stream\r\n\r\n'
  const head = `${field('uploadId', uploadId)}${field('chunkIndex', String(index))}${file.replace('BOUNDARY', boundary)}${type}`
  return [Buffer.from(head), Buffer.from(`\r\n--${boundary}--\r\n`)]
}

const formType = { 'Content-Type': `multipart/form-data; boundary=${boundary}` }

/** Also an index that is none. */
export function putChunk(port: number, uploadId: string, index: number | string, data: Buffer): Promise<Answer> {
  const [head, tail] = formAround(uploadId, index)
  return send('POST', port, '/upload/chunk', formType, Buffer.concat([head, data, tail]))
}

export function postJson(port: number, path: string, body: object): Promise<Answer> {
  return send('POST', port, path, { 'Content-Type': 'application/json' }, Buffer.from(JSON.stringify(body)))
}

export function jsonOf({ body }: Answer): Record<string, unknown> {
  try {
    return Object(JSON.parse(body))
  } catch {
    return {}
  }
}

export const routes: Wire = {
  name: 'routes',
  async create(port, { size, ...file }) {
    const init = { fileName: file.name, totalSize: size, mimeType: 'application/octet-stream', ...file }
    const answer = await postJson(port, '/upload/init', init)
    const { uploadId } = jsonOf(answer)
    return { answer, id: typeof uploadId === 'string' ? uploadId : null }
  },
  put: (port, id, from, data) => putChunk(port, id, from / piece, data),
  openPut(port, id, from, size) {
    const [head, tail] = formAround(id, from / piece)
    const length = { 'Content-Length': head.length + size + tail.length }
    const opened = open('POST', port, '/upload/chunk', { ...formType, ...length }, tail)
    opened.write(head)
    return opened
  },
  async received(port, id) {
    const answer = await send('GET', port, `/upload/progress/${id}`)
    const { uploadedChunks } = jsonOf(answer)
    return { status: answer.status, bytes: typeof uploadedChunks === 'number' ? uploadedChunks * piece : null }
  },
  complete: (port, uploadId) => postJson(port, '/upload/complete', { uploadId }),
}
