/** The bytes of a chunk: the file part of a form, or all of the body. */
import type { Readable } from 'node:stream'
import { InvalidRequestError } from '../../errors.ts'
import { chunkFormLimits, type FormFields } from '../chunk-body.ts'
import { readChunkForm } from '../chunk-form.ts'
import { contentLength, mediaType, refuseConsumed, refuseEncoding } from '../http.ts'
import type { Exchange } from './exchange.ts'
import { dialectIn, isWhole, type Plan, planOf } from './parameters.ts'

/** Nine parameters, and room for the app's own `query`. A path may be long. */
const formLimits = { ...chunkFormLimits, fields: 64, fieldSize: 8 * 1024 }

export interface Arrival {
  readonly plan: Plan
  readonly body: Readable
  readonly signal: AbortSignal
  /** What the file part says of the file. */
  readonly partName: string | undefined
  readonly partType: string | undefined
}

/** @throws InvalidRequestError when the request has no chunk, or does not say which */
export function receive<Result>(exchange: Exchange, store: (arrival: Arrival) => Promise<Result>): Promise<Result> {
  const { request, signal } = exchange
  refuseEncoding(request)
  refuseConsumed(request)
  const type = mediaType(request)
  if (type.startsWith('multipart/')) return receiveForm(exchange, store)
  // Flow.js gives its octets the type of the file; Resumable.js tells it in a parameter.
  const plan = planIn(exchange, {})
  const announced = contentLength(request)
  // Before it is waited for: a body of another size is refused anyway.
  if (announced !== undefined && announced !== plan.size) throw otherSize(plan.size, announced)
  return store({ plan, body: request, signal, partName: undefined, partType: type })
}

function otherSize(expected: number, announced: number): InvalidRequestError {
  const message = `This chunk must have ${expected} bytes, but the request brings ${announced}.`
  return new InvalidRequestError(message, { code: 'SIZE_MISMATCH' })
}

export function planIn({ dialects, query, engine }: Exchange, fields: FormFields): Plan {
  const dialect = dialectIn(dialects, query, fields)
  if (!dialect) throw new InvalidRequestError('The parameters that say which chunk of which file this is are missing.')
  return planOf(dialect, query, fields, engine.limits)
}

async function receiveForm<Result>(exchange: Exchange, store: (arrival: Arrival) => Promise<Result>): Promise<Result> {
  const { engine, request, response, signal, dialects, query, fileFields } = exchange
  try {
    const { fields, written } = await readChunkForm({
      ...{ engine, request, response, signal, fieldName: null, limits: formLimits },
      isPlaced(before) {
        const dialect = dialectIn(dialects, query, before)
        return dialect !== null && isWhole(dialect, query, before)
      },
      async write(known, { fieldName, fileName, mimeType, body, signal }) {
        if (!fileFields.includes(fieldName)) throw noFile(exchange)
        const plan = planIn(exchange, known)
        return { stored: await store({ plan, body, signal, partName: fileName, partType: mimeType }) }
      },
    })
    if (written) return written.stored
    throw fileFields.some((name) => Object.hasOwn(fields, name)) ? isText() : noFile(exchange)
  } catch (error) {
    throw isLongText(error, fileFields) ? isText() : error
  }
}

function noFile({ fileFields }: Exchange): InvalidRequestError {
  return new InvalidRequestError(`The form has no file part named ${fileFields.join(' or ')}.`, {
    code: 'MISSING_CHUNK',
  })
}

/** A field that is longer than any parameter, where the file should be. */
function isLongText(error: unknown, fileFields: readonly string[]): boolean {
  const { cause } = (error ?? {}) as { cause?: { code?: unknown; field?: unknown } }
  return cause?.code === 'LIMIT_FIELD_VALUE' && fileFields.includes(String(cause.field))
}

function isText(): InvalidRequestError {
  const message = "The chunk came as text. Set chunkFormat: 'blob'; 'base64' is not accepted here."
  return new InvalidRequestError(message, { code: 'INVALID_FORM' })
}
