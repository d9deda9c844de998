/** Uploads as resources with a URL of their own: which upload a request is about, and what its URL is. */
import type { UploadRequest } from './http.ts'

export interface ResourceOptions {
  /**
   * What `Location` says. `path` (default): path only, which is right behind any proxy that does not change paths.
   * `absolute`: with scheme and host, as Express sees them: `X-Forwarded-*` count only under `trust proxy`.
   */
  location?: 'path' | 'absolute'
  /** The public URL of the folder that uploads live in, like `https://uploads.example.com/files`; beats `location`. */
  publicUrl?: string
}

interface ExpressRequest extends UploadRequest {
  originalUrl?: string
  protocol?: string
  app?: { get(setting: string): unknown }
}

const uploadId = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

/** The path as the client sent it, also below a mount point of Express; without the query. */
export function pathOf(request: ExpressRequest): string {
  return (request.originalUrl ?? request.url ?? '/').split('?')[0] ?? '/'
}

/** The id of the upload that the URL names; `null` for the URL of the folder, where uploads are created. */
export function uploadIdOf(request: UploadRequest): string | null {
  const last = pathOf(request).split('/').at(-1) ?? ''
  return uploadId.test(last) ? last : null
}

/** Ids of uploads by their URLs, absolute or not: only the last part of the path is looked at. `null`: none of ours. */
export function uploadIdInUrl(url: string): string | null {
  const last = url.split(/[?#]/)[0]?.split('/').at(-1) ?? ''
  return uploadId.test(last) ? last : null
}

/** @throws TypeError when an option is not usable */
export function checkResourceOptions({ location, publicUrl }: ResourceOptions): void {
  if (location !== undefined && location !== 'path' && location !== 'absolute') {
    throw new TypeError("location must be 'path' or 'absolute'")
  }
  if (publicUrl !== undefined && !URL.canParse(publicUrl)) throw new TypeError('publicUrl must be an absolute URL')
}

/** The URL of an upload, for `Location`. `request` is the one that created it. */
export function locationOf(request: UploadRequest, id: string, options: ResourceOptions): string {
  if (options.publicUrl !== undefined) return `${options.publicUrl.replace(/(?<!\/)\/+$/, '')}/${id}`
  const folder = pathOf(request).replace(/(?<!\/)\/+$/, '')
  // Two slashes at the start would be taken for a host.
  const path = `${folder.replace(/^\/+/, '/')}/${id}`
  return options.location === 'absolute' ? `${originOf(request)}${path}` : path
}

/** Scheme and host as the client sees them; empty when its `Host` is none. */
export function originOf(request: ExpressRequest): string {
  const encrypted = (request.socket as { encrypted?: boolean }).encrypted === true
  const scheme = request.protocol ?? (encrypted ? 'https' : 'http')
  const host = forwardedHost(request) ?? request.headers.host ?? ''
  // A host that is none would be written into the client's next URL.
  return /^[\w.:[\]-]+$/.test(host) ? `${scheme}://${host}` : ''
}

/** Express' `req.host` is without the port in version 4; its setting says whom the app trusts in both. */
function forwardedHost(request: ExpressRequest): string | undefined {
  const trust = request.app?.get('trust proxy fn')
  if (typeof trust !== 'function' || trust(request.socket.remoteAddress, 0) !== true) return undefined
  const header = request.headers['x-forwarded-host']
  return (Array.isArray(header) ? header[0] : header)?.split(',')[0]?.trim() || undefined
}
