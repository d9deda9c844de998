/** How the servers of the bench reach S3: the sink takes any credentials. The SDK is loaded by those that need it only. */
export const accessKeyId = process.env.S3_ACCESS_KEY_ID ?? 'bench'
export const secretAccessKey = process.env.S3_SECRET_ACCESS_KEY ?? 'bench'
export const region = process.env.S3_REGION ?? 'us-east-1'
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
