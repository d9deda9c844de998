/** Appends: PATCH at the URL of an upload. */
import { InvalidRequestError, UnsupportedMediaTypeError } from '../../errors.ts'
import { mediaType, refuseConsumed, refuseEncoding } from '../http.ts'
import { partialUpload } from './description.ts'
import type { Exchange } from './exchange.ts'
import { headerOf, integerOf } from './fields.ts'
import { completenessOf } from './interop.ts'
import { lengthOf, receive, sizeOf } from './receiving.ts'

export async function append(exchange: Exchange, uploadId: string): Promise<void> {
  const { request, dialect } = exchange
  const { interop } = dialect
  if (interop.appendType && mediaType(request) !== partialUpload) {
    throw new UnsupportedMediaTypeError(`Send appends as ${partialUpload}.`)
  }
  refuseEncoding(request)
  const offset = integerOf(headerOf(request, 'Upload-Offset'))
  if (offset === undefined) throw missing('Upload-Offset')
  const complete = completenessOf(request, interop)
  if (complete === undefined && !interop.implicit) throw missing(interop.completeness)
  if (sizeOf(request) !== 0) refuseConsumed(request)
  const length = lengthOf(request, offset, complete)
  await receive(exchange, { uploadId, offset, complete, length, acceptedStatus: interop.appended })
}

function missing(field: string): InvalidRequestError {
  return new InvalidRequestError(`${field} is missing or malformed.`)
}
