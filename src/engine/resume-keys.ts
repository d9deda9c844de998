/** Finds uploads by what the client calls them. A key leads to one upload at a time, and outlives it as its tombstone. */
import { createHmac } from 'node:crypto'
import type { CreateUpload, FindUpload, FoundUpload, ResumeRecord, UploadSession } from '../types.ts'
import { allows } from './authorization.ts'
import type { EngineParts } from './engine-options.ts'

/** How long a key is remembered after its upload has gone: longer than anybody leaves a page paused, ms. */
const memory = 24 * 60 * 60_000

export class ResumeKeys {
  readonly #parts: EngineParts

  constructor(parts: EngineParts) {
    this.#parts = parts
  }

  /** What the key leads to, in whatever state; `null` when it was never used, was released, or is hidden from this caller. */
  async find(request: FindUpload): Promise<FoundUpload | null> {
    const link = await this.#get(resumeIdOf(request))
    if (!link || link.uploadId === null) return null
    const { uploadId } = link
    const session = await this.#parts.sessions.get(uploadId)
    if (!session) return { uploadId, session: null }
    const isTheirs = session.owner === (request.owner ?? null)
    return isTheirs && (await allows(this.#parts, 'read', session, request.context)) ? { uploadId, session } : null
  }

  /** The key is free again, unless it leads to another upload by now. */
  async release(request: FindUpload, uploadId: string): Promise<void> {
    await this.#change(resumeIdOf(request), (link) =>
      link.uploadId === uploadId ? { ...link, uploadId: null, expiresAt: this.#expiry() } : null,
    )
  }

  /** The record of this upload is about to go; that there was one is remembered for longer. */
  async outlive(session: UploadSession): Promise<void> {
    if (session.resumeId === null) return
    await this.#change(session.resumeId, (link) =>
      link.uploadId === session.id ? { ...link, expiresAt: this.#expiry() } : null,
    )
  }

  /** A key whose time is over goes, unless its upload is still there. */
  async sweep(link: ResumeRecord): Promise<void> {
    if (link.uploadId !== null && (await this.#parts.sessions.get(link.uploadId))) {
      await this.#change(link.id, (current) => ({ ...current, expiresAt: this.#expiry() }))
    } else await this.#parts.options.sessions.delete(link.id)
  }

  async findOpen(resumeId: string, request: CreateUpload, fileName: string): Promise<UploadSession | null> {
    const link = await this.#get(resumeId)
    const session = link?.uploadId ? await this.#parts.sessions.get(link.uploadId) : null
    if (!session || session.owner !== (request.owner ?? null) || !isFindable(session)) return null
    const same =
      session.sources !== undefined ||
      (session.totalSize === request.totalSize &&
        takesChunkSize(request, session.chunkSize) &&
        nameOf(session) === fileName &&
        session.checksum === (request.checksum ?? null))
    return same && (await allows(this.#parts, 'read', session, request.context)) ? session : null
  }

  /** Of several creations with one key, one links its upload; the others drop theirs and return the winner's. */
  async link(resumeId: string, session: UploadSession, context: unknown): Promise<UploadSession | null> {
    const { sessions } = this.#parts.options
    const link = { format: 1, kind: 'resume', id: resumeId, open: false, owner: session.owner } as const
    const record = { ...link, version: 0, uploadId: session.id, expiresAt: this.#expiry() }
    for (;;) {
      if (await sessions.create(record)) return null
      const current = await this.#get(resumeId)
      if (!current) continue
      const other = current.uploadId === null ? null : await this.#parts.sessions.get(current.uploadId)
      if (other && isFindable(other) && isSameFile(other, session)) {
        if (!(await allows(this.#parts, 'read', other, context))) return null
        await sessions.delete(session.id)
        return other
      }
      if (await sessions.replace({ ...record, version: current.version + 1 }, current.version)) return null
    }
  }

  #expiry(): number {
    return this.#parts.clock() + memory
  }

  async #get(resumeId: string): Promise<ResumeRecord | null> {
    const record = await this.#parts.options.sessions.get(resumeId)
    return record?.kind === 'resume' ? record : null
  }

  async #change(resumeId: string, change: (link: ResumeRecord) => ResumeRecord | null): Promise<void> {
    for (;;) {
      const link = await this.#get(resumeId)
      const next = link && change(link)
      if (!link || !next) return
      if (await this.#parts.options.sessions.replace({ ...next, version: link.version + 1 }, link.version)) return
    }
  }
}

/** Bound to the owner, of a shape that no route accepts as an upload id, and the same on disks without large letters. */
export function resumeIdOf({ protocol, owner, resumeKey }: FindUpload): string {
  const scope = JSON.stringify([protocol, owner ?? null])
  return createHmac('sha256', scope).update(resumeKey).digest('hex')
}

/** A composed upload whose answer was lost is found again also when it is complete: a second one would be a second object. */
function isFindable({ sources, state }: UploadSession): boolean {
  if (sources) return state !== 'aborted' && state !== 'expired'
  return state === 'active' || state === 'completing'
}

function isSameFile(a: UploadSession, b: UploadSession): boolean {
  if (a.sources) return b.sources?.join() === a.sources.join()
  return (
    a.totalSize === b.totalSize && a.chunkSize === b.chunkSize && nameOf(a) === nameOf(b) && a.checksum === b.checksum
  )
}

/** An upload that was opened for a client that takes any size may have got another one than it had asked for. */
function takesChunkSize({ chunkSize, anyChunkSize }: CreateUpload, stored: number | null): boolean {
  if (chunkSize !== undefined && anyChunkSize) return stored !== null
  return stored === (chunkSize ?? null)
}

/** The client's name: the one that `onCreate` gives may be another each time. */
function nameOf({ clientName, fileName }: UploadSession): string {
  return clientName ?? fileName
}
