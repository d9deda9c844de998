/** What every test of the S3 adapter needs: a target, adapters on it, parts in files, and a look at what is stored. */
import { randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import {
  GetObjectCommand,
  HeadObjectCommand,
  type HeadObjectCommandOutput,
  ListMultipartUploadsCommand,
  type S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3'
import { expect } from 'vitest'
import { S3UploadError } from '../../src/errors.ts'
import { S3StorageAdapter, type S3StorageOptions } from '../../src/s3.ts'
import type { MultipartRef, ObjectInfo, PartBody, StoredPart } from '../../src/types.ts'
import type { S3Double } from './s3-double.ts'
import { clientOf, type S3Target, s3Target } from './s3-target.ts'

/** S3's smallest part, bytes. */
export const MIN_PART = 5 * 1024 * 1024

export class S3Fixture {
  readonly target: S3Target
  /** A plain client, for looking. */
  readonly s3: S3Client
  /** The adapter with parts of 5 MiB. */
  readonly storage: S3StorageAdapter
  readonly #folder: string
  readonly #adapters: S3StorageAdapter[] = []
  #files = 0

  private constructor(target: S3Target, folder: string) {
    this.target = target
    this.#folder = folder
    this.s3 = clientOf(target)
    this.storage = this.adapter()
  }

  static async start(target?: S3Target): Promise<S3Fixture> {
    return new S3Fixture(target ?? (await s3Target()), await mkdtemp(join(tmpdir(), 's3-fixture-')))
  }

  async close(): Promise<void> {
    for (const adapter of this.#adapters) await adapter.close()
    this.s3.destroy()
    await this.target.close()
    await rm(this.#folder, { recursive: true, force: true })
  }

  get bucket(): string {
    return this.target.bucket
  }

  get double(): S3Double {
    if (!this.target.double) throw new Error('this test needs the double')
    return this.target.double
  }

  /** Another adapter on the same bucket; it is closed with the fixture. */
  adapter(changes: Partial<S3StorageOptions> = {}): S3StorageAdapter {
    const { endpoint, region, accessKeyId, secretAccessKey, bucket } = this.target
    const defaults = { partSize: MIN_PART, retryDelay: 5, forcePathStyle: true }
    const adapter = new S3StorageAdapter({
      endpoint,
      region,
      accessKeyId,
      secretAccessKey,
      bucket,
      ...defaults,
      ...changes,
    })
    this.#adapters.push(adapter)
    return adapter
  }

  /** A part in a file, as the engine has it. */
  async part(content: Buffer): Promise<PartBody & { opened: Readable[] }> {
    const path = join(this.#folder, `part-${this.#files++}`)
    await writeFile(path, content)
    const opened: Readable[] = []
    const open = () => {
      const stream = createReadStream(path)
      opened.push(stream)
      return stream
    }
    return { size: content.length, path, opened, open }
  }

  /** A multipart upload with all of `content` in parts of 5 MiB. */
  async sendParts(key: string, info: ObjectInfo, content: Buffer, storage = this.storage): Promise<MultipartRef> {
    const ref = { fileKey: key, multipartId: await storage.multipart.create(key, info) }
    for (let number = 1; (number - 1) * MIN_PART < content.length; number++) {
      const part = content.subarray((number - 1) * MIN_PART, number * MIN_PART)
      await storage.multipart.uploadPart(ref, number, await this.part(part))
    }
    return ref
  }

  /** The parts of an upload that must be open. */
  async parts(ref: MultipartRef, storage = this.storage): Promise<StoredPart[]> {
    const parts = await storage.multipart.listParts(ref)
    if (!parts) throw new Error('the upload is not open')
    return parts
  }

  head(key: string): Promise<HeadObjectCommandOutput> {
    return this.s3.send(new HeadObjectCommand({ Bucket: this.bucket, Key: key }))
  }

  async exists(key: string): Promise<boolean> {
    return await this.head(key).then(
      () => true,
      (error: Error) => {
        if (error.name === 'NotFound') return false
        throw error
      },
    )
  }

  /** The object's bytes, or those of a `Range`. */
  async read(key: string, range?: string): Promise<Buffer> {
    const more = range === undefined ? {} : { Range: range }
    const { Body } = await this.s3.send(new GetObjectCommand({ Bucket: this.bucket, Key: key, ...more }))
    return Buffer.from((await Body?.transformToByteArray()) ?? [])
  }

  /** The ids of the open multipart uploads whose key starts so. */
  async openUploads(prefix: string): Promise<string[]> {
    const { Uploads = [] } = await this.s3.send(
      new ListMultipartUploadsCommand({ Bucket: this.bucket, Prefix: prefix }),
    )
    return Uploads.map(({ UploadId = '' }) => UploadId)
  }
}

export function objectInfo(changes: Partial<ObjectInfo> = {}): ObjectInfo {
  const mimeType = 'application/octet-stream'
  return { size: null, fileName: 'file.bin', mimeType, uploadId: randomUUID(), metadata: {}, ...changes }
}

/** The `S3UploadError` that the call must end with. */
export async function failureOf(call: Promise<unknown>): Promise<S3UploadError> {
  const error = await call.then(
    () => null,
    (reason: unknown) => reason,
  )
  expect(error, 'must fail').toBeInstanceOf(S3UploadError)
  return error as S3UploadError
}

/** Name and status of the SDK's error that the call must end with. */
export async function refusalOf(call: Promise<unknown>): Promise<{ name: string; status: number | undefined }> {
  const error = await call.then(
    () => null,
    (reason: unknown) => reason,
  )
  expect(error, 'must be refused').toBeInstanceOf(S3ServiceException)
  const { name, $metadata } = error as S3ServiceException
  return { name, status: $metadata.httpStatusCode }
}
