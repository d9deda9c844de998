import AwsS3 from '@uppy/aws-s3'
import Uppy, { type Body, type Meta } from '@uppy/core'
import { page } from './page.ts'
import { connect } from './uppy.ts'

page(({ server, patient }, report) => {
  const uppy = new Uppy<Meta, Body>({ autoProceed: true })
  uppy.use(AwsS3, { companionEndpoint: `${server}/companion` })
  return connect(uppy, report, { patient })
})
