/** What the processes of the bench tell each other. */

export type ServerKind = 'pipe' | 'multer' | 'ours'

/** How the client talks: the whole file as one body, chunks as multipart/form-data, chunks as raw bodies. */
export type ClientKind = 'whole' | 'form' | 'raw'

export type ServerMessage =
  | { readonly type: 'ready'; readonly port: number }
  | { readonly type: 'cpu'; readonly seconds: number }
  | { readonly type: 'failed'; readonly reason: string }

export interface ClientJob {
  readonly kind: ClientKind
  readonly port: number
  /** Bytes. */
  readonly size: number
  readonly chunkSize: number
}

export type ClientMessage =
  | { readonly type: 'ready' }
  | { readonly type: 'done'; readonly result: ClientResult }
  | { readonly type: 'failed'; readonly reason: string }

export interface ClientResult {
  readonly url: string
  /** From the first request until everything is answered, the completion included, ms. */
  readonly totalMs: number
  /** The completion alone, ms: of a whole body, from its last byte until the answer. */
  readonly completeMs: number
  readonly cpuSeconds: number
}
