/** What is held while much is going on, and what is given back: memory, the event loop, open files, room in `tempDir`. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { Agent, request as httpRequest } from 'node:http'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { Readable } from 'node:stream'
import { setTimeout as wait } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, it } from 'vitest'
import { createUploadEngine } from '../../src/create-upload-engine.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { StorageAdapter } from '../../src/types.ts'
import { parallel, testEngine } from '../support/engine.ts'
import { epilogue, openFiles } from '../support/epilogue.ts'
import { measured } from '../support/fault-points.ts'
import type { Costs } from '../support/measured-server.ts'
import { nativeClient } from '../support/native-client.ts'
import { startServer } from '../support/process.ts'
import { bytes, sha256 } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'

const MiB = 1024 * 1024
setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

function percentile(values: readonly number[], share: number): number {
  return Math.round([...values].sort((a, b) => a - b)[Math.floor(values.length * share)] ?? Number.NaN)
}

/** Resident memory of a process, MiB. */
function residentOf(pid: number): number {
  const [, kilobytes] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kilobytes) / 1024
}

it('a completion of 2 GiB neither fills the memory nor holds up others [H02]', async () => {
  const size = 2048 * MiB
  let stored = 0
  const nothing: StorageAdapter = {
    async upload(key, stream) {
      for await (const data of stream) stored += (data as Buffer).length
      return `nothing:${key}`
    },
  }
  const tempDir = tempFolder()
  const engine = createUploadEngine({ storage: nothing, tempDir, maxFileSize: size })
  const protocol = 'native'
  const piece = bytes(MiB)
  const { session } = await engine.create({ fileName: 'large.bin', totalSize: size, protocol })
  const body = Readable.from(
    (function* () {
      for (let at = 0; at < size; at += MiB) yield piece
    })(),
    { objectMode: false, highWaterMark: MiB },
  )
  await engine.append({ uploadId: session.id, protocol, offset: 0, body })
  collect()
  const before = process.memoryUsage().rss
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  let peak = 0
  const waits: number[] = []
  let over = false
  const others = (async () => {
    const { session: other } = await engine.create({ fileName: 'small.bin', totalSize: 64 * MiB, protocol })
    for (let index = 0; !over && index < 1000; index++) {
      const start = performance.now()
      await engine.writeChunk({ uploadId: other.id, protocol, index, body: Readable.from([piece.subarray(0, 65_536)]) })
      waits.push(performance.now() - start)
      peak = Math.max(peak, process.memoryUsage().rss)
    }
  })()
  const object = await engine.complete({ uploadId: session.id, protocol })
  over = true
  await others
  delay.disable()
  expect([object.size, stored]).toEqual([size, size])
  const growth = (peak - before) / MiB
  measured('RSS growth during a completion of 2 GiB', Math.round(growth), 'MiB')
  measured('event-loop delay, p99, during a completion of 2 GiB', Math.round(delay.percentile(99) / 1e6), 'ms')
  measured('chunk of 64 KiB, p99, during a completion of 2 GiB', percentile(waits, 0.99), 'ms')
  expect(growth).toBeLessThan(128)
  await engine.close()
})

it('ten thousand bodies that broke off leave neither files nor memory behind [H03]', async () => {
  const [tempDir, directory] = [tempFolder(), tempFolder()]
  const server = await startServer({ tempDir, directory }, 'test/support/measured-server.ts')
  const client = nativeClient(server.url)
  const id = await client.start(100 * MiB, { chunkSize: MiB })
  const data = bytes(20_000)
  const breakOff = (index: number) =>
    new Promise<void>((resolve) => {
      const headers = { 'Content-Type': 'application/octet-stream', 'Content-Length': MiB }
      const path = `${server.url}/upload/chunk?uploadId=${id}&chunkIndex=${index % 100}`
      const request = httpRequest(path, { method: 'POST', agent: false, headers })
      request.on('error', () => {})
      request.on('close', () => resolve())
      request.write(data, () => setTimeout(() => request.destroy(), index % 5))
    })
  const run = (count: number) =>
    parallel(
      20,
      Array.from({ length: count }, (_, i) => i),
      breakOff,
    )
  const quiet = 60
  // The clients do not wait for the server: it may be behind.
  const settled = () => expect.poll(() => openFiles(server.pid), { timeout: 120_000 }).toBeLessThan(quiet)
  await run(2_000)
  await settled()
  const files = openFiles(server.pid)
  const before = (await server.ask('costs')) as Costs
  await run(10_000)
  await settled()
  await expect.poll(() => openFiles(server.pid), { timeout: 30_000 }).toBeLessThanOrEqual(files)
  const after = (await server.ask('costs')) as Costs
  const slope = (after.heap - before.heap) / 10_000
  measured('open files over base after 10 000 broken bodies', Math.max(0, openFiles(server.pid) - files), 'files')
  measured('heap growth for each of 10 000 broken bodies', Math.round(slope), 'bytes')
  measured('RSS growth over 10 000 broken bodies', Math.round((after.rss - before.rss) / MiB), 'MiB')
  expect(slope).toBeLessThan(100)
  const left = readdirSync(join(tempDir, 'staging', id)).filter((name) => name !== 'part-1' && name !== 'claims')
  expect(left).toEqual([])
  expect((await client.progress(id)).body.uploadedBytes).toBe(0)
  await epilogue({ url: server.url, tempDir, pid: server.pid, read: (key) => readFile(join(directory, key)) })
})

it('a storage that is slower than the clients slows them; what waits on the disk is bounded [H05]', async () => {
  const storage = new MemoryStorageAdapter({ multipart: { minPartSize: MiB, partSize: MiB } })
  const multipart = storage.multipart as NonNullable<typeof storage.multipart>
  const uploadPart = multipart.uploadPart.bind(multipart)
  multipart.uploadPart = async (...part) => {
    await wait(250)
    return uploadPart(...part)
  }
  const { client, tempDir } = testEngine({ storage, maxFileSize: 100 * MiB })
  const file = bytes(64 * MiB)
  const id = await client.create(file.length, { chunkSize: MiB })
  let most = 0
  let over = false
  const watch = (async () => {
    for (; !over; await wait(5)) {
      const folder = join(tempDir, 'staging', id)
      const names = (existsSync(folder) ? readdirSync(folder) : []).filter((name) => name.startsWith('part-'))
      most = Math.max(most, names.length)
    }
  })()
  await parallel(
    4,
    Array.from({ length: 64 }, (_, i) => i),
    (i) => client.write(id, i, file.subarray(i * MiB, (i + 1) * MiB)),
  )
  over = true
  await watch
  measured('parts of 1 MiB on the disk at once while the storage takes 16 MiB/s', most, 'parts')
  // Eight that wait, four that are sent, four that come in.
  expect(most).toBeLessThanOrEqual(17)
  const { key } = await client.complete(id)
  expect(sha256(storage.read(key) ?? Buffer.alloc(0))).toBe(sha256(file))
})

it('two hundred clients are served at once [H02]', async () => {
  const [tempDir, directory] = [tempFolder(), tempFolder()]
  const server = await startServer({ tempDir, directory })
  const client = nativeClient(server.url)
  const agent = new Agent({ keepAlive: true, maxSockets: 200 })
  const data = bytes(64 * 1024)
  const idle = residentOf(server.pid)
  const ids = await Promise.all(
    Array.from({ length: 200 }, () => client.start(20 * data.length, { chunkSize: data.length })),
  )
  const waits: number[] = []
  let peak = 0
  const send = (id: string, index: number) =>
    new Promise<void>((resolve, reject) => {
      const start = performance.now()
      const headers = { 'Content-Type': 'application/octet-stream', 'Content-Length': data.length }
      const path = `${server.url}/upload/chunk?uploadId=${id}&chunkIndex=${index}`
      const request = httpRequest(path, { method: 'POST', agent, headers }, (response) => {
        response.resume()
        response.on('end', () => {
          waits.push(performance.now() - start)
          if (response.statusCode === 200) resolve()
          else reject(new Error(`status ${response.statusCode}`))
        })
      })
      request.on('error', reject)
      request.end(data)
    })
  await Promise.all(
    ids.map(async (id) => {
      for (let index = 0; index < 20; index++) {
        await send(id, index)
        if (index % 5 === 0) peak = Math.max(peak, residentOf(server.pid))
      }
    }),
  )
  agent.destroy()
  measured('chunk of 64 KiB with 200 clients, p50', percentile(waits, 0.5), 'ms')
  measured('chunk of 64 KiB with 200 clients, p99', percentile(waits, 0.99), 'ms')
  measured('RSS over idle with 200 clients', Math.round(peak - idle), 'MiB')
  expect(waits).toHaveLength(4_000)
  expect(peak - idle).toBeLessThan(200)
})
