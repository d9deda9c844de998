import Uppy, { type Body, type Meta } from '@uppy/core'
import Tus from '@uppy/tus'
import { page } from './page.ts'
import { connect } from './uppy.ts'

page(({ server }, report) => {
  const uppy = new Uppy<Meta, Body>({ autoProceed: true })
  uppy.use(Tus, { endpoint: `${server}/files` })
  return connect(uppy, report, {
    urlOf: ({ response }) => {
      const body = response?.body as { xhr?: XMLHttpRequest } | undefined
      return body?.xhr?.getResponseHeader('Content-Location') ?? ''
    },
  })
})
