/** What a completion makes sure of before anything is published. */
import { InvalidRequestError, UploadLockedError } from '../errors.ts'
import type { UploadSession } from '../types.ts'
import { type Checksum, parseChecksum } from './body.ts'
import type { EngineParts } from './engine-options.ts'

export function isSameLease(a: UploadSession, b: UploadSession): boolean {
  return a.completing !== null && a.completing.by === b.completing?.by
}

/** Right before something is published: a completer that was asleep must not act on a lease that has gone. */
export async function stillOurs(
  parts: EngineParts,
  session: UploadSession,
  change: (current: UploadSession) => UploadSession = (current) => current,
): Promise<void> {
  const current = await parts.sessions.update(session.id, (latest) =>
    isSameLease(latest, session) ? change(latest) : latest,
  )
  if (!current || !isSameLease(current, session)) throw new UploadLockedError()
}

/** The checksum that was given with the upload counts also when the completion comes with another one. */
export function wholeChecksums(session: UploadSession, checksum: string | null): Checksum[] {
  return [...new Set([session.checksum, checksum])].filter((given) => given !== null).map(parseChecksum)
}

/** @throws InvalidRequestError when nobody has looked for this checksum while the bytes were here */
export function requireVerified(session: UploadSession, checksum: string | null): void {
  // That of the creation is verified together with whatever a completion brings.
  const isVerified = session.verified !== undefined && [session.verified, session.checksum].includes(checksum)
  if (checksum === null || isVerified) return
  const message = 'The checksum of the whole file must be given when the upload is created.'
  throw new InvalidRequestError(message, { code: 'CHECKSUM_TOO_LATE' })
}
