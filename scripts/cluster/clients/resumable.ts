/** Resumable.js, with the settings of docs/protocols/resumablejs.md. */
import { openAsBlob } from 'node:fs'
import { loadLibrary } from '../../../test/support/xml-http-request.ts'
import { report, run, task } from './report.ts'

interface SentFile {
  readonly chunks: readonly { message(): string }[]
  progress(): number
  retry(): void
}

interface Library {
  on(event: string, listener: (file: SentFile, message: string) => void): void
  addFile(file: File): void
  upload(): void
}

await run(async () => {
  const Resumable = loadLibrary('resumablejs') as new (options: object) => Library
  const resumable = new Resumable({
    target: `${task.origin}/resumable`,
    headers: { Cookie: task.cookie },
    chunkSize: 2 * 1024 * 1024,
    simultaneousUploads: 3,
    chunkRetryInterval: 500,
    maxChunkRetries: 100,
    permanentErrors: [400, 401, 403, 404, 409, 410, 413, 415, 422, 500, 501],
    generateUniqueIdentifier: (file: File) => `${file.size}-${file.lastModified}-${file.name}`,
  })
  const data = await openAsBlob(task.path)
  return await new Promise<string>((resolve, reject) => {
    resumable.on('fileProgress', (file) => report({ kind: 'progress', share: file.progress() }))
    resumable.on('fileSuccess', (file) => {
      const stored = file.chunks.map((chunk) => JSON.parse(chunk.message())).find(({ url }) => url !== undefined)
      if (stored) resolve(stored.url)
      else file.retry()
    })
    resumable.on('fileError', (_file, message) => reject(new Error(message)))
    resumable.on('fileAdded', () => setTimeout(() => resumable.upload(), 20))
    resumable.addFile(new File([data], task.name, { type: 'application/octet-stream' }))
  })
})
