/**
 * Many clients for a long time: bodies that break off, a storage that fails now and then, a server that is killed. Short here;
 * `npm run test:soak -- --minutes 30` makes it long.
 */
import { Agent, request as httpRequest } from 'node:http'
import { setTimeout as wait } from 'node:timers/promises'
import { afterAll, expect, it } from 'vitest'
import { measured, survived } from '../support/fault-points.ts'
import type { Costs, Counts } from '../support/measured-server.ts'
import { type ServerProcess, startServer } from '../support/process.ts'
import { bytes, seeded, sha256 } from '../support/random.ts'
import { doubleTarget } from '../support/s3-target.ts'
import { tempFolder } from '../support/temp-folder.ts'

const KiB = 1024
const minutes = Number(process.env.SOAK_MINUTES ?? 0.5)
const clients = Number(process.env.SOAK_CLIENTS ?? 12)
const killEvery = Math.min(60_000, minutes * 60_000 * 0.2)
const seed = Number(process.env.SOAK_SEED ?? 1)
const agent = new Agent({ keepAlive: true, maxSockets: clients * 2 })
const content = bytes(16 * KiB * KiB, seed)
const codes = ['reset', 'lost-response', 503, 500] as const
const operations = [
  'UploadPart',
  'CreateMultipartUpload',
  'CompleteMultipartUpload',
  'ListParts',
  'PutObject',
  'HeadObject',
]

afterAll(() => agent.destroy())

interface Answer {
  readonly status: number
  readonly body: Record<string, unknown>
}

it(
  `nothing is lost in ${minutes} minutes of ${clients} clients, kills and failing storage (seed ${seed}) [I01, I06]`,
  async () => {
    const random = seeded(seed)
    const target = await doubleTarget()
    const { endpoint, region, accessKeyId, secretAccessKey, bucket, double } = target
    const s3 = { endpoint, region, accessKeyId, secretAccessKey, bucket }
    const tempDir = tempFolder()
    const source = 'test/support/measured-server.ts'
    let server: Promise<ServerProcess> = startServer({ tempDir, s3 }, source)
    const log = {
      created: 0,
      chunks: 0,
      bytes: 0,
      completed: 0,
      broken: 0,
      refused: 0,
      outlived: 0,
      lost: 0,
      wrong: 0,
      kills: 0,
    }
    const open = new Map<string, Map<number, number>>()
    const refusals = new Map<string, number>()
    const times: { at: number; took: number }[] = []
    const started = Date.now()
    let failing = true
    let over = false

    async function call(
      method: string,
      path: string,
      data?: Buffer | object,
      breakAt?: number,
    ): Promise<Answer | null> {
      const { port } = await server
      const body = data === undefined || Buffer.isBuffer(data) ? data : Buffer.from(JSON.stringify(data))
      const type = Buffer.isBuffer(data) ? 'application/octet-stream' : 'application/json'
      const headers = body ? { 'Content-Type': type, 'Content-Length': body.length } : {}
      return new Promise((resolve) => {
        const sent = httpRequest({ agent, host: '127.0.0.1', port, method, path, headers }, (response) => {
          const pieces: Buffer[] = []
          response.on('data', (piece: Buffer) => pieces.push(piece))
          response.on('error', () => resolve(null))
          response.on('close', () => {
            const text = Buffer.concat(pieces).toString()
            resolve(response.complete ? { status: response.statusCode ?? 0, body: JSON.parse(text) } : null)
          })
        })
        sent.on('error', () => resolve(null))
        if (breakAt === undefined || !body) return void sent.end(body)
        sent.on('close', () => resolve(null))
        sent.write(body.subarray(0, breakAt), () => setTimeout(() => sent.destroy(), 2))
      })
    }

    /** Until it was answered, as clients do; what no retry mends fails the test. */
    async function insist(method: string, path: string, data?: Buffer | object): Promise<Answer['body']> {
      for (;;) {
        const answer = await call(method, path, data)
        if (answer?.status === 200) return answer.body
        if (answer && answer.status < 500 && ![408, 423, 429].includes(answer.status)) {
          throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`)
        }
        if (answer) {
          log.refused += 1
          const reason = `${method} ${path.split('?')[0]?.replace(/[0-9a-f-]{36}/, ':id')} ${answer.status} ${answer.body.code}`
          refusals.set(reason, (refusals.get(reason) ?? 0) + 1)
        }
        await wait(50)
      }
    }

    async function upload(): Promise<void> {
      const size = random.integer(1, 12 * KiB * KiB)
      const from = random.integer(0, content.length - size)
      const file = content.subarray(from, from + size)
      const chunkSize = random.integer(256 * KiB, 2 * KiB * KiB)
      const { uploadId } = await insist('POST', '/upload/init', { fileName: 'a.bin', totalSize: size, chunkSize })
      log.created += 1
      const id = String(uploadId)
      const acknowledged = new Map<number, number>()
      open.set(id, acknowledged)
      const indexes = random.shuffle(Array.from({ length: Math.ceil(size / chunkSize) }, (_, index) => index))
      for (const index of indexes) {
        const chunk = file.subarray(index * chunkSize, (index + 1) * chunkSize)
        const path = `/upload/chunk?uploadId=${id}&chunkIndex=${index}`
        if (random.next() < 0.05 && chunk.length > 1) {
          await call('POST', path, chunk, random.integer(0, chunk.length - 1))
          log.broken += 1
        }
        const start = performance.now()
        await insist('POST', path, chunk)
        times.push({ at: Date.now() - started, took: performance.now() - start })
        acknowledged.set(index, log.kills)
        log.chunks += 1
        log.bytes += chunk.length
      }
      const { key } = await insist('POST', '/upload/complete', { uploadId: id })
      log.completed += 1
      open.delete(id)
      if (sha256(await double.read(bucket, String(key))) !== sha256(file)) log.wrong += 1
      for (const kills of acknowledged.values()) if (kills < log.kills) log.outlived += 1
      double.buckets.get(bucket)?.objects.delete(String(key))
    }

    async function kill(): Promise<void> {
      const old = await server
      server = old.kill().then(() => startServer({ tempDir, s3 }, source))
      log.kills += 1
      await server
      for (const [id, acknowledged] of open) {
        const before = [...acknowledged].filter(([, kills]) => kills < log.kills)
        const { received, state } = await insist('GET', `/upload/progress/${id}`)
        if (state === 'completed') continue
        const has = (index: number) => (received as [number, number][]).some(([a, b]) => a <= index && index <= b)
        log.lost += before.filter(([index]) => !has(index)).length
      }
    }

    const worker = async () => {
      while (!over) await upload()
    }
    const troubled = (async () => {
      for (; !over; await wait(100)) {
        if (!failing || random.next() > 0.04) continue
        const operation = operations[random.integer(0, operations.length - 1)] ?? ''
        double.fail(operation, { status: codes[random.integer(0, codes.length - 1)] ?? 503 })
      }
    })()
    const workers = Array.from({ length: clients }, worker)
    const ended = Promise.all(workers)
    ended.catch(() => {
      over = true
    })
    const report = setInterval(
      () => console.log(JSON.stringify({ ...log, open: open.size, refusals: Object.fromEntries(refusals) })),
      killEvery,
    )
    const slopes: number[] = []
    while (Date.now() - started < minutes * 60_000 * 0.8 && !over) {
      const [from, at] = [((await (await server).ask('costs')) as Costs).rss, Date.now()]
      await wait(killEvery)
      const to = ((await (await server).ask('costs')) as Costs).rss
      slopes.push((to - from) / KiB / KiB / ((Date.now() - at) / 60_000))
      await kill()
    }
    // The end is without kills: what the server has counted must be what its clients have seen.
    over = true
    await ended
    over = false
    failing = false
    await troubled.catch(() => {})
    const [mine, theirs] = [{ ...log }, (await (await server).ask('counts')) as Counts]
    const rest = Promise.all(Array.from({ length: clients }, worker))
    await wait(Math.max(2_000, minutes * 60_000 * 0.2))
    over = true
    await rest
    const now = (await (await server).ask('counts')) as Counts
    for (const name of ['created', 'chunks', 'bytes', 'completed'] as const) {
      expect(now[name] - theirs[name], `${name}, counted by the server`).toBe(log[name] - mine[name])
    }
    await target.close()
    clearInterval(report)
    const half = (Date.now() - started) / 2
    const p99 = (list: readonly { took: number }[]) => {
      const sorted = list.map(({ took }) => took).sort((a, b) => a - b)
      return Math.round(sorted[Math.floor(sorted.length * 0.99)] ?? 0)
    }
    console.log(JSON.stringify({ ...log, seconds: Math.round((Date.now() - started) / 1000) }))
    survived('kill', `soak, seed ${seed}`, log.outlived)
    measured('soak: chunk, p99, first half', p99(times.filter(({ at }) => at < half)), 'ms')
    measured('soak: chunk, p99, second half', p99(times.filter(({ at }) => at >= half)), 'ms')
    // Within the first minute a server warms up.
    if (killEvery >= 60_000)
      measured('soak: RSS slope of a server, last life', Math.round(slopes.at(-1) ?? 0), 'MiB/min')
    expect({ lost: log.lost, wrong: log.wrong }).toEqual({ lost: 0, wrong: 0 })
    expect(log.kills).toBeGreaterThan(0)
  },
  minutes * 60_000 * 3 + 120_000,
)
