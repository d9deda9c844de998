/** Multipart uploads of S3, in the engine's words. */
import type { Part, UploadPartCommandInput } from '@aws-sdk/client-s3'
import type { DirectMultipart, MultipartRef, MultipartStorage, ObjectInfo, PartBody, StoredPart } from '../types.ts'
import { completeObject, findCompleted } from './s3-complete.ts'
import type { S3Connection } from './s3-connection.ts'
import { kindOf, ReceiptError, s3Error } from './s3-errors.ts'
import { crc32Text, type ObjectParams, objectParams, refuseStagingKey } from './s3-headers.ts'
import { warnAboutLifecycle } from './s3-lifecycle.ts'
import { S3_LIMITS } from './s3-options.ts'
import { signUrl } from './s3-presign.ts'
import type { Held } from './s3-receipt.ts'
import { sendBody } from './s3-send.ts'
import { SentParts } from './s3-sent-parts.ts'

/** One part, in the SDK's words. */
type PartName = Pick<UploadPartCommandInput, 'Bucket' | 'Key' | 'UploadId' | 'PartNumber'>

export class S3Multipart implements MultipartStorage {
  readonly minPartSize = S3_LIMITS.minPartSize
  readonly maxPartSize = S3_LIMITS.maxPartSize
  readonly maxParts = S3_LIMITS.maxParts
  readonly partSize: number
  readonly direct: DirectMultipart
  readonly #connection: S3Connection
  readonly #sent = new SentParts()

  constructor(connection: S3Connection) {
    this.#connection = connection
    this.partSize = connection.settings.partSize
    this.direct = {
      // Browsers send no checksums, so none may be asked for.
      create: (fileKey, info, onDoubt) => this.#open(fileKey, info, {}, onDoubt),
      signPart: (upload, partNumber, lifetime) => this.#signPart(upload, partNumber, lifetime),
    }
  }

  /** Not idempotent in S3: when its answer is lost, an empty multipart upload stays behind (see `abort`). */
  async create(fileKey: string, info: ObjectInfo, onDoubt?: () => void): Promise<string> {
    // Parts with checksums belong to a multipart upload that was opened for them.
    const addsChecksums = await this.#connection.addsChecksums()
    return this.#open(fileKey, info, addsChecksums ? { ChecksumAlgorithm: 'CRC32' } : {}, onDoubt)
  }

  async #open(
    fileKey: string,
    info: ObjectInfo,
    more: Pick<ObjectParams, 'ChecksumAlgorithm'>,
    onDoubt: () => void = () => {},
  ): Promise<string> {
    const { settings } = this.#connection
    refuseStagingKey(settings, fileKey)
    const params = { ...objectParams(settings, info.mimeType, info.fileName, info.uploadId, info), ...more }
    let tries = 0
    const multipartId = await this.#connection.call(
      'CreateMultipartUpload',
      async ({ client, sdk }, abortSignal) => {
        tries += 1
        if (tries === 2) onDoubt()
        const command = new sdk.CreateMultipartUploadCommand({ ...params, ...this.#target(fileKey) })
        const { UploadId, $metadata } = await client.send(command, { abortSignal })
        // A client of the application repeats by itself.
        if (tries === 1 && ($metadata.attempts ?? 1) > 1) onDoubt()
        if (!UploadId) throw new ReceiptError('the answer has no UploadId')
        return UploadId
      },
      { signal: info.signal },
    )
    void warnAboutLifecycle(this.#connection)
    return multipartId
  }

  async uploadPart(upload: MultipartRef, partNumber: number, body: PartBody, signal?: AbortSignal): Promise<void> {
    const target = { ...this.#target(upload.fileKey), UploadId: upload.multipartId, PartNumber: partNumber }
    this.#sent.remove(upload.multipartId, partNumber)
    const { receipt, isProven } = await sendBody(this.#connection, {
      ...{ operation: 'UploadPart', body, signal },
      // S3 takes a CRC-32 only where the multipart upload was opened for them.
      needsSum: false,
      send: ({ client, sdk }, sent, abortSignal) =>
        client.send(new sdk.UploadPartCommand({ ...target, ...sent }), { abortSignal }),
      look: () => heldPart(this.#connection, target, signal),
    })
    if (!isProven) return
    const crc32 = numberOf(receipt.ChecksumCRC32)
    this.#sent.add(upload.multipartId, { partNumber, size: body.size, etag: receipt.ETag ?? '', crc32 })
  }

  sentParts(upload: MultipartRef): readonly StoredPart[] {
    return this.#sent.of(upload.multipartId)
  }

  #signPart(upload: MultipartRef, partNumber: number, lifetime: number): Promise<string> {
    const target = { ...this.#target(upload.fileKey), UploadId: upload.multipartId, PartNumber: partNumber }
    return signUrl(this.#connection, (sdk) => new sdk.UploadPartCommand(target), lifetime)
  }

  async listParts(upload: MultipartRef, signal?: AbortSignal): Promise<StoredPart[] | null> {
    const parts: StoredPart[] = []
    let after: string | undefined
    try {
      for (;;) {
        const page = await this.#connection.call(
          'ListParts',
          async ({ client, sdk }, abortSignal) => {
            const command = new sdk.ListPartsCommand({
              ...this.#target(upload.fileKey),
              UploadId: upload.multipartId,
              ...(after === undefined ? {} : { PartNumberMarker: after }),
            })
            return requirePartsOf(upload.multipartId, await client.send(command, { abortSignal }))
          },
          { signal },
        )
        for (const part of page.Parts ?? []) parts.push(readPart(part))
        if (!page.IsTruncated) return parts.sort((a, b) => a.partNumber - b.partNumber)
        after = nextMarker('ListParts', after, page.NextPartNumberMarker)
      }
    } catch (error) {
      if (kindOf(error) === 'gone') return null
      throw error
    }
  }

  async complete(upload: MultipartRef, parts: readonly StoredPart[], info: ObjectInfo): Promise<string> {
    const key = this.#key(upload.fileKey)
    const sorted = [...parts].sort((a, b) => a.partNumber - b.partNumber)
    const completion = { key, multipartId: upload.multipartId, mark: info.uploadId, signal: info.signal }
    const size = sorted.reduce((sum, part) => sum + part.size, 0)
    // Parts without ETags: the caller knows that S3 no longer lists them, so there is nothing to complete.
    if (sorted.some(({ etag }) => etag === '')) {
      await findCompleted(this.#connection, { ...completion, size, parts: [] })
      return this.#connection.url(key)
    }
    // CompleteMultipartUpload must repeat the checksums of parts that were sent with one.
    const named = sorted.map(({ partNumber, etag, crc32 }) => {
      return { PartNumber: partNumber, ETag: etag, ...(crc32 === undefined ? {} : { ChecksumCRC32: crc32Text(crc32) }) }
    })
    // Whatever comes of it: the next try asks for a list.
    this.#sent.forget(upload.multipartId)
    await completeObject(this.#connection, { ...completion, size, parts: named })
    return this.#connection.url(key)
  }

  async abort(upload: { readonly fileKey: string; readonly multipartId: string | null }): Promise<void> {
    const key = this.#key(upload.fileKey)
    if (upload.multipartId !== null) this.#sent.forget(upload.multipartId)
    if (upload.multipartId === null) await abortAllOf(this.#connection, key)
    else await abortOne(this.#connection, key, upload.multipartId)
  }

  #key(fileKey: string): string {
    return this.#connection.settings.prefix + fileKey
  }

  #target(fileKey: string): { Bucket: string; Key: string } {
    return { Bucket: this.#connection.settings.bucket, Key: this.#key(fileKey) }
  }
}

/** Aborts one multipart upload; one that is gone already is no error. */
export async function abortOne(connection: S3Connection, key: string, multipartId: string): Promise<void> {
  try {
    await connection.call('AbortMultipartUpload', ({ client, sdk }, abortSignal) =>
      client.send(
        new sdk.AbortMultipartUploadCommand({ Bucket: connection.settings.bucket, Key: key, UploadId: multipartId }),
        { abortSignal },
      ),
    )
  } catch (error) {
    if (kindOf(error) !== 'gone') throw error
  }
}

/** Aborts every open multipart upload of exactly this key, and looks whether they have gone. */
export async function abortAllOf(connection: S3Connection, key: string): Promise<void> {
  const found = await openUploadsOf(connection, key)
  for (const id of found) await abortOne(connection, key, id)
  if (found.length === 0) return
  const left = await openUploadsOf(connection, key)
  if (left.some((id) => found.includes(id))) {
    throw s3Error('unconfirmed', new Error('a multipart upload is still there after it was aborted'))
  }
}

/** A prefix listing also shows the keys that go on after it. */
async function openUploadsOf(connection: S3Connection, key: string): Promise<string[]> {
  const found: string[] = []
  let after: { KeyMarker: string; UploadIdMarker?: string } | undefined
  for (;;) {
    const page = await connection.call('ListMultipartUploads', async ({ client, sdk }, abortSignal) => {
      const { bucket } = connection.settings
      const command = new sdk.ListMultipartUploadsCommand({ Bucket: bucket, Prefix: key, ...after })
      return requireListing(await client.send(command, { abortSignal }))
    })
    for (const upload of page.Uploads ?? []) {
      if (upload.Key === key && upload.UploadId) found.push(upload.UploadId)
    }
    if (!page.IsTruncated) return found
    const before = after && `${after.KeyMarker} ${after.UploadIdMarker}`
    after = {
      KeyMarker: page.NextKeyMarker ?? '',
      ...(page.NextUploadIdMarker ? { UploadIdMarker: page.NextUploadIdMarker } : {}),
    }
    nextMarker('ListMultipartUploads', before, `${after.KeyMarker} ${after.UploadIdMarker}`)
  }
}

/** What S3 holds of one part. */
export async function heldPart(connection: S3Connection, part: PartName, signal?: AbortSignal): Promise<Held> {
  const { Bucket, Key, UploadId, PartNumber = 0 } = part
  const page = await connection.call(
    'ListParts',
    async ({ client, sdk }, abortSignal) => {
      const place = PartNumber > 1 ? { PartNumberMarker: String(PartNumber - 1) } : {}
      const command = new sdk.ListPartsCommand({ Bucket, Key, UploadId, MaxParts: 1, ...place })
      return requirePartsOf(UploadId, await client.send(command, { abortSignal }))
    },
    { signal },
  )
  const found = page.Parts?.find((listed) => listed.PartNumber === PartNumber)
  return { size: found?.Size, etag: found?.ETag }
}

/** S3 says whose parts these are. Anything else may come from something that is no S3: not an upload without parts. */
function requirePartsOf<Page extends { readonly UploadId?: string | undefined }>(
  id: string | undefined,
  page: Page,
): Page {
  if (page.UploadId !== id) throw new ReceiptError('the answer is no list of the parts of this upload')
  return page
}

interface Listing {
  readonly IsTruncated?: boolean | undefined
  readonly Bucket?: string | undefined
}

/** An empty list says that it is one. */
function requireListing<Page extends Listing>(page: Page): Page {
  if (page.IsTruncated === undefined && page.Bucket === undefined) throw new ReceiptError('the answer is no listing')
  return page
}

/** A server that says there is more but does not move on would be asked for ever. */
function nextMarker(operation: string, before: string | undefined, next: string | undefined): string {
  if (next && next !== before) return next
  throw s3Error('refused', new Error(`${operation}: the answer says there is more, but not from where`))
}

function numberOf(crc32: string | undefined): number | undefined {
  const bytes = Buffer.from(crc32 ?? '', 'base64')
  return bytes.length === 4 ? bytes.readUInt32BE() : undefined
}

function readPart(part: Part): StoredPart {
  const { PartNumber: partNumber, Size: size, ETag: etag, ChecksumCRC32: crc32 } = part
  if (partNumber === undefined || size === undefined || !etag) {
    throw s3Error('refused', new Error('ListParts: the answer has a part without number, size or ETag'))
  }
  return { partNumber, size, etag, crc32: numberOf(crc32) }
}
