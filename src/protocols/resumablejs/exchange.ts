/** One request of a client, and what its handlers share. */
import type { ServerResponse } from 'node:http'
import type { UploadEngine } from '../../types.ts'
import type { UploadRequest } from '../http.ts'
import type { Dialect, Plan } from './parameters.ts'

export const protocol = 'resumablejs'

export interface Exchange {
  readonly engine: UploadEngine
  readonly request: UploadRequest
  readonly response: ServerResponse
  readonly signal: AbortSignal
  readonly owner: string | null
  readonly dialects: readonly Dialect[]
  readonly query: URLSearchParams
  /** Names that the file part of a form may have. */
  readonly fileFields: readonly string[]
  /** ms */
  readonly completedGrace: number
}

/** Who asks, for every call of the engine. */
export function callerOf({ request, owner }: Exchange) {
  return { protocol, owner, context: request }
}

/** What the client calls the upload. */
export function keyOf(exchange: Exchange, { resumeKey }: Plan) {
  return { ...callerOf(exchange), resumeKey }
}
