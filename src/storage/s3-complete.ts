/** Completing a multipart upload: whatever S3 answers, what counts is the object that is there afterwards. */
import type { Readable } from 'node:stream'
import type { CompletedPart } from '@aws-sdk/client-s3'
import type { S3Connection } from './s3-connection.ts'
import { kindOf, ReceiptError, s3Error } from './s3-errors.ts'
import { encodeMark, UPLOAD_ID_MARK } from './s3-headers.ts'
import type { Held } from './s3-receipt.ts'

export interface Completion {
  readonly key: string
  readonly multipartId: string
  /** In ascending order. */
  readonly parts: CompletedPart[]
  /** What the object must have, bytes. */
  readonly size: number
  /** The upload id that the object must carry. */
  readonly mark: string
  readonly signal?: AbortSignal | undefined
}

/**
 * Resolves once the object is there, with our mark and our size.
 *
 * Neither a failure nor a success of CompleteMultipartUpload says enough: a lost answer may hide an object, and there
 * are servers that answer 200 to any multipart id when the key exists already, and with the ETag that the object would have
 * had (Ceph). So it looks, always.
 */
export async function completeObject(connection: S3Connection, completion: Completion): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const failure = await tryComplete(connection, completion)
    const kind = failure === null ? null : kindOf(failure)
    if (kind === 'aborted' || kind === 'denied') throw failure
    let found: boolean
    try {
      found = await isStored(connection, completion)
    } catch (error) {
      // Credentials that may only write cannot look. Then a plain success has to do; nothing else will.
      if (failure === null && kindOf(error) === 'denied') return
      throw failure ?? error
    }
    if (found) return
    if (failure === null) {
      // Not yet, perhaps: that it is gone for good is for the next try to say, which asks for a list first.
      throw s3Error(
        'transient',
        new Error('CompleteMultipartUpload succeeded, but the object of this upload is not there'),
      )
    }
    if (kind === 'gone' && attempt > 1) throw s3Error('transient', failure as Error)
    if (kind !== 'transient' || attempt >= connection.attempts) throw failure
    await connection.pause(attempt, completion.signal)
  }
}

/** `null`: a success. */
async function tryComplete(connection: S3Connection, completion: Completion): Promise<unknown> {
  const { key, multipartId, parts, signal } = completion
  try {
    await connection.call(
      'CompleteMultipartUpload',
      ({ client, sdk }, abortSignal) =>
        client.send(
          new sdk.CompleteMultipartUploadCommand({
            Bucket: connection.settings.bucket,
            Key: key,
            UploadId: multipartId,
            MultipartUpload: { Parts: parts },
          }),
          { abortSignal },
        ),
      // Not repeated before a look: the object may be there already.
      { timeout: connection.settings.completeTimeout, repeat: false, signal },
    )
    return null
  } catch (error) {
    return error
  }
}

/**
 * For a multipart upload that S3 no longer lists: the object is there, or the upload is gone for good. A 404 to HEAD has
 * no body: it may mean the bucket, or come from something that is no S3. So a GET has to say it too.
 */
export async function findCompleted(connection: S3Connection, completion: Completion): Promise<void> {
  if (await isStored(connection, completion)) return
  if (await isReadable(connection, completion)) return
  throw s3Error('gone', new Error('the multipart upload is closed, and there is no object of it'))
}

/** Whether the object under the key is this upload's. One that somebody else put there is not. */
async function isStored(connection: S3Connection, completion: Completion): Promise<boolean> {
  try {
    const { ContentLength, Metadata } = await headOf(connection, completion.key, completion.signal)
    return isOurs(completion, ContentLength, Metadata)
  } catch (error) {
    const kind = kindOf(error)
    if (kind === 'missing' || kind === 'gone') return false
    throw error
  }
}

async function isReadable(connection: S3Connection, completion: Completion): Promise<boolean> {
  const { key: Key, signal } = completion
  try {
    return await connection.call(
      'GetObject',
      async ({ client, sdk }, abortSignal) => {
        const { bucket } = connection.settings
        const command = new sdk.GetObjectCommand({ Bucket: bucket, Key, Range: 'bytes=0-0' })
        const { Body, ContentRange, ETag, Metadata } = await client.send(command, { abortSignal })
        const body = Body as Readable | undefined
        body?.on('error', () => {}).destroy()
        if (!ETag) throw new ReceiptError('the answer has no ETag')
        return isOurs(completion, Number(ContentRange?.split('/')[1]), Metadata)
      },
      { signal },
    )
  } catch (error) {
    if (kindOf(error) === 'gone') return false
    throw error
  }
}

function isOurs({ size, mark }: Completion, found: number | undefined, metadata: Record<string, string> = {}): boolean {
  return found === size && metadata[UPLOAD_ID_MARK] === encodeMark(mark)
}

/** What S3 holds under a key. */
export async function heldObject(connection: S3Connection, key: string, signal?: AbortSignal): Promise<Held> {
  const { ContentLength, ETag } = await headOf(connection, key, signal)
  return { size: ContentLength, etag: ETag }
}

function headOf(connection: S3Connection, Key: string, signal: AbortSignal | undefined) {
  return connection.call(
    'HeadObject',
    async ({ client, sdk }, abortSignal) => {
      const command = new sdk.HeadObjectCommand({ Bucket: connection.settings.bucket, Key })
      const head = await client.send(command, { abortSignal })
      // Every object has one: without it this is no answer about an object.
      if (!head.ETag) throw new ReceiptError('the answer has no ETag')
      return head
    },
    { signal },
  )
}
