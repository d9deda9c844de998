/** Creations: any request with content and a completeness field at the folder's URL. */
import { isNexusUploaderError, NexusUploaderError } from '../../errors.ts'
import { refuseConsumed } from '../http.ts'
import { locationOf } from '../resource.ts'
import { describeFile } from './description.ts'
import { checksumOf } from './digests.ts'
import { type Exchange, limitOf, locationOfUpload, protocol, refOf } from './exchange.ts'
import { headerOf } from './fields.ts'
import { versionField } from './interop.ts'
import { inconsistentLength, ProblemError, problemOf } from './problems.ts'
import { lengthOf, receive, sizeOf } from './receiving.ts'

export async function create(exchange: Exchange, complete: boolean): Promise<void> {
  const { engine, request, owner, dialect } = exchange
  // Whoever speaks a draft that is not spoken here can still send the whole file in one request, like anybody else.
  const isPlain = dialect.standing === 'unknown'
  if (isPlain && !complete) throw unknownVersion()
  const size = sizeOf(request)
  if (size !== 0) refuseConsumed(request)
  const length = lengthOf(request, 0, complete)
  if (length !== undefined && (size ?? 0) > length) {
    throw inconsistentLength(`Upload-Length is ${length}, but there are ${size} bytes of content.`)
  }
  const { session } = await engine.create({
    ...describeFile(request),
    totalSize: length ?? null,
    checksum: checksumOf(headerOf(request, 'Repr-Digest')),
    wire: { folder: locationOf(request, '', exchange.resources) },
    protocol,
    owner,
    context: request,
  })
  const location = locationOfUpload(session)
  // A creation without content is answered at once, and at best meets no proxy that stumbles over interim responses.
  const isAnnounced = (complete || size !== 0) && announce(exchange, location, limitOf(exchange, session))
  try {
    await receive(exchange, { uploadId: session.id, offset: 0, complete, length, acceptedStatus: 201 })
  } catch (error) {
    if (!isWorthKeeping(error, isAnnounced, isPlain)) {
      await engine.abort(refOf(exchange, session.id)).catch(() => {})
    } else if (!exchange.response.headersSent) {
      exchange.response.setHeader('Location', location)
    }
    throw error
  }
}

function announce({ interim }: Exchange, location: string, limit: string | undefined): boolean {
  return interim({ Location: location, ...(limit !== undefined && { 'Upload-Limit': limit }) })
}

/**
 * Whether somebody can go on with an upload whose creation failed: its URL has been told, or will be with this answer, and
 * it is not the upload that was refused.
 */
function isWorthKeeping(error: unknown, isAnnounced: boolean, isPlain: boolean): boolean {
  const { code, retryable, status, superseded } = problemOf(error)
  // Nobody gets an answer to these.
  if (code === 'BODY_INCOMPLETE' || code === 'BODY_TIMEOUT') return isAnnounced
  if (superseded) return true
  const isRefused = error instanceof ProblemError || (isNexusUploaderError(error) && code === 'CHECKSUM_MISMATCH')
  return !isPlain && !isRefused && (retryable || status >= 500)
}

export function unknownVersion(): NexusUploaderError {
  const message = `The version in ${versionField} is not spoken here. Versions 3 to 9 are.`
  return new NexusUploaderError('UNKNOWN_VERSION', 400, message)
}
