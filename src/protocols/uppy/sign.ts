/**
 * `signRequest` of `@uppy/aws-s3` 6: the browser asks for one S3 request after the other to be signed, and speaks S3 to
 * the URLs it gets. Only those of parts may lead to the storage; all others lead here, so that nothing is created under a
 * key that the client chose, and nothing completed behind our back.
 */
import { InvalidRequestError } from '../../errors.ts'
import type { UploadSession } from '../../types.ts'
import { fieldOf, integerField, jsonBody, sendJson, textBody, textField } from '../http.ts'
import { metadataOf } from '../metadata.ts'
import { sendXml } from './answers.ts'
import { type Exchange, grantedRef, signedUrl, uploadOf } from './exchange.ts'
import { formFor } from './form.ts'
import {
  completeWith,
  createSession,
  entriesOf,
  type FileDescription,
  listedParts,
  listLimit,
  maxName,
  partUrl,
} from './multipart.ts'
import { elementsOf, partsIn } from './xml.ts'

const operations: Readonly<Record<string, string>> = { GET: 'list', POST: 'complete', DELETE: 'abort' }

/** `POST s3/sign` with `{ method, key, uploadId?, partNumber?, contentType? }` → `{ url, key?, fields? }` */
export async function sign(exchange: Exchange): Promise<void> {
  const body = await jsonBody(exchange.request, exchange.signal)
  const method = textField(body, 'method', 16) ?? ''
  const key = textField(body, 'key', maxName)
  if (!key) throw new InvalidRequestError('key is missing.')
  const uploadId = textField(body, 'uploadId', 512)
  const signed =
    uploadId === undefined
      ? await signNew(exchange, method, describe(body, key))
      : await signNext(exchange, method, await uploadOf(exchange, uploadId, key), integerField(body, 'partNumber'))
  sendJson(exchange.response, 200, signed)
}

/** The key is ours, whatever the client proposed; it is told, and comes back with all that follows. */
async function signNew(exchange: Exchange, method: string, file: FileDescription) {
  if (method === 'PUT') {
    const session = await createSession(exchange, file)
    return { ...formFor(exchange, session), key: session.key }
  }
  if (method !== 'POST') throw notSigned()
  const session = await createSession(exchange, file, { direct: exchange.direct })
  return { url: signedUrl(exchange, `/signed/${session.id}/create`, session, 'create'), key: session.key }
}

async function signNext(exchange: Exchange, method: string, session: UploadSession, partNumber: number | undefined) {
  if (method === 'PUT' && partNumber !== undefined) return { url: await partUrl(exchange, session, partNumber) }
  const operation = Object.hasOwn(operations, method) ? operations[method] : undefined
  if (operation === undefined || partNumber !== undefined) throw notSigned()
  return { url: signedUrl(exchange, `/signed/${session.id}/${operation}`, session, operation) }
}

function notSigned(): InvalidRequestError {
  return new InvalidRequestError('Such a request is not signed here.', { code: 'NOT_SIGNED' })
}

/** Uppy tells only the key it would choose, `<uuid>-<name>`; the app's `signRequest` can add what it knows as `file`. */
function describe(body: unknown, key: string): FileDescription {
  const file = (body as { file?: unknown }).file ?? {}
  const name = key.split('/').at(-1) ?? ''
  return {
    fileName: textField(file, 'name', maxName) || name.replace(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-/i, ''),
    mimeType: textField(file, 'type', maxName) || textField(body, 'contentType', maxName),
    metadata: metadataOf(entriesOf((file as { meta?: unknown }).meta)),
    ...(fieldOf(file, 'size') !== undefined && { totalSize: integerField(file, 'size') }),
  }
}

/** `POST s3/signed/:uploadId/create` */
export async function signedCreate(exchange: Exchange, uploadId: string): Promise<void> {
  const { id, key } = await exchange.engine.get(grantedRef(exchange, uploadId, 'create'))
  const content = elementsOf({ Key: key, UploadId: id })
  sendXml(exchange.response, 200, `<InitiateMultipartUploadResult>${content}</InitiateMultipartUploadResult>`)
}

/** `GET s3/signed/:uploadId/list` */
export async function signedList(exchange: Exchange, uploadId: string): Promise<void> {
  const ref = grantedRef(exchange, uploadId, 'list')
  const session = await exchange.engine.get(ref)
  const parts = await listedParts(exchange, session, ref)
  const listed = parts.map((part) => `<Part>${elementsOf({ ...part })}</Part>`).join('')
  sendXml(
    exchange.response,
    200,
    `<ListPartsResult>${elementsOf({ Key: session.key, UploadId: session.id })}${listed}</ListPartsResult>`,
  )
}

/** `POST s3/signed/:uploadId/complete` */
export async function signedComplete(exchange: Exchange, uploadId: string): Promise<void> {
  const { engine, request, response, signal } = exchange
  const ref = grantedRef(exchange, uploadId, 'complete')
  const session = await engine.get(ref)
  const parts = partsIn(await textBody(request, signal, listLimit(exchange)), engine.limits.maxChunks)
  const { url, key } = await completeWith(exchange, session, ref, parts)
  const content = elementsOf({ Location: url, Key: key })
  sendXml(response, 200, `<CompleteMultipartUploadResult>${content}</CompleteMultipartUploadResult>`)
}

/** `DELETE s3/signed/:uploadId/abort` */
export async function signedAbort(exchange: Exchange, uploadId: string): Promise<void> {
  await exchange.engine.abort(grantedRef(exchange, uploadId, 'abort'))
  exchange.response.statusCode = 204
  exchange.response.end()
}
