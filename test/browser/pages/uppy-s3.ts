/** What the pages with Uppy's AwsS3 have in common. */
import type { Body, Meta, Uppy } from '@uppy/core'
import type { Report, Settings } from './page.ts'
import { connect } from './uppy.ts'

/** Above it a file is sent in parts, bytes; Uppy makes them at least this large. */
export const partSize = 5 * 1024 * 1024

/** With Golden Retriever, which remembers an upload over a reload, but not a big file: that is chosen again. */
export function connectRetriever(uppy: Uppy<Meta, Body>, report: Report, { patient }: Settings) {
  const add = connect(uppy, report, { patient })
  return (file: File) => {
    const isRestored = uppy.getFiles().some(({ isGhost, name }) => isGhost && name === file.name)
    add(file)
    if (isRestored) uppy.emit('restore-confirmed')
  }
}
