/** Everything a user of the client can name. Own types throughout, so that it compiles with and without the DOM. */

/** A `File` or `Blob`. */
export interface BlobLike {
  readonly size: number
  readonly type: string
  readonly name?: string
  readonly lastModified?: number
  slice(start?: number, end?: number): BlobLike
  arrayBuffer(): Promise<ArrayBuffer>
}

/** A `ReadableStream` of bytes. */
export interface ByteStream {
  getReader(): {
    read(): Promise<{ done: boolean; value?: Uint8Array | undefined }>
    cancel(reason?: unknown): Promise<unknown>
  }
}

/**
 * What can be uploaded: a file or blob, bytes in memory, or bytes that arrive one after the other (a `ReadableStream`, a
 * Node `Readable`, any async iterable), which need the option `size`. In Node a string is the path of a file.
 */
export type UploadSource = BlobLike | ArrayBuffer | ArrayBufferView | ByteStream | AsyncIterable<Uint8Array> | string

/** The routes, where they are not below one `endpoint`. `:uploadId` is filled in, or added as `?uploadId=`. */
export interface UploadEndpoints {
  readonly init: string
  readonly chunk: string
  readonly complete: string
  readonly progress: string
  readonly abort: string
}

/**
 * Headers of every request, or a function that is asked before each. It is asked once more, with `refused: true`, when
 * the server has answered 401: the time to get a new token.
 */
export type UploadHeaders =
  | Readonly<Record<string, string>>
  | ((state: { refused: boolean }) => Readonly<Record<string, string>> | Promise<Readonly<Record<string, string>>>)

export interface UploadOptions {
  /** Where the documented routes are mounted. Absolute in Node. Default `/upload`. */
  endpoint?: string
  /** Single routes elsewhere. */
  endpoints?: Partial<UploadEndpoints>
  headers?: UploadHeaders
  /** As in `fetch`. Default `same-origin`. */
  credentials?: 'omit' | 'same-origin' | 'include'
  /** Default: the file's own name, else `file`. */
  fileName?: string
  /** Default: the file's own type. */
  mimeType?: string
  /** Bytes; needed for streams, ignored for everything else. */
  size?: number
  /** Bytes. Default 2 MiB, more for files above 20 GB. The server may ask for less. */
  chunkSize?: number
  /** `raw` sends the bytes alone, `form` as `multipart/form-data`. Default `raw`. */
  chunkFormat?: 'raw' | 'form'
  /** Sent with every chunk. Default `sha256`, which becomes `crc32c` where the page has no WebCrypto. */
  checksum?: 'sha256' | 'crc32c' | false
  /** Of the whole file, `<algorithm>:<base64>`; the server verifies it before it stores the file. */
  fileChecksum?: string
  /**
   * Finds the upload again after the page, or the process, was closed; up to 400 characters. Default: made from the file
   * and a secret of this browser; `false`: none. Bytes and streams have none by default.
   */
  resumeKey?: string | false
  /** Most chunks at a time. How many there are is found out by trying. Default 6. */
  parallel?: number
  /** Failures one after the other, without an answer in between, before it gives up. Default 10. */
  retries?: number
  /** First wait after a failure, ms; doubled each time. `Retry-After` goes before. Default 1000. */
  retryDelay?: number
  /** Longest wait, ms. Default 30 000. */
  maxRetryDelay?: number
  /** Longest time without a sign of life from the line, ms. Ten times that for the completion. Default 30 000. */
  stallTimeout?: number
  /** Stops the upload, and leaves what has arrived on the server, to be resumed. */
  signal?: AbortSignal
  /** Called on every change, about ten times a second at most. */
  onProgress?: (progress: UploadProgress) => void
}

/**
 * `waiting`: for the network or the server, after a failure. `completing`: all bytes are there, the server stores the file.
 * `aborted`: by `abort()` or the signal.
 */
export type UploadState =
  | 'idle'
  | 'uploading'
  | 'waiting'
  | 'paused'
  | 'completing'
  | 'completed'
  | 'failed'
  | 'aborted'

export interface UploadProgress {
  readonly state: UploadState
  /** Bytes, with those of chunks under way; less than before when one of them failed. */
  readonly sentBytes: number
  /** 0 until the source has been opened. */
  readonly totalBytes: number
  /** Bytes per second, lately. */
  readonly speed: number
  /** `null` while it is not known. */
  readonly secondsLeft: number | null
  /** Where the file is, once it is completed. */
  readonly url: string | null
  /** Why it failed, was aborted, or has to wait. */
  readonly error: unknown
}

export interface UploadResult {
  readonly url: string
  readonly uploadId: string
  readonly key?: string
  /** Bytes. */
  readonly size?: number
  readonly checksum?: string
}

/**
 * The upload of one file to the documented routes. It repeats what failed, finds out how many chunks at a time are best,
 * and finds what was sent before, also after the page was closed.
 */
export interface Upload {
  /** A new object after every change, so that it can be compared by identity. */
  readonly progress: UploadProgress
  /** Calls `listener` on every change, about ten times a second at most. Returns what ends that. */
  subscribe(listener: (progress: UploadProgress) => void): () => void
  /**
   * Begins, or begins again after a failure, and resolves when the file is stored. A second call returns the promise of
   * the first.
   * @throws UploadError; the signal's reason
   */
  start(): Promise<UploadResult>
  /** Stops at once; chunks under way are sent again later. The promise of `start` stays open. */
  pause(): void
  resume(): void
  /**
   * Gives up, and removes from the server what it has. The promise of `start` rejects with the code `ABORTED`.
   * @throws UploadError when the server cannot be reached, or has stored the file already
   */
  abort(): Promise<void>
}

export interface UploadGroupOptions extends Omit<UploadOptions, 'onProgress' | 'size' | 'fileChecksum' | 'resumeKey'> {
  /** Most files at a time. A paused one does not count. Default 2. */
  parallelFiles?: number
  /** Called on every change of any of them. */
  onProgress?: (progress: GroupProgress) => void
}

export interface GroupProgress {
  /** Bytes, of all files that were not aborted. */
  readonly sentBytes: number
  readonly totalBytes: number
  /** Bytes per second, of all that are under way. */
  readonly speed: number
  /** `null` while it is not known. */
  readonly secondsLeft: number | null
  readonly files: number
  readonly completed: number
  readonly failed: number
}

/** Several files, a few at a time. */
export interface UploadGroup {
  readonly uploads: readonly Upload[]
  readonly progress: GroupProgress
  /** Calls `listener` on every change of any of them. Returns what ends that. */
  subscribe(listener: (progress: GroupProgress) => void): () => void
  /** Queues a file; it begins as soon as there is room. `options` go before those of the group. */
  add(source: UploadSource, options?: UploadOptions): Upload
  /** Resolves when all files are completed, failed or aborted. Does not reject: look at their `progress`. */
  done(): Promise<readonly Upload[]>
  pause(): void
  resume(): void
  /** Aborts all that are not completed. @throws UploadError when one could not be removed from the server */
  abort(): Promise<void>
}
