import AwsS3 from '@uppy/aws-s3'
import Uppy, { type Body, type Meta } from '@uppy/core'
import { page } from '../pages/page.ts'
import { connect } from '../pages/uppy.ts'

page(({ server, patient }, report) => {
  const uppy = new Uppy<Meta, Body>({ autoProceed: true })
  const options: object = { endpoint: `${server}/companion` }
  uppy.use(AwsS3 as never, options as never)
  return connect(uppy as never, report, { patient })
})
