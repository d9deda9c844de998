/** The routes that Uppy's S3 plugins ask of Companion, on the engine: no S3 is needed, and no Companion. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { InvalidRequestError, NexusUploaderError, toNexusUploaderError } from '../../errors.ts'
import type { UploadEngine } from '../../types.ts'
import { type CorsOptions, corsHeaders } from '../cors.ts'
import { mediaType, type OwnerOf, queryOf, signalOf, type UploadRequest } from '../http.ts'
import { warnAboutRequestTimeout } from '../request-timeout.ts'
import { originOf, pathOf } from '../resource.ts'
import { sendFailure } from './answers.ts'
import type { Exchange } from './exchange.ts'
import { params, postForm } from './form.ts'
import { abort, complete, create, list, put, sign } from './multipart.ts'
import { signedAbort, signedComplete, signedCreate, signedList, sign as signS3 } from './sign.ts'

export interface UppyS3Options {
  /**
   * Who is asking. An upload belongs to whoever created it and is a 404 to all others. Default: nobody. Not asked for the
   * bytes themselves: their URLs are signed.
   */
  owner?: OwnerOf
  /** Cross-origin access. Default: every origin, without cookies. `false` leaves the headers to the app. */
  cors?: CorsOptions | false
  /**
   * The public URL of the mount point, like `https://uploads.example.com/companion`. Default: as the request says;
   * `X-Forwarded-*` count only under Express' `trust proxy`.
   */
  publicUrl?: string
  /**
   * The absolute URL that small files are posted to. Uppy 6 takes this URL, `/` and the key for the URL of the file; so
   * when the stored files are served by this very server, give the URL they are served under, and pass POSTs of it to this
   * handler. Default: a route of this handler.
   */
  formUrl?: string
  /** How long a signed URL is good, ms. Default 1 hour; at most 7 days. */
  urlTtl?: number
  /**
   * Whether the parts of large files go from the browser straight to the storage, which must be able to sign URLs
   * (`S3StorageAdapter`). Default false. Small files come here all the same.
   */
  direct?: boolean
}

/** For `app.use('/companion', …)`, and as the listener of a plain `node:http` server. It answers everything itself. */
export type UppyS3Handler = (request: UploadRequest, response: ServerResponse, next?: (error?: unknown) => void) => void

type Verb = (exchange: Exchange) => Promise<void>

interface Route {
  readonly verbs: Readonly<Record<string, Verb>>
  /** Methods whose requests carry a grant instead of the caller's credentials. */
  readonly granted: readonly string[]
}

const week = 7 * 24 * 60 * 60_000

/**
 * Serves `s3/params`, `s3/multipart…` and `s3/sign` for `@uppy/aws-s3` 5 and 6, below wherever it is mounted.
 * @throws TypeError when an option is not usable
 */
export function uppyS3Handler(engine: UploadEngine, options: UppyS3Options = {}): UppyS3Handler {
  const { owner: ownerOf = () => null, urlTtl = 60 * 60_000, direct = false } = options
  checkOptions(options)
  if (direct && !engine.signsParts) {
    throw new TypeError('direct needs a storage that can sign URLs for parts, like S3StorageAdapter')
  }
  const cors = corsHeaders(options.cors)
  return (request, response) => {
    const signal = signalOf(request, response)
    const run = async () => {
      try {
        cors(request, response)
        response.setHeader('X-Content-Type-Options', 'nosniff')
        if (request.method === 'OPTIONS') return sendPreflight(response)
        warnAboutRequestTimeout(request)
        const { verb, granted } = verbOf(request, response)
        const owner = granted ? null : ((await ownerOf(request)) ?? null)
        const base = `${options.publicUrl?.replace(/(?<!\/)\/+$/, '') ?? mountOf(request)}/s3`
        const formUrl = options.formUrl ?? `${base}/form`
        const query = queryOf(request)
        await verb({ engine, request, response, signal, query, owner, base, formUrl, urlTtl, direct })
      } catch (cause) {
        await sendFailure(engine, request, response, toNexusUploaderError(cause))
      }
    }
    run().catch(() => response.destroy())
  }
}

function checkOptions({ publicUrl, formUrl, urlTtl }: UppyS3Options): void {
  for (const [name, url] of Object.entries({ publicUrl, formUrl })) {
    if (url !== undefined && !URL.canParse(url)) throw new TypeError(`${name} must be an absolute URL`)
  }
  if (urlTtl === undefined || (Number.isSafeInteger(urlTtl) && urlTtl >= 1 && urlTtl <= week)) return
  throw new TypeError(`urlTtl must be a whole number of milliseconds from 1 to ${week}`)
}

function sendPreflight(response: ServerResponse): void {
  response.statusCode = 204
  response.end()
}

/** Clients take URLs apart, so they must be absolute. */
function mountOf(request: UploadRequest): string {
  const path = pathOf(request)
  const at = path.lastIndexOf('/s3/')
  const origin = originOf(request)
  if (origin === '') throw new InvalidRequestError('The request has no usable Host header.')
  return (
    origin +
    path
      .slice(0, Math.max(0, at))
      .replace(/(?<!\/)\/+$/, '')
      .replace(/^\/+/, '/')
  )
}

function verbOf(request: IncomingMessage, response: ServerResponse): { verb: Verb; granted: boolean } {
  const { method = '' } = request
  const route = routeOf(request)
  if (!route) throw new NexusUploaderError('ROUTE_NOT_FOUND', 404, 'There is no such route.')
  const verb = Object.hasOwn(route.verbs, method) ? route.verbs[method] : undefined
  if (verb) return { verb, granted: route.granted.includes(method) }
  response.setHeader('Allow', [...Object.keys(route.verbs), 'OPTIONS'].join(', '))
  throw new NexusUploaderError('METHOD_NOT_ALLOWED', 405, 'This method is not for this URL.')
}

function routeOf(request: IncomingMessage): Route | null {
  const path = pathOf(request)
  const at = path.lastIndexOf('/s3/')
  const [name, id = '', last, ...more] = at < 0 ? [] : path.slice(at + 4).split('/')
  if (more.length > 0) return null
  if (name === 'multipart' && last !== undefined) return partRoute(id, last)
  if (name === 'multipart' && id !== '') {
    return { verbs: { GET: (e) => list(e, id), DELETE: (e) => abort(e, id) }, granted: [] }
  }
  if (name === 'multipart') return { verbs: { POST: create }, granted: [] }
  if (name === 'params') return { verbs: { GET: params }, granted: [] }
  if (name === 'sign') return { verbs: { POST: signS3 }, granted: [] }
  if (name === 'signed' && last !== undefined) return signedRoute(id, last)
  // Also at any other URL that the app passes on to this handler (`formUrl`).
  const isForm = name === 'form' || (request.method === 'POST' && mediaType(request) === 'multipart/form-data')
  return isForm ? { verbs: { POST: postForm }, granted: ['POST'] } : null
}

function signedRoute(id: string, operation: string): Route | null {
  if (operation === 'create') return { verbs: { POST: (e) => signedCreate(e, id) }, granted: ['POST'] }
  if (operation === 'list') return { verbs: { GET: (e) => signedList(e, id) }, granted: ['GET'] }
  if (operation === 'complete') return { verbs: { POST: (e) => signedComplete(e, id) }, granted: ['POST'] }
  if (operation === 'abort') return { verbs: { DELETE: (e) => signedAbort(e, id) }, granted: ['DELETE'] }
  return null
}

function partRoute(id: string, last: string): Route | null {
  if (last === 'complete') return { verbs: { POST: (e) => complete(e, id) }, granted: [] }
  if (!/^\d{1,6}$/.test(last)) return null
  const partNumber = Number(last)
  return { verbs: { GET: (e) => sign(e, id, partNumber), PUT: (e) => put(e, id, partNumber) }, granted: ['PUT'] }
}
