/** Uppy without its Dashboard, with the AwsS3 plugin. The parts go to our own server: it need not have S3 behind it. */
import AwsS3 from '@uppy/aws-s3'
import type { Body, Meta } from '@uppy/core'
import type { Connect } from './client.ts'
import { uppyClient } from './uppy.ts'

const retryDelay = 1000
const longestOutage = 60_000

export const connect: Connect = (begin) => {
  const client = uppyClient('s3', begin, (_file, uploadURL) => uploadURL)
  client.uppy.use(AwsS3<Meta, Body>, {
    companionEndpoint: '/companion',
    shouldUseMultipart: true,
    limit: 4,
  })
  return client
}
