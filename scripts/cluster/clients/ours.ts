/** `nexus-uploader/client`, with the documented routes. */
import { createUpload } from 'nexus-uploader/client'
import { report, run, task } from './report.ts'

await run(async () => {
  let error: unknown = null
  const upload = createUpload(task.path, {
    endpoint: `${task.origin}/upload`,
    headers: { Cookie: task.cookie },
    fileName: task.name,
    resumeKey: false,
    onProgress(progress) {
      if (progress.totalBytes > 0) report({ kind: 'progress', share: progress.sentBytes / progress.totalBytes })
      if (progress.error && progress.error !== error) report({ kind: 'again' })
      error = progress.error
    },
  })
  const { url } = await upload.start()
  return url
})
