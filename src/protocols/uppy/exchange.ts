/** One request of Uppy's S3 plugin, and what its handlers share. */
import type { ServerResponse } from 'node:http'
import { UploadNotFoundError } from '../../errors.ts'
import type { UploadEngine, UploadRef, UploadSession } from '../../types.ts'
import type { UploadRequest } from '../http.ts'
import { type Grant, grantFor, proofOf } from './grants.ts'

export const protocol = 'uppy-s3'

export interface Exchange {
  readonly engine: UploadEngine
  readonly request: UploadRequest
  readonly response: ServerResponse
  readonly signal: AbortSignal
  readonly query: URLSearchParams
  /** Who asks; `null` on routes that are opened by a grant. */
  readonly owner: string | null
  /** Absolute URL of `…/s3`. */
  readonly base: string
  /** Absolute URL that small files are posted to. */
  readonly formUrl: string
  /** How long signed URLs are good, ms. */
  readonly urlTtl: number
  /** Whether new uploads send their parts straight to the storage. */
  readonly direct: boolean
}

/** What names the upload to the engine. */
export function refOf({ request, owner, signal }: Exchange, uploadId: string): UploadRef {
  return { uploadId, protocol, owner, signal, context: request }
}

/** The same for a request whose URL allows this operation. */
export function grantedRef(exchange: Exchange, uploadId: string, operation: string): UploadRef {
  return { ...refOf(exchange, uploadId), proof: proofOf(operation, grantIn(exchange)) }
}

/** The upload of this id and this key, if it is the caller's. */
export async function uploadOf(exchange: Exchange, uploadId: string, key: string | null): Promise<UploadSession> {
  const session = await exchange.engine.get(refOf(exchange, uploadId))
  if (session.key !== key) throw new UploadNotFoundError()
  return session
}

/** The grant that came with the URL. */
function grantIn({ query }: Exchange): Grant {
  return { expires: query.get('expires') ?? '', signature: query.get('signature') ?? '' }
}

/** A URL below `…/s3` that is good for one operation on one upload. */
export function signedUrl(exchange: Exchange, path: string, session: UploadSession, operation: string): string {
  const { expires, signature } = grantFor(session, operation, exchange.urlTtl)
  return `${exchange.base}${path}?${new URLSearchParams({ expires, signature })}`
}
