/** The public options of the S3 storage, and what they become once they are checked. */
import { isIP } from 'node:net'
import { inspect } from 'node:util'
import type { ObjectCannedACL, S3Client, ServerSideEncryption, StorageClass } from '@aws-sdk/client-s3'

const MiB = 1024 * 1024

/** S3's own limits, the same on every server we know. */
export const S3_LIMITS = { minPartSize: 5 * MiB, maxPartSize: 5 * 1024 * MiB, maxParts: 10_000 } as const

/** Media types that a browser may show from the bucket's origin; everything else is a download. */
export const DEFAULT_INLINE_TYPES: readonly string[] = [
  'image/*',
  'audio/*',
  'video/*',
  'text/plain',
  'application/pdf',
]

export interface S3StorageOptions {
  /** The bucket; it must exist. */
  bucket: string
  /**
   * The server, with or without scheme: `https://s3.example.com`, `s3.example.com`, `localhost:9000`. Without a scheme
   * it is `http` for localhost and IP addresses and `https` for the rest. Default: AWS.
   */
  endpoint?: string | undefined
  /** Both keys or neither. Default: the AWS SDK's own search (environment, profile, instance role, …). */
  accessKeyId?: string | undefined
  secretAccessKey?: string | undefined
  /** For temporary credentials. */
  sessionToken?: string | undefined
  /** Default: `us-east-1` with an `endpoint`, else what the AWS SDK finds in environment and profile. */
  region?: string | undefined
  /**
   * A client of your own instead of endpoint, region and credentials. It is used as it is: its own retries apply to
   * everything but the bytes of files and parts that come from the disk, and `close()` leaves it open.
   */
  client?: S3Client | undefined
  /** Put before every key, with a `/` between. Default: none. */
  prefix?: string | undefined
  /**
   * Where private pieces of uploads lie until they have become files, after `prefix`, with a `/` between; files may not
   * be put there. Keep it out of what a CDN or a bucket policy makes public. Default `.nexus-staging`.
   */
  stagingPrefix?: string | undefined
  /** `https://host/bucket/key` instead of `https://bucket.host/key`. Default: only for localhost and IP addresses. */
  forcePathStyle?: boolean | undefined
  /**
   * What the returned URL starts with (a CDN, for example); the encoded key follows after a `/`. Or a function from
   * the object's key (with `prefix`, not encoded) to its URL. Default: the address of the object in its bucket.
   */
  publicUrl?: string | ((key: string) => string) | undefined
  /** Size of a part, bytes: 5 MiB to 5 GiB. Default 8 MiB. `upload` holds up to four of them in memory. */
  partSize?: number | undefined
  /** `Cache-Control` of the stored objects. Default: none. */
  cacheControl?: string | undefined
  /**
   * Media types that are served inline; the rest is served as attachment. `image/*` means every image but SVG, which
   * can carry scripts. Default: images, audio, video, `text/plain`, `application/pdf`.
   */
  inlineTypes?: readonly string[] | undefined
  /**
   * Deadline of one attempt of one request, ms. Requests with a body get 1 s more for every 64 KiB. Default 60 000.
   * An attempt that runs into it is not repeated here: it has cost enough time; the caller decides.
   */
  attemptTimeout?: number | undefined
  /** Deadline of CompleteMultipartUpload, which may take S3 minutes for many parts, ms. Default 300 000. */
  completeTimeout?: number | undefined
  /** Deadline of opening a connection, ms. Default 5 000. */
  connectTimeout?: number | undefined
  /** How often a request is sent at most when it fails for a passing reason. Default 4. */
  maxAttempts?: number | undefined
  /** Longest wait before the first repetition, ms; doubles each time up to 5 s, with jitter. Default 200. */
  retryDelay?: number | undefined
  /** Most requests to S3 at the same time; more wait for their turn. Default 64. */
  maxSockets?: number | undefined
  serverSideEncryption?: ServerSideEncryption | undefined
  /** The key for `serverSideEncryption: 'aws:kms'`. */
  sseKmsKeyId?: string | undefined
  storageClass?: StorageClass | undefined
  /** Sent only when it is set, so that objects stay private and buckets without ACLs work. Default: none. */
  acl?: ObjectCannedACL | undefined
}

/** The checked options. No secret is in here. */
export interface S3Settings {
  readonly bucket: string
  readonly endpoint: string | null
  readonly region: string | undefined
  readonly forcePathStyle: boolean | undefined
  readonly prefix: string
  /** With `prefix`, and a `/` at its end. */
  readonly stagingPrefix: string
  readonly publicUrl: string | ((key: string) => string) | null
  readonly partSize: number
  readonly cacheControl: string | undefined
  readonly inlineTypes: readonly string[]
  readonly attemptTimeout: number
  readonly completeTimeout: number
  readonly connectTimeout: number
  readonly maxAttempts: number
  readonly retryDelay: number
  readonly maxSockets: number
  readonly serverSideEncryption: ServerSideEncryption | undefined
  readonly sseKmsKeyId: string | undefined
  readonly storageClass: StorageClass | undefined
  readonly acl: ObjectCannedACL | undefined
}

export interface S3Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
}

/** Checks the options and copies them. Throws `TypeError`; the text never holds a secret. */
export function readSettings(options: S3StorageOptions): S3Settings {
  const endpoint = readEndpoint(text(options.endpoint, 'endpoint'))
  if (options.client && endpoint !== null) {
    throw new TypeError('S3StorageAdapter: give `endpoint` to your own `client`, or leave `client` out')
  }
  return Object.freeze({
    bucket: readBucket(options.bucket),
    endpoint,
    region: text(options.region, 'region') ?? (endpoint === null ? undefined : (regionOf(endpoint) ?? 'us-east-1')),
    forcePathStyle:
      flag(options.forcePathStyle, 'forcePathStyle') ?? (endpoint !== null && isLocal(endpoint) ? true : undefined),
    prefix: readPrefix(options.prefix),
    stagingPrefix: readPrefix(options.prefix) + readStagingPrefix(options.stagingPrefix),
    publicUrl: readPublicUrl(options.publicUrl),
    partSize: integer(options.partSize, 'partSize', 8 * MiB, S3_LIMITS.minPartSize, S3_LIMITS.maxPartSize),
    cacheControl: text(options.cacheControl, 'cacheControl'),
    inlineTypes: readInlineTypes(options.inlineTypes),
    attemptTimeout: integer(options.attemptTimeout, 'attemptTimeout', 60_000),
    completeTimeout: integer(options.completeTimeout, 'completeTimeout', 300_000),
    connectTimeout: integer(options.connectTimeout, 'connectTimeout', 5_000),
    maxAttempts: integer(options.maxAttempts, 'maxAttempts', 4, 1, 100),
    retryDelay: integer(options.retryDelay, 'retryDelay', 200),
    maxSockets: integer(options.maxSockets, 'maxSockets', 64),
    serverSideEncryption: text(options.serverSideEncryption, 'serverSideEncryption'),
    sseKmsKeyId: text(options.sseKmsKeyId, 'sseKmsKeyId'),
    storageClass: text(options.storageClass, 'storageClass'),
    acl: text(options.acl, 'acl'),
  })
}

/** The keys, or `null` when the SDK shall find them. Texts of errors name the option, never its value. */
export function readCredentials(options: S3StorageOptions): S3Credentials | null {
  const { accessKeyId, secretAccessKey, sessionToken } = options
  for (const [name, value] of Object.entries({ accessKeyId, secretAccessKey, sessionToken })) {
    if (value === undefined) continue
    if (typeof value !== 'string' || value === '') {
      throw new TypeError(
        `S3StorageAdapter: \`${name}\` must be a non-empty string, got ${typeof value}; or leave it out`,
      )
    }
    if (options.client)
      throw new TypeError(`S3StorageAdapter: give \`${name}\` to your own \`client\`, or leave \`client\` out`)
  }
  if (accessKeyId === undefined && secretAccessKey === undefined && sessionToken === undefined) return null
  if (accessKeyId === undefined || secretAccessKey === undefined) {
    throw new TypeError('S3StorageAdapter: set both `accessKeyId` and `secretAccessKey`, or neither')
  }
  return { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) }
}

function readBucket(value: unknown): string {
  const valid = typeof value === 'string' && (value.startsWith('arn:') || /^[A-Za-z0-9][\w.-]{1,254}$/.test(value))
  if (!valid) throw new TypeError(`S3StorageAdapter: \`bucket\` must be the name of a bucket, got ${show(value)}`)
  return value
}

function readEndpoint(value: string | undefined): string | null {
  if (value === undefined) return null
  // Whatever could be a password must not be shown again.
  if (value.includes('@'))
    throw new TypeError('S3StorageAdapter: `endpoint` must not hold credentials; use `accessKeyId`')
  const scheme = value.includes('://') ? '' : isLocal(`http://${value}`) ? 'http://' : 'https://'
  const url = URL.canParse(scheme + value) ? new URL(scheme + value) : null
  if (!url || !/^https?:$/.test(url.protocol) || url.search || url.hash) {
    throw new TypeError(
      `S3StorageAdapter: \`endpoint\` must look like 'https://s3.example.com' or 'localhost:9000', got ${show(value)}`,
    )
  }
  return url.href.replace(/(?<!\/)\/+$/, '')
}

function isLocal(endpoint: string): boolean {
  if (!URL.canParse(endpoint)) return false
  const host = new URL(endpoint).hostname.replace(/^\[|\]$/g, '')
  return host === 'localhost' || host.endsWith('.localhost') || isIP(host) !== 0
}

/** AWS's own regional hosts name their region; signing for another one is refused there. */
function regionOf(endpoint: string): string | undefined {
  return /^s3[.-]([a-z]+(?:-[a-z]+)+-\d+)\.amazonaws\.com/.exec(new URL(endpoint).hostname)?.[1]
}

function readPrefix(value: unknown, name = 'prefix'): string {
  const prefix = text(value, name)?.replace(/^\/+|(?<!\/)\/+$/g, '') ?? ''
  if (prefix.split('/').some((part) => part === '.' || part === '..')) {
    throw new TypeError(`S3StorageAdapter: \`${name}\` must not have '.' or '..' in its path, got ${show(value)}`)
  }
  return prefix === '' ? '' : `${prefix}/`
}

/** Old objects under it are removed, and no file can be stored there: it must not be everything. */
function readStagingPrefix(value: unknown): string {
  const prefix = readPrefix(value ?? '.nexus-staging', 'stagingPrefix')
  if (prefix !== '') return prefix
  throw new TypeError(`S3StorageAdapter: \`stagingPrefix\` must name a folder, got ${show(value)}`)
}

function readPublicUrl(value: unknown): string | ((key: string) => string) | null {
  if (typeof value === 'function') return value as (key: string) => string
  return text(value, 'publicUrl')?.replace(/(?<!\/)\/+$/, '') ?? null
}

function readInlineTypes(value: unknown): readonly string[] {
  if (value === undefined) return DEFAULT_INLINE_TYPES
  if (!Array.isArray(value) || !value.every((type) => typeof type === 'string' && /^[^\s/]+\/[^\s/]+$/.test(type))) {
    throw new TypeError(
      `S3StorageAdapter: \`inlineTypes\` must be an array like ['image/*', 'text/plain'], got ${show(value)}`,
    )
  }
  return Object.freeze(value.map((type: string) => type.toLowerCase()))
}

function text<T extends string>(value: T | undefined, name: string): T | undefined
function text(value: unknown, name: string): string | undefined
function text(value: unknown, name: string): string | undefined {
  if (value === undefined) return undefined
  if (typeof value === 'string' && value !== '') return value
  throw new TypeError(`S3StorageAdapter: \`${name}\` must be a non-empty string, got ${show(value)}; or leave it out`)
}

function flag(value: unknown, name: string): boolean | undefined {
  if (value === undefined || typeof value === 'boolean') return value
  throw new TypeError(`S3StorageAdapter: \`${name}\` must be true or false, got ${show(value)}`)
}

function integer(value: unknown, name: string, fallback: number, min = 1, max = 2 ** 31 - 1): number {
  if (value === undefined) return fallback
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max) return value
  throw new TypeError(`S3StorageAdapter: \`${name}\` must be a whole number from ${min} to ${max}, got ${show(value)}`)
}

function show(value: unknown): string {
  return `${inspect(value, { depth: 0, maxStringLength: 100, breakLength: Infinity })} (${typeof value})`
}
