/** Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload): which request is what. */
import type { ServerResponse } from 'node:http'
import { InvalidRequestError, NexusUploaderError, UploadNotFoundError } from '../../errors.ts'
import type { UploadEngine } from '../../types.ts'
import { type Cors, type CorsOptions, corsHeaders } from '../cors.ts'
import { mediaType, type OwnerOf, signalOf, type UploadRequest } from '../http.ts'
import { warnAboutRequestTimeout } from '../request-timeout.ts'
import { checkResourceOptions, type ResourceOptions, uploadIdOf } from '../resource.ts'
import { refuse } from './answers.ts'
import { append } from './append.ts'
import { create, unknownVersion } from './creation.ts'
import { partialUpload } from './description.ts'
import { type Exchange, limitOf } from './exchange.ts'
import { headerOf } from './fields.ts'
import { interimOf } from './interim.ts'
import { completenessOf, dialectOf, versionField } from './interop.ts'
import { cancel, retrieve } from './retrieval.ts'

/** Works as Express middleware (`app.use('/files', handler)`) and as the listener of a bare server. */
export type IetfHandler = (request: UploadRequest, response: ServerResponse, next?: (error?: unknown) => void) => void

export interface IetfOptions extends ResourceOptions {
  /**
   * Who is asking: a stable id of the authenticated user. An upload belongs to whoever created it and is a 404 to all
   * others. Default: nobody; then knowing the upload's URL is enough.
   */
  owner?: OwnerOf
  /** Access for browsers of other origins; `false` leaves it to the app. Default: all origins, no credentials. */
  cors?: CorsOptions | false
  /**
   * Whether interim responses (status 104) tell the upload's URL and its progress while the client is still sending.
   * `auto` (default): to clients that name a draft version spoken here. `false`: never, for proxies that cannot bear them.
   */
  interim?: 'auto' | false
  /** Gets every request that is not of this protocol: usually `tusHandler(engine)`, so that both share one URL. */
  others?: IetfHandler
}

const methods = 'OPTIONS, HEAD, GET, POST, PUT, PATCH, DELETE'
const completenessFields = ['Upload-Complete', 'Upload-Incomplete']

/**
 * Resumable uploads as drafted by the IETF (draft-ietf-httpbis-resumable-upload, interop versions 3 to 9), on one engine
 * with all other protocols. Mount it at the URL of the folder that uploads shall live in.
 * @throws TypeError when an option is not usable
 */
export function ietfHandler(engine: UploadEngine, options: IetfOptions = {}): IetfHandler {
  checkOptions(options)
  const { owner: ownerOf = () => null, interim = 'auto', others } = options
  const cors = corsHeaders(options.cors)
  const exchangeOf = (request: UploadRequest, response: ServerResponse): Exchange => {
    // Before anything is awaited: a client that goes away must not be missed.
    const signal = signalOf(request, response)
    const dialect = dialectOf(request)
    const telling = interimOf(request, response, dialect, interim === 'auto')
    return { engine, request, response, dialect, owner: null, signal, interim: telling, resources: options }
  }
  return (request, response, next) => {
    if (others && !isOurs(request)) {
      if (request.method === 'OPTIONS') advertise({ engine, response, dialect: dialectOf(request) })
      return others(request, response, next)
    }
    if (next && isNobodys(request)) return next()
    const exchange = exchangeOf(request, response)
    prepare(exchange, cors)
    const run = async () => {
      try {
        const owner = (await ownerOf(request)) ?? null
        await route({ ...exchange, owner })
      } catch (error) {
        await refuse(exchange, error)
      }
    }
    // What is thrown while refusing: the client finds out from the connection that it has to ask for the offset.
    run().catch(() => response.destroy())
  }
}

function checkOptions(options: IetfOptions): void {
  checkResourceOptions(options)
  const { interim, owner, others } = options
  if (interim !== undefined && interim !== 'auto' && interim !== false) {
    throw new TypeError("interim must be 'auto' or false")
  }
  if (owner !== undefined && typeof owner !== 'function') throw new TypeError('owner must be a function')
  if (others !== undefined && typeof others !== 'function') throw new TypeError('others must be a handler')
}

function isMarked(request: UploadRequest): boolean {
  return headerOf(request, versionField) !== undefined || saysCompleteness(request)
}

/** In whatever words; what cannot be understood is refused rather than passed on. */
function saysCompleteness(request: UploadRequest): boolean {
  return completenessFields.some((name) => headerOf(request, name) !== undefined)
}

/** Beside another protocol: only what says so, and what cannot be the other's. */
function isOurs(request: UploadRequest): boolean {
  const { method = '' } = request
  if (headerOf(request, 'Tus-Resumable') !== undefined) return false
  if (headerOf(request, 'X-HTTP-Method-Override') !== undefined || method === 'OPTIONS') return false
  if (isMarked(request) || isPiece(request)) return true
  return ['HEAD', 'GET', 'DELETE'].includes(method) && uploadIdOf(request) !== null
}

/** Beside the app's own routes: what neither opens an upload, or tries to, nor can be about one. */
function isNobodys(request: UploadRequest): boolean {
  const { method = '' } = request
  if (method === 'OPTIONS' || isPiece(request)) return false
  const isAboutUpload = uploadIdOf(request) !== null && ['HEAD', 'GET', 'PATCH', 'DELETE'].includes(method)
  if (isAboutUpload) return false
  return isCreation(method) ? !saysCompleteness(request) : !isMarked(request)
}

/** A piece of an upload, whatever the URL says. */
function isPiece(request: UploadRequest): boolean {
  return request.method === 'PATCH' && mediaType(request) === partialUpload
}

function isCreation(method: string): boolean {
  return method === 'POST' || method === 'PUT' || method === 'PATCH'
}

/** What every answer carries. */
function prepare({ request, response, dialect }: Exchange, cors: Cors): void {
  cors(request, response)
  if (dialect.standing === 'announced') response.setHeader(versionField, dialect.interop.version)
}

async function route(exchange: Exchange): Promise<void> {
  const { request, response, dialect } = exchange
  const { method = '' } = request
  const uploadId = uploadIdOf(request)
  if (method === 'OPTIONS') {
    advertise(exchange)
    response.statusCode = 204
    response.setHeader('Allow', methods)
    response.end()
    return
  }
  if (uploadId === null) return atFolder(exchange)
  if (dialect.standing === 'unknown') throw unknownVersion()
  if (method === 'HEAD' || method === 'GET') return retrieve(exchange, uploadId)
  if (method === 'DELETE') return cancel(exchange, uploadId)
  if (method !== 'PATCH') throw notAllowed(exchange)
  warnAboutRequestTimeout(request)
  return append(exchange, uploadId)
}

async function atFolder(exchange: Exchange): Promise<void> {
  const { request, dialect } = exchange
  const { method = '' } = request
  const isAppend = isPiece(request) && headerOf(request, 'Upload-Offset') !== undefined
  if (isAppend || ['HEAD', 'GET', 'DELETE'].includes(method)) throw new UploadNotFoundError()
  if (!isCreation(method)) throw notAllowed(exchange)
  const complete = completenessOf(request, dialect.interop)
  if (complete === undefined) throw new InvalidRequestError(`${dialect.interop.completeness} is missing or malformed.`)
  warnAboutRequestTimeout(request)
  return create(exchange, complete)
}

function notAllowed({ response }: Exchange): NexusUploaderError {
  response.setHeader('Allow', methods)
  return new NexusUploaderError('METHOD_NOT_ALLOWED', 405, 'This method means nothing here.')
}

/** What a client can know before it sends anything. */
function advertise({ engine, response, dialect }: Pick<Exchange, 'engine' | 'response' | 'dialect'>): void {
  const limit = limitOf({ engine, dialect })
  if (limit !== undefined) response.setHeader('Upload-Limit', limit)
  response.setHeader('Accept-Patch', partialUpload)
}
