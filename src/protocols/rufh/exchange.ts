/** One request of an IETF client, and what its handlers share. */
import type { ServerResponse } from 'node:http'
import { UploadLockedError } from '../../errors.ts'
import type { StoredObject, UploadEngine, UploadSession } from '../../types.ts'
import type { UploadRequest } from '../http.ts'
import type { ResourceOptions } from '../resource.ts'
import type { Interop } from './interop.ts'

export const protocol = 'ietf'

export interface Exchange {
  readonly engine: UploadEngine
  readonly request: UploadRequest
  readonly response: ServerResponse
  readonly signal: AbortSignal
  readonly owner: string | null
  readonly resource: ResourceOptions
  readonly interop: Interop
  /** Whether 104 responses may be sent: the client named a version that is known here. */
  readonly interim: boolean
}

export function refOf({ request, owner, signal }: Exchange, uploadId: string) {
  return { uploadId, protocol, owner, signal, context: request }
}

/** Whether the upload is complete without being told, because its length has arrived. */
export function isImplied({ interop }: Exchange, session: UploadSession, offset: number): boolean {
  return interop.implicit && session.totalSize === offset && session.state !== 'completed'
}

/** The result, or `UploadLockedError` after `patience` ms; the completion itself goes on. */
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
