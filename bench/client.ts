/** The client, in a process of its own. It must cost next to nothing. */
import { chunkTemplate, sizeOfChunk, stamp } from './content.ts'
import { answerOf, open, sendChunks } from './http.ts'
import type { ClientJob, ClientKind, ClientMessage, ClientResult } from './messages.ts'
import { uploadTus } from './tus-client.ts'

const boundary = 'bench-5f0c2b7a91d84e36'
const lineEnd = Buffer.from('\r\n')
const formEnd = Buffer.from(`\r\n--${boundary}--\r\n`)

export type Uploaded = Pick<ClientResult, 'url' | 'completeMs'>

const uploads: Record<ClientKind, (job: ClientJob, templates: readonly Buffer[]) => Promise<Uploaded>> = {
  whole: uploadWhole,
  form: uploadChunks,
  raw: uploadChunks,
  'tus-one-patch': uploadTus,
  'tus-patches': uploadTus,
}

async function upload(job: ClientJob): Promise<ClientResult> {
  const inOneBody = job.kind === 'whole' || job.kind === 'tus-one-patch'
  const templates = Array.from({ length: inOneBody ? 4 : 1 }, () => chunkTemplate(job.chunkSize))
  const cpu = process.cpuUsage()
  const started = performance.now()
  const { url, completeMs } = await uploads[job.kind](job, templates)
  const totalMs = performance.now() - started
  const { user, system } = process.cpuUsage(cpu)
  return { url, totalMs, completeMs, cpuSeconds: (user + system) / 1e6 }
}

async function uploadWhole(job: ClientJob, templates: readonly Buffer[]): Promise<Uploaded> {
  const { size, chunkSize } = job
  const outgoing = open(job, 'POST', '/', { 'Content-Type': 'application/octet-stream', 'Content-Length': size })
  const { answer, waitMs } = await sendChunks(outgoing, job, templates, [0, Math.ceil(size / chunkSize)], 200)
  return { url: String(JSON.parse(answer.text).url), completeMs: waitMs }
}

async function uploadChunks(job: ClientJob, [template = Buffer.alloc(0)]: readonly Buffer[]): Promise<Uploaded> {
  const { size, chunkSize } = job
  const { uploadId } = await sendJson(job, '/upload/init', {
    fileName: 'bench.bin',
    totalSize: size,
    mimeType: 'application/octet-stream',
  })
  const sendChunk = job.kind === 'form' ? formSender(job, String(uploadId)) : rawSender(job, String(uploadId))
  for (let index = 0; index * chunkSize < size; index++) {
    // The answer to one chunk is there before the next is stamped, so one buffer serves them all.
    await sendChunk(index, stamp(template, index).subarray(0, sizeOfChunk(index, size, chunkSize)))
  }
  const started = performance.now()
  const { url } = await sendJson(job, '/upload/complete', { uploadId })
  return { url: String(url), completeMs: performance.now() - started }
}

type ChunkSender = (index: number, bytes: Buffer) => Promise<unknown>

function formSender(job: ClientJob, uploadId: string): ChunkSender {
  const field = (name: string) => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"`
  const before = Buffer.from(`${field('uploadId')}\r\n\r\n${uploadId}\r\n${field('chunkIndex')}\r\n\r\n`)
  const file = Buffer.from(`${field('chunk')}; filename="blob"\r\nContent-Type: application/octet-stream\r\n\r\n`)
  return (index, bytes) => {
    const head = Buffer.concat([before, Buffer.from(String(index)), lineEnd, file])
    return send(job, '/upload/chunk', `multipart/form-data; boundary=${boundary}`, [head, bytes, formEnd])
  }
}

function rawSender(job: ClientJob, uploadId: string): ChunkSender {
  return (index, bytes) => {
    const path = `/upload/chunk?uploadId=${encodeURIComponent(uploadId)}&chunkIndex=${index}`
    return send(job, path, 'application/octet-stream', [bytes])
  }
}

function sendJson(job: ClientJob, path: string, body: object): Promise<Record<string, unknown>> {
  return send(job, path, 'application/json', [Buffer.from(JSON.stringify(body))])
}

async function send(
  job: ClientJob,
  path: string,
  type: string,
  pieces: readonly Buffer[],
): Promise<Record<string, unknown>> {
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0)
  const outgoing = open(job, 'POST', path, { 'Content-Type': type, 'Content-Length': length })
  const answer = answerOf(outgoing, 200)
  for (const piece of pieces) outgoing.write(piece)
  outgoing.end()
  return JSON.parse((await answer).text)
}

function tell(message: ClientMessage): void {
  process.send?.(message)
}

process.on('message', (job: ClientJob) => {
  upload(job).then(
    (result) => tell({ type: 'done', result }),
    (error: Error) => tell({ type: 'failed', reason: error.message }),
  )
})
process.on('disconnect', () => process.exit(0))
tell({ type: 'ready' })
