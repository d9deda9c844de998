/** What the processes of the bench tell each other. */

export type TusServerKind = 'tus' | 'tus-server' | 'tus-s3' | 'tus-server-s3'
export type ServerKind = 'pipe' | 'multer' | 'ours' | TusServerKind

/**
 * How the client talks: the whole file as one body, chunks as multipart/form-data, chunks as raw bodies, tus with one
 * PATCH for the whole file, tus with a PATCH per chunk.
 */
export type ClientKind = 'whole' | 'form' | 'raw' | 'tus-one-patch' | 'tus-patches'

export type ServerMessage =
  | { readonly type: 'ready'; readonly port: number }
  | { readonly type: 'cpu'; readonly seconds: number }
  | { readonly type: 'failed'; readonly reason: string }

/** Asked with the key of an object, the sink answers with what it has of it. */
export type SinkMessage = { readonly type: 'ready'; readonly port: number } | ({ readonly type: 'stored' } & StoredInS3)

export interface StoredInS3 {
  readonly sha256: string
  readonly parts: number
  /** Of all requests so far, by operation. */
  readonly calls: Readonly<Record<string, number>>
}

/** The bucket of the sink. The same name as the mount point of tus, so that every URL of a file ends alike. */
export const bucket = 'files'

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
  /** The completion alone, ms: where there is no request for it, from the last byte until the answer. */
  readonly completeMs: number
  readonly cpuSeconds: number
}
