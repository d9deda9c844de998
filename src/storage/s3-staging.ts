/** Private objects of S3: pieces of uploads that are not parts yet. */
import type { Readable } from 'node:stream'
import type { OpenStaged, PartBody, StagedObject, StagingStorage } from '../types.ts'
import { CountedBody } from './s3-body.ts'
import type { S3Connection } from './s3-connection.ts'
import { kindOf, s3Error } from './s3-errors.ts'
import { putObject } from './s3-send.ts'

/** S3's own limit. */
const keysPerCall = 1000
/** How many are deleted at once from a server that deletes only one by one. */
const deletions = 8

export class S3Staging implements StagingStorage {
  readonly #connection: S3Connection

  constructor(connection: S3Connection) {
    this.#connection = connection
  }

  /** Never with an ACL, nor with a storage class: a piece lives for minutes. */
  async put(key: string, body: PartBody, signal?: AbortSignal): Promise<void> {
    const { serverSideEncryption, sseKmsKeyId } = this.#connection.settings
    const params = {
      ...this.#target(key),
      ContentType: 'application/octet-stream',
      ...(serverSideEncryption && { ServerSideEncryption: serverSideEncryption }),
      ...(sseKmsKeyId && { SSEKMSKeyId: sseKmsKeyId }),
    }
    await putObject(this.#connection, params, body, signal)
  }

  async open(key: string, { range, signal }: OpenStaged = {}): Promise<Readable> {
    const Range = range && `bytes=${range.start}-${range.end - 1}`
    const found = await this.#connection.call(
      'GetObject',
      async ({ client, sdk }, cut) => {
        // The call ends with the headers, and its deadline with it; the body has a deadline of its own.
        const stop = new AbortController()
        const relay = () => stop.abort()
        cut.addEventListener('abort', relay, { once: true })
        try {
          const command = new sdk.GetObjectCommand({ ...this.#target(key), ...(Range && { Range }) })
          return await client.send(command, { abortSignal: stop.signal })
        } finally {
          cut.removeEventListener('abort', relay)
        }
      },
      { signal },
    )
    const body = found.Body as Readable | undefined
    if (!body) throw s3Error('refused', new Error('GetObject: the answer has no body'))
    const size = range ? range.end - range.start : (found.ContentLength ?? null)
    return this.#watched(body, size, signal)
  }

  /** Ends with an error when it breaks off, falls silent, has another length, or nobody wants it any more. */
  #watched(source: Readable, size: number | null, signal: AbortSignal | undefined): Readable {
    const body = new CountedBody(source, size, (error) => body.destroy(error as Error))
    const { attemptTimeout } = this.#connection.settings
    const late = () => body.destroy(s3Error('timeout', new Error(`S3 sent nothing for ${attemptTimeout} ms`)))
    const timer = setTimeout(late, attemptTimeout).unref()
    source.on('data', () => timer.refresh())
    const giveUp = () => body.destroy(s3Error('aborted', new Error('given up by the caller')))
    signal?.addEventListener('abort', giveUp, { once: true })
    if (signal?.aborted) giveUp()
    body.once('close', () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', giveUp)
      source.destroy()
    })
    return body
  }

  async remove(keys: readonly string[]): Promise<void> {
    for (let at = 0; at < keys.length; at += keysPerCall) await this.#removeSome(keys.slice(at, at + keysPerCall))
  }

  async #removeSome(keys: readonly string[]): Promise<void> {
    const [first] = keys
    if (first !== undefined && keys.length === 1) return this.#removeOne(first)
    try {
      if (await this.#removeTogether(keys)) return
    } catch (error) {
      // Servers that want an MD5 of the list, or know no such call.
      if (kindOf(error) !== 'refused') throw error
    }
    const queue = keys.values()
    const worker = async () => {
      for (const key of queue) await this.#removeOne(key)
    }
    await Promise.all(Array.from({ length: deletions }, worker))
  }

  /** Whether all are gone. */
  async #removeTogether(keys: readonly string[]): Promise<boolean> {
    const Objects = keys.map((key) => ({ Key: this.#target(key).Key }))
    const { Errors } = await this.#connection.call('DeleteObjects', ({ client, sdk }, abortSignal) =>
      client.send(
        new sdk.DeleteObjectsCommand({
          Bucket: this.#connection.settings.bucket,
          Delete: { Objects, Quiet: true },
        }),
        { abortSignal },
      ),
    )
    return (Errors ?? []).length === 0
  }

  async #removeOne(key: string): Promise<void> {
    try {
      await this.#connection.call('DeleteObject', ({ client, sdk }, abortSignal) =>
        client.send(new sdk.DeleteObjectCommand(this.#target(key)), { abortSignal }),
      )
    } catch (error) {
      const kind = kindOf(error)
      if (kind !== 'missing' && kind !== 'gone') throw error
    }
  }

  async *list(prefix = ''): AsyncGenerator<StagedObject, void, undefined> {
    const { Bucket, Key: Prefix } = this.#target(prefix)
    const own = this.#target('').Key.length
    let after: string | undefined
    for (;;) {
      const page = await this.#connection.call('ListObjectsV2', ({ client, sdk }, abortSignal) =>
        client.send(
          new sdk.ListObjectsV2Command({ Bucket, Prefix, ...(after !== undefined && { ContinuationToken: after }) }),
          { abortSignal },
        ),
      )
      for (const { Key, LastModified } of page.Contents ?? []) {
        if (Key?.startsWith(Prefix)) yield { key: Key.slice(own), modifiedAt: LastModified?.getTime() ?? Date.now() }
      }
      if (!page.IsTruncated) return
      const next = page.NextContinuationToken
      // It would be asked for ever.
      if (!next || next === after) throw s3Error('refused', new Error('ListObjectsV2: there is more, but not where'))
      after = next
    }
  }

  #target(key: string): { Bucket: string; Key: string } {
    const { bucket, stagingPrefix } = this.#connection.settings
    return { Bucket: bucket, Key: stagingPrefix + key }
  }
}
