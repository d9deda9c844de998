/** What differs between a browser and Node. */
import type { BlobLike, UploadOptions, UploadSource } from './types.ts'

export interface HttpRequest {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array | BlobLike | FormData
  /** Of the body, bytes. */
  readonly size: number
  readonly credentials: 'omit' | 'same-origin' | 'include'
  readonly signal: AbortSignal
  /** Longest silence, ms. */
  readonly timeout: number
  /** Hears how many bytes of the body have gone. */
  readonly onSent?: ((bytes: number) => void) | undefined
}

export interface HttpAnswer {
  readonly status: number
  readonly text: string
  readonly retryAfter: string | null
}

/** An opened source. */
export interface Source {
  readonly name: string
  readonly type: string
  /** Bytes. */
  readonly size: number
  /** What sets this very file apart from others of its size, secret included; `null` when nothing does. */
  readonly identity: string | null
  /** Whether any range can be read at any time. Otherwise each is read once, from first to last. */
  readonly isRereadable: boolean
  read(start: number, end: number): Promise<Uint8Array | BlobLike>
  /** Gives back what it holds. A source that can be read again still can. */
  close(): void
}

export interface Platform {
  /** @throws UploadError `NETWORK_ERROR` or `TIMEOUT`; the signal's reason when it aborts */
  send(request: HttpRequest): Promise<HttpAnswer>
  open(source: UploadSource, options: UploadOptions): Promise<Source>
}
