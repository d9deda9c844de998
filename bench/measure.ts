/** One measurement: a fresh server, a fresh client, one file, its hash checked. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expectedSha256, sha256OfFile } from './content.ts'
import type {
  ClientJob,
  ClientKind,
  ClientMessage,
  ClientResult,
  ServerKind,
  ServerMessage,
  SinkMessage,
  StoredInS3,
} from './messages.ts'

export const MiB = 1024 * 1024
export const GiB = 1024 * MiB
const patience = 15 * 60 * 1000

export interface Measurement {
  /** Megabytes (10⁶) per second over everything, the completion included. */
  readonly mbPerSecond: number
  readonly completeMs: number
  readonly serverCpuPerGiB: number
  readonly clientCpuPerGiB: number
  /** `null` where the system does not tell. */
  readonly rssGrowthMiB: number | null
  readonly peakRssMiB: number | null
  /** `null` where the file does not go to S3. */
  readonly s3: Pick<StoredInS3, 'parts' | 'calls'> | null
}

// What an interrupted bench would leave: servers and gigabytes.
const running = new Set<ChildProcess>()
const folders = new Set<string>()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL')
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

/** This server cannot be measured here; the others can. */
export class Unavailable extends Error {}

export async function measure(
  server: ServerKind,
  client: ClientKind,
  { size, chunkSize, directory }: { size: number; chunkSize: number; directory: string },
): Promise<Measurement> {
  const folder = await mkdtemp(join(directory, `bench-${server}-`))
  folders.add(folder)
  const children: ChildProcess[] = []
  try {
    const sink = server.endsWith('-s3') ? await startSink(children) : null
    const serving = start('server.ts', [server, folder, ...(sink ? [sink.endpoint] : [])], children)
    const ready = await answer<ServerMessage>(serving)
    if (ready.type !== 'ready') throw new Unavailable(ready.type === 'failed' ? ready.reason : 'no port')
    const sending = start('client.ts', [], children)
    await answer<ClientMessage>(sending)

    const idle = await memoryOf(serving, true)
    const cpuBefore = await cpuOf(serving)
    const result = await run(sending, { kind: client, port: ready.port, size, chunkSize })
    const cpu = (await cpuOf(serving)) - cpuBefore
    const after = await memoryOf(serving, false)

    const name = nameOf(result.url)
    const stored = sink ? await storedIn(sink.child, name) : { sha256: await sha256OfFile(join(folder, name)) }
    if (stored.sha256 !== expectedSha256(size, chunkSize)) throw new Error(`${server}: the stored file has other bytes`)
    return {
      mbPerSecond: size / 1e6 / (result.totalMs / 1000),
      completeMs: result.completeMs,
      serverCpuPerGiB: cpu / (size / GiB),
      clientCpuPerGiB: result.cpuSeconds / (size / GiB),
      rssGrowthMiB: idle && after && (after.peak - idle.now) / MiB,
      peakRssMiB: after && after.peak / MiB,
      s3: 'parts' in stored ? { parts: stored.parts, calls: stored.calls } : null,
    }
  } finally {
    for (const child of children) await end(child)
    await rm(folder, { recursive: true, force: true })
    folders.delete(folder)
  }
}

/** The name of the stored file, or the key of the object, from its URL or from that of the upload. */
function nameOf(url: string): string {
  const { pathname } = new URL(url, 'http://127.0.0.1')
  return decodeURIComponent(pathname).replace(/^\/(files\/)?/, '')
}

async function startSink(children: ChildProcess[]): Promise<{ child: ChildProcess; endpoint: string }> {
  const child = start('s3-sink.ts', [], children)
  const ready = await answer<SinkMessage>(child)
  if (ready.type !== 'ready') throw new Error('the S3 sink gave no port')
  return { child, endpoint: `http://127.0.0.1:${ready.port}` }
}

async function storedIn(sink: ChildProcess, key: string): Promise<StoredInS3> {
  sink.send(key)
  const message = await answer<SinkMessage>(sink)
  if (message.type !== 'stored') throw new Error('the S3 sink does not tell what it has')
  return message
}

function start(script: string, args: string[], children: ChildProcess[]): ChildProcess {
  const path = fileURLToPath(new URL(script, import.meta.url))
  const child = fork(path, args, { execArgv: ['--import', 'tsx'] })
  children.push(child)
  running.add(child)
  child.once('exit', () => running.delete(child))
  return child
}

async function answer<Message>(child: ChildProcess): Promise<Message> {
  const give = new AbortController()
  const signal = AbortSignal.any([give.signal, AbortSignal.timeout(patience)])
  try {
    return await Promise.race([
      once(child, 'message', { signal }).then(([message]) => message as Message),
      once(child, 'exit', { signal }).then(([code]) => {
        throw new Error(`a child process ended early with ${code}`)
      }),
    ])
  } finally {
    give.abort()
  }
}

async function run(client: ChildProcess, job: ClientJob): Promise<ClientResult> {
  client.send(job)
  const message = await answer<ClientMessage>(client)
  if (message.type === 'done') return message.result
  throw new Error(message.type === 'failed' ? message.reason : 'the client gave no result')
}

async function cpuOf(server: ChildProcess): Promise<number> {
  server.send('cpu')
  const message = await answer<ServerMessage>(server)
  if (message.type !== 'cpu') throw new Error('the server gave no CPU time')
  return message.seconds
}

/** Resident bytes now and at their peak; `reset` forgets the peak of the start. */
async function memoryOf(child: ChildProcess, reset: boolean): Promise<{ now: number; peak: number } | null> {
  if (process.platform !== 'linux') return null
  if (reset) await writeFile(`/proc/${child.pid}/clear_refs`, '5').catch(() => {})
  const status = await readFile(`/proc/${child.pid}/status`, 'utf8')
  const bytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024
  return { now: bytes('VmRSS'), peak: bytes('VmHWM') }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGKILL')
  await exited
}
