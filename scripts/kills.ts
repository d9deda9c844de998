/**
 * Kills a server again and again while many small chunks come in, until so many acknowledged chunks have been killed over:
 * `npm run kills -- --chunks 100000 --seed 1`. After each kill every upload is asked for what it has; in the end every
 * file is compared by its SHA-256.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, rmSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { bundleOf } from '../test/support/bundle.ts'
import { bytes, seeded } from '../test/support/random.ts'

const { values } = parseArgs({
  options: { chunks: { type: 'string', default: '100000' }, seed: { type: 'string', default: '1' } },
})
const wanted = Number(values.chunks)
const random = seeded(Number(values.seed))
const KiB = 1024
const uploadsAtOnce = 24
const chunksAtOnce = 4
const content = bytes(4 * KiB * KiB, Number(values.seed))
const agent = new Agent({ keepAlive: true, maxSockets: uploadsAtOnce * chunksAtOnce })
const folder = await mkdtemp(join(tmpdir(), 'nexus-kills-'))
const directory = join(folder, 'stored')
const count = { kills: 0, acknowledged: 0, outlived: 0, lost: 0, files: 0, wrong: 0 }
const isDone = () => count.outlived >= wanted

interface Upload {
  readonly number: number
  readonly id: string
  readonly chunks: number
  readonly chunkSize: number
  /** Acknowledged, and by how many kills it was followed. */
  readonly acknowledged: Map<number, { readonly kills: number; outlived: boolean }>
}

const open = new Set<Upload>()

/** Ends with this process, however that ends. */
let running: ChildProcess | null = null
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    const end = () => {
      rmSync(folder, { recursive: true, force: true })
      process.exit(130)
    }
    if (running === null || running.exitCode !== null || running.signalCode !== null) return end()
    running.once('exit', end)
    running.kill('SIGKILL')
  })
}

/** The server; there is always one, or one that is about to be there. */
let server = start()

interface Server {
  readonly process: ChildProcess
  readonly port: number
}

async function start(): Promise<Server> {
  const settings = JSON.stringify({ tempDir: join(folder, 'temp'), directory })
  const child = fork(bundleOf('test/support/server-process.ts'), [settings], { stdio: ['ignore', 'ignore', 2, 'ipc'] })
  running = child
  const port = await new Promise<number>((resolve, reject) => {
    child.once('message', (message) => resolve((message as { port: number }).port))
    child.once('exit', (code) => reject(new Error(`the server ended with ${code} before it listened`)))
  })
  return { process: child, port }
}

interface Answer {
  readonly status: number
  readonly body: Record<string, unknown>
}

/** `null` when the server went away before it had answered. */
async function call(method: string, path: string, data?: Buffer | object): Promise<Answer | null> {
  const { port } = await server
  const body = data === undefined || Buffer.isBuffer(data) ? data : Buffer.from(JSON.stringify(data))
  const type = Buffer.isBuffer(data) ? 'application/octet-stream' : 'application/json'
  const headers = body ? { 'Content-Type': type, 'Content-Length': body.length } : {}
  return new Promise((resolve) => {
    const sent = request({ agent, host: '127.0.0.1', port, method, path, headers }, (response) => {
      const pieces: Buffer[] = []
      response.on('data', (piece: Buffer) => pieces.push(piece))
      response.on('error', () => resolve(null))
      response.on('close', () => {
        const text = Buffer.concat(pieces).toString()
        resolve(response.complete ? { status: response.statusCode ?? 0, body: JSON.parse(text) } : null)
      })
    })
    sent.on('error', () => resolve(null))
    sent.end(body)
  })
}

/** Until it was answered. What cannot be answered now is asked again, as clients do. */
async function insist(method: string, path: string, data?: Buffer | object): Promise<Answer['body']> {
  for (;;) {
    const answer = await call(method, path, data)
    if (answer?.status === 200) return answer.body
    if (answer && ![423, 429, 503].includes(answer.status)) {
      throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`)
    }
    await wait(20)
  }
}

/** Different for every chunk of every upload. */
function dataOf({ number, chunkSize }: Upload, index: number): Buffer {
  const at = (number * 7_919 + index * 104_729) % (content.length - chunkSize)
  return content.subarray(at, at + chunkSize)
}

async function uploadOne(number: number): Promise<void> {
  const chunkSize = [4, 4, 4, 8, 16, 64][random.integer(0, 5)] as number
  const chunks = random.integer(100, 400)
  const size = { totalSize: chunks * chunkSize * KiB, ...(random.next() < 0.5 && { chunkSize: chunkSize * KiB }) }
  const { uploadId } = await insist('POST', '/upload/init', { fileName: `${number}.bin`, ...size })
  const id = String(uploadId)
  const upload: Upload = { number, id, chunks, chunkSize: chunkSize * KiB, acknowledged: new Map() }
  open.add(upload)
  const indexes = Array.from({ length: chunks }, (_, index) => index)
  const queue = (random.next() < 0.5 ? random.shuffle(indexes) : indexes).values()
  const worker = async () => {
    for (const index of queue) {
      const path = `/upload/chunk?uploadId=${id}&chunkIndex=${index}`
      const { success } = await insist('POST', path, dataOf(upload, index))
      if (success !== true) throw new Error(`chunk ${index} was not acknowledged`)
      upload.acknowledged.set(index, { kills: count.kills, outlived: false })
      count.acknowledged += 1
    }
  }
  await Promise.all(Array.from({ length: chunksAtOnce }, worker))
  const { key } = await insist('POST', '/upload/complete', { uploadId: id })
  await compare(upload, join(directory, String(key)))
  open.delete(upload)
}

async function compare(upload: Upload, path: string): Promise<void> {
  const [sent, stored] = [createHash('sha256'), createHash('sha256')]
  for (let index = 0; index < upload.chunks; index++) sent.update(dataOf(upload, index))
  for await (const data of createReadStream(path)) stored.update(data)
  count.files += 1
  if (sent.digest('hex') !== stored.digest('hex')) count.wrong += 1
  // What was killed over after the last look is in the file, or the file is wrong.
  for (const chunk of upload.acknowledged.values()) outlived(chunk)
  await rm(path)
}

function outlived(chunk: { readonly kills: number; outlived: boolean }): void {
  if (chunk.outlived || chunk.kills === count.kills) return
  chunk.outlived = true
  count.outlived += 1
}

/** What a server that was just started knows of everything that an earlier one has acknowledged. */
async function lookAt(upload: Upload): Promise<void> {
  const before = [...upload.acknowledged].filter(([, { kills }]) => kills < count.kills)
  const { received, state } = await insist('GET', `/upload/progress/${upload.id}`)
  if (state === 'completed') return
  const ranges = received as [number, number][]
  for (const [index, chunk] of before) {
    if (ranges.some(([first, last]) => first <= index && index <= last)) outlived(chunk)
    else {
      count.lost += 1
      console.error(`chunk ${index} of upload ${upload.number} was acknowledged and is not there`)
    }
  }
}

async function kill(): Promise<void> {
  const { process: child } = await server
  const exited = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  count.kills += 1
  server = exited.then(start)
  await server
  await Promise.all([...open].map(lookAt))
}

let uploads = 0
const uploader = async () => {
  while (!isDone()) await uploadOne(uploads++)
}
const started = Date.now()
const report = setInterval(() => console.error(JSON.stringify({ ...count, open: open.size })), 10_000)
const killer = async () => {
  while (!isDone()) {
    // By what it has done, not by the clock: on a busy machine a server takes long to start.
    const enough = count.acknowledged + random.integer(100, 1_500)
    while (count.acknowledged < enough && !isDone()) await wait(random.integer(1, 20))
    await kill()
  }
}
try {
  await Promise.all([killer(), ...Array.from({ length: uploadsAtOnce }, uploader)])
} finally {
  clearInterval(report)
  ;(await server).process.kill('SIGKILL')
  agent.destroy()
  await rm(folder, { recursive: true, force: true })
}
const seconds = Math.round((Date.now() - started) / 1_000)
console.log(
  [
    `Seed ${values.seed}: ${count.kills} kills in ${seconds} s.`,
    `Acknowledged chunks: ${count.acknowledged}; of these killed over: ${count.outlived}; lost: ${count.lost}.`,
    `Files compared by SHA-256: ${count.files}; wrong: ${count.wrong}.`,
  ].join('\n'),
)
process.exit(count.lost + count.wrong === 0 ? 0 : 1)
