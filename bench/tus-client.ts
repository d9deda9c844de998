/** A tus client: creation, then the file in one PATCH or in one per chunk. Every offset is checked. */
import type { Uploaded } from './client.ts'
import { answerOf, open, sendChunks } from './http.ts'
import type { ClientJob } from './messages.ts'

const protocol = { 'Tus-Resumable': '1.0.0' }
const metadata = `filename ${Buffer.from('bench.bin').toString('base64')}`

export async function uploadTus(job: ClientJob, templates: readonly Buffer[]): Promise<Uploaded> {
  const { size, chunkSize } = job
  const path = await create(job)
  const count = Math.ceil(size / chunkSize)
  const perPatch = job.kind === 'tus-one-patch' ? count : 1
  let uploaded: Uploaded = { url: path, completeMs: 0 }
  for (let first = 0; first < count; first += perPatch) {
    const end = Math.min(first + perPatch, count)
    const [from, to] = [first * chunkSize, Math.min(end * chunkSize, size)]
    const outgoing = open(job, 'PATCH', path, {
      ...protocol,
      'Content-Type': 'application/offset+octet-stream',
      'Upload-Offset': from,
      'Content-Length': to - from,
    })
    const { answer, waitMs } = await sendChunks(outgoing, job, templates, [first, end], 204)
    const offset = answer.headers['upload-offset']
    if (offset !== String(to)) throw new Error(`after ${to} bytes the server is at ${offset}`)
    // Where the file is: some servers tell, for the others it has the name of the upload.
    uploaded = { url: answer.headers['content-location'] ?? path, completeMs: waitMs }
  }
  return uploaded
}

/** The path of the new upload. */
async function create(job: ClientJob): Promise<string> {
  const outgoing = open(job, 'POST', '/files', {
    ...protocol,
    'Upload-Length': job.size,
    'Upload-Metadata': metadata,
    'Content-Length': 0,
  })
  outgoing.end()
  const { location } = (await answerOf(outgoing, 201)).headers
  if (location === undefined) throw new Error('the creation has no Location')
  return new URL(location, 'http://127.0.0.1').pathname
}
