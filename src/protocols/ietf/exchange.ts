/** One request and its answer: who asks, in which draft's words, and when they are gone. */
import type { ServerResponse } from 'node:http'
import type { UploadEngine, UploadRef, UploadSession } from '../../types.ts'
import type { UploadRequest } from '../http.ts'
import type { ResourceOptions } from '../resource.ts'
import { integersField } from './fields.ts'
import type { Interim } from './interim.ts'
import type { Dialect } from './interop.ts'

export const protocol = 'ietf'

export interface Exchange {
  readonly engine: UploadEngine
  readonly request: UploadRequest
  readonly response: ServerResponse
  readonly owner: string | null
  /** Aborted when the client has gone. */
  readonly signal: AbortSignal
  readonly dialect: Dialect
  readonly interim: Interim
  readonly resources: ResourceOptions
}

export function refOf({ owner, request, signal }: Exchange, uploadId: string): UploadRef {
  return { uploadId, protocol, owner, context: request, signal }
}

/**
 * The value of `Upload-Limit`; `undefined` in drafts without it. Without a session only what counts for all uploads.
 * There is no limit for a single append: it may carry the whole file.
 */
export function limitOf(
  { engine, dialect }: Pick<Exchange, 'engine' | 'dialect'>,
  session?: UploadSession,
): string | undefined {
  const { age } = dialect.interop
  if (age === null) return undefined
  const seconds = session && Math.max(0, Math.floor((session.expiresAt - Date.now()) / 1000))
  const limits = { 'max-size': engine.limits.maxFileSize, ...(seconds !== undefined && { [age]: seconds }) }
  return integersField(limits) || integersField({ 'min-size': 0 })
}

/** The URL of the upload: the folder is remembered as its creator knew it, so that every answer says the same. */
export function locationOfUpload({ id, wire }: UploadSession): string {
  return `${wire?.folder ?? ''}${id}`
}
