/** Bytes on their way to S3: an object or a part in one request, read from where they lie. */
import { Readable } from 'node:stream'
import type { PutObjectCommandInput } from '@aws-sdk/client-s3'
import type { Sums } from './body-sums.ts'
import { type Body, bytesOf, withBody } from './s3-body.ts'
import { heldObject } from './s3-complete.ts'
import type { Delivered, S3Api, S3Connection } from './s3-connection.ts'
import { refusesMd5 } from './s3-errors.ts'
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
  /** Whether a CRC-32 goes ahead where no MD5 can. */
  readonly needsSum: boolean
  readonly signal: AbortSignal | undefined
  send(api: S3Api, sent: SentBody, abortSignal: AbortSignal): Promise<T>
  look(): Promise<Held>
}

/**
 * Resolves when S3 confirms that it has the bytes. The signature of a request does not cover a stream, so a sum of the bytes goes
 * ahead in a header, which it covers. S3 refuses what differs from it.
 */
export async function sendBody<T extends Receipt>(
  connection: S3Connection,
  sending: Sending<T>,
): Promise<Delivered<T>> {
  const { operation, body, signal, look } = sending
  const addsChecksums = await connection.addsChecksums()
  const options = { signal, streamed: true, timeout: connection.timeoutFor(body.size) }
  const attempt = async (api: S3Api, cut: AbortSignal) => {
    const isKnown = addsChecksums && connection.knowsCrc32.get(operation) === true
    const withMd5 = connection.takesMd5 && !isKnown
    const send = (md5: boolean) => sendOnce(connection, sending, { addsChecksums, withMd5: md5 }, api, cut)
    const sent = await send(withMd5).catch(async (error: unknown) => {
      if (!withMd5 || !refusesMd5(error)) throw error
      // Directory buckets of S3 take none.
      const again = await send(false)
      connection.takesMd5 = false
      return again
    })
    if (sent.isEchoed && !connection.knowsCrc32.has(operation)) connection.knowsCrc32.set(operation, true)
    if (!isKnown || sent.isEchoed) return sent
    // Another S3 under the same name, which may not look at it.
    connection.knowsCrc32.set(operation, false)
    return connection.takesMd5 ? send(true) : sent
  }
  return connection.deliver(body.size, signal, () => connection.call(operation, attempt, options), look)
}

async function sendOnce<T extends Receipt>(
  connection: S3Connection,
  { body, needsSum, send }: Sending<T>,
  { addsChecksums, withMd5 }: { addsChecksums: boolean; withMd5: boolean },
  api: S3Api,
  cut: AbortSignal,
): Promise<{ receipt: T; md5: string | null; isEchoed: boolean }> {
  const { sums } = connection
  const bytes = body.size <= inMemory ? await bytesOf(body, cut) : null
  const withCrc = addsChecksums || (needsSum && (!withMd5 || sums.newHash() === null))
  // Checksums that the client adds are checked by S3 itself, and how much it has kept is for a list or a look to say.
  const wanted = { md5: withMd5 || !addsChecksums, crc32: withCrc }
  const made = bytes ? sums.of(bytes, wanted) : await sums.ofBody(body, wanted, cut)
  const ahead = { ContentLength: body.size, ...headersOf(made, { withMd5, withCrc }) }
  // A client of the application repeats what is in memory by itself, and we do too: two layers would multiply.
  const isStream = bytes === null || connection.hasOwnRepetition
  const receipt = isStream
    ? await withBody(bytes ? bodyOf(bytes) : body, cut, (Body) => send(api, { ...ahead, Body }, cut))
    : await send(api, { ...ahead, Body: bytes }, cut)
  return {
    receipt,
    md5: addsChecksums ? null : made.md5,
    isEchoed: receipt.ChecksumCRC32 === crc32Text(made.crc32),
  }
}

function bodyOf(bytes: Buffer): Body {
  return { size: bytes.length, path: null, open: () => Readable.from([bytes], { objectMode: false }) }
}

/**
 * Every S3 looks at the MD5. Clients that add checksums would frame the body for one behind it if there were no CRC-32 ahead, and not
 * every S3 looks at that; one that answers with it does, and is given no MD5 from then on, which costs the most.
 */
function headersOf(
  { md5, crc32 }: Sums,
  { withMd5, withCrc }: { withMd5: boolean; withCrc: boolean },
): Pick<SentBody, 'ContentMD5' | 'ChecksumCRC32'> {
  return {
    ...(withMd5 && md5 !== null && { ContentMD5: Buffer.from(md5, 'hex').toString('base64') }),
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
    needsSum: true,
    send: ({ client, sdk }, sent, abortSignal) =>
      client.send(new sdk.PutObjectCommand({ ...params, ...sent }), { abortSignal }),
    look: () => heldObject(connection, params.Key, signal),
  })
}
