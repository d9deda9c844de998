/** What the client uses of a browser's XMLHttpRequest, over node:http: progress of the body, answers, abort. */
import { type ClientRequest, request } from 'node:http'

const pieceSize = 16 * 1024

export class NodeXhr {
  /** Of all requests, in their order. */
  static readonly made: NodeXhr[] = []
  /** Between two pieces of a body, ms. */
  static delay = 0

  status = 0
  responseText = ''
  withCredentials = false
  wasAborted = false
  readonly upload: { onprogress: ((event: { loaded: number }) => void) | null } = { onprogress: null }
  onload: (() => void) | null = null
  onerror: ((event: unknown) => void) | null = null
  #request: ClientRequest | null = null
  #answer: Record<string, string | string[] | undefined> = {}
  #isOver = false

  open(method: string, url: string): void {
    NodeXhr.made.push(this)
    this.#request = request(url, { method })
  }

  setRequestHeader(name: string, value: string): void {
    this.#request?.setHeader(name, value)
  }

  getResponseHeader(name: string): string | null {
    return (this.#answer[name.toLowerCase()] as string | undefined) ?? null
  }

  send(body: Uint8Array): void {
    const outgoing = this.#request
    if (!outgoing) throw new Error('InvalidStateError')
    const fail = () => {
      if (!this.#isOver) this.onerror?.({ type: 'error' })
      this.#isOver = true
    }
    outgoing.on('error', fail)
    outgoing.on('response', async (answer) => {
      try {
        const parts: Buffer[] = []
        for await (const part of answer) parts.push(part as Buffer)
        this.status = answer.statusCode ?? 0
        this.#answer = answer.headers
        this.responseText = Buffer.concat(parts).toString()
        if (!this.#isOver) this.onload?.()
        this.#isOver = true
      } catch {
        fail()
      }
    })
    outgoing.setHeader('Content-Length', body.length)
    const write = (at: number) => {
      if (this.#isOver) return
      if (at > 0) this.upload.onprogress?.({ loaded: at })
      const end = Math.min(at + pieceSize, body.length)
      if (at === body.length) outgoing.end()
      else outgoing.write(body.subarray(at, end), () => setTimeout(write, NodeXhr.delay, end))
    }
    write(0)
  }

  abort(): void {
    if (this.#isOver) return
    this.#isOver = true
    this.wasAborted = true
    this.#request?.destroy()
  }
}
