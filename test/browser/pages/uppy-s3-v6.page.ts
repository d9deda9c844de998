import AwsS3 from '@uppy/aws-s3'
import Uppy, { type Body, type Meta } from '@uppy/core'
import GoldenRetriever from '@uppy/golden-retriever'
import { page } from './page.ts'
import { connectRetriever, partSize } from './uppy-s3.ts'

page((settings, report) => {
  const uppy = new Uppy<Meta, Body>({ autoProceed: true })
  uppy.use(GoldenRetriever)
  uppy.use(AwsS3, {
    companionEndpoint: `${settings.server}/companion`,
    shouldUseMultipart: ({ size }) => (size ?? 0) > partSize,
  })
  return connectRetriever(uppy, report, settings)
})
