/** Streams of any length into one object, through lib-storage, which holds a few parts in memory and no more. */
import type { Readable } from 'node:stream'
import type { CompletedPart, S3Client, UploadPartCommandInput } from '@aws-sdk/client-s3'
import { asSourceError, CountedBody } from './s3-body.ts'
import { completeObject, heldObject } from './s3-complete.ts'
import type { S3Api, S3Connection } from './s3-connection.ts'
import { CallAbortedError, kindOf, toS3Error } from './s3-errors.ts'
import type { ObjectParams } from './s3-headers.ts'
import { abortAllOf, abortOne, heldPart } from './s3-multipart.ts'
import { S3_LIMITS } from './s3-options.ts'

export interface StreamTarget {
  readonly key: string
  readonly params: ObjectParams
  /** What the stream must have, bytes; `null` when nobody knows. */
  readonly size: number | null
  /** The upload id that the object carries. */
  readonly mark: string
  readonly signal?: AbortSignal | undefined
}

type PutCommand = import('@aws-sdk/client-s3').PutObjectCommand

/** The fields of lib-storage's commands that we look at. */
interface CommandInput {
  readonly Body?: { readonly byteLength: number }
  readonly UploadId?: string
  readonly MultipartUpload?: { readonly Parts?: CompletedPart[] }
}

/** One run of lib-storage's `Upload` whose every request goes through our connection. */
export class StreamUpload {
  readonly #connection: S3Connection
  readonly #target: StreamTarget
  readonly #stream: Readable
  readonly #stop = new AbortController()
  #failure: unknown = null
  #body: CountedBody | null = null
  /** Whether a multipart upload may be open whose id we never learned. */
  #lostId = false

  /** Listens to the stream from here on: an error that nobody hears ends the process. */
  constructor(connection: S3Connection, target: StreamTarget, stream: Readable) {
    this.#connection = connection
    this.#target = target
    this.#stream = stream
    stream.on('error', (error) => this.#fail(asSourceError(error)))
  }

  /** Resolves when the object is stored. The stream is destroyed in any case. */
  async run(): Promise<void> {
    const { signal } = this.#target
    const giveUp = () => this.#fail(new CallAbortedError('given up by the caller'))
    signal?.addEventListener('abort', giveUp, { once: true })
    if (signal?.aborted) giveUp()
    try {
      if (this.#failure === null) await this.#upload()
      if (this.#failure !== null) throw this.#failure
    } catch (error) {
      this.#fail(error)
      throw toS3Error(this.#failure, 'Upload')
    } finally {
      // Best effort: what cannot be cleaned up now is left to the bucket's lifecycle rule.
      if (this.#lostId) await abortAllOf(this.#connection, this.#target.key).catch(() => {})
      signal?.removeEventListener('abort', giveUp)
      this.#stream.destroy()
    }
  }

  async #upload(): Promise<void> {
    const api = await this.#connection.api()
    const { Upload } = await import('@aws-sdk/lib-storage')
    const { key, params, size } = this.#target
    const { bucket, partSize } = this.#connection.settings
    const body = new CountedBody(this.#stream, size, (error) => this.#fail(error))
    this.#body = body
    const client: S3Client = Object.create(api.client, {
      send: { value: (command: { input: CommandInput }) => this.#send(api, command) },
    })
    const upload = new Upload({
      client,
      partSize: Math.max(partSize, Math.ceil((size ?? 0) / S3_LIMITS.maxParts)),
      params: { ...params, Bucket: bucket, Key: key, Body: body },
    })
    await upload.done()
  }

  /** What lib-storage wants to send, with our deadlines and repetitions. The first failure stops everything. */
  async #send(api: S3Api, command: { input: CommandInput }): Promise<unknown> {
    const { sdk } = api
    try {
      if (command instanceof sdk.AbortMultipartUploadCommand) return await this.#abort(command.input.UploadId)
      if (this.#failure !== null) throw this.#failure
      if (command instanceof sdk.CompleteMultipartUploadCommand) return await this.#complete(command.input)
      if (command instanceof sdk.CreateMultipartUploadCommand) return await this.#create(api, command)
      return await this.#deliver(command as PutCommand)
    } catch (error) {
      this.#fail(error)
      throw error
    }
  }

  /** PutObject or UploadPart; the type stands for both. Their bodies are in memory. */
  async #deliver(command: PutCommand): Promise<object> {
    const { input } = command
    const body = input.Body as Uint8Array | undefined
    const size = body?.byteLength ?? 0
    const isCompared = body !== undefined && !(await this.#connection.addsChecksums())
    const md5 = isCompared ? this.#connection.sums.of(body, { md5: true, crc32: false }).md5 : null
    const { signal } = this.#stop
    const { receipt } = await this.#connection.deliver(
      size,
      signal,
      async () => {
        const receipt = await this.#connection.call(
          command.constructor.name.replace(/Command$/, ''),
          ({ client }, abortSignal) => client.send(command, { abortSignal }),
          { timeout: this.#connection.timeoutFor(size), signal },
        )
        return { receipt, md5 }
      },
      () =>
        'PartNumber' in input
          ? heldPart(this.#connection, input as UploadPartCommandInput, signal)
          : heldObject(this.#connection, this.#target.key, signal),
    )
    return receipt
  }

  /** Does not listen to the signal: only who learns the id can clean up. */
  async #create(api: S3Api, command: InstanceType<S3Api['sdk']['CreateMultipartUploadCommand']>): Promise<object> {
    let tries = 0
    try {
      return await this.#connection.call('CreateMultipartUpload', (_, abortSignal) => {
        tries += 1
        return api.client.send(command, { abortSignal })
      })
    } catch (error) {
      if (['transient', 'timeout'].includes(kindOf(error))) this.#lostId = true
      throw error
    } finally {
      if (tries > 1) this.#lostId = true
    }
  }

  async #complete(input: CommandInput): Promise<object> {
    await completeObject(this.#connection, {
      key: this.#target.key,
      multipartId: input.UploadId ?? '',
      parts: input.MultipartUpload?.Parts ?? [],
      size: this.#body?.seen ?? 0,
      mark: this.#target.mark,
      signal: this.#target.signal,
    })
    return {}
  }

  async #abort(multipartId: string | undefined): Promise<object> {
    try {
      if (multipartId) await abortOne(this.#connection, this.#target.key, multipartId)
    } catch (error) {
      // The failure that led here is the one to report.
      if (this.#failure === null) throw error
    }
    return {}
  }

  #fail(error: unknown): void {
    this.#failure ??= error
    this.#stop.abort()
    this.#stream.destroy()
    // At once, also when the source takes its time to close: lib-storage reads from here.
    this.#body?.destroy()
  }
}
