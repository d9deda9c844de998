/** The documented routes as functions. Each is one request; repeating is not done here. */
import type { HttpAnswer, HttpRequest, Platform } from './platform.ts'
import type { BlobLike, UploadEndpoints, UploadOptions, UploadResult } from './types.ts'
import { UploadError } from './upload-error.ts'

export type Span = readonly [first: number, last: number]

export interface OpenUpload {
  readonly uploadId: string
  readonly chunkSize?: number
  /** Indexes that are there already. */
  readonly received?: readonly Span[]
}

export interface Chunk {
  readonly uploadId: string
  readonly index: number
  readonly body: Uint8Array | BlobLike
  readonly size: number
  readonly checksum?: string | undefined
}

type Json = Readonly<Record<string, unknown>>
type Headers = Readonly<Record<string, string>>
export type ServerApi = ReturnType<typeof serverApi>

/** @throws TypeError for a relative endpoint where there is no page it could be relative to */
export function serverApi(options: UploadOptions, { send }: Platform) {
  const { endpoint = '/upload', endpoints, stallTimeout = 30_000, credentials = 'same-origin', headers } = options
  const page = (globalThis as { location?: { href: string } }).location?.href
  let refreshing: Promise<Headers> | null = null

  function urlOf(route: keyof UploadEndpoints, usual: string, uploadId = ''): URL {
    return new URL((endpoints?.[route] ?? endpoint + usual).replace(':uploadId', encodeURIComponent(uploadId)), page)
  }

  async function call(method: string, url: URL, signal: AbortSignal, more: Partial<HttpRequest> = {}): Promise<Json> {
    const sendWith = (own?: Headers) =>
      send({
        method,
        url: url.href,
        signal,
        size: 0,
        timeout: stallTimeout,
        credentials,
        ...more,
        headers: { ...own, ...more.headers },
      })
    if (typeof headers !== 'function') return jsonOf(await sendWith(headers))
    const answer = await sendWith(await headers({ refused: false }))
    if (answer.status !== 401) return jsonOf(answer)
    // Chunks that are refused together need one new token, not one each.
    refreshing ??= Promise.resolve(headers({ refused: true })).finally(() => {
      refreshing = null
    })
    return jsonOf(await sendWith(await refreshing))
  }

  async function post(key: string, url: URL, value: object, signal: AbortSignal, timeout = stallTimeout) {
    const headers = { 'Content-Type': 'application/json' }
    return required(key, await call('POST', url, signal, { headers, body: JSON.stringify(value), timeout }))
  }

  urlOf('init', '/init')
  return {
    init: (about: object, signal: AbortSignal) =>
      post('uploadId', urlOf('init', '/init'), about, signal) as unknown as Promise<OpenUpload>,

    async chunk({ uploadId, index, body, size, checksum }: Chunk, signal: AbortSignal, onSent: (n: number) => void) {
      const url = urlOf('chunk', '/chunk')
      const form = options.chunkFormat === 'form' && new FormData()
      for (const [name, value] of Object.entries({ uploadId, chunkIndex: `${index}`, checksum })) {
        if (value) (form || url.searchParams).append(name, value)
      }
      // Last, so that the server can put the bytes straight to their place.
      if (form) form.append('chunk', new Blob([body as Blob]))
      const request = form ? { body: form } : { body, headers: { 'Content-Type': 'application/octet-stream' } }
      required('success', await call('POST', url, signal, { size, onSent, ...request }))
    },

    complete: (uploadId: string, signal: AbortSignal) =>
      post(
        'url',
        urlOf('complete', '/complete'),
        { uploadId },
        signal,
        10 * stallTimeout,
      ) as unknown as Promise<UploadResult>,

    async received(uploadId: string, signal: AbortSignal) {
      const answer = await call('GET', urlOf('progress', '/progress/:uploadId', uploadId), signal)
      return required('received', answer).received as readonly Span[]
    },

    abort: (uploadId: string, signal: AbortSignal) => call('DELETE', urlOf('abort', '/:uploadId', uploadId), signal),
  }
}

/** @throws UploadError for any status but a 2xx, by what its body says, else by the status */
function jsonOf({ status, text, retryAfter }: HttpAnswer): Json {
  let details: Json = {}
  try {
    details = { ...JSON.parse(text) }
  } catch {
    // A proxy, or an error handler of the app.
  }
  if (status >= 200 && status < 300) return details
  const mayPass = [408, 423, 425, 429].includes(status) || (status >= 500 && status !== 501)
  const { code = `HTTP_${status}`, message = `The server answered ${status}.`, retryable = mayPass } = details
  throw new UploadError(`${message}`, {
    code: `${code}`,
    status,
    retryable: retryable === true,
    details,
    // Its other form, a date, becomes 0. An hour is the most that is waited.
    retryAfter: Math.min(Number(retryAfter) * 1000 || 0, 3_600_000),
  })
}

/** Not everything that answers 200 is the upload route: a login page, a captive portal. */
function required(key: string, answer: Json): Json {
  if (answer[key]) return answer
  throw new UploadError('This is no answer of the upload routes.', {
    code: 'BAD_ANSWER',
    retryable: true,
    details: answer,
  })
}
