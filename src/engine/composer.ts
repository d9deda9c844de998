/** Uploads that are the concatenation of partial ones: the object is made straight from the bytes of the pieces. */
import { createHash } from 'node:crypto'
import {
  InvalidRequestError,
  UploadClosedError,
  UploadExpiredError,
  UploadIncompleteError,
  UploadNotFoundError,
} from '../errors.ts'
import type { ComposeUpload, CreateUpload, UploadLimits, UploadSession } from '../types.ts'
import { type ByteRange, receivedBytes } from './chunk-map.ts'
import type { EngineParts } from './engine-options.ts'
import type { FilePiece } from './staged-files.ts'

export type ComposedCreate = CreateUpload & {
  readonly sources: readonly string[]
  /** Where the bytes of its sources wait. */
  readonly staging: 'disk' | 'storage'
}

/**
 * The creation of an upload out of `partials`, which have been authorised. The same request finds the same upload: its
 * `resumeKey` is made of everything it says.
 */
export function composedCreate(
  request: ComposeUpload,
  partials: readonly UploadSession[],
  limits: UploadLimits,
): ComposedCreate {
  const { maxChunks } = limits
  if (partials.length > maxChunks) {
    throw new InvalidRequestError(`More than ${maxChunks} uploads cannot be concatenated.`, { code: 'NOT_PARTIAL' })
  }
  if (partials.length === 0) throw new InvalidRequestError('There is nothing to concatenate.', { code: 'NOT_PARTIAL' })
  for (const partial of partials) {
    if (!partial.partial) {
      throw new InvalidRequestError('Only partial uploads can be concatenated.', { code: 'NOT_PARTIAL' })
    }
    if (!partial.open) throw new UploadExpiredError({ aborted: partial.state === 'aborted' })
  }
  const { sources, fileName, mimeType, metadata, wire } = request
  const said = JSON.stringify([sources, fileName, mimeType, metadata, wire])
  const resumeKey = `compose:${createHash('sha256').update(said).digest('base64url')}`
  const staging = partials.every(({ staged }) => staged === 'storage') ? 'storage' : 'disk'
  return { ...request, totalSize: sizeOf(partials), resumeKey, staging }
}

/** `null` while the length of one is not known. */
function sizeOf(partials: readonly UploadSession[]): number | null {
  return partials.reduce<number | null>(
    (sum, { totalSize }) => (sum === null || totalSize === null ? null : sum + totalSize),
    0,
  )
}

/** Tells the partial uploads who waits for them, and keeps them from expiring before it. */
export async function linkSources(parts: EngineParts, session: UploadSession): Promise<void> {
  for (const id of new Set(session.sources)) {
    const linked = await parts.sessions.update(id, (current) => {
      if (!current.open || current.finals?.includes(session.id)) return current
      const expiresAt = Math.max(current.expiresAt, session.expiresAt)
      return { ...current, finals: [...(current.finals ?? []), session.id], expiresAt }
    })
    if (!linked?.open) throw new UploadNotFoundError()
  }
}

/** Somebody is still at work on this upload, so its pieces stay. */
export async function keepSources(parts: EngineParts, session: UploadSession): Promise<void> {
  const expiresAt = parts.clock() + parts.options.sessionTtl
  for (const id of new Set(session.sources)) {
    await parts.sessions.update(id, (current) => (current.open ? { ...current, expiresAt } : current))
  }
}

/** Somebody is at work on one piece, so the uploads that wait for it stay, with all their pieces. */
export async function keepFinals(parts: EngineParts, partial: UploadSession): Promise<void> {
  const expiresAt = parts.clock() + parts.options.sessionTtl
  for (const id of partial.finals ?? []) {
    const final = await parts.sessions.get(id)
    if (final?.state !== 'active' || final.expiresAt > expiresAt - parts.options.sessionTtl / 4) continue
    await parts.sessions.update(id, (current) => (current.open ? { ...current, expiresAt } : current))
    await keepSources(parts, final)
  }
}

/** @throws UploadIncompleteError while a partial upload is not whole; UploadExpiredError when one is gone */
export async function wholeSources(parts: EngineParts, session: UploadSession): Promise<UploadSession[]> {
  const partials = await Promise.all((session.sources ?? []).map((id) => parts.sessions.get(id)))
  return partials.map((partial) => {
    if (!partial?.open) throw new UploadExpiredError()
    if (partial.totalSize !== null && receivedBytes(partial.chunks) === partial.totalSize) return partial
    throw new UploadIncompleteError([], 'Not all of the partial uploads are whole yet.')
  })
}

export function totalOf(partials: readonly UploadSession[]): number {
  return partials.reduce((sum, { totalSize }) => sum + (totalSize ?? 0), 0)
}

/** Where the bytes of the range lie. */
export async function composedPieces(
  parts: EngineParts,
  session: UploadSession,
  range: ByteRange,
): Promise<FilePiece[]> {
  const partials = await wholeSources(parts, session)
  const pieces: FilePiece[] = []
  let at = 0
  for (const { id, partSize, totalSize } of partials) {
    const size = totalSize ?? 0
    const start = Math.max(0, range.start - at)
    const end = Math.min(size, range.end - at)
    if (start < end) pieces.push(...parts.staging.segments(id, partSize, start, end - start))
    at += size
  }
  return pieces
}

/** Runs `task` while nobody may sweep the partial uploads away. */
export async function pinSources<Result>(
  parts: EngineParts,
  session: UploadSession,
  task: () => Promise<Result>,
): Promise<Result> {
  const claims = []
  try {
    for (const id of new Set(session.sources)) {
      await parts.staging.createFolder(id)
      claims.push(await parts.claims.present(id))
    }
    return await task()
  } finally {
    for (const claim of claims) await claim.release()
  }
}

/** A partial upload is complete when all its bytes are there; it never becomes an object. */
export function refusePartial(session: UploadSession): void {
  if (!session.partial) return
  const message = 'This upload is a part of another one and is not completed by itself.'
  throw new UploadClosedError(message, { code: 'PARTIAL' })
}
