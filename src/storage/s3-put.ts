/** One object in one request, read from where its bytes lie. */
import type { Hash } from 'node:crypto'
import { addAbortSignal } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { crc32 } from 'node:zlib'
import type { PutObjectCommandInput } from '@aws-sdk/client-s3'
import { asSourceError, type Body, CountedBody, withBody } from './s3-body.ts'
import { heldObject } from './s3-complete.ts'
import type { S3Connection } from './s3-connection.ts'
import { crc32Text } from './s3-headers.ts'

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
  const addsChecksums = await connection.addsChecksums()
  await connection.deliver(
    body.size,
    signal,
    (newHash) =>
      connection.call(
        'PutObject',
        async ({ client, sdk }, abortSignal) => {
          const md5 = newHash() ?? connection.newHash()
          const sum = await sumOf(body, md5, addsChecksums || md5 === null, abortSignal)
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
 * The MD5, which every S3 looks at; its hash is kept for the receipt. Clients that add checksums would frame the body for one behind
 * it if there were no CRC-32 ahead, and not every S3 looks at that.
 */
async function sumOf(
  body: Body,
  md5: Hash | null,
  withCrc: boolean,
  signal: AbortSignal,
): Promise<Pick<PutObjectCommandInput, 'ContentMD5' | 'ChecksumCRC32'>> {
  let crc = 0
  const take = async (bytes: AsyncIterable<Buffer>) => {
    for await (const piece of bytes) {
      md5?.update(piece)
      if (withCrc) crc = crc32(piece, crc)
    }
  }
  try {
    const counted = new CountedBody(body.open(), body.size, () => {})
    await pipeline(addAbortSignal(signal, counted), take)
  } catch (error) {
    throw asSourceError(error)
  }
  return {
    ...(md5 && { ContentMD5: md5.copy().digest('base64') }),
    ...(withCrc && { ChecksumCRC32: crc32Text(crc) }),
  }
}
