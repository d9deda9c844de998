/** URLs that carry their own authorisation, for browsers that send parts to S3 themselves. */
import type { UploadPartCommand } from '@aws-sdk/client-s3'
import type { S3Api, S3Connection } from './s3-connection.ts'
import { toS3Error } from './s3-errors.ts'

/** `lifetime` in ms; S3 counts in whole seconds. Talks to nobody, but may have to ask for credentials. */
export async function signUrl(
  connection: S3Connection,
  commandOf: (sdk: S3Api['sdk']) => UploadPartCommand,
  lifetime: number,
): Promise<string> {
  try {
    const { getSignedUrl } = await import('@aws-sdk/s3-request-presigner')
    const { sdk, client } = await connection.api()
    // A client that adds checksums would sign the one of the empty body that it sees here.
    const config = { ...client.config, requestChecksumCalculation: async () => 'WHEN_REQUIRED' }
    const signer = { config, middlewareStack: client.middlewareStack } as unknown as typeof client
    return await getSignedUrl(signer, commandOf(sdk), { expiresIn: Math.max(1, Math.ceil(lifetime / 1000)) })
  } catch (error) {
    throw toS3Error(error, 'presign')
  }
}
