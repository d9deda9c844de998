/** One request of a tus client, and what its handlers share. */
import type { ServerResponse } from 'node:http'
import { UploadLockedError } from '../../errors.ts'
import type { StoredObject, UploadEngine, UploadSession } from '../../types.ts'
import type { UploadRequest } from '../http.ts'
import type { ResourceOptions } from '../resource.ts'

export const protocol = 'tus'

export interface Exchange {
  readonly engine: UploadEngine
  readonly request: UploadRequest
  readonly response: ServerResponse
  readonly signal: AbortSignal
  readonly owner: string | null
  readonly resource: ResourceOptions
  readonly removeCompleted: boolean
}

/** What names the upload to the engine. */
export function refOf({ request, owner, signal }: Exchange, uploadId: string) {
  return { uploadId, protocol, owner, signal, context: request }
}

/** Whether all bytes are there and only the object is missing. */
export function isDue(session: UploadSession, offset: number): boolean {
  return !session.partial && !session.sources && session.state !== 'completed' && session.totalSize === offset
}

/**
 * The result, or `UploadLockedError` after `patience` ms; the completion itself goes on. A client that asked how far its
 * upload is must hear something before it gives up.
 */
export async function completeWithin(exchange: Exchange, uploadId: string, patience: number): Promise<StoredObject> {
  const completing = exchange.engine.complete(refOf(exchange, uploadId))
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new UploadLockedError()), patience)
  })
  try {
    return await Promise.race([completing, late])
  } finally {
    clearTimeout(timer)
    completing.catch(() => {})
  }
}
