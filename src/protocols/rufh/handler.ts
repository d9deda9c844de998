/** "Resumable Uploads for HTTP" (draft-ietf-httpbis-resumable-upload), interop versions 3 to 9, on the engine. */
import type { ServerResponse } from 'node:http'
import { InvalidRequestError, NexusUploaderError, toNexusUploaderError } from '../../errors.ts'
import type { UploadEngine } from '../../types.ts'
import { type CorsOptions, corsHeaders } from '../cors.ts'
import { mediaType, type OwnerOf, signalOf, type UploadRequest } from '../http.ts'
import { warnAboutRequestTimeout } from '../request-timeout.ts'
import { checkResourceOptions, type ResourceOptions, uploadIdOf } from '../resource.ts'
import { isInterruption, limitsOf, sendEmpty, sendFailure, sendHeadFailure } from './answers.ts'
import type { Exchange } from './exchange.ts'
import { integerOf, isLast } from './fields.ts'
import { type Interop, interopOf, newest } from './interop.ts'
import { append, cancel, create, retrieve } from './uploads.ts'

type Next = (error?: unknown) => void

/** For `app.use('/files', …)`, and as the listener of a plain `node:http` server. */
export type IetfHandler = (request: UploadRequest, response: ServerResponse, next?: Next) => void

export interface IetfOptions extends ResourceOptions {
  /** Who is asking. An upload belongs to whoever created it and is a 404 to all others. Default: nobody. */
  owner?: OwnerOf
  /** Cross-origin access. Default: every origin, without cookies. `false` leaves the headers to the app. */
  cors?: CorsOptions | false
  /** `auto` (default): 104 responses to clients that know them. `false`: none, for proxies that cannot stand them. */
  interim?: 'auto' | false
  /** Gets every request that is not of this protocol; `tusHandler(engine)`, say. */
  others?: (request: UploadRequest, response: ServerResponse, next?: Next) => void
}

const versionField = 'upload-draft-interop-version'

/**
 * Serves IETF resumable uploads.
 * @throws TypeError when an option is not usable
 */
export function ietfHandler(engine: UploadEngine, options: IetfOptions = {}): IetfHandler {
  const { owner: ownerOf = () => null, others, interim = 'auto' } = options
  checkResourceOptions(options)
  const cors = corsHeaders(options.cors)
  return (request, response, next) => {
    if (request.method === 'OPTIONS') setDiscovery(engine, response)
    if (others && !isOurs(request)) return others(request, response, next)
    if (request.method === 'OPTIONS') {
      cors(request, response)
      return sendEmpty(response, 204)
    }
    if (!others && next && isForeign(request)) return next()
    const signal = signalOf(request, response)
    const asked = integerOf(request.headers, versionField)
    const known = asked === undefined ? newest : interopOf(asked)
    const interop = known ?? newest
    const run = async () => {
      try {
        cors(request, response)
        response.setHeader('X-Content-Type-Options', 'nosniff')
        if (asked !== undefined && known) response.setHeader('Upload-Draft-Interop-Version', asked)
        warnAboutRequestTimeout(request)
        const owner = (await ownerOf(request)) ?? null
        const sendsInterim = interim !== false && asked !== undefined && known !== null
        await route(
          { engine, request, response, signal, owner, resource: options, interop, interim: sendsInterim },
          known,
        )
      } catch (cause) {
        await answer({ engine, request, response, interop }, cause)
      }
    }
    run().catch(() => response.destroy())
  }
}

function setDiscovery(engine: UploadEngine, response: ServerResponse): void {
  response.setHeader('Upload-Limit', limitsOf(engine, newest))
  response.setHeader('Accept-Patch', 'application/partial-upload')
}

function isMarked({ headers }: UploadRequest): boolean {
  return [versionField, 'upload-complete', 'upload-incomplete'].some((name) => headers[name] !== undefined)
}

/** On a path that serves another protocol as well. */
function isOurs(request: UploadRequest): boolean {
  const { headers, method = '' } = request
  if (method === 'OPTIONS' || headers['tus-resumable'] !== undefined) return false
  if (headers['x-http-method-override'] !== undefined) return false
  if (isMarked(request) || (method === 'PATCH' && mediaType(request) === 'application/partial-upload')) return true
  return ['HEAD', 'GET', 'DELETE'].includes(method) && uploadIdOf(request) !== null
}

/** A request to the folder that begins no upload may be for the app. */
function isForeign(request: UploadRequest): boolean {
  return uploadIdOf(request) === null && !isMarked(request)
}

async function route(exchange: Exchange, known: Interop | null): Promise<void> {
  const { request, response, interop } = exchange
  const uploadId = uploadIdOf(request)
  const { method = '' } = request
  if (uploadId === null) {
    const last = isLast(request.headers, interop)
    if (last === undefined || !['POST', 'PUT', 'PATCH'].includes(method)) {
      throw new InvalidRequestError('Upload-Complete is missing.')
    }
    if (!known && !last) throw unknownVersion()
    return create(exchange, last, known !== null)
  }
  if (!known) throw unknownVersion()
  const verb = { HEAD: retrieve, GET: retrieve, PATCH: append, DELETE: cancel }[method]
  if (verb) return verb(exchange, uploadId)
  response.setHeader('Allow', 'HEAD, GET, PATCH, DELETE, OPTIONS')
  throw new NexusUploaderError('METHOD_NOT_ALLOWED', 405, 'This method is not for this URL.')
}

function unknownVersion(): InvalidRequestError {
  return new InvalidRequestError('This version of resumable uploads is not known here.', { code: 'UNKNOWN_VERSION' })
}

type Answerable = Pick<Exchange, 'engine' | 'request' | 'response' | 'interop'>

async function answer(exchange: Answerable, cause: unknown): Promise<void> {
  const { request, response } = exchange
  const error = toNexusUploaderError(cause)
  if (isInterruption(error)) {
    request.destroy()
    return
  }
  const isQuestion = (request.method === 'HEAD' || request.method === 'GET') && error.status !== 400
  if (isQuestion) sendHeadFailure(response, error)
  else await sendFailure(exchange, error)
}
