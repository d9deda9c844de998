/** Cross-origin access for browsers: one set of headers for every protocol, on errors too. */
import type { IncomingMessage, ServerResponse } from 'node:http'

export interface CorsOptions {
  /** Origins that may use the routes: `*` (default) for all, or a list of exact ones like `https://app.example.com`. */
  origins?: '*' | readonly string[]
  /** Whether browsers may send cookies. Needs a list of origins. Default false. */
  credentials?: boolean
  /** Request headers that clients may send besides those of the protocols. */
  allowedHeaders?: readonly string[]
}

const methods = 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS'

const allowedHeaders = [
  'Authorization',
  'Content-Type',
  'Content-Disposition',
  'X-Requested-With',
  'Cache-Control',
  'X-Request-ID',
  'X-HTTP-Method-Override',
  'X-Mime-Type',
  'Tus-Resumable',
  'Upload-Length',
  'Upload-Defer-Length',
  'Upload-Offset',
  'Upload-Metadata',
  'Upload-Concat',
  'Upload-Checksum',
  'Upload-Name',
  'Upload-Complete',
  'Upload-Incomplete',
  'Upload-Draft-Interop-Version',
  'Content-Digest',
  'Repr-Digest',
  'Want-Repr-Digest',
  'Incremental',
]

const exposedHeaders = [
  'Location',
  'Content-Location',
  'ETag',
  'Retry-After',
  'Upload-Offset',
  'Upload-Length',
  'Upload-Defer-Length',
  'Upload-Metadata',
  'Upload-Concat',
  'Upload-Expires',
  'Upload-Complete',
  'Upload-Incomplete',
  'Upload-Limit',
  'Upload-Draft-Interop-Version',
  'Tus-Resumable',
  'Tus-Version',
  'Tus-Extension',
  'Tus-Max-Size',
  'Tus-Checksum-Algorithm',
  'Repr-Digest',
].join(', ')

/** Seconds a browser may remember the answer to a preflight. */
const maxAge = 24 * 60 * 60

/** Sets the headers on an answer; call it before anything else is done. */
export type Cors = (request: IncomingMessage, response: ServerResponse) => void

/**
 * `false` leaves everything to the app.
 * @throws TypeError for credentials without a list of origins: every page of the web could then act as the user
 */
export function corsHeaders(options: CorsOptions | false = {}): Cors {
  if (options === false) return () => {}
  const { origins = '*', credentials = false } = options
  if (origins !== '*' && !(Array.isArray(origins) && origins.every((origin) => typeof origin === 'string'))) {
    throw new TypeError("cors.origins must be '*' or a list of origins")
  }
  if (credentials && (origins === '*' || origins.includes('*'))) {
    throw new TypeError('cors.credentials needs cors.origins to be a list of exact origins')
  }
  const headers = [...allowedHeaders, ...(options.allowedHeaders ?? [])].join(', ')
  return (request, response) => {
    if (origins !== '*') response.appendHeader('Vary', 'Origin')
    const origin = allowedOrigin(origins, request.headers.origin)
    if (origin === null) return
    response.setHeader('Access-Control-Allow-Origin', origin)
    response.setHeader('Access-Control-Expose-Headers', exposedHeaders)
    if (credentials) response.setHeader('Access-Control-Allow-Credentials', 'true')
    if (request.method !== 'OPTIONS') return
    response.setHeader('Access-Control-Allow-Methods', methods)
    response.setHeader('Access-Control-Allow-Headers', headers)
    response.setHeader('Access-Control-Max-Age', maxAge)
  }
}

function allowedOrigin(origins: '*' | readonly string[], origin: string | undefined): string | null {
  if (origins === '*') return '*'
  return origin !== undefined && origins.includes(origin) ? origin : null
}
