import AwsS3 from '@uppy/aws-s3'
import Uppy, { type Body, type Meta } from '@uppy/core'
import GoldenRetriever from '@uppy/golden-retriever'
import { page } from '../pages/page.ts'
import { connectRetriever, partSize } from '../pages/uppy-s3.ts'

page((settings, report) => {
  const uppy = new Uppy<Meta, Body>({ autoProceed: true })
  uppy.use(GoldenRetriever)
  // The types that are found may be those of Uppy 6, which has other options.
  const options: object = {
    endpoint: `${settings.server}/companion`,
    shouldUseMultipart: ({ size }: { size: number | null }) => (size ?? 0) > partSize,
    ...(settings.few && { limit: 1 }),
  }
  uppy.use(AwsS3 as never, options as never)
  return connectRetriever(uppy as never, report, settings)
})
