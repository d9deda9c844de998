/** What the pages with Uppy have in common. */
import type { Body, Meta, Uppy, UppyFile } from '@uppy/core'
import type { Report } from './page.ts'

export interface Connection {
  /** Where the uploaded file is; default: the upload's URL. */
  urlOf?: (file: UppyFile<Meta, Body>) => string
  /** Tries again after a failure without an answer, until there is one. */
  patient?: boolean
}

export function connect(uppy: Uppy<Meta, Body>, report: Report, { urlOf, patient = false }: Connection = {}) {
  uppy.on('progress', (percent) => report.progress(percent / 100))
  uppy.on('upload-success', (file) => {
    const latest = file && uppy.getFile(file.id)
    if (latest) report.done(urlOf?.(latest) ?? latest.uploadURL ?? '')
  })
  uppy.on('upload-error', (file, error, response) => {
    const answer = textOf(error, response)
    if (patient && answer === '' && file) setTimeout(() => void uppy.retryUpload(file.id), 1_000)
    else report.failed(answer || error.message)
  })
  return (file: File) => {
    uppy.addFile({ name: file.name, type: file.type, data: file, source: 'page' })
  }
}

/** The answer of the server; empty when there was none. */
function textOf(error: unknown, response: unknown): string {
  const { request, source } = error as { request?: unknown; source?: unknown }
  const xhr = (response ?? request ?? source) as { responseText?: unknown } | undefined
  return typeof xhr?.responseText === 'string' ? xhr.responseText : ''
}
