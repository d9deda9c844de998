/** tus 1.0.0 (https://tus.io/protocols/resumable-upload) on the engine. */
import type { ServerResponse } from 'node:http'
import { InvalidRequestError, NexusUploaderError, toNexusUploaderError, UploadNotFoundError } from '../../errors.ts'
import type { UploadEngine } from '../../types.ts'
import { type Cors, type CorsOptions, corsHeaders } from '../cors.ts'
import { type OwnerOf, signalOf, type UploadRequest } from '../http.ts'
import { warnAboutRequestTimeout } from '../request-timeout.ts'
import { checkResourceOptions, type ResourceOptions, uploadIdOf } from '../resource.ts'
import { isInterruption, sendDiscovery, sendEmpty, sendFailure, sendHeadFailure, version } from './answers.ts'
import { create } from './creation.ts'
import type { Exchange } from './exchange.ts'
import { headerOf } from './headers.ts'
import { head, patch, terminate } from './uploads.ts'

export interface TusOptions extends ResourceOptions {
  /** Who is asking. An upload belongs to whoever created it and is a 404 to all others. Default: nobody. */
  owner?: OwnerOf
  /** Cross-origin access. Default: every origin, without cookies. `false` leaves the headers to the app. */
  cors?: CorsOptions | false
  /**
   * Whether DELETE on a completed upload removes the stored file as well. Default false: the upload is forgotten, the file
   * is the application's.
   */
  removeCompleted?: boolean
}

/** For `app.use('/files', …)`, and as the listener of a plain `node:http` server. It answers everything itself. */
export type TusHandler = (request: UploadRequest, response: ServerResponse, next?: (error?: unknown) => void) => void

const overridable = ['PATCH', 'DELETE', 'HEAD']

/**
 * Serves tus 1.0.0 with all its extensions.
 * @throws TypeError when an option is not usable
 */
export function tusHandler(engine: UploadEngine, options: TusOptions = {}): TusHandler {
  const { owner: ownerOf = () => null, removeCompleted = false } = options
  checkResourceOptions(options)
  const cors = corsHeaders(options.cors)
  return (request, response) => {
    const signal = signalOf(request, response)
    const run = async () => {
      const method = methodOf(request)
      try {
        prepare(cors, request, response)
        if (request.method === 'OPTIONS') return sendDiscovery(engine, response)
        checkVersion(request, response)
        const owner = (await ownerOf(request)) ?? null
        await route(method, { engine, request, response, signal, owner, resource: options, removeCompleted })
      } catch (cause) {
        await answer(method, request, response, cause)
      }
    }
    run().catch(() => response.destroy())
  }
}

function prepare(cors: Cors, request: UploadRequest, response: ServerResponse): void {
  cors(request, response)
  response.setHeader('Tus-Resumable', version)
  response.setHeader('X-Content-Type-Options', 'nosniff')
  warnAboutRequestTimeout(request)
}

/** For clients behind proxies that know few methods (tus 1.0.0, "X-HTTP-Method-Override"). */
function methodOf(request: UploadRequest): string {
  return headerOf(request.headers, 'x-http-method-override')?.toUpperCase() ?? request.method ?? ''
}

function checkVersion(request: UploadRequest, response: ServerResponse): void {
  const override = headerOf(request.headers, 'x-http-method-override')
  const wanted = headerOf(request.headers, 'tus-resumable')
  if (wanted !== version && (request.method !== 'GET' || override !== undefined)) {
    response.setHeader('Tus-Version', version)
    throw new NexusUploaderError('TUS_VERSION', 412, `This server speaks tus ${version}.`)
  }
  if (override !== undefined && !overridable.includes(override.toUpperCase())) {
    throw new InvalidRequestError(`X-HTTP-Method-Override must be one of ${overridable.join(', ')}.`)
  }
}

async function route(method: string, exchange: Exchange): Promise<void> {
  const uploadId = uploadIdOf(exchange.request)
  if (method === 'POST' && uploadId === null) return create(exchange)
  const verb = { HEAD: head, PATCH: patch, DELETE: terminate }[method]
  if (!verb) {
    exchange.response.setHeader('Allow', uploadId === null ? 'POST, OPTIONS' : 'HEAD, PATCH, DELETE, OPTIONS')
    throw new NexusUploaderError('METHOD_NOT_ALLOWED', 405, 'This method is not for this URL.')
  }
  if (uploadId === null) throw new UploadNotFoundError()
  await verb(exchange, uploadId)
}

async function answer(method: string, request: UploadRequest, response: ServerResponse, cause: unknown): Promise<void> {
  const error = toNexusUploaderError(cause)
  if (isInterruption(error)) {
    request.destroy()
    return
  }
  if (method === 'HEAD') return error.status === 405 ? sendEmpty(response, 405) : sendHeadFailure(response, error)
  await sendFailure(request, response, error)
}
