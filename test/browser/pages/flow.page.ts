import Flow from '@flowjs/flow.js'
import { messageOf, urlOf } from './chunk-answers.ts'
import { page } from './page.ts'

page(({ server, patient }, report) => {
  const patience = { chunkRetryInterval: 1000, maxChunkRetries: 100 }
  const flow = new Flow({ target: `${server}/resumable`, ...(patient && patience) })
  flow.on('fileAdded', () => setTimeout(() => flow.upload()))
  flow.on('fileProgress', (file) => report.progress(file.progress()))
  flow.on('fileSuccess', (file) => report.done(urlOf(file.chunks.map((chunk) => chunk.message()))))
  flow.on('fileError', (_file, message) => report.failed(messageOf(message)))
  return (file) => flow.addFile(file)
})
