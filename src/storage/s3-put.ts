/** One object in one request, read from where its bytes lie. */
import type { PutObjectCommandInput } from '@aws-sdk/client-s3'
import { type Body, withBody } from './s3-body.ts'
import { heldObject } from './s3-complete.ts'
import type { S3Connection } from './s3-connection.ts'

/** Resolves when S3 confirms that it has the bytes. */
export async function putObject(
  connection: S3Connection,
  params: Omit<PutObjectCommandInput, 'Body' | 'ContentLength'> & { readonly Key: string },
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
        ({ client, sdk }, abortSignal) =>
          withBody(body, newHash(), abortSignal, (Body) =>
            client.send(new sdk.PutObjectCommand({ ...params, Body, ContentLength: body.size }), { abortSignal }),
          ),
        { signal, streamed: true, timeout },
      ),
    () => heldObject(connection, params.Key, signal),
  )
}
