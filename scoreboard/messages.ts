/** What the scoreboard and the servers tell each other. */

export const serverKinds = ['ours-tus', 'ours-routes', 'tus-server', 'uploadx', 'multer'] as const
export type ServerKind = (typeof serverKinds)[number]

export interface S3Access {
  readonly endpoint: string
  readonly region: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly bucket: string
}

/** As JSON in the first argument of a server's process. */
export interface ServerSettings {
  readonly kind: ServerKind
  /** For everything that the server keeps. It makes the folder itself. */
  readonly directory: string
  readonly s3?: S3Access
  /** How long an upload may lie idle, ms; nothing is given up without it. */
  readonly expiry?: number
  /** How long a body may be silent, ms. */
  readonly bodyIdleTimeout?: number
}

/** `cpu`: seconds used so far. `cleanup`: runs it now. `show`: the server's objects as a log would print them. */
export type Question = 'cpu' | 'cleanup' | 'show' | 'close'

export type Message =
  | { readonly type: 'ready'; readonly port: number }
  | { readonly type: 'answer'; readonly value: string | number }
  | { readonly type: 'failed'; readonly reason: string }

/** Of Redis clients that are looked at and never connected. */
export const secretOfRedis = 'redis-secret-0123456789'
