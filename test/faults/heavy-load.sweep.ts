/** Small heaps, many requests, many leftovers: what a server costs when much is asked of it. */
import { createHash } from 'node:crypto'
import { createReadStream, readFileSync, writeFileSync } from 'node:fs'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { Agent, request as httpRequest } from 'node:http'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setTimeout as wait } from 'node:timers/promises'
import { afterAll, beforeEach, expect, it } from 'vitest'
import { encodeLine } from '../../src/sessions/session-journal.ts'
import { epilogue } from '../support/epilogue.ts'
import { measured, survived } from '../support/fault-points.ts'
import type { Costs } from '../support/measured-server.ts'
import { nativeClient } from '../support/native-client.ts'
import { startServer } from '../support/process.ts'
import { bytes } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'
import { newRecord } from './session-store-support.ts'

const source = 'test/support/measured-server.ts'
const MiB = 1024 * 1024
const piece = bytes(64 * 1024)
const agent = new Agent({ keepAlive: true })
let settings: { tempDir: string; directory: string }

beforeEach(() => {
  settings = { tempDir: tempFolder(), directory: tempFolder() }
})
afterAll(() => agent.destroy())

/** Starts Node with a heap of so many MiB. */
function heapOf(mebibytes: number): readonly string[] {
  return ['env', `NODE_OPTIONS=--max-old-space-size=${mebibytes}`]
}

/** A chunk of `size` bytes (a multiple of 64 KiB), made of the same piece again and again. */
async function sendChunk(url: string, id: string, index: number, size: number): Promise<number> {
  const target = `${url}/upload/chunk?uploadId=${id}&chunkIndex=${index}`
  const headers = { 'Content-Type': 'application/octet-stream', 'Content-Length': size }
  const request = httpRequest(target, { method: 'POST', agent: false, headers })
  const status = new Promise<number>((resolve, reject) => {
    request.on('response', (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
    request.on('error', reject)
  })
  await pipeline(function* () {
    for (let at = 0; at < size; at += piece.length) yield piece
  }, request)
  return status
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const data of createReadStream(path)) hash.update(data as Buffer)
  return hash.digest('hex')
}

function hashOfPieces(size: number): string {
  const hash = createHash('sha256')
  for (let at = 0; at < size; at += piece.length) hash.update(piece)
  return hash.digest('hex')
}

/** Resident memory of a process, bytes: now, or the highest since `forgetPeak`. */
function resident(pid: number, line: 'VmRSS' | 'VmHWM'): number {
  const [, kilobytes = '0'] = new RegExp(`${line}:\\s+(\\d+)`).exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kilobytes) * 1024
}

function forgetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5')
}

const read = (directory: string) => async (key: string) => readFileSync(join(directory, key))

it('one chunk of 64 MiB goes through a heap of 48 MiB, and memory does not grow with it [H01]', async () => {
  const config = { maxChunkSize: 64 * MiB }
  const server = await startServer({ ...settings, config }, source, heapOf(48))
  const client = nativeClient(server.url)
  // The first requests load code and warm up.
  for (let n = 0; n < 3; n++) expect(await sendChunk(server.url, await client.start(4 * MiB), 0, 4 * MiB)).toBe(200)
  await server.ask('costs')
  const before = resident(server.pid, 'VmRSS')
  forgetPeak(server.pid)
  const id = await client.start(64 * MiB)
  expect(await sendChunk(server.url, id, 0, 64 * MiB)).toBe(200)
  const growth = (resident(server.pid, 'VmHWM') - before) / MiB
  const { body } = await client.complete(id)
  expect(await hashOf(join(settings.directory, body.key))).toBe(hashOfPieces(64 * MiB))
  measured('RSS growth while one chunk of 64 MiB comes in, heap of 48 MiB', Math.round(growth), 'MiB')
  // The goal is 32, and is not always met. A body that is kept would be 64 at least.
  expect(growth).toBeLessThan(56)
  await epilogue({ ...settings, ...server, read: read(settings.directory) })
})

it('a hundred chunks of 8 MiB at a time go through a heap of 64 MiB [D07]', async () => {
  const config = { maxChunkSize: 8 * MiB }
  const server = await startServer({ ...settings, config }, source, heapOf(64))
  const client = nativeClient(server.url)
  const before = resident(server.pid, 'VmRSS')
  const id = await client.start(800 * MiB, { chunkSize: 8 * MiB })
  const indexes = Array.from({ length: 100 }, (_, index) => index)
  const statuses = await Promise.all(indexes.map((index) => sendChunk(server.url, id, index, 8 * MiB)))
  expect(statuses.filter((status) => status !== 200)).toEqual([])
  const growth = (resident(server.pid, 'VmHWM') - before) / MiB
  const { body, status } = await client.complete(id)
  expect(status, JSON.stringify(body)).toBe(200)
  expect(await hashOf(join(settings.directory, body.key))).toBe(hashOfPieces(800 * MiB))
  measured('RSS growth while 100 chunks of 8 MiB come in at a time, heap of 64 MiB', Math.round(growth), 'MiB')
  // 800 MiB are on their way: a server that kept them would be dead. 1 MiB of buffers for each request, and the heap.
  expect(growth).toBeLessThan(260)
  survived('crash', '100 parallel chunks of 8 MiB with a heap of 64 MiB')
  await epilogue({ ...settings, ...server, read: read(settings.directory) })
})

it('many polls for progress leave the heap as it was [H04]', async () => {
  const polls = Number(process.env.POLLS ?? 10_000)
  const server = await startServer(settings, source)
  const client = nativeClient(server.url)
  const id = await client.start(1_000_000, { chunkSize: 100_000 })
  for (const index of [0, 3, 5]) await client.chunk(id, index, bytes(100_000))
  const poll = () =>
    new Promise<void>((resolve, reject) => {
      const request = httpRequest(`${server.url}/upload/progress/${id}`, { agent }, (response) => {
        response.resume().on('end', resolve)
        expect(response.statusCode).toBe(200)
      })
      request.on('error', reject).end()
    })
  const run = async (count: number) => {
    let left = count
    const worker = async () => {
      while (left-- > 0) await poll()
    }
    await Promise.all([worker(), worker(), worker(), worker()])
  }
  await run(2_000)
  const before = (await server.ask('costs')) as Costs
  await run(polls)
  const after = (await server.ask('costs')) as Costs
  const growth = (after.heap - before.heap) / 1024
  measured(`heap growth after ${polls} polls for progress`, Math.round(growth), 'KiB')
  // 100 bytes for each poll of the test would show.
  expect(growth).toBeLessThan(900)
})

/** Uploads of a process that ended a day ago: a record each, and ten chunk files. */
async function leaveBehind({ tempDir }: { tempDir: string }, uploads: number, chunksEach: number): Promise<void> {
  const yesterday = Date.now() - 24 * 60 * 60_000
  const make = async (n: number) => {
    const id = `00000000-0000-4000-8000-${n.toString(16).padStart(12, '0')}`
    const record = newRecord({
      ...{ id, expiresAt: yesterday, createdAt: yesterday, updatedAt: yesterday },
      ...{ totalSize: 1_000_000, partSize: 1_000_000 },
      chunks: [{ index: 1, count: chunksEach, size: 10, offset: null, loose: 1 }],
    })
    const session = join(tempDir, 'sessions', id)
    const staging = join(tempDir, 'staging', id)
    await mkdir(session, { recursive: true, mode: 0o700 })
    await mkdir(join(staging, 'claims'), { recursive: true, mode: 0o700 })
    const line = encodeLine({ kind: 'r', number: 1, nonce: 'x', json: JSON.stringify(record) })
    await writeFile(join(session, `${n.toString(36)}a.log`), line, { mode: 0o600 })
    for (let i = 1; i <= chunksEach; i++) await writeFile(join(staging, `chunk-${i}-1`), '0123456789', { mode: 0o600 })
  }
  await mkdir(join(tempDir, 'sessions'), { mode: 0o700 })
  for (let n = 0; n < uploads; n += 50) await Promise.all(Array.from({ length: 50 }, (_, i) => make(n + i)))
}

it('a start with 10 000 old uploads and 100 000 chunk files: listens at once, clears up in the background [D04]', async () => {
  const uploads = Number(process.env.LEFT_BEHIND ?? 10_000)
  await leaveBehind(settings, uploads, 10)
  const config = { cleanupInterval: 6_000, maxSessions: 100_000 }
  const start = async (folders: object) => {
    const started = performance.now()
    const server = await startServer({ ...folders, config }, source)
    return { server, listening: performance.now() - started }
  }
  // What this machine takes for it now.
  const empty = await start({ tempDir: tempFolder(), directory: tempFolder() })
  await empty.server.kill()
  const started = performance.now()
  const { server, listening } = await start(settings)
  measured('from start to listening, with nothing left behind', Math.round(empty.listening), 'ms')
  measured(`from start to listening, with ${uploads} old uploads`, Math.round(listening), 'ms')
  expect(listening).toBeLessThan(Math.max(2_000, 2 * empty.listening))
  await server.ask('costs')
  await wait(3_000)
  const idle = ((await server.ask('costs')) as Costs).stall
  const client = nativeClient(server.url)
  const left = async () => (await readdir(join(settings.tempDir, 'staging'))).length
  let [slowest, stall] = [0, 0]
  for (const deadline = Date.now() + 500_000; (await left()) > 0 && Date.now() < deadline; ) {
    const asked = performance.now()
    const id = await client.start(5)
    expect((await client.chunk(id, 0, Buffer.from('hello'))).status).toBe(200)
    expect((await client.complete(id)).status).toBe(200)
    slowest = Math.max(slowest, performance.now() - asked)
    stall = Math.max(stall, ((await server.ask('costs')) as Costs).stall)
    await wait(250)
  }
  expect(await left()).toBe(0)
  measured('longest stall of the event loop while they are cleared up', Math.round(stall), 'ms')
  measured('slowest upload of three requests meanwhile', Math.round(slowest), 'ms')
  measured('until all were cleared up', Math.round((performance.now() - started) / 1000), 's')
  measured('longest stall of an idle event loop before', Math.round(idle), 'ms')
  // The goal is 50; a busy machine adds its own. To look at everything at once would take seconds.
  expect(stall).toBeLessThan(Math.max(1_000, 5 * idle))
  survived('crash', `start with ${uploads} old uploads`)
  await epilogue({ ...settings, ...server, read: read(settings.directory) })
}, 900_000)
