/** Bytes on their way to S3: an object or a part in one request, read from where they lie. */
import type { Readable } from 'node:stream'
import type { PutObjectCommandInput } from '@aws-sdk/client-s3'
import type { Sums } from './body-sums.ts'
import { type Body, bytesOf, withBody } from './s3-body.ts'
import { heldObject } from './s3-complete.ts'
import type { Delivered, S3Api, S3Connection } from './s3-connection.ts'
import { crc32Text } from './s3-headers.ts'
import type { Held, Receipt } from './s3-receipt.ts'

/** Up to this size a body is read once, and sent from memory: streams cost more than its bytes. */
const inMemory = 512 * 1024

/** What the command of a request needs besides its target. */
export interface SentBody {
  readonly Body: Readable | Buffer
  readonly ContentLength: number
  readonly ContentMD5?: string
  readonly ChecksumCRC32?: string
}

export interface Sending<T extends Receipt> {
  readonly operation: 'PutObject' | 'UploadPart'
  readonly body: Body
  /** Whether a CRC-32 goes ahead as well. */
  readonly withCrc: boolean
  readonly signal: AbortSignal | undefined
  send(api: S3Api, sent: SentBody, abortSignal: AbortSignal): Promise<T>
  look(): Promise<Held>
}

/**
 * Resolves when S3 confirms that it has the bytes. The signature of a request does not cover a stream, so a sum of the bytes goes
 * ahead in a header, which it covers. S3 refuses what differs from it.
 */
export function sendBody<T extends Receipt>(connection: S3Connection, sending: Sending<T>): Promise<Delivered<T>> {
  const { operation, body, withCrc, signal, send, look } = sending
  const options = { signal, streamed: true, timeout: connection.timeoutFor(body.size) }
  const deliver = () =>
    connection.call(
      operation,
      async (api, cut) => {
        const bytes = body.size <= inMemory ? await bytesOf(body, cut) : null
        const sums = bytes ? connection.sums.of(bytes, withCrc) : await connection.sums.ofBody(body, withCrc, cut)
        const ahead = { ContentLength: body.size, ...headersOf(sums, withCrc) }
        const receipt = bytes
          ? await send(api, { ...ahead, Body: bytes }, cut)
          : await withBody(body, cut, (Body) => send(api, { ...ahead, Body }, cut))
        return { receipt, md5: sums.md5 }
      },
      options,
    )
  return connection.deliver(body.size, signal, deliver, look)
}

/**
 * Every S3 looks at the MD5. Clients that add checksums would frame the body for one behind it if there were no CRC-32 ahead, and not
 * every S3 looks at that.
 */
function headersOf({ md5, crc32 }: Sums, withCrc: boolean): Pick<SentBody, 'ContentMD5' | 'ChecksumCRC32'> {
  return {
    ...(md5 !== null && { ContentMD5: Buffer.from(md5, 'hex').toString('base64') }),
    ...(withCrc && { ChecksumCRC32: crc32Text(crc32) }),
  }
}

type Params = Omit<PutObjectCommandInput, keyof SentBody> & { readonly Key: string }

/** One object in one request. */
export async function putObject(
  connection: S3Connection,
  params: Params,
  body: Body,
  signal: AbortSignal | undefined,
): Promise<void> {
  await sendBody(connection, {
    ...{ operation: 'PutObject', body, signal },
    withCrc: (await connection.addsChecksums()) || connection.sums.newHash() === null,
    send: ({ client, sdk }, sent, abortSignal) =>
      client.send(new sdk.PutObjectCommand({ ...params, ...sent }), { abortSignal }),
    look: () => heldObject(connection, params.Key, signal),
  })
}
