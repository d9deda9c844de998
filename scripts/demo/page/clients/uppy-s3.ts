/** Uppy without its Dashboard, with the AwsS3 plugin. The parts go to our own server: it need not have S3 behind it. */
import AwsS3 from '@uppy/aws-s3'
import type { Body, Meta } from '@uppy/core'
import type { Connect } from './client.ts'
import { uppyClient } from './uppy.ts'

export const connect: Connect = (begin) => {
  // The plugin gives up after a second.
  const client = uppyClient(begin, { id: 's3', urlOf: (_file, uploadURL) => storedAt(uploadURL), patience: 60_000 })
  client.uppy.use(AwsS3<Meta, Body>, {
    companionEndpoint: '/companion',
    // Its default is to send less than 100 MB as one form, which begins anew after every break.
    shouldUseMultipart: true,
  })
  return client
}

/** Empty files are forms all the same, and Uppy takes the URL of the form for the folder of the file. */
function storedAt(url: string): string {
  return url.replace('/companion/s3/form/', '/stored/')
}
