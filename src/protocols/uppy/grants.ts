/**
 * Signed permissions: one operation on one upload, until some time. Uppy 6 sends neither cookies nor headers of the app
 * with the bytes, so the URL itself says that it was given to somebody who may.
 *
 * The key is random, made for each upload and kept in its record: nothing to configure, nothing that another upload or
 * another server's secret could open, and it is gone when the upload is.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { NexusUploaderError } from '../../errors.ts'
import type { UploadSession } from '../../types.ts'

export interface Grant {
  /** Ms since the epoch. */
  readonly expires: string
  readonly signature: string
}

/** For `wire` of a new upload. */
export function newSecret(): { secret: string } {
  return { secret: randomBytes(32).toString('base64url') }
}

/** `operation` names what is allowed, with all that it depends on: `part 3`. */
export function grantFor(session: UploadSession, operation: string, lifetime: number): Grant {
  const expires = String(Date.now() + lifetime)
  return { expires, signature: sign(session, operation, expires).toString('base64url') }
}

/**
 * Whether an upload is the one that the grant was made for; for `UploadRef.proof`.
 * @throws NexusUploaderError (403) for a grant that was good once: only who had one can learn that the upload exists
 */
export function proofOf(operation: string, { expires, signature }: Grant): (session: UploadSession) => boolean {
  const given = Buffer.from(signature, 'base64url')
  return (session) => {
    if (session.wire?.secret === undefined) return false
    const expected = sign(session, operation, expires)
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) return false
    if (Number(expires) > Date.now()) return true
    throw new NexusUploaderError('URL_EXPIRED', 403, 'Request has expired')
  }
}

function sign(session: UploadSession, operation: string, expires: string): Buffer {
  const secret = Buffer.from(session.wire?.secret ?? '', 'base64url')
  return createHmac('sha256', secret).update(`${session.id}\n${operation}\n${expires}`).digest()
}
