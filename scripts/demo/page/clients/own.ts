/** The client that comes with the library. */
import { createUpload } from '../../../../src/client.ts'
import type { Connect } from './client.ts'

export const connect: Connect = (begin) => ({
  add(files) {
    for (const file of files) {
      const upload = createUpload(file, { endpoint: '/upload' })
      const start = () => {
        upload.start().then(
          ({ url }) => report.done(url),
          (error: Error) => report.failed(error.message),
        )
      }
      const report = begin(file, {
        pause: () => upload.pause(),
        resume: () => upload.resume(),
        cancel: () => void upload.abort().catch(() => {}),
        retry: start,
      })
      upload.subscribe(({ sentBytes }) => report.progress(sentBytes))
      start()
    }
  },
})
