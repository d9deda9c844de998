import Uppy, { type Body, type Meta } from '@uppy/core'
import XHRUpload from '@uppy/xhr-upload'
import { page } from './page.ts'
import { connect } from './uppy.ts'

page(({ server, patient }, report) => {
  const uppy = new Uppy<Meta, Body>({ autoProceed: true })
  uppy.use(XHRUpload, { endpoint: `${server}/upload` })
  return connect(uppy, report, { patient })
})
