/** What a creation with content and an append have in common: bytes go to the end of the upload, then it may be complete. */
import { Readable } from 'node:stream'
import { isNexusUploaderError, toNexusUploaderError } from '../../errors.ts'
import type { StoredObject, UploadSession } from '../../types.ts'
import { contentLength, type UploadRequest } from '../http.ts'
import { sendFinal, sendIncomplete } from './answers.ts'
import { checksumOf } from './digests.ts'
import { type Exchange, refOf } from './exchange.ts'
import { headerOf, integerOf } from './fields.ts'
import { completedUpload, inconsistentLength, refusalOf, superseded, verdict, wrongFile } from './problems.ts'

export interface Content {
  readonly uploadId: string
  readonly offset: number
  /** Whether the upload is complete with it; `undefined`: the request does not say. */
  readonly complete: boolean | undefined
  /** What the request says about the length of the whole upload. */
  readonly length: number | undefined
  /** The status of an answer that does not complete the upload. */
  readonly acceptedStatus: number
}

interface Received {
  readonly session: UploadSession
  readonly offset: number
}

/**
 * The length of the whole upload, from `Upload-Length` or from the end of content that completes the upload.
 * @throws ProblemError when the two differ
 */
export function lengthOf(request: UploadRequest, offset: number, complete: boolean | undefined): number | undefined {
  const declared = integerOf(headerOf(request, 'Upload-Length'))
  const size = sizeOf(request)
  const end = complete === true && size !== undefined ? offset + size : undefined
  if (declared !== undefined && end !== undefined && declared !== end) {
    throw inconsistentLength(`Upload-Length is ${declared}, but the content ends at byte ${end}.`)
  }
  return declared ?? end
}

/** Bytes of content; `undefined` when only its end will tell. */
export function sizeOf(request: UploadRequest): number | undefined {
  const announced = contentLength(request)
  if (announced !== undefined) return announced
  if (request.httpVersionMajor < 2) return request.headers['transfer-encoding'] === undefined ? 0 : undefined
  return (request as { stream?: { endAfterHeaders?: boolean } }).stream?.endAfterHeaders ? 0 : undefined
}

/** Adds the content to the upload, and answers. */
export async function receive(exchange: Exchange, content: Content): Promise<void> {
  const { interop } = exchange.dialect
  const { session, offset } = await take(exchange, content)
  const isDue = content.complete ?? false
  const isReached = interop.implicit && session.totalSize === offset
  if (isDue || isReached) {
    if (session.totalSize !== null && session.totalSize !== offset) {
      throw inconsistentLength(`The upload has ${session.totalSize} bytes, but its content ended at byte ${offset}.`)
    }
    return sendFinal(exchange, session, await complete(exchange, session.id, offset))
  }
  if (isEnding(session)) throw completedUpload()
  sendIncomplete(exchange, session, offset, content.acceptedStatus)
}

/** @throws ProblemError and whatever `engine.append` throws */
async function take(exchange: Exchange, content: Content): Promise<Received> {
  const { engine, request, dialect, interim } = exchange
  const size = sizeOf(request)
  try {
    const appended = await engine.append({
      ...refOf(exchange, content.uploadId),
      offset: content.offset,
      // An empty body may have been read by whatever is mounted before; nothing of it is lost.
      body: size === 0 ? Readable.from([]) : request,
      size,
      totalSize: content.length,
      checksum: checksumOf(headerOf(request, 'Content-Digest')),
      ...(dialect.interop.progress && {
        onProgress: (offset: number) => void interim({ 'Upload-Offset': String(offset) }),
      }),
    })
    if (appended.interrupted) throw superseded(appended.offset)
    return appended
  } catch (error) {
    return await secondLook(exchange, content, error)
  }
}

/** Too many bytes can mean that the upload is complete, or that it must not be used any more. */
async function secondLook(exchange: Exchange, content: Content, error: unknown): Promise<never> {
  const code = isNexusUploaderError(error) ? error.code : ''
  const refusal = refusalOf(error)
  if (refusal) throw verdict(refusal)
  if (code !== 'FILE_SIZE_EXCEEDED' && code !== 'INCONSISTENT_LENGTH') {
    throw await explain(exchange, content.uploadId, error)
  }
  const session = await exchange.engine.get(refOf(exchange, content.uploadId))
  if (isEnding(session)) throw completedUpload()
  const { totalSize } = session
  const size = sizeOf(exchange.request)
  const isKnownToOverflow = size !== undefined && totalSize !== null && content.offset + size > totalSize
  const hasOverflowed = code === 'FILE_SIZE_EXCEEDED' && totalSize !== null
  if (!isKnownToOverflow && !hasOverflowed) throw error
  // The length cannot be trusted any more, and nothing may go beyond it: nobody uses this upload again.
  await exchange.engine.abort(refOf(exchange, content.uploadId))
  throw inconsistentLength(`The content goes beyond the ${totalSize} bytes of the upload. The upload was discarded.`)
}

function isEnding({ state, object }: UploadSession): boolean {
  return state === 'completing' || state === 'completed' || object !== null
}

/**
 * Makes the object. `totalSize`: for an upload whose length was not known before.
 * @throws ProblemError when the outcome is decided: the application, or a digest, refused the file
 */
export async function complete(exchange: Exchange, uploadId: string, totalSize: number): Promise<StoredObject> {
  const ref = refOf(exchange, uploadId)
  try {
    return await exchange.engine.complete({ ...ref, totalSize })
  } catch (cause) {
    const error = toNexusUploaderError(cause)
    if (error.code === 'CHECKSUM_MISMATCH') {
      await exchange.engine.abort(ref)
      throw wrongFile(error)
    }
    if (error.status >= 500 || error.retryable) throw error
    throw await explain(exchange, uploadId, error)
  }
}

/** The same refusal is told from the record when the client asks again. */
async function explain(exchange: Exchange, uploadId: string, error: unknown): Promise<unknown> {
  const refusal = refusalOf(error) ?? refusalOf(await exchange.engine.get(refOf(exchange, uploadId)).catch((e) => e))
  return refusal ? verdict(refusal) : error
}
