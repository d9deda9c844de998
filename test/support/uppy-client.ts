/** The requests of `@uppy/aws-s3`, by hand, so that they can be wrong. */
import { type UppyS3Options, uppyS3Handler } from '../../src/protocols/uppy/handler.ts'
import { type Answer, answer } from './native-client.ts'
import { protocolServer } from './protocol-server.ts'

export const unknownId = '00000000-0000-4000-8000-000000000000'

type ServerOptions = NonNullable<Parameters<typeof protocolServer>[1]>

/** A server with the handler at its mount point, and a client of nobody in particular. */
export async function uppyServer(options: UppyS3Options = {}, server: ServerOptions = {}) {
  const started = await protocolServer((engine) => uppyS3Handler(engine, options), server)
  return { ...started, uppy: uppyClient(started.url) }
}

/** Uploads belong to whoever the header `X-User` names. */
export const byHeader: UppyS3Options = { owner: (request) => (request.headers['x-user'] as string) ?? null }

export interface Part {
  PartNumber: number
  ETag: string | null
}

export interface Started {
  uploadId: string
  key: string
}

export function uppyClient(url: string, headers: Record<string, string> = {}) {
  const get = (path: string) => answer(fetch(`${url}/s3${path}`, { headers }))
  const post = (path: string, body: unknown) =>
    answer(
      fetch(`${url}/s3${path}`, {
        method: 'POST',
        headers: { ...headers, 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
      }),
    )
  const keyed = ({ key }: { key: string }) => `?key=${encodeURIComponent(key)}`
  const client = {
    get,
    post,
    create: (body: unknown = { filename: 'a file.bin', type: 'application/pdf', metadata: {} }) =>
      post('/multipart', body),
    async start(body?: unknown): Promise<Started> {
      return (await client.create(body)).body
    },
    sign: (upload: Started, partNumber: number | string) =>
      get(`/multipart/${upload.uploadId}/${partNumber}${keyed(upload)}`),
    async urlOf(upload: Started, partNumber: number): Promise<string> {
      return (await client.sign(upload, partNumber)).body.url
    },
    /** Signs and sends; the ETag as it came, quotes and all. */
    async part(upload: Started, partNumber: number, data: Buffer): Promise<Part> {
      const { headers: answered } = await putBytes(await client.urlOf(upload, partNumber), data)
      return { PartNumber: partNumber, ETag: answered.get('etag') }
    },
    list: (upload: Started) => get(`/multipart/${upload.uploadId}${keyed(upload)}`),
    complete: (upload: Started, parts: unknown) =>
      post(`/multipart/${upload.uploadId}/complete${keyed(upload)}`, { parts }),
    abort: (upload: Started) =>
      answer(fetch(`${url}/s3/multipart/${upload.uploadId}${keyed(upload)}`, { method: 'DELETE', headers })),
    params: (query: Record<string, string> = { filename: 'small.txt', type: 'text/plain' }) =>
      get(`/params?${new URLSearchParams(query)}`),
  }
  return client
}

/** Without a Content-Type, as browsers send slices. */
export function putBytes(url: string, data: Buffer, headers: Record<string, string> = {}): Promise<Answer> {
  return answer(fetch(url, { method: 'PUT', body: new Uint8Array(data), headers }))
}

export function postForm(url: string, fields: Record<string, string>, data: Buffer, name = 'blob'): Promise<Answer> {
  const form = new FormData()
  for (const [field, value] of Object.entries(fields)) form.set(field, value)
  form.set('file', new Blob([new Uint8Array(data)]), name)
  return answer(fetch(url, { method: 'POST', body: form }))
}
