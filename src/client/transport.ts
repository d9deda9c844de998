/** One HTTP request and its answer: by XMLHttpRequest where that tells how much of a body has gone, else by fetch. */
import type { HttpAnswer, HttpRequest } from './platform.ts'
import { UploadError } from './upload-error.ts'
import { orAborted, within } from './waiting.ts'

/** What is used of the browser's XMLHttpRequest. */
interface Xhr {
  readonly status: number
  readonly responseText: string
  readonly upload: { onprogress: ((event: { loaded: number }) => void) | null }
  withCredentials: boolean
  onload: (() => void) | null
  onerror: ((error: unknown) => void) | null
  open(method: string, url: string): void
  setRequestHeader(name: string, value: string): void
  getResponseHeader(name: string): string | null
  send(body: unknown): void
  abort(): void
}

/** Where nothing tells how much has gone, a line of so many bytes per ms is not taken for a dead one. */
const slowestLine = 10

export function sendFromBrowser(request: HttpRequest): Promise<HttpAnswer> {
  const { XMLHttpRequest } = globalThis as { XMLHttpRequest?: new () => Xhr }
  // XMLHttpRequest cannot leave out the cookies of the same origin.
  if (!request.onSent || !XMLHttpRequest || request.credentials === 'omit') return sendByFetch(request)
  const xhr = new XMLHttpRequest()
  return watched(request, (signal, isAlive) =>
    orAborted(sendByXhr(xhr, request, isAlive), signal).finally(() => xhr.abort()),
  )
}

export function sendByFetch(request: HttpRequest): Promise<HttpAnswer> {
  const timeout = request.timeout + request.size / slowestLine
  return watched({ ...request, timeout }, (signal) => answerOf({ ...request, signal }))
}

export async function answerOf({
  url,
  ...request
}: Omit<HttpRequest, 'body'> & { body?: unknown; duplex?: 'half' }): Promise<HttpAnswer> {
  const response = await fetch(url, request as RequestInit)
  return { status: response.status, text: await response.text(), retryAfter: response.headers.get('Retry-After') }
}

/** Ends what was started when the signal aborts, or after `timeout` ms without a call of `isAlive`. */
export function watched<Result>(
  { signal, timeout }: { signal: AbortSignal; timeout: number },
  start: (signal: AbortSignal, isAlive: () => void) => Promise<Result>,
): Promise<Result> {
  return within(signal, async (own) => {
    let timer: ReturnType<typeof setTimeout> | undefined
    const silent = new UploadError('The server has fallen silent.', { code: 'TIMEOUT', retryable: true })
    const isAlive = () => {
      clearTimeout(timer)
      timer = setTimeout(() => own.abort(silent), timeout)
    }
    isAlive()
    try {
      return await start(own.signal, isAlive)
    } catch (cause) {
      own.signal.throwIfAborted()
      throw new UploadError('The server cannot be reached.', { code: 'NETWORK_ERROR', retryable: true, cause })
    } finally {
      clearTimeout(timer)
    }
  })
}

function sendByXhr(xhr: Xhr, request: HttpRequest, isAlive: () => void): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    xhr.upload.onprogress = ({ loaded }) => {
      isAlive()
      request.onSent?.(loaded)
    }
    xhr.onload = () =>
      resolve({ status: xhr.status, text: xhr.responseText, retryAfter: xhr.getResponseHeader('Retry-After') })
    xhr.onerror = reject
    xhr.open(request.method, request.url)
    xhr.withCredentials = request.credentials === 'include'
    for (const [name, value] of Object.entries(request.headers)) xhr.setRequestHeader(name, value)
    xhr.send(request.body)
  })
}
