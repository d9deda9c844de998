/**
 * What several nodes cost that share nothing but Redis and S3: how long a lock takes from node to node, what one node and
 * three carry with the same clients, and how often they ask Redis and S3. `npm run nodes [-- --hand-overs 200 --mib 512 --clients 6]`.
 * Needs `redis-server`; S3 is a process that only counts and keeps bytes. Everything runs on this machine.
 */
import { type ChildProcess, execFileSync, fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { Agent, type ClientRequest, type IncomingHttpHeaders, request } from 'node:http'
import { type AddressInfo, createServer } from 'node:net'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { bucket, type SinkMessage } from '../bench/messages.ts'
import { answerOf, cpuSecondsOf, Stage } from '../bench/processes.ts'
import { bundleOf } from '../test/support/bundle.ts'

const { values } = parseArgs({
  options: {
    'hand-overs': { type: 'string', default: '200' },
    mib: { type: 'string', default: '512' },
    clients: { type: 'string', default: '6' },
  },
})
const MiB = 1024 * 1024
const agent = new Agent({ keepAlive: true })
const stage = await Stage.open(tmpdir(), 'nodes')
const nodes: { readonly child: ChildProcess; readonly port: number }[] = []
const children = new Set<ChildProcess>()
// However it ends.
process.once('exit', () => {
  for (const child of children) child.kill('SIGKILL')
})
try {
  const redisPort = await startRedis()
  const sink = stage.start('s3-sink.ts', ['0', 'md5'])
  const ready = await answerOf<SinkMessage>(sink)
  const s3Port = ready.type === 'ready' ? Number(new URL(ready.endpoint).port) : 0
  for (const number of [0, 1, 2]) nodes.push(await startNode(number, redisPort, s3Port))
  console.log(`${cpus().length} cores, Node ${process.versions.node}; clients, S3 and Redis on the same machine\n`)
  await handOvers(Number(values['hand-overs']))
  for (const [name, size] of [
    ['chunks that are parts, 5 MiB', 5 * MiB],
    ['chunks that wait in S3, 1 MiB', MiB],
  ] as const) {
    await throughput('warm-up', nodes, size, 192 * MiB, redisPort, sink)
    for (const count of [1, 3]) {
      await throughput(
        `${name}, ${count} node(s)`,
        nodes.slice(0, count),
        size,
        Number(values.mib) * MiB,
        redisPort,
        sink,
      )
    }
  }
} finally {
  agent.destroy()
  for (const child of children) child.kill('SIGKILL')
  await stage.close()
}

async function startRedis(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  stage.startProgram('redis-server', ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--dir', stage.folder])
  for (let tries = 0; tries < 200; tries++) {
    try {
      redisCli(port, 'PING')
      return port
    } catch {
      await wait(25)
    }
  }
  throw new Error('redis-server does not answer: is it on the PATH?')
}

function redisCli(port: number, ...command: string[]): string {
  return execFileSync('redis-cli', ['-p', `${port}`, ...command], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
}

async function startNode(number: number, redisPort: number, s3Port: number) {
  const keys = { accessKeyId: 'doublekey', secretAccessKey: 'doublesecret0123456789' }
  const settings = {
    tempDir: join(stage.folder, `node-${number}`),
    s3: { endpoint: `http://127.0.0.1:${s3Port}`, region: 'us-east-1', bucket, ...keys },
    redis: { kind: 'redis', port: redisPort, prefix: 'nodes' },
    config: { staging: 'storage', maxChunkSize: 8 * MiB },
  }
  const source = bundleOf('test/support/server-process.ts')
  const child = fork(source, [JSON.stringify(settings)], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
  children.add(child)
  const { port } = await answerOf<{ port: number }>(child)
  return { child, port }
}

interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
}

function open(port: number, method: string, path: string, headers: Record<string, string | number>) {
  const sent = request({ agent, host: '127.0.0.1', port, method, path, headers })
  const answer = new Promise<Answer>((resolve, reject) => {
    sent.on('error', reject)
    sent.on('response', (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (data) => {
        text += data
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }))
      response.on('error', reject)
    })
  })
  return { sent, answer }
}

async function ask(port: number, method: string, path: string, headers: Record<string, string | number>, body: Buffer) {
  const { sent, answer } = open(port, method, path, { ...headers, 'Content-Length': body.length })
  sent.end(body)
  const told = await answer
  if (told.status >= 300) throw new Error(`${method} ${path}: ${told.status} ${told.text}`)
  return told
}

/** A PATCH has fallen silent on one node; the client asks another how far it is, then goes on there. */
async function handOvers(count: number): Promise<void> {
  const piece = randomBytes(20_000)
  const tus = { 'Tus-Resumable': '1.0.0' }
  const size = 100 * count * piece.length
  const created = await ask(portOf(0), 'POST', '/files', { ...tus, 'Upload-Length': size }, Buffer.alloc(0))
  const path = new URL(created.headers.location ?? '', 'http://x').pathname
  const times: Record<'HEAD' | 'PATCH', number[]> = { HEAD: [], PATCH: [] }
  let offset = 0
  for (let i = 0; times.PATCH.length < count; i++) {
    const holder = silentPatch(portOf(i), path, offset, size - offset, piece)
    await wait(30)
    const asked = performance.now()
    const head = await ask(portOf(i + 1), 'HEAD', path, tus, Buffer.alloc(0))
    const headTime = performance.now() - asked
    const reached = Number(head.headers['upload-offset'])
    // The holder was not there yet: nothing was handed over.
    const isHandedOver = reached > offset
    if (!isHandedOver) holder.destroy()
    offset = isHandedOver ? reached : await offsetOf(portOf(i + 1), path)
    if (!isHandedOver) continue
    const headers = { ...tus, 'Upload-Offset': offset, 'Content-Type': 'application/offset+octet-stream' }
    const sent = performance.now()
    const patched = await ask(portOf(i + 1), 'PATCH', path, headers, piece.subarray(0, 1000))
    times.PATCH.push(performance.now() - sent)
    times.HEAD.push(headTime)
    offset = Number(patched.headers['upload-offset'])
    holder.destroy()
  }
  for (const [name, all] of Object.entries(times)) {
    const sorted = all.toSorted((a, b) => a - b)
    const at = (share: number) =>
      (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0).toFixed(0)
    console.log(`hand-over, ${name} on another node: median ${at(0.5)} ms, p99 ${at(0.99)} ms (n = ${count})`)
  }
  console.log('')
}

async function offsetOf(port: number, path: string): Promise<number> {
  await wait(200)
  const head = await ask(port, 'HEAD', path, { 'Tus-Resumable': '1.0.0' }, Buffer.alloc(0))
  return Number(head.headers['upload-offset'])
}

function portOf(number: number): number {
  return nodes[number % nodes.length]?.port ?? 0
}

function silentPatch(port: number, path: string, offset: number, announced: number, body: Buffer): ClientRequest {
  const { sent, answer } = open(port, 'PATCH', path, {
    'Tus-Resumable': '1.0.0',
    'Content-Type': 'application/offset+octet-stream',
    'Upload-Offset': offset,
    'Content-Length': announced,
  })
  answer.catch(() => {})
  sent.write(body)
  return sent
}

async function throughput(
  name: string,
  chosen: typeof nodes,
  chunkSize: number,
  total: number,
  redisPort: number,
  sink: ChildProcess,
): Promise<void> {
  const clients = Number(values.clients)
  const body = randomBytes(chunkSize)
  const perClient = Math.max(1, Math.round(total / clients / chunkSize))
  const cpu = async () => (await Promise.all(chosen.map(({ child }) => cpuSecondsOf(child)))).reduce((a, b) => a + b, 0)
  const calls = async () => {
    sink.send([])
    const told = await answerOf<SinkMessage>(sink)
    return told.type === 'stored' ? Object.values(told.calls).reduce((sum, count) => sum + count, 0) : 0
  }
  const before = { cpu: await cpu(), calls: await calls() }
  redisCli(redisPort, 'CONFIG', 'RESETSTAT')
  const start = performance.now()
  let turn = 0
  const next = () => chosen[turn++ % chosen.length]?.port ?? 0
  const client = async () => {
    const json = { 'Content-Type': 'application/json' }
    const init = { fileName: 'a.bin', totalSize: perClient * chunkSize, mimeType: 'a/b', chunkSize }
    const told = await ask(next(), 'POST', '/upload/init', json, Buffer.from(JSON.stringify(init)))
    const { uploadId } = JSON.parse(told.text)
    const raw = { 'Content-Type': 'application/octet-stream' }
    for (let index = 0; index < perClient; index++) {
      await ask(next(), 'POST', `/upload/chunk?uploadId=${uploadId}&chunkIndex=${index}`, raw, body)
    }
    await ask(next(), 'POST', '/upload/complete', json, Buffer.from(JSON.stringify({ uploadId })))
  }
  await Promise.all(Array.from({ length: clients }, client))
  const seconds = (performance.now() - start) / 1000
  if (name === 'warm-up') return
  const chunks = clients * perClient
  const bytes = chunks * chunkSize
  const scripts = [...redisCli(redisPort, 'INFO', 'commandstats').matchAll(/^cmdstat_eval(?:sha)?:calls=(\d+)/gm)]
  const commands = scripts.reduce((sum, [, count]) => sum + Number(count), 0)
  const spent = (await cpu()) - before.cpu
  console.log(`${name}:`)
  console.log(`  ${(bytes / MiB / seconds).toFixed(0)} MiB/s, ${(chunks / seconds).toFixed(0)} chunks/s`)
  console.log(`  ${((spent * 1024 * MiB) / bytes).toFixed(1)} CPU s per GiB of the nodes`)
  console.log(
    `  ${(commands / chunks).toFixed(2)} Redis scripts and ${(((await calls()) - before.calls) / chunks).toFixed(2)} S3 calls per chunk\n`,
  )
}
