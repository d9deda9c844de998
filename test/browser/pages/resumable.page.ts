import Resumable from 'resumablejs'
import { messageOf, urlOf } from './chunk-answers.ts'
import { page } from './page.ts'

page(({ server, patient }, report) => {
  const patience = { chunkRetryInterval: 1000, maxChunkRetries: 100 }
  const resumable = new Resumable({ target: `${server}/resumable`, ...(patient && patience) })
  resumable.on('fileAdded', () => resumable.upload())
  resumable.on('fileProgress', (file) => report.progress(file.progress(false)))
  resumable.on('fileSuccess', (file) => report.done(urlOf(file.chunks.map((chunk) => (chunk as Chunk).message()))))
  resumable.on('fileError', (_file, message) => report.failed(messageOf(message)))
  return (file) => resumable.addFile(file)
})

interface Chunk {
  message(): string
}
