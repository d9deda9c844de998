/** Resumable.js 1.1, Flow.js 2.14 and the chunks of Dropzone, on the engine. */
import type { ServerResponse } from 'node:http'
import { isNexusUploaderError, NexusUploaderError, toNexusUploaderError } from '../../errors.ts'
import type { UploadEngine } from '../../types.ts'
import { type CorsOptions, corsHeaders } from '../cors.ts'
import { type OwnerOf, signalOf, type UploadRequest } from '../http.ts'
import { warnAboutRequestTimeout } from '../request-timeout.ts'
import { sendFailure } from './answers.ts'
import { planIn } from './body.ts'
import type { Exchange } from './exchange.ts'
import { dialectIn, dialectsOf, type ParameterOptions, queryOf } from './parameters.ts'
import { test, upload } from './uploads.ts'

const methods = 'GET, POST, OPTIONS'
const defaultGrace = 5 * 60_000

export interface ResumableJsOptions extends ParameterOptions {
  /**
   * Who is asking. Required, because clients make up the names of their uploads, and others can guess them: an upload
   * belongs to whoever began it. `undefined` refuses the request. `null` is nobody in particular, and all of those share
   * their uploads: with `() => null` a stranger who sends a file of the same name and size adds to yours, learns which
   * chunks of it there are, and gets its URL.
   */
  owner: OwnerOf
  /** Cross-origin access. Default: every origin, without cookies. `false` leaves the headers to the app. */
  cors?: CorsOptions | false
  /**
   * How long after the file was stored a chunk that is sent once more gets the URL, ms. Default 5 minutes, 0 for not at
   * all; never longer than the engine's `completedTtl`.
   */
  completedGrace?: number
}

/** For `app.use('/resumable', …)`, and as the listener of a plain `node:http` server. It answers everything itself. */
export type ResumableJsHandler = (
  request: UploadRequest,
  response: ServerResponse,
  next?: (error?: unknown) => void,
) => void

/**
 * Serves Resumable.js, Flow.js and Dropzone; each is known by its parameters.
 * @throws TypeError when an option is not usable, or `owner` is missing
 */
export function resumableJsHandler(engine: UploadEngine, options: ResumableJsOptions): ResumableJsHandler {
  const { owner: ownerOf, cors: corsOptions, completedGrace = defaultGrace, ...names } = checkOptions(options)
  const cors = corsHeaders(corsOptions)
  const dialects = dialectsOf(names)
  const { fileParameterName = 'file', parameterNamespace = '' } = names
  const fileFields = [...new Set([parameterNamespace + fileParameterName, fileParameterName])]
  return (request, response) => {
    const signal = signalOf(request, response)
    const query = queryOf(request)
    const run = async () => {
      try {
        cors(request, response)
        warnAboutRequestTimeout(request)
        if (request.method === 'OPTIONS') return sendMethods(response)
        const owner = ownerIn(await ownerOf(request))
        await route({ engine, request, response, signal, owner, dialects, query, fileFields, completedGrace })
      } catch (cause) {
        await answer({ engine, request, response, signal, dialects, query }, cause)
      }
    }
    run().catch(() => response.destroy())
  }
}

function checkOptions(options: ResumableJsOptions): ResumableJsOptions {
  if (typeof options?.owner !== 'function') {
    throw new TypeError(
      'resumableJsHandler needs owner: (request) => the id of the user. Clients make up the names of their uploads, so ' +
        'without it users would get at the uploads of others; owner: () => null allows exactly that.',
    )
  }
  const { completedGrace = 0 } = options
  if (Number.isSafeInteger(completedGrace) && completedGrace >= 0) return options
  throw new TypeError('completedGrace must be a whole number of milliseconds, 0 or more')
}

/** Nobody by accident is not the same as nobody on purpose. */
function ownerIn(owner: string | null | undefined): string | null {
  if (owner !== undefined) return owner
  throw new NexusUploaderError('OWNER_UNKNOWN', 403, 'It is not known who is asking. Log in first.')
}

function sendMethods(response: ServerResponse): void {
  response.statusCode = 204
  response.setHeader('Allow', methods)
  response.end()
}

async function route(exchange: Exchange): Promise<void> {
  const { method } = exchange.request
  if (method === 'GET') return test(exchange, planIn(exchange, {}))
  if (method === 'POST') return upload(exchange)
  exchange.response.setHeader('Allow', methods)
  throw new NexusUploaderError('METHOD_NOT_ALLOWED', 405, 'Chunks are asked for with GET and sent with POST.')
}

type Refused = Pick<Exchange, 'engine' | 'request' | 'response' | 'signal' | 'dialects' | 'query'>

async function answer({ engine, request, response, signal, dialects, query }: Refused, cause: unknown): Promise<void> {
  // A status would be final where a lost connection is not.
  if (signal.aborted || isInterruption(cause)) {
    request.destroy()
    return
  }
  // What is in a form that was refused may never have been read.
  const fields = (typeof request.body === 'object' && request.body) || {}
  const dialect = dialectIn(dialects, query, fields as Record<string, unknown>)?.name ?? 'unknown'
  const drainable = 2 * engine.limits.maxChunkSize
  await sendFailure(request, response, toNexusUploaderError(cause), { dialect, drainable, signal })
}

function isInterruption(error: unknown): boolean {
  return isNexusUploaderError(error) && (error.code === 'BODY_INCOMPLETE' || error.code === 'BODY_TIMEOUT')
}
