/**
 * `XMLHttpRequest` for clients that know nothing else, over `node:http`: as much of it as Uppy uses. Like a page of another
 * origin it may read only the response headers that the server exposes, and nothing without `Access-Control-Allow-Origin`.
 */
import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http'

const safelisted = ['cache-control', 'content-language', 'content-length', 'content-type', 'expires', 'last-modified']

type RequestBody = ConstructorParameters<typeof Response>[0]

export interface SentRequest {
  readonly method: string
  readonly url: string
  status: number
}

/** What was sent since `installXhr`. */
export type XhrLog = SentRequest[]

class ProgressEventLike extends Event {
  readonly lengthComputable = true
  readonly loaded: number
  readonly total: number

  constructor(type: string, loaded: number, total: number) {
    super(type)
    this.loaded = loaded
    this.total = total
  }
}

/** Events reach `on…` properties and listeners. */
class Target extends EventTarget {
  emit(event: Event): void {
    const handler = (this as unknown as Record<string, unknown>)[`on${event.type}`]
    if (typeof handler === 'function') handler.call(this, event)
    this.dispatchEvent(event)
  }
}

function xhrClass(log: XhrLog, page: string) {
  return class extends Target {
    readonly upload = new Target()
    responseType = ''
    responseText = ''
    status = 0
    statusText = ''
    timeout = 0
    withCredentials = false
    readyState = 0
    #method = ''
    #url = ''
    #headers: Record<string, string> = {}
    #exposed: Record<string, string> = {}
    #request: ClientRequest | null = null
    #done = false

    get response(): unknown {
      return this.responseType === 'json' ? JSON.parse(this.responseText) : this.responseText
    }

    open(method: string, url: string): void {
      this.#method = method.toUpperCase()
      this.#url = url
    }

    setRequestHeader(name: string, value: string): void {
      this.#headers[name.toLowerCase()] = value
    }

    getResponseHeader(name: string): string | null {
      return this.#exposed[name.toLowerCase()] ?? null
    }

    getAllResponseHeaders(): string {
      return Object.entries(this.#exposed)
        .map(([name, value]) => `${name}: ${value}\r\n`)
        .join('')
    }

    send(body: RequestBody = null): void {
      void this.#send(body).catch(() => this.#end('error'))
    }

    abort(): void {
      this.#request?.destroy()
      this.#end('abort')
    }

    #expose(response: IncomingMessage): void {
      const { headers } = response
      const isSameOrigin = new URL(this.#url).origin === page
      if (!isSameOrigin && headers['access-control-allow-origin'] === undefined) {
        throw new Error('the answer has no Access-Control-Allow-Origin')
      }
      const exposed = String(headers['access-control-expose-headers'] ?? '').toLowerCase()
      const readable = [...safelisted, ...exposed.split(/,\s*/)]
      for (const [name, value] of Object.entries(headers)) {
        if (isSameOrigin || readable.includes(name)) this.#exposed[name] = String(value)
      }
    }

    #end(type: string): void {
      if (this.#done) return
      this.#done = true
      this.readyState = 4
      if (type !== 'load') this.status = 0
      this.emit(new Event(type))
      this.emit(new Event('loadend'))
    }

    async #write(request: ClientRequest, file: Blob): Promise<void> {
      let sent = 0
      for await (const piece of file.stream()) {
        if (request.destroyed) return
        sent += piece.length
        await new Promise<void>((resolve) => request.write(piece, () => resolve()))
        if (!this.#done) this.upload.emit(new ProgressEventLike('progress', sent, file.size))
      }
      request.end()
    }

    async #send(body: RequestBody): Promise<void> {
      const entry: SentRequest = { method: this.#method, url: this.#url, status: 0 }
      log.push(entry)
      // Serialises forms, and gives blobs their type, as a browser does.
      const encoded = new Response(body)
      const type = encoded.headers.get('content-type')
      if (type && !('content-type' in this.#headers)) this.#headers['content-type'] = type
      // A file that may be large is read as it is sent.
      const file = body instanceof Blob ? body : new Blob([await encoded.arrayBuffer()])
      const headers = { origin: page, 'content-length': file.size, ...this.#headers }
      const request = httpRequest(this.#url, { method: this.#method, headers })
      this.#request = request
      if (this.timeout > 0) setTimeout(() => this.#end('timeout'), this.timeout).unref()
      const response = await new Promise<IncomingMessage>((resolve, reject) => {
        request.on('response', resolve).on('error', reject)
        this.#write(request, file).catch(reject)
      })
      const pieces: Buffer[] = []
      for await (const piece of response) pieces.push(piece as Buffer)
      this.#expose(response)
      this.responseText = Buffer.concat(pieces).toString('utf8')
      this.status = entry.status = response.statusCode ?? 0
      this.statusText = response.statusMessage ?? ''
      this.#end('load')
    }
  }
}

/** Puts it into the global scope, as of a page of this origin; the function that is returned takes it out again. */
export function installXhr(page = 'https://page.example.com'): { log: XhrLog; remove: () => void } {
  const log: XhrLog = []
  const scope = globalThis as { XMLHttpRequest?: unknown }
  scope.XMLHttpRequest = xhrClass(log, page)
  return {
    log,
    remove: () => {
      delete scope.XMLHttpRequest
    },
  }
}
