/** One object in one request, read from where its bytes lie. */
import type { Hash } from 'node:crypto'
import { addAbortSignal } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { crc32 } from 'node:zlib'
import type { PutObjectCommandInput } from '@aws-sdk/client-s3'
import { asSourceError, type Body, CountedBody, withBody } from './s3-body.ts'
import { heldObject } from './s3-complete.ts'
import type { S3Connection } from './s3-connection.ts'

type Params = Omit<PutObjectCommandInput, 'Body' | 'ContentLength'> & { readonly Key: string }

/**
 * Resolves when S3 confirms that it has the bytes. They are read twice: the signature of a request does not cover a stream, so
 * a sum of them goes ahead in a header, which it covers. S3 refuses what differs from it.
 */
export async function putObject(
  connection: S3Connection,
  params: Params,
  body: Body,
  signal: AbortSignal | undefined,
): Promise<void> {
  const timeout = connection.timeoutFor(body.size)
  await connection.deliver(
    body.size,
    signal,
    (newHash) =>
      connection.call(
        'PutObject',
        async ({ client, sdk }, abortSignal) => {
          const sum = await sumOf(body, newHash(), abortSignal)
          return withBody(body, null, abortSignal, (Body) =>
            client.send(new sdk.PutObjectCommand({ ...params, ...sum, Body, ContentLength: body.size }), {
              abortSignal,
            }),
          )
        },
        { signal, streamed: true, timeout },
      ),
    () => heldObject(connection, params.Key, signal),
  )
}

/**
 * With a hash, its sum, which it keeps for the receipt. Without one the client adds checksums, or there is no MD5: then the
 * CRC-32, which also keeps the client from framing the body for a sum behind it.
 */
async function sumOf(
  body: Body,
  hash: Hash | null,
  signal: AbortSignal,
): Promise<Pick<PutObjectCommandInput, 'ContentMD5' | 'ChecksumCRC32'>> {
  let crc = 0
  const take = async (bytes: AsyncIterable<Buffer>) => {
    for await (const piece of bytes) {
      if (hash) hash.update(piece)
      else crc = crc32(piece, crc)
    }
  }
  try {
    const counted = new CountedBody(body.open(), body.size, () => {})
    await pipeline(addAbortSignal(signal, counted), take)
  } catch (error) {
    throw asSourceError(error)
  }
  if (hash) return { ContentMD5: hash.copy().digest('base64') }
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(crc)
  return { ChecksumCRC32: bytes.toString('base64') }
}
