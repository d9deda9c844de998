/** Resumable.js, one instance per file: its pause and resume are for all files of an instance. */
import Resumable from 'resumablejs'
import { messageIn, urlIn } from './answers.ts'
import type { Connect, Report } from './client.ts'

const options = {
  target: '/resumable',
  // Its default would not wait at all before it tries again.
  chunkRetryInterval: 1000,
  minFileSize: 0,
}

export const connect: Connect = (begin) => ({
  add(files) {
    for (const file of files) {
      const resumable = new Resumable(options as object)
      const report = begin(file, {
        pause: () => resumable.pause(),
        resume: () => resumable.upload(),
        cancel: () => resumable.cancel(),
        retry: () => resumable.files[0]?.retry(),
      })
      listen(resumable, report, file.size)
      resumable.addFile(file)
    }
  },
})

function listen(resumable: Resumable, report: Report, size: number): void {
  resumable.on('fileAdded', () => resumable.upload())
  resumable.on('fileProgress', () => report.progress(Math.round(resumable.progress() * size)))
  resumable.on('fileSuccess', (file: Resumable.ResumableFile) => report.done(urlOf(file)))
  resumable.on('fileError', (_file: unknown, message: string) =>
    report.failed(messageIn(message) ?? 'The server does not answer.'),
  )
}

/** Not every answer has it: only those that were made when all chunks were there. */
function urlOf(file: Resumable.ResumableFile): string {
  const chunks = file.chunks as { message(): string }[]
  return chunks.map((chunk) => urlIn(chunk.message())).find((url) => url !== '') ?? ''
}
