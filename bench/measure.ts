/** One measurement: a fresh server, a fresh client, files, the hash of each checked. */
import type { ChildProcess } from 'node:child_process'
import { open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { countChunks, expectedSha256, rangeOfChunk, sha256OfStored } from './content.ts'
import type { ClientJob, ClientMessage, ClientResult, Contact, Load, ServerKind, SinkMessage } from './messages.ts'
import { startNginx } from './nginx.ts'
import { answerOf, type Memory, memoryOf, Stage } from './processes.ts'
import { type Serving, startNode } from './serving.ts'

export const MiB = 1024 * 1024
export const GiB = 1024 * MiB

const mostClaimed = 3 * GiB

/** A server, and how the client talks to it. */
export interface Contender extends Contact {
  readonly server: ServerKind
}

export interface Trial {
  readonly load: Load
  /** Done before, and not measured. */
  readonly warmUp?: readonly Load[] | undefined
  /** How long S3 takes for each call, ms. */
  readonly latency?: number | undefined
}

export interface Place {
  readonly directory: string
  /** For the server's process. */
  readonly nodeFlags: readonly string[]
  /** Whether S3 is the one that the environment names, not the sink. */
  readonly realS3: boolean
}

/** `null`: there is no such figure here. */
export interface Measurement {
  /** Megabytes (10⁶) per second over everything, the completions included. */
  readonly mbPerSecond: number
  readonly filesPerSecond: number
  readonly completeMs: number
  readonly chunkP50: number
  readonly chunkP99: number
  readonly quietP99: number | null
  readonly serverCpuPerGiB: number
  readonly serverCpuMsPerChunk: number
  readonly clientCpuPerGiB: number
  readonly rssGrowthMiB: number | null
  readonly peakRssMiB: number | null
  readonly heapKiBPerFile: number | null
  readonly sentRatio: number
  readonly s3: { readonly parts: number; readonly calls: Counts } | null
}

export async function measure(contender: Contender, trial: Trial, place: Place): Promise<Measurement> {
  const { load, warmUp = [] } = trial
  const stage = await Stage.open(place.directory, contender.server)
  try {
    const sink = contender.server.endsWith('-s3') ? await startSink(stage, trial.latency ?? 0, place) : null
    const sending = stage.start('client.ts')
    const [serving] = await Promise.all([start(stage, contender, sink, place), answerOf<ClientMessage>(sending)])
    const { server: _, ...contact } = contender
    const run = (what: Load) => runClient(sending, { port: serving.port, contact, load: what })
    const warmedUp = []
    for (const what of warmUp) warmedUp.push(...(await run(what)).urls)
    const callsBefore = sink ? (await storedIn(sink.child, [])).calls : {}

    await stage.claimMemory(Math.min(bytesToCome(load), mostClaimed))
    const heapBefore = load.scenario === 'idle' ? await serving.heapBytes() : null
    const idle = await memoryOf(serving.child, true)
    const cpuBefore = await serving.cpuSeconds()
    const result = await run(load)
    const cpuSeconds = (await serving.cpuSeconds()) - cpuBefore
    const after = await memoryOf(serving.child, false)
    const heapAfter = heapBefore === null ? null : await serving.heapBytes()

    const s3 = await checkStored(result.urls, load, contender, stage, sink?.child ?? null)
    // A real S3 deletes what it tells of.
    if (sink && place.realS3) await storedIn(sink.child, warmedUp.map(nameOf))
    return {
      ...figuresOf(result, load, cpuSeconds),
      ...memoryFigures(idle, after),
      heapKiBPerFile: heapBefore === null || heapAfter === null ? null : (heapAfter - heapBefore) / 1024 / load.files,
      s3: s3 && { parts: s3.parts, calls: difference(s3.calls, callsBefore) },
    }
  } finally {
    await stage.closeEmpty()
  }
}

/** A page for each byte of the files, and a quarter more for what holds them on their way. */
function bytesToCome({ scenario, lastOnly, files, size, chunkSize }: Load): number {
  const perFile = lastOnly || scenario === 'idle' ? chunkSize : size
  return files * perFile * 1.25
}

type Counts = Readonly<Record<string, number>>

function difference(after: Counts, before: Counts): Counts {
  const counted = Object.entries(after).map(([name, count]) => [name, count - (before[name] ?? 0)] as const)
  return Object.fromEntries(counted.filter(([, count]) => count > 0))
}

type Sink = { readonly child: ChildProcess; readonly endpoint: string }

async function startSink(stage: Stage, latency: number, { realS3 }: Place): Promise<Sink> {
  const child = realS3 ? stage.start('s3-real.ts') : stage.start('s3-sink.ts', [String(latency), 'md5'])
  const ready = await answerOf<SinkMessage>(child)
  if (ready.type !== 'ready') throw new Error('the S3 sink gave no endpoint')
  return { child, endpoint: ready.endpoint }
}

function start(stage: Stage, { server }: Contender, sink: Sink | null, place: Place): Promise<Serving> {
  return server === 'nginx' ? startNginx(stage) : startNode(stage, server, sink?.endpoint ?? null, place.nodeFlags)
}

async function runClient(client: ChildProcess, job: ClientJob): Promise<ClientResult> {
  client.send(job)
  const message = await answerOf<ClientMessage>(client)
  if (message.type === 'done') return message.result
  throw new Error(message.type === 'failed' ? message.reason : 'the client gave no result')
}

function figuresOf(result: ClientResult, { files, size }: Load, cpuSeconds: number) {
  const { totalMs, completeMs, chunkP50, chunkP99, quietP99, chunks, sentBytes } = result
  const bytes = files * size
  return {
    mbPerSecond: bytes / 1e6 / (totalMs / 1000),
    filesPerSecond: files / (totalMs / 1000),
    completeMs,
    chunkP50,
    chunkP99,
    quietP99,
    serverCpuPerGiB: cpuSeconds / (bytes / GiB),
    serverCpuMsPerChunk: (cpuSeconds * 1000) / chunks,
    clientCpuPerGiB: result.cpuSeconds / (bytes / GiB),
    sentRatio: sentBytes / bytes,
  }
}

function memoryFigures(idle: Memory | null, after: Memory | null) {
  return {
    rssGrowthMiB: idle && after && (after.peak - idle.now) / MiB,
    peakRssMiB: after && after.peak / MiB,
  }
}

/** Throws when a stored file is not byte for byte what was sent. */
async function checkStored(
  urls: readonly string[],
  load: Load,
  { server }: Contender,
  { folder }: Stage,
  sink: ChildProcess | null,
): Promise<Measurement['s3']> {
  const names = urls.map(nameOf)
  // So that a test can see that it would be seen.
  const [first] = names
  if (process.env.BENCH_CORRUPT && !sink && first !== undefined) await flipByte(join(folder, first))
  const stored = sink ? await storedIn(sink, names) : null
  for (const [file, name] of names.entries()) {
    const path = join(folder, name)
    const right = stored
      ? stored.objects[file]?.sha256 === expectedSha256(load, file)
      : await (load.lastOnly ? endsRight(path, load, file) : isRight(path, load, file))
    if (!right) throw new Error(`${server}: the stored file ${name} has other bytes`)
  }
  return stored && { parts: stored.objects.reduce((sum, { parts }) => sum + parts, 0), calls: stored.calls }
}

async function isRight(path: string, load: Load, file: number): Promise<boolean> {
  return (await sha256OfStored(path)) === expectedSha256(load, file)
}

/** The size, and the last chunk. */
async function endsRight(path: string, load: Load, file: number): Promise<boolean> {
  const range = rangeOfChunk(load, countChunks(load) - 1)
  const { size } = await stat(path)
  return size === load.size && (await sha256OfStored(path, range[0])) === expectedSha256(load, file, range)
}

/** The name of the stored file, or the key of the object, from its URL or from that of the upload. */
function nameOf(url: string): string {
  const { pathname } = new URL(url, 'http://127.0.0.1')
  return decodeURIComponent(pathname).replace(/^\/(files\/)?/, '')
}

async function flipByte(path: string): Promise<void> {
  const file = await open(path, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, 0)
  await file.write(Buffer.from([byte[0] === 0 ? 1 : 0]), 0, 1, 0)
  await file.close()
}

async function storedIn(sink: ChildProcess, keys: readonly string[]) {
  sink.send(keys)
  const message = await answerOf<SinkMessage>(sink)
  if (message.type !== 'stored') throw new Error('the S3 sink does not tell what it has')
  return message
}
