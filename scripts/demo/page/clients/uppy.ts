/** What the clients made of Uppy have in common: its events on one side, the page on the other. */
import Uppy, { type Body, type Meta, type UppyFile } from '@uppy/core'
import { messageIn } from './answers.ts'
import type { Begin, Client, Controls, Report } from './client.ts'

type File_ = UppyFile<Meta, Body>

export interface UppyClient extends Client {
  readonly uppy: Uppy<Meta, Body>
}

export interface UppyClientOptions {
  readonly id: string
  /** Where a file is that was uploaded. */
  readonly urlOf: (file: File_, uploadURL: string) => string
  /** For plugins that give up soon: how long to go on trying while nobody answers, ms. Default 0. */
  readonly patience?: number
}

/** Between two attempts, ms. */
const retryDelay = 1_000

export function uppyClient(begin: Begin, { id, urlOf, patience = 0 }: UppyClientOptions): UppyClient {
  const uppy = new Uppy<Meta, Body>({ id, autoProceed: true })
  const reports = new Map<string, Report>()
  /** When the outage of a file began. */
  const outages = new Map<string, number>()
  const of = (file: { id: string } | undefined) => (file ? reports.get(file.id) : undefined)

  uppy.on('file-added', (file) => {
    reports.set(file.id, begin(toFile(file), controlsOf(uppy, file.id)))
  })
  uppy.on('upload-progress', (file, { bytesUploaded }) => {
    const before = file?.progress.bytesUploaded || 0
    if (file && bytesUploaded > before) outages.delete(file.id)
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
  uppy.on('upload-error', (file, error) => {
    if (!file) return
    const since = outages.get(file.id) ?? performance.now()
    outages.set(file.id, since)
    const { text, isAnswered } = answerIn(error)
    if (isAnswered || performance.now() - since > patience) of(file)?.failed(text)
    else setTimeout(() => reports.has(file.id) && void uppy.retryUpload(file.id), retryDelay)
  })
  uppy.on('file-removed', (file) => {
    of(file)?.cancelled()
    reports.delete(file.id)
  })

  return {
    uppy,
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

/** Plugins hang the request of a failure on its error, if there was one. */
function answerIn(error: { message: string }): { text: string; isAnswered: boolean } {
  const { request: xhr } = error as { request?: XMLHttpRequest }
  const { status = 0, responseText = '' } = xhr ?? {}
  return { text: messageIn(responseText) ?? error.message, isAnswered: status > 0 }
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
