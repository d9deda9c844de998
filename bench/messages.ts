/** What the processes of the bench tell each other. */

export type ServerKind =
  | 'pipe'
  | 'nginx'
  | 'chunk-files'
  | 'writev'
  | 'express'
  | 'multer'
  | 'uploadx'
  | 'ours'
  | 'ours-power'
  | 'ours-sparse'
  | 'tus'
  | 'tus-server'
  // The names of those that need the S3 sink end in `-s3`.
  | 'relay-s3'
  | 'multer-s3'
  | 'ours-s3'
  | 'tus-s3'
  | 'tus-server-s3'

/**
 * How the client talks. `whole`: a file is the body of one PUT; `whole-form`: of one form. `form`, `raw`: init, chunks as
 * multipart/form-data or as raw bodies, complete. `tus`: a PATCH for each chunk; `tus-one-patch`: for the file.
 * `uploadx`: a PUT with Content-Range for each chunk.
 */
export type WireKind = 'whole' | 'whole-form' | 'form' | 'raw' | 'tus' | 'tus-one-patch' | 'uploadx'

export type ServerQuestion = 'cpu' | 'heap'

export type ServerMessage =
  | { readonly type: 'ready'; readonly port: number }
  | { readonly type: 'figure'; readonly value: number }
  | { readonly type: 'failed'; readonly reason: string }

/** Asked with the keys of objects, the sink answers with what it has of each. */
export type SinkMessage =
  | { readonly type: 'ready'; readonly endpoint: string }
  | {
      readonly type: 'stored'
      readonly objects: readonly { readonly sha256: string; readonly parts: number }[]
      /** Of all requests so far, by operation. */
      readonly calls: Readonly<Record<string, number>>
    }

/** The bucket of the sink. The same name as the mount point of tus, so that every URL of a file ends alike. */
export const bucket = 'files'

export type Checksum = 'crc32' | 'sha256'

/** How a client uploads. */
export interface Contact {
  readonly wire: WireKind
  /** Whether `init` tells the size of the chunks. Default: yes. */
  readonly declared?: boolean
  /** Sent with each chunk. Default: none. */
  readonly checksum?: Checksum
}

/** What a client uploads. */
export interface Load {
  /**
   * `uploads` (default): files, each completed. `idle`: each gets its first chunk and is left alone. `beside`: 64 KiB chunks
   * of one upload go on while another completes.
   */
  readonly scenario?: 'uploads' | 'idle' | 'beside'
  readonly files: number
  /** Of a file, bytes. */
  readonly size: number
  readonly chunkSize: number
  /** Files at once. Default 1. */
  readonly clients?: number
  /** Chunks of one file at once. Default 1. */
  readonly inFlight?: number
  /** The probability that a chunk is cut somewhere while it is sent. Default 0. */
  readonly cutShare?: number
  /** Only the last chunk is sent: the server takes the others for received. */
  readonly lastOnly?: boolean
}

export interface ClientJob {
  readonly port: number
  readonly contact: Contact
  readonly load: Load
}

export type ClientMessage =
  | { readonly type: 'ready' }
  | { readonly type: 'done'; readonly result: ClientResult }
  | { readonly type: 'failed'; readonly reason: string }

/** Times are in ms. */
export interface ClientResult {
  /** Of the completed files, in order. */
  readonly urls: readonly string[]
  /** From the first request until everything is answered, the completions included. */
  readonly totalMs: number
  /** The completion alone, median: where there is no request for it, from the last byte until the answer. */
  readonly completeMs: number
  readonly chunks: number
  readonly chunkP50: number
  readonly chunkP99: number
  /** `beside`: before the completion began. */
  readonly quietP99: number | null
  /** Bytes of files that went out, cut ones included. */
  readonly sentBytes: number
  readonly cpuSeconds: number
}
