/** The client, in a process of its own. It must cost next to nothing. */
import { setTimeout as wait } from 'node:timers/promises'
import { countChunks, type Range, rangeOfChunk } from './content.ts'
import { type Answer, Http } from './http.ts'
import type { ClientJob, ClientMessage, ClientResult, Load } from './messages.ts'
import { type Wire, wireOf } from './wires.ts'

/** An upload that the server knows. */
interface Target {
  readonly upload: string
  readonly file: number
}

/** Sends, and notes what it sent and how long it took. */
class Sender {
  readonly urls: string[] = []
  readonly completeMs: number[] = []
  chunkMs: number[] = []
  sentBytes = 0
  readonly #http: Http
  readonly #load: Load
  readonly #wire: Wire
  readonly #random = randomFrom(1)

  constructor(http: Http, { load, contact }: ClientJob) {
    this.#http = http
    this.#load = load
    this.#wire = wireOf(http, load, contact)
  }

  async start(file: number): Promise<Target> {
    return { upload: await this.#wire.start(file), file }
  }

  /** Resolves with the answer to the last of its requests. */
  async sendFile(target: Target): Promise<Answer | null> {
    const { size, lastOnly, inFlight = 1 } = this.#load
    if (this.#wire.inOneBody) return this.#send(target, [0, size])
    let last: Answer | null = null
    const count = countChunks(this.#load)
    const first = lastOnly ? count - 1 : 0
    await eachOf(count - first, inFlight, async (at) => {
      last = await this.sendChunk(target, first + at)
    })
    return last
  }

  async sendChunk(target: Target, index: number): Promise<Answer> {
    const range = rangeOfChunk(this.#load, index)
    return this.#send(target, this.#load.cutShare ? await this.#sendCut(target, range, this.#load.cutShare) : range)
  }

  async #send({ upload, file }: Target, range: Range): Promise<Answer> {
    const started = performance.now()
    const answer = await this.#http.exchange(this.#wire.send(upload, file, range))
    this.chunkMs.push(performance.now() - started)
    this.sentBytes += range[1] - range[0]
    return answer
  }

  /** Sends the chunk and is cut, as often as chance wants. Resolves with what is left to send. */
  async #sendCut({ upload, file }: Target, [start, to]: Range, share: number): Promise<Range> {
    let from = start
    while (this.#random() < share) {
      const cut = from + Math.floor(this.#random() * (to - from))
      await this.#http.cut(this.#wire.send(upload, file, [from, to], cut))
      this.sentBytes += cut - from
      if (!this.#wire.offset) continue
      // Nobody is back sooner, and the server may still be writing what it has.
      await wait(100)
      from = await this.#wire.offset(upload)
    }
    return [from, to]
  }

  /** `last` is the answer to the last bytes. */
  async complete({ upload, file }: Target, last: Answer | null): Promise<void> {
    const { complete, urlOf } = this.#wire
    const started = performance.now()
    const url = complete ? await complete(upload) : last && urlOf?.(upload, last)
    this.completeMs.push(complete ? performance.now() - started : (last?.waitMs ?? 0))
    if (!url) throw new Error('the server gave no URL')
    this.urls[file] = url
  }
}

type Scenario = (sender: Sender, job: ClientJob, http: Http) => Promise<Partial<ClientResult>>

const scenarios: Record<NonNullable<Load['scenario']>, Scenario> = { uploads, idle, beside }

async function uploads(sender: Sender, { load }: ClientJob) {
  await eachOf(load.files, load.clients ?? 1, async (file) => {
    const target = await sender.start(file)
    await sender.complete(target, await sender.sendFile(target))
  })
  return {}
}

/** Every upload gets its first chunk, and then nothing. */
async function idle(sender: Sender, { load }: ClientJob) {
  await eachOf(load.files, load.clients ?? 1, async (file) => {
    await sender.sendChunk(await sender.start(file), 0)
  })
  return {}
}

const leastChunks = 400
const mostChunks = 10_000

/** Small chunks of one upload, before and while another one completes. */
async function beside(sender: Sender, job: ClientJob, http: Http) {
  const target = await sender.start(0)
  const last = await sender.sendFile(target)
  const chunkSize = 64 * 1024
  const small = new Sender(http, { ...job, load: { files: 1, size: mostChunks * chunkSize, chunkSize } })
  const other = await small.start(1)
  let index = 0
  while (index < leastChunks) await small.sendChunk(other, index++)
  const quietP99 = quantile(small.chunkMs, 0.99)
  small.chunkMs = []
  let running = true
  const completed = sender.complete(target, last).finally(() => {
    running = false
  })
  while (index < mostChunks && (running || index < 2 * leastChunks)) await small.sendChunk(other, index++)
  await completed
  return { quietP99, chunkP99: quantile(small.chunkMs, 0.99) }
}

async function run(job: ClientJob): Promise<ClientResult> {
  const { scenario = 'uploads', clients = 1, inFlight = 1 } = job.load
  const http = new Http(job.port, clients * inFlight + (scenario === 'beside' ? 1 : 0))
  const sender = new Sender(http, job)
  const cpu = process.cpuUsage()
  const started = performance.now()
  const figures = await scenarios[scenario](sender, job, http)
  const totalMs = performance.now() - started
  const { user, system } = process.cpuUsage(cpu)
  http.close()
  return {
    urls: sender.urls,
    totalMs,
    completeMs: quantile(sender.completeMs, 0.5),
    chunks: sender.chunkMs.length,
    chunkP50: quantile(sender.chunkMs, 0.5),
    chunkP99: quantile(sender.chunkMs, 0.99),
    quietP99: null,
    sentBytes: sender.sentBytes,
    cpuSeconds: (user + system) / 1e6,
    ...figures,
  }
}

/** Runs the task for 0, 1, … `count` − 1, so many at once. */
async function eachOf(count: number, atOnce: number, task: (index: number) => Promise<unknown>): Promise<void> {
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
