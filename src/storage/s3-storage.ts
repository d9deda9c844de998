/** Files in S3 or anything that speaks it. */
import { randomUUID } from 'node:crypto'
import type { Readable } from 'node:stream'
import type { MultipartStorage, ObjectInfo, PartBody, StagingStorage, StorageAdapter } from '../types.ts'
import { S3Connection } from './s3-connection.ts'
import { kindOf } from './s3-errors.ts'
import { objectParams, refuseStagingKey } from './s3-headers.ts'
import { S3Multipart } from './s3-multipart.ts'
import { readCredentials, readSettings, type S3StorageOptions } from './s3-options.ts'
import { putObject } from './s3-send.ts'
import { S3Staging } from './s3-staging.ts'
import { StreamUpload } from './s3-upload.ts'

export type { S3StorageOptions } from './s3-options.ts'

/**
 * Stores files in a bucket: private, under the keys it is given, as download unless their type is harmless.
 *
 * The AWS SDK is loaded with the first call. Every request has a deadline, passing failures are repeated, and an
 * answer that leaves open what happened is settled by looking at the object.
 *
 * Throws `TypeError` for wrong options. Its methods throw `S3UploadError`: 503 when S3 is overloaded or out of reach,
 * 504 when it does not answer in time, 507 when it is full, 502 for the rest; an error of this library that comes out
 * of the stream to store (a size limit, say) passes through as it is. What S3 said is in `cause`, without keys.
 *
 * The credentials need PutObject, GetObject (to look), DeleteObject, ListMultipartUploadParts, AbortMultipartUpload and
 * ListBucketMultipartUploads, and ListBucket where uploads are staged in the storage. A lifecycle rule that aborts old multipart uploads is a good second line.
 */
export class S3StorageAdapter implements StorageAdapter {
  /** Parts go to S3 while the client is still sending. */
  readonly multipart: MultipartStorage
  /** Pieces wait under `stagingPrefix`. */
  readonly staging: StagingStorage
  readonly #connection: S3Connection

  constructor(options: S3StorageOptions) {
    if (typeof options !== 'object' || options === null) {
      throw new TypeError(
        `S3StorageAdapter needs options, at least { bucket }, got ${options === null ? 'null' : typeof options}`,
      )
    }
    this.#connection = new S3Connection(readSettings(options), readCredentials(options), options.client ?? null)
    this.multipart = new S3Multipart(this.#connection)
    this.staging = new S3Staging(this.#connection)
  }

  /**
   * Streams into one object, in one request up to `partSize` bytes and in parts above. After a failure neither an
   * object nor parts stay behind. Without `info.size` the file can have 10 000 × `partSize` bytes (78 GiB by default).
   */
  async upload(fileKey: string, stream: Readable, mimeType: string, info?: ObjectInfo): Promise<string> {
    const { settings } = this.#connection
    const mark = info?.uploadId ?? randomUUID()
    const fileName = info?.fileName ?? fileKey.slice(fileKey.lastIndexOf('/') + 1)
    refuseStagingKey(settings, fileKey)
    const key = settings.prefix + fileKey
    const target = { key, mark, size: info?.size ?? null, signal: info?.signal }
    const params = objectParams(settings, mimeType, fileName, mark, info)
    await new StreamUpload(this.#connection, { ...target, params }, stream).run()
    return this.#connection.url(key)
  }

  /**
   * As `upload`, in one request that reads the bytes from where they are. What that cannot do goes to `upload`: more than 5 GiB,
   * clients that send a request again by themselves, to another region, and hosts without MD5, where only a signature over
   * bytes in memory shows whether they change on their way. So does everything where `upload` is overridden.
   */
  async uploadBody(fileKey: string, body: PartBody, info: ObjectInfo): Promise<string> {
    const { settings } = this.#connection
    refuseStagingKey(settings, fileKey)
    const isOverridden = this.upload !== S3StorageAdapter.prototype.upload
    const isSent = !isOverridden && body.size <= this.multipart.maxPartSize && this.#connection.sums.newHash() !== null
    if (!isSent || (await this.#connection.followsRegions())) {
      return this.upload(fileKey, body.open(), info.mimeType, info)
    }
    const key = settings.prefix + fileKey
    const params = objectParams(settings, info.mimeType, info.fileName, info.uploadId, info)
    await putObject(this.#connection, { ...params, Bucket: settings.bucket, Key: key }, body, info.signal)
    return this.#connection.url(key)
  }

  /** Deletes the object; in a bucket with versions, hides it. */
  async remove(fileKey: string): Promise<void> {
    const { bucket, prefix } = this.#connection.settings
    try {
      await this.#connection.call('DeleteObject', ({ client, sdk }, abortSignal) =>
        client.send(new sdk.DeleteObjectCommand({ Bucket: bucket, Key: prefix + fileKey }), { abortSignal }),
      )
    } catch (error) {
      const kind = kindOf(error)
      if (kind !== 'missing' && kind !== 'gone') throw error
    }
  }

  /** Closes the connections, except those of a `client` that was passed in. Later calls fail. */
  close(): Promise<void> {
    return this.#connection.close()
  }
}
