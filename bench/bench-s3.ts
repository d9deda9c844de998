/** How the servers of the bench reach the S3 sink. The SDK is loaded by those that need it only. */
export const [accessKeyId, secretAccessKey, region] = ['bench', 'bench', 'us-east-1']
export const partSize = 8 * 1024 * 1024

type Sdk = typeof import('@aws-sdk/client-s3')

/** As this package sets its own client up: no checksum that nobody asked for. */
export async function createS3Client(endpoint: string): Promise<{ sdk: Sdk; client: InstanceType<Sdk['S3Client']> }> {
  const sdk = await import('@aws-sdk/client-s3')
  const client = new sdk.S3Client({
    endpoint,
    region,
    credentials: { accessKeyId, secretAccessKey },
    forcePathStyle: true,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  })
  return { sdk, client }
}
