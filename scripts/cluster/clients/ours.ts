/** `nexus-uploader/client`, with the documented routes. */
import { createUpload } from 'nexus-uploader/client'
import { report, run, task } from './report.ts'

await run(async () => {
  const upload = createUpload(task.path, {
    endpoint: `${task.origin}/upload`,
    headers: { Cookie: task.cookie },
    fileName: task.name,
    resumeKey: false,
    onProgress({ sentBytes, totalBytes }) {
      if (totalBytes > 0) report({ kind: 'progress', share: sentBytes / totalBytes })
    },
  })
  const { url } = await upload.start()
  return url
})
