/** The client, in a process of its own. It must cost next to nothing. */
import { setTimeout as wait } from 'node:timers/promises'
import { countChunks, type Range, rangeOfChunk } from './content.ts'
import { type Answer, Http } from './http.ts'
import type { ClientJob, ClientMessage, ClientResult, Load } from './messages.ts'
import { type Wire, wireOf } from './wires.ts'

/** What happens in a run. */
class Tally {
  readonly urls: string[] = []
  readonly chunkMs: number[] = []
  readonly completeMs: number[] = []
  quietMs: number[] = []
  sentBytes = 0
}

type Scenario = (wire: Wire, job: ClientJob, http: Http, tally: Tally) => Promise<void>

const scenarios: Record<NonNullable<Load['scenario']>, Scenario> = { uploads, idle, beside }

async function run(job: ClientJob): Promise<ClientResult> {
  const { load, contact } = job
  const http = new Http(job.port, (load.clients ?? 1) * (load.inFlight ?? 1) + (load.scenario === 'beside' ? 1 : 0))
  const wire = wireOf(http, load, contact)
  const tally = new Tally()
  const cpu = process.cpuUsage()
  const started = performance.now()
  await scenarios[load.scenario ?? 'uploads'](wire, job, http, tally)
  const totalMs = performance.now() - started
  const { user, system } = process.cpuUsage(cpu)
  http.close()
  return {
    urls: tally.urls,
    totalMs,
    completeMs: quantile(tally.completeMs, 0.5),
    chunks: tally.chunkMs.length,
    chunkP50: quantile(tally.chunkMs, 0.5),
    chunkP99: quantile(tally.chunkMs, 0.99),
    quietP99: tally.quietMs.length > 0 ? quantile(tally.quietMs, 0.99) : null,
    sentBytes: tally.sentBytes,
    cpuSeconds: (user + system) / 1e6,
  }
}

async function uploads(wire: Wire, { load }: ClientJob, http: Http, tally: Tally): Promise<void> {
  const random = randomFrom(1)
  await eachOf(load.files, load.clients ?? 1, async (file) => {
    const upload = await wire.start(file)
    const last = await sendFile(wire, http, load, { upload, file }, tally, random)
    tally.urls[file] = await complete(wire, upload, last, tally)
  })
}

/** Every upload gets its first chunk, and then nothing. */
async function idle(wire: Wire, { load }: ClientJob, http: Http, tally: Tally): Promise<void> {
  await eachOf(load.files, load.clients ?? 1, async (file) => {
    const upload = await wire.start(file)
    await sendChunk(wire, http, { upload, file }, rangeOfChunk(load, 0), tally)
  })
}

const leastChunks = 400
const mostChunks = 10_000

/** Small chunks of one upload, before and while another one completes. */
async function beside(wire: Wire, { load, contact }: ClientJob, http: Http, tally: Tally): Promise<void> {
  const upload = await wire.start(0)
  const last = await sendFile(wire, http, load, { upload, file: 0 }, tally, () => 1)
  const chunkSize = 64 * 1024
  const small = { files: 1, size: mostChunks * chunkSize, chunkSize }
  const smallWire = wireOf(http, small, contact)
  const other = { upload: await smallWire.start(1), file: 1 }
  let index = 0
  const sendSmall = () => sendChunk(smallWire, http, other, rangeOfChunk(small, index++), tally)
  tally.chunkMs.length = 0
  while (index < leastChunks) await sendSmall()
  tally.quietMs = tally.chunkMs.splice(0)
  let running = true
  const completed = complete(wire, upload, last, tally).finally(() => {
    running = false
  })
  while (index < mostChunks && (running || index < 2 * leastChunks)) await sendSmall()
  tally.urls[0] = await completed
}

interface Target {
  readonly upload: string
  readonly file: number
}

/** Resolves with the answer to the last of its requests. */
async function sendFile(
  wire: Wire,
  http: Http,
  load: Load,
  target: Target,
  tally: Tally,
  random: () => number,
): Promise<Answer | null> {
  let last: Answer | null = null
  if (wire.inOneBody) return sendChunk(wire, http, target, [0, load.size], tally)
  const count = countChunks(load)
  const first = load.lastOnly ? count - 1 : 0
  await eachOf(count - first, load.inFlight ?? 1, async (at) => {
    const range = rangeOfChunk(load, first + at)
    const left = load.cutShare ? await sendCut(wire, http, load.cutShare, target, range, tally, random) : range
    last = await sendChunk(wire, http, target, left, tally)
  })
  return last
}

async function sendChunk(wire: Wire, http: Http, { upload, file }: Target, range: Range, tally: Tally) {
  const started = performance.now()
  const answer = await http.exchange(wire.send(upload, file, range))
  tally.chunkMs.push(performance.now() - started)
  tally.sentBytes += range[1] - range[0]
  return answer
}

/** Sends the chunk and is cut, as often as chance wants. Resolves with what is left to send. */
async function sendCut(
  wire: Wire,
  http: Http,
  share: number,
  { upload, file }: Target,
  [start, to]: Range,
  tally: Tally,
  random: () => number,
): Promise<Range> {
  let from = start
  while (random() < share) {
    const cut = from + Math.floor(random() * (to - from))
    await http.cut(wire.send(upload, file, [from, to], cut))
    tally.sentBytes += cut - from
    if (!wire.offset) continue
    // Nobody is back sooner, and the server may still be writing what it has.
    await wait(100)
    from = await wire.offset(upload)
  }
  return [from, to]
}

async function complete(wire: Wire, upload: string, last: Answer | null, tally: Tally): Promise<string> {
  const started = performance.now()
  const url = wire.complete ? await wire.complete(upload) : last && wire.urlOf?.(upload, last)
  tally.completeMs.push(wire.complete ? performance.now() - started : (last?.waitMs ?? 0))
  if (!url) throw new Error('the server gave no URL')
  return url
}

/** Runs the task for 0, 1, … `count` − 1, so many at once. */
async function eachOf(count: number, atOnce: number, task: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  const worker = async () => {
    while (next < count) await task(next++)
  }
  await Promise.all(Array.from({ length: Math.min(count, atOnce) }, worker))
}

function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0
}

/** The same numbers in every run: a linear congruential generator, modulo 2³². */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

function tell(message: ClientMessage): void {
  process.send?.(message)
}

process.on('message', (job: ClientJob) => {
  run(job).then(
    (result) => tell({ type: 'done', result }),
    (error: Error) => tell({ type: 'failed', reason: error.message }),
  )
})
process.on('disconnect', () => process.exit(0))
tell({ type: 'ready' })
