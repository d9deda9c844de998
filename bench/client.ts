/**
 * The client, in a process of its own. It must cost next to nothing: one keep-alive connection, buffers and form
 * framing that are prepared once, no copies.
 */
import { once } from 'node:events'
import { Agent, type ClientRequest, type IncomingMessage, type RequestOptions, request } from 'node:http'
import { chunkTemplate, sizeOfChunk, stamp } from './content.ts'
import type { ClientJob, ClientMessage, ClientResult } from './messages.ts'

const agent = new Agent({ keepAlive: true, maxSockets: 1 })
const boundary = 'bench-5f0c2b7a91d84e36'
const lineEnd = Buffer.from('\r\n')
const formEnd = Buffer.from(`\r\n--${boundary}--\r\n`)

type Uploaded = Pick<ClientResult, 'url' | 'completeMs'>

async function upload(job: ClientJob): Promise<ClientResult> {
  const templates = Array.from({ length: job.kind === 'whole' ? 4 : 1 }, () => chunkTemplate(job.chunkSize))
  const cpu = process.cpuUsage()
  const started = performance.now()
  const { url, completeMs } = await (job.kind === 'whole' ? uploadWhole(job, templates) : uploadChunks(job, templates))
  const totalMs = performance.now() - started
  const { user, system } = process.cpuUsage(cpu)
  return { url, totalMs, completeMs, cpuSeconds: (user + system) / 1e6 }
}

async function uploadWhole({ port, size, chunkSize }: ClientJob, templates: Buffer[]): Promise<Uploaded> {
  // A buffer may be stamped again only when the socket has taken it.
  const ring = templates.map((template) => ({ template, free: Promise.resolve() }))
  const outgoing = open(port, '/', { 'Content-Type': 'application/octet-stream', 'Content-Length': size })
  const answer = answerOf(outgoing)
  // Awaited below; a server that ends the connection early must not be an unhandled rejection before that.
  answer.catch(() => {})
  for (let index = 0; index * chunkSize < size; index++) {
    const slot = ring[index % ring.length]
    if (!slot) break
    await Promise.race([slot.free, answer])
    const bytes = stamp(slot.template, index).subarray(0, sizeOfChunk(index, size, chunkSize))
    slot.free = new Promise((resolve) => outgoing.write(bytes, () => resolve()))
  }
  await Promise.race([Promise.all(ring.map((slot) => slot.free)), answer])
  const written = performance.now()
  outgoing.end()
  const { url } = await answer
  return { url: String(url), completeMs: performance.now() - written }
}

async function uploadChunks(job: ClientJob, [template = Buffer.alloc(0)]: Buffer[]): Promise<Uploaded> {
  const { port, size, chunkSize } = job
  const { uploadId } = await sendJson(port, '/upload/init', {
    fileName: 'bench.bin',
    totalSize: size,
    mimeType: 'application/octet-stream',
  })
  const send = job.kind === 'form' ? formSender(port, String(uploadId)) : rawSender(port, String(uploadId))
  for (let index = 0; index * chunkSize < size; index++) {
    // The answer to one chunk is there before the next is stamped, so one buffer serves them all.
    await send(index, stamp(template, index).subarray(0, sizeOfChunk(index, size, chunkSize)))
  }
  const started = performance.now()
  const { url } = await sendJson(port, '/upload/complete', { uploadId })
  return { url: String(url), completeMs: performance.now() - started }
}

type ChunkSender = (index: number, bytes: Buffer) => Promise<unknown>

function formSender(port: number, uploadId: string): ChunkSender {
  const field = (name: string) => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"`
  const before = Buffer.from(`${field('uploadId')}\r\n\r\n${uploadId}\r\n${field('chunkIndex')}\r\n\r\n`)
  const file = Buffer.from(`${field('chunk')}; filename="blob"\r\nContent-Type: application/octet-stream\r\n\r\n`)
  return (index, bytes) => {
    const head = Buffer.concat([before, Buffer.from(String(index)), lineEnd, file])
    return send(port, '/upload/chunk', `multipart/form-data; boundary=${boundary}`, [head, bytes, formEnd])
  }
}

function rawSender(port: number, uploadId: string): ChunkSender {
  return (index, bytes) => {
    const path = `/upload/chunk?uploadId=${encodeURIComponent(uploadId)}&chunkIndex=${index}`
    return send(port, path, 'application/octet-stream', [bytes])
  }
}

function sendJson(port: number, path: string, body: object): Promise<Record<string, unknown>> {
  return send(port, path, 'application/json', [Buffer.from(JSON.stringify(body))])
}

function send(port: number, path: string, type: string, pieces: readonly Buffer[]): Promise<Record<string, unknown>> {
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0)
  const outgoing = open(port, path, { 'Content-Type': type, 'Content-Length': length })
  const answer = answerOf(outgoing)
  for (const piece of pieces) outgoing.write(piece)
  outgoing.end()
  return answer
}

function open(port: number, path: string, headers: NonNullable<RequestOptions['headers']>): ClientRequest {
  return request({ host: '127.0.0.1', port, path, method: 'POST', headers, agent })
}

async function answerOf(outgoing: ClientRequest): Promise<Record<string, unknown>> {
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
  const pieces: Buffer[] = []
  for await (const piece of response) pieces.push(piece)
  const text = Buffer.concat(pieces).toString()
  if (response.statusCode !== 200) throw new Error(`${outgoing.path} answered ${response.statusCode}: ${text}`)
  return JSON.parse(text)
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
