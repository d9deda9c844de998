/** What the clients made of Uppy have in common: its events on one side, the page on the other. */
import Uppy, { type Body, type Meta, type UppyFile } from '@uppy/core'
import type { Begin, Client, Controls, Report } from './client.ts'

type File_ = UppyFile<Meta, Body>

export interface UppyClient extends Client {
  readonly uppy: Uppy<Meta, Body>
  /** Of a file that is on its way. */
  reportOf(fileId: string): Report | undefined
}

/** @param urlOf where a file is that was uploaded */
export function uppyClient(id: string, begin: Begin, urlOf: (file: File_, uploadURL: string) => string): UppyClient {
  const uppy = new Uppy<Meta, Body>({ id, autoProceed: true })
  const reports = new Map<string, Report>()
  const of = (file: { id: string } | undefined) => (file ? reports.get(file.id) : undefined)

  uppy.on('file-added', (file) => {
    reports.set(file.id, begin(toFile(file), controlsOf(uppy, file.id)))
  })
  uppy.on('upload-progress', (file, { bytesUploaded }) => {
    of(file)?.progress(bytesUploaded || 0)
  })
  uppy.on('upload-pause', (file, isPaused) => {
    of(file)?.paused(isPaused)
  })
  uppy.on('pause-all', () => {
    for (const report of reports.values()) report.paused(true)
  })
  uppy.on('resume-all', () => {
    for (const report of reports.values()) report.paused(false)
  })
  uppy.on('upload-success', (file, { uploadURL }) => {
    if (!file) return
    of(file)?.done(urlOf(file, uploadURL ?? ''))
    reports.delete(file.id)
  })
  uppy.on('upload-error', (file, error) => of(file)?.failed(error.message))
  uppy.on('file-removed', (file) => {
    of(file)?.cancelled()
    reports.delete(file.id)
  })

  return {
    uppy,
    reportOf: (fileId) => reports.get(fileId),
    add(files) {
      for (const file of files) {
        const known = uppy.getFiles().find(({ name, size, progress }) => {
          return name === file.name && size === file.size && progress.uploadComplete
        })
        // Uppy refuses a file that it has already; here a second upload of it is a second upload.
        if (known) uppy.removeFile(known.id)
        uppy.addFile({ name: file.name, type: file.type, data: file, source: 'the page' })
      }
    },
  }
}

function controlsOf(uppy: Uppy<Meta, Body>, id: string): Controls {
  const isPaused = () => uppy.getFile(id)?.isPaused === true
  return {
    pause: () => !isPaused() && uppy.pauseResume(id),
    resume: () => isPaused() && uppy.pauseResume(id),
    cancel: () => uppy.removeFile(id),
    retry: () => void uppy.retryUpload(id),
  }
}

function toFile(file: File_): File {
  const { data } = file
  if (data instanceof File) return data
  return new File(data instanceof Blob ? [data] : [], file.name ?? 'file', { type: file.type ?? '' })
}
