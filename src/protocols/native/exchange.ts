/** One request and its answer: who asks, when they are gone, and what becomes of an error. */
import type { ServerResponse } from 'node:http'
import { toNexusUploaderError } from '../../errors.ts'
import type { UploadEngine } from '../../types.ts'
import { drain, type OwnerOf, sendErrorAndClose, signalOf, type UploadHandler, type UploadRequest } from '../http.ts'

export interface Exchange {
  readonly request: UploadRequest
  readonly response: ServerResponse
  readonly signal: AbortSignal
  readonly owner: string | null
}

/**
 * Turns a task into a route handler. Errors go to `next` with the body read to its end, so that whatever error handler
 * the app has, the client gets to see the answer. Only a body that is too long to read is answered right here,
 * in the form of `uploadErrorHandler`, and its connection closed.
 */
export function respond(
  engine: UploadEngine,
  ownerOf: OwnerOf,
  task: (exchange: Exchange) => Promise<void>,
): UploadHandler {
  return (request, response, next) => {
    const signal = signalOf(request, response)
    const run = async () => {
      try {
        const owner = (await ownerOf(request)) ?? null
        await task({ request, response, signal, owner })
      } catch (cause) {
        const error = toNexusUploaderError(cause)
        if (signal.aborted) return next(error)
        const silent = error.status === 408
        if (!silent && (await drain(request, engine.limits.maxChunkSize, error.code))) return next(error)
        sendErrorAndClose(request, response, error)
      }
    }
    void run()
  }
}
