/** One measurement: a fresh server, a fresh client, one file, its hash checked. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expectedSha256, sha256OfFile } from './content.ts'
import type { ClientJob, ClientKind, ClientMessage, ClientResult, ServerKind, ServerMessage } from './messages.ts'

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
    const serving = start('server.ts', [server, folder], children)
    const ready = await answer<ServerMessage>(serving)
    if (ready.type !== 'ready') throw new Unavailable(ready.type === 'failed' ? ready.reason : 'no port')
    const sending = start('client.ts', [], children)
    await answer<ClientMessage>(sending)

    const idle = await memoryOf(serving, true)
    const cpuBefore = await cpuOf(serving)
    const result = await run(sending, { kind: client, port: ready.port, size, chunkSize })
    const cpu = (await cpuOf(serving)) - cpuBefore
    const after = await memoryOf(serving, false)

    const stored = await sha256OfFile(join(folder, decodeURIComponent(result.url)))
    if (stored !== expectedSha256(size, chunkSize)) throw new Error(`${server}: the stored file has other bytes`)
    return {
      mbPerSecond: size / 1e6 / (result.totalMs / 1000),
      completeMs: result.completeMs,
      serverCpuPerGiB: cpu / (size / GiB),
      clientCpuPerGiB: result.cpuSeconds / (size / GiB),
      rssGrowthMiB: idle && after && (after.peak - idle.now) / MiB,
      peakRssMiB: after && after.peak / MiB,
    }
  } finally {
    for (const child of children) await end(child)
    await rm(folder, { recursive: true, force: true })
    folders.delete(folder)
  }
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
