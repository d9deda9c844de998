/** The documented routes over HTTP, with a body that can be watched and cut off in the middle. */
import { once } from 'node:events'
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

const requestTimeout = 60_000
const sliceSize = 64 * 1024

/** First and last chunk index, inclusive. */
export type Span = readonly [first: number, last: number]

export interface Progress {
  readonly uploadedChunks: number
  readonly totalChunks: number
  readonly received: readonly Span[]
  readonly missing: readonly Span[]
}

export interface Completed {
  readonly url: string
  readonly key: string
  readonly size: number
}

/** The server answered, and not with success. */
export class RefusedError extends Error {
  readonly status: number

  constructor(status: number, body: string) {
    super(`The server answered ${status}: ${body.slice(0, 300)}`)
    this.status = status
  }
}

/** We cut the connection ourselves. */
export class CutError extends Error {}

export interface SendChunk {
  readonly uploadId: string
  readonly index: number
  readonly bytes: Buffer
  /** Called for every piece of the chunk that was handed to the connection. */
  readonly onSent: (bytes: number) => void
  /** Cut the connection after so many bytes of the chunk. */
  readonly cutAfter?: number
}

export class Client {
  readonly #origin: string
  readonly #signal: AbortSignal
  readonly #agent = new Agent({ keepAlive: true })
  readonly #bytesPerMs: number
  #mayGoOnAt = 0

  constructor(origin: string, signal: AbortSignal, bytesPerSecond: number) {
    this.#origin = origin
    this.#signal = signal
    this.#bytesPerMs = bytesPerSecond / 1000
  }

  async init(file: { fileName: string; totalSize: number; mimeType: string; chunkSize: number }): Promise<string> {
    const { uploadId } = (await this.#json('POST', '/upload/init', file)) as { uploadId: string }
    return uploadId
  }

  async progress(uploadId: string): Promise<Progress> {
    return (await this.#json('GET', `/upload/progress/${uploadId}`)) as Progress
  }

  async complete(uploadId: string): Promise<Completed> {
    return (await this.#json('POST', '/upload/complete', { uploadId })) as Completed
  }

  /** Resolves when the server has acknowledged the chunk. */
  async sendChunk({ uploadId, index, bytes, onSent, cutAfter }: SendChunk): Promise<void> {
    const boundary = 'nexus-uploader-demo-boundary'
    const field = (name: string, value: string | number) =>
      `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`
    const file =
      'Content-Disposition: form-data; name="chunk"; filename="chunk"\r\nContent-Type: application/octet-stream'
    const head = `${field('uploadId', uploadId)}${field('chunkIndex', index)}--${boundary}\r\n${file}\r\n\r\n`
    const tail = `\r\n--${boundary}--\r\n`
    const request = httpRequest(`${this.#origin}/upload/chunk`, {
      method: 'POST',
      agent: this.#agent,
      signal: AbortSignal.any([this.#signal, AbortSignal.timeout(requestTimeout)]),
      headers: {
        'Content-Type': `multipart/form-data; boundary=${boundary}`,
        'Content-Length': head.length + bytes.length + tail.length,
      },
    })
    const answered = once(request, 'response').then(([response]) => requireSuccess(response as IncomingMessage))
    // It may fail while we are still writing; whoever awaits it then hears of it.
    answered.catch(() => {})
    request.write(head)
    for (let at = 0; at < bytes.length; at += sliceSize) {
      if (cutAfter !== undefined && at >= cutAfter) {
        // Long enough for the server to have begun with the chunk.
        await sleep(50)
        request.destroy(new CutError('The connection was cut.'))
        break
      }
      const slice = bytes.subarray(at, at + sliceSize)
      await this.#pace(slice.length)
      const goesOn = request.write(slice)
      onSent(slice.length)
      // An answer before the end is a refusal: then nobody reads the rest.
      if (!goesOn) await Promise.race([once(request, 'drain'), answered])
    }
    request.end(tail)
    await answered
  }

  /** Idle connections do not keep the process alive, but they do keep the server from closing. */
  close(): void {
    this.#agent.destroy()
  }

  async #pace(bytes: number): Promise<void> {
    if (this.#bytesPerMs === Number.POSITIVE_INFINITY) return
    const now = performance.now()
    const start = Math.max(now, this.#mayGoOnAt)
    this.#mayGoOnAt = start + bytes / this.#bytesPerMs
    if (start > now) await sleep(start - now, undefined, { signal: this.#signal })
  }

  async #json(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(this.#origin + path, {
      method,
      signal: AbortSignal.any([this.#signal, AbortSignal.timeout(requestTimeout)]),
      ...(body !== undefined && { body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } }),
    })
    const text = await response.text()
    if (!response.ok) throw new RefusedError(response.status, text)
    return JSON.parse(text)
  }
}

async function requireSuccess(response: IncomingMessage): Promise<void> {
  const pieces: Buffer[] = []
  for await (const piece of response) pieces.push(piece as Buffer)
  const status = response.statusCode ?? 0
  if (status !== 200) throw new RefusedError(status, Buffer.concat(pieces).toString())
}
