/** As much of a browser as Resumable.js and Flow.js ask for: `window`, `document`, and XMLHttpRequest over real HTTP. */
import { File } from 'node:buffer'
import { createRequire } from 'node:module'

/** What was sent, in order: `GET`, or `POST` with its status once it has come; 0: no answer. */
export interface SeenRequest {
  readonly method: string
  readonly url: string
  status: number | null
}

export const seen: SeenRequest[] = []

type Listener = (this: unknown, event: { lengthComputable: boolean; loaded: number; total: number }) => void

class Listeners {
  readonly #of = new Map<string, Listener[]>()

  addEventListener(name: string, listener: Listener): void {
    this.#of.set(name, [...(this.#of.get(name) ?? []), listener])
  }

  protected dispatch(name: string): void {
    for (const listener of this.#of.get(name) ?? []) {
      listener.call(this, { lengthComputable: false, loaded: 0, total: 0 })
    }
  }
}

class BrowserRequest extends Listeners {
  readonly upload = new Listeners()
  readyState = 0
  status = 0
  responseText = ''
  timeout = 0
  withCredentials = false
  #method = ''
  #url = ''
  readonly #headers = new Headers()
  readonly #aborting = new AbortController()

  open(method: string, url: string): void {
    this.#method = method
    this.#url = url
    this.readyState = 1
  }

  setRequestHeader(name: string, value: string): void {
    this.#headers.set(name, value)
  }

  abort(): void {
    this.#aborting.abort()
    this.readyState = 0
  }

  send(body: RequestInit['body']): void {
    const request: SeenRequest = { method: this.#method, url: this.#url, status: null }
    seen.push(request)
    const { signal } = this.#aborting
    const settle = (status: number, text: string) => {
      request.status = status
      if (signal.aborted) return
      this.readyState = 4
      this.status = status
      this.responseText = text
      this.dispatch(status === 0 ? 'error' : 'load')
    }
    void fetch(this.#url, { method: this.#method, headers: this.#headers, body: body ?? null, signal })
      .then(async (response) => ({ status: response.status, text: await response.text() }))
      .catch(() => ({ status: 0, text: '' }))
      .then(({ status, text }) => settle(status, text))
  }
}

Object.assign(globalThis, {
  window: globalThis,
  document: {},
  XMLHttpRequest: BrowserRequest,
  FileList: class FileList {},
  File: globalThis.File ?? File,
})
if (!('navigator' in globalThis)) Object.assign(globalThis, { navigator: { userAgent: 'test' } })

/** A file as an `<input>` gives it. */
export function browserFile(data: Buffer, name: string, type = ''): globalThis.File {
  return new globalThis.File([new Uint8Array(data)], name, { type })
}

/** A library that looks for `window` when it is loaded. */
export function loadLibrary(name: string): unknown {
  return createRequire(import.meta.url)(name)
}
