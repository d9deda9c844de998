/** One chunk in a multipart/form-data request, with the fields that place it before the file part or after it. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Readable } from 'node:stream'
import { ChunkSizeExceededError } from '../errors.ts'
import type { SpooledBody, UploadEngine } from '../types.ts'
import { type FormFields, type FormFile, type FormLimits, readForm } from './chunk-body.ts'
import { contentLength } from './http.ts'

/** Room for the boundaries, headers and fields of a form around the chunk, bytes. */
const formOverhead = 64 * 1024

export interface ChunkPart extends Omit<FormFile, 'stream'> {
  readonly body: Readable
  /** Bytes, when the chunk had to wait for its fields. */
  readonly size: number | undefined
  readonly signal: AbortSignal
}

export interface ChunkFormReader<Result> {
  readonly engine: UploadEngine
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly signal: AbortSignal
  /** The name that the file part must have; `null`: any. */
  readonly fieldName: string | null
  readonly limits?: FormLimits
  /** Whether these fields say where the chunk belongs; then it is written while it comes in. */
  isPlaced(fields: FormFields): boolean
  write(fields: FormFields, part: ChunkPart): Promise<Result>
}

export interface ChunkForm<Result> {
  /** All fields of the form. */
  readonly fields: FormFields
  /** The fields that the chunk was written by. */
  readonly used: FormFields
  /** `null` when there was no file part. */
  readonly written: Result | null
}

/** @throws ChunkSizeExceededError for a form that is larger than the largest chunk; whatever `write` throws */
export async function readChunkForm<Result>(reader: ChunkFormReader<Result>): Promise<ChunkForm<Result>> {
  const { engine, request, response, limits } = reader
  const { maxChunkSize, bodyIdleTimeout: idleTimeout } = engine.limits
  // Twice, since the last chunk of a declared upload may be nearly twice as large.
  const maxSize = 2 * maxChunkSize
  if ((contentLength(request) ?? 0) > maxSize + formOverhead) throw new ChunkSizeExceededError(maxChunkSize)
  const plan = { fieldName: reader.fieldName, maxBytes: maxSize + formOverhead, idleTimeout, limits }
  let used: FormFields | null = null
  let spooled: SpooledBody | null = null
  const takeFile = async ({ stream, ...file }: FormFile, before: FormFields, stop: AbortSignal) => {
    const signal = AbortSignal.any([reader.signal, stop])
    if (!reader.isPlaced(before)) {
      spooled = await engine.spool(stream, { maxSize, signal })
      return { file, spooled }
    }
    used = before
    return { written: await reader.write(before, { ...file, body: stream, size: undefined, signal }) }
  }
  try {
    const form = await readForm(request, response, plan, takeFile)
    const { fields, file: taken } = form
    if (!taken) return { fields, used: fields, written: null }
    if ('written' in taken) return { fields, used: used ?? fields, written: taken.written }
    const { file, spooled: kept } = taken
    const written = await fromFile(kept.open(), (body) =>
      reader.write(fields, { ...file, body, size: kept.size, signal: reader.signal }),
    )
    return { fields, used: fields, written }
  } finally {
    await (spooled as SpooledBody | null)?.discard()
  }
}

/** A refused chunk leaves its body unread; a file must not stay open for that. */
export async function fromFile<Result>(body: Readable, write: (body: Readable) => Promise<Result>): Promise<Result> {
  body.on('error', () => {})
  try {
    return await write(body)
  } finally {
    body.destroy()
  }
}
