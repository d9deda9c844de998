import { createUpload } from '../../../src/client.ts'
import { page } from './page.ts'

page(({ server, few }, report) => (file) => {
  const upload = createUpload(file, {
    endpoint: `${server}/upload`,
    ...(few && { parallel: 3 }),
    onProgress: ({ sentBytes, totalBytes }) => report.progress(sentBytes / (totalBytes || file.size)),
  })
  upload.start().then(
    ({ url }) => report.done(url),
    (error: Error) => report.failed(error.message),
  )
})
