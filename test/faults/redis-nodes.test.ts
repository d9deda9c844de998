/** Servers that share a Redis: processes on one `tempDir`, and nodes that have each their own. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { GetObjectCommand, ListObjectsV2Command } from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { nativeClient } from '../support/native-client.ts'
import { type ServerProcess, startServer } from '../support/process.ts'
import { bytes, cut, seeded, sha256 } from '../support/random.ts'
import {
  type ClientKind,
  clientKinds,
  describeRedis,
  newPrefix,
  type RedisServer,
  startRedis,
} from '../support/redis-server.ts'
import { chunkCount, resumableClient } from '../support/resumable-client.ts'
import { clientOf, s3Target } from '../support/s3-target.ts'
import type { ServerSettings } from '../support/server-process.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'
import { eventually, tusClient } from '../support/tus-client.ts'

const MiB = 1024 * 1024
const seeds = Array.from({ length: Number(process.env.CRASH_SEEDS ?? 3) }, (_, i) => i + 1)
const unknown = '00000000-0000-4000-8000-000000000000'

type Pair<Item> = [Item, Item]

async function two(settings: () => ServerSettings): Promise<Pair<ServerProcess>> {
  return (await Promise.all([startServer(settings()), startServer(settings())])) as Pair<ServerProcess>
}

const nativeClients = (servers: Pair<ServerProcess>) =>
  servers.map(({ url }) => nativeClient(url)) as Pair<ReturnType<typeof nativeClient>>
const tusClients = (servers: Pair<ServerProcess>) =>
  servers.map(({ url }) => tusClient(`${url}/files`)) as Pair<ReturnType<typeof tusClient>>
/** The upload's URL as the other server has it. */
const onOther = (url: string, [a, b]: Pair<ServerProcess>) => url.replace(a.url, b.url)

describeRedis('servers that share a Redis', () => {
  let redis: RedisServer

  beforeAll(async () => {
    redis = await startRedis()
  })
  afterAll(() => redis.stop())

  const sharing = (kind: ClientKind, ttl = 10_000): ServerSettings & { directory: string } => ({
    tempDir: tempFolder(),
    directory: tempFolder(),
    redis: { kind, port: redis.port, prefix: newPrefix(), ttl },
  })

  describe.each(clientKinds)('and a tempDir, with the client %s', (kind) => {
    test.each(seeds)(
      'take chunks of one upload at random, some twice, and complete it at once (seed %i)',
      async (seed) => {
        const random = seeded(seed * 31)
        const settings = sharing(kind)
        const servers = await two(() => settings)
        const clients = nativeClients(servers)
        const any = () => clients[random.integer(0, 1)] ?? clients[0]
        const file = bytes(5 * MiB + seed, seed)
        const chunks = cut(file, random.integer(100_000, 600_000))
        const chunkSize = chunks[0]?.length ?? 0
        const id = await any().start(file.length, random.next() < 0.5 ? { chunkSize } : {})
        const queue = random.shuffle([...chunks.keys(), ...chunks.keys()]).values()
        const worker = async () => {
          for (const index of queue) {
            const { status, body } = await any().chunk(id, index, chunks[index] as Buffer)
            expect([status, body?.code]).toEqual([200, undefined])
          }
        }
        await Promise.all([worker(), worker(), worker(), worker()])
        const results = await Promise.all([...clients, ...clients, ...clients].map((client) => client.complete(id)))
        expect(results.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 200])
        expect(new Set(results.map(({ body }) => body.url)).size).toBe(1)
        expect(sha256(await readFile(join(settings.directory, results[0]?.body.key)))).toBe(sha256(file))
        expect((await filesBelow(settings.directory)).filter((name) => name.startsWith('uploads/'))).toHaveLength(1)
        expect(await filesBelow(join(settings.tempDir, 'staging'))).toEqual([])
      },
    )

    test('hand a tus upload over from one to the other, again and again, each byte once', async () => {
      const settings = sharing(kind)
      const servers = await two(() => settings)
      const [a, b] = tusClients(servers)
      const rounds = 40
      const piece = 20_000
      const file = bytes(2 * rounds * piece, 5)
      const url = await a.create(file.length)
      const urls = [url, onOther(url, servers)] as const
      const times: number[] = []
      let offset = 0
      for (let round = 0; round < rounds; round++) {
        // A PATCH that announces all the rest, and falls silent after a piece of it.
        const [holder, newcomer] = round % 2 === 0 ? [a, b] : [b, a]
        const [from, to] = round % 2 === 0 ? urls : [urls[1], urls[0]]
        const open = holder.openPatch(from, offset, file.subarray(offset, offset + piece), file.length - offset)
        await pause(30)
        const start = performance.now()
        const head = await newcomer.head(to)
        times.push(performance.now() - start)
        expect(head.status).toBe(200)
        const reached = Number(head.headers['upload-offset'])
        expect(reached).toBeGreaterThanOrEqual(offset)
        expect(reached).toBeLessThanOrEqual(offset + piece)
        offset = reached
        open.request.destroy()
      }
      times.sort((x, y) => x - y)
      const p99 = times[Math.floor(times.length * 0.99)] ?? 0
      console.info(
        `${kind}: HEAD on the other node: median ${times[rounds / 2]?.toFixed(0)} ms, p99 ${p99.toFixed(0)} ms`,
      )
      // Of which 100 ms are for what the holder still has to take in. Mostly all of it has arrived by then.
      expect(p99).toBeLessThan(1_400)
      expect(offset).toBeGreaterThan((rounds * piece) / 2)
      const done = await b.patch(urls[1], offset, file.subarray(offset))
      expect(done.status).toBe(204)
      const [name = ''] = (await filesBelow(settings.directory)).filter((path) => path.startsWith('uploads/'))
      expect(sha256(await readFile(join(settings.directory, name)))).toBe(sha256(file))
    })

    test('end by themselves after close, with uploads open', async () => {
      const servers = await two(() => sharing(kind))
      const id = await nativeClients(servers)[0].start(MiB)
      await nativeClients(servers)[0].chunk(id, 0, bytes(1000))
      const url = await tusClients(servers)[0].create(1000)
      await tusClients(servers)[0].patch(url, 0, bytes(10))
      expect(await servers[0].close()).toBe(0)
      expect(await servers[1].close()).toBe(0)
    })

    test('answer 503 and to HEAD 423 while Redis is away, and 404 when it has come back empty [G01]', async () => {
      const own = await startRedis()
      try {
        const settings: ServerSettings = {
          ...{ tempDir: tempFolder(), directory: tempFolder() },
          redis: { kind, port: own.port, prefix: newPrefix() },
        }
        const server = await startServer(settings)
        const [native, tus] = [nativeClient(server.url), tusClient(`${server.url}/files`)]
        const id = await native.start(MiB)
        const url = await tus.create(1000)
        await own.kill()
        const away = await Promise.all([
          native.progress(id),
          native.init({ fileName: 'a', totalSize: 1, mimeType: 'a/b' }),
        ])
        expect(away.map(({ status, body }) => [status, body.code])).toEqual(
          away.map(() => [503, 'STORAGE_UNAVAILABLE']),
        )
        for (const { text } of away) expect(text).not.toMatch(/127\.0\.0\.1|ECONN|edis/)
        expect((await tus.head(url)).status).toBe(423)
        expect((await tus.patch(url, 0, bytes(10))).status).toBe(503)
        expect((await tus.create(10).catch((error: Error) => error.message)).toString()).toContain('503')
        await own.start()
        await eventually(async () => expect((await native.progress(id)).status).toBe(404))
        expect((await native.progress(id)).text).toBe((await native.progress(unknown)).text)
        expect((await tus.head(url)).status).toBe(404)
        const again = await native.start(100)
        await native.chunk(again, 0, bytes(100))
        expect((await native.complete(again)).status).toBe(200)
      } finally {
        await own.stop()
      }
    })
  })

  describe('and a tempDir', () => {
    test('go on with the upload of a killed one when its lease has run out; until then it is 423', async () => {
      const settings = sharing('redis', 2_500)
      const servers = await two(() => settings)
      const [a, b] = tusClients(servers)
      const file = bytes(3 * MiB, 9)
      const url = await a.create(file.length)
      await a.patch(url, 0, file.subarray(0, MiB))
      a.openPatch(url, MiB, file.subarray(MiB, MiB + 100_000), 2 * MiB)
      await pause(100)
      await servers[0].kill()
      const start = performance.now()
      const statuses: number[] = []
      const target = onOther(url, servers)
      let offset = -1
      await eventually(async () => {
        const { status, headers } = await b.head(target)
        statuses.push(status)
        expect(status).toBe(200)
        offset = Number(headers['upload-offset'])
      })
      expect(performance.now() - start).toBeLessThan(4_500)
      expect(new Set(statuses.slice(0, -1))).toEqual(new Set(statuses.length > 1 ? [423] : []))
      expect(offset).toBeGreaterThanOrEqual(MiB)
      expect((await b.patch(target, offset, file.subarray(offset))).status).toBe(204)
      const [name = ''] = (await filesBelow(settings.directory)).filter((path) => path.startsWith('uploads/'))
      expect(sha256(await readFile(join(settings.directory, name)))).toBe(sha256(file))
    })

    test('keep every byte when the one that appends sleeps past its lease and wakes up in the middle of it [G03]', async () => {
      const settings = sharing('redis', 800)
      const servers = await two(() => settings)
      const [a, b] = tusClients(servers)
      for (let round = 0; round < 3; round++) {
        const file = bytes(2 * MiB, round)
        const url = await a.create(file.length)
        const open = a.openPatch(url, 0, file.subarray(0, MiB), file.length)
        await pause(50 + 20 * round)
        await servers[0].kill('SIGSTOP')
        await pause(1_500)
        const target = onOther(url, servers)
        // Its process is alive on this machine, so that nobody takes its place on the disk.
        expect([200, 423]).toContain((await b.head(target)).status)
        process.kill(servers[0].pid, 'SIGCONT')
        open.request.end(file.subarray(MiB))
        await open.answer
        let offset = -1
        await eventually(async () => {
          const head = await b.head(target)
          expect(head.status).toBe(200)
          offset = Number(head.headers['upload-offset'])
        })
        if (offset < file.length) expect((await b.patch(target, offset, file.subarray(offset))).status).toBe(204)
        const stored = (await filesBelow(settings.directory)).filter((path) => path.startsWith('uploads/'))
        const sums = await Promise.all(
          stored.map(async (name) => sha256(await readFile(join(settings.directory, name)))),
        )
        expect(sums).toHaveLength(round + 1)
        expect(sums).toContain(sha256(file))
      }
    })

    test('give one object when the completing one is stopped half way and wakes up later [G03, C07]', async () => {
      const settings = sharing('redis', 600)
      const servers = await two(() => settings)
      const [a, b] = nativeClients(servers)
      for (let round = 0; round < 5; round++) {
        const file = bytes(3 * MiB, round)
        const id = await a.start(file.length)
        for (const [index, data] of cut(file, MiB).entries()) await a.chunk(id, index, data)
        const first = a.complete(id)
        await pause(round)
        await servers[0].kill('SIGSTOP')
        const second = b.complete(id)
        await pause(300)
        process.kill(servers[0].pid, 'SIGCONT')
        const [x, y] = await Promise.all([first, second])
        expect([x.status, y.status]).toEqual([200, 200])
        expect(x.body.url).toBe(y.body.url)
        expect(sha256(await readFile(join(settings.directory, x.body.key)))).toBe(sha256(file))
      }
      expect((await filesBelow(settings.directory)).filter((name) => name.startsWith('uploads/'))).toHaveLength(5)
    })
  })

  describe('and an S3, with a tempDir each', () => {
    async function nodes() {
      const target = await s3Target()
      const { endpoint, region, accessKeyId, secretAccessKey, bucket } = target
      const shared = { kind: 'redis' as const, port: redis.port, prefix: newPrefix() }
      const settings = () => ({
        ...{ tempDir: tempFolder(), redis: shared, config: { maxChunkSize: 8 * MiB } },
        s3: { endpoint, region, accessKeyId, secretAccessKey, bucket },
      })
      const servers = await two(settings)
      const s3 = clientOf(target)
      const read = async (key: string) => {
        const { Body } = await s3.send(new GetObjectCommand({ Bucket: bucket, Key: key }))
        return Buffer.from((await Body?.transformToByteArray()) ?? [])
      }
      const close = async () => {
        s3.destroy()
        await target.close()
      }
      const keys = async () => {
        const { Contents = [] } = await s3.send(new ListObjectsV2Command({ Bucket: bucket }))
        return Contents.map(({ Key = '' }) => Key)
      }
      return { servers, read, keys, close, another: () => startServer(settings()) }
    }

    test.each([5 * MiB, 2 * MiB, 700_001])('each takes any chunk, and either completes (%i bytes)', async (size) => {
      const { servers, read, keys, close } = await nodes()
      const clients = nativeClients(servers)
      const file = bytes(12 * MiB + 5, 3)
      for (const declared of [true, false]) {
        const random = seeded(size)
        const any = () => clients[random.integer(0, 1)] ?? clients[0]
        const id = await any().start(file.length, declared ? { chunkSize: size } : {})
        const chunks = cut(file, size)
        const queue = random.shuffle([...chunks.keys(), ...chunks.keys()]).values()
        const worker = async () => {
          for (const index of queue) {
            const { status, body } = await any().chunk(id, index, chunks[index] as Buffer)
            expect([status, body?.code]).toEqual([200, undefined])
          }
        }
        await Promise.all([worker(), worker(), worker()])
        expect((await any().progress(id)).body).toMatchObject({ uploadedChunks: chunks.length, missing: [] })
        const results = await Promise.all([...clients, ...clients].map((client) => client.complete(id)))
        expect(results.map(({ status }) => status)).toEqual([200, 200, 200, 200])
        const { key } = results[0]?.body ?? {}
        expect(new Set(results.map(({ body }) => body.url)).size).toBe(1)
        expect(sha256(await read(key))).toBe(sha256(file))
        await eventually(async () => expect((await keys()).filter((name) => name.includes(id))).toEqual([]))
      }
      await close()
    })

    test('a chunk with other bytes than the recorded ones is refused by the other one', async () => {
      const { servers, close } = await nodes()
      const [a, b] = nativeClients(servers)
      const id = await a.start(3 * MiB, { chunkSize: MiB })
      expect((await a.chunk(id, 0, bytes(MiB, 1))).body).toEqual({ success: true })
      expect((await b.chunk(id, 0, bytes(MiB, 1))).body).toEqual({ success: true, duplicate: true })
      expect(await b.chunk(id, 0, bytes(MiB, 2))).toMatchObject({ status: 409, body: { code: 'CHUNK_CONFLICT' } })
      await close()
    })

    test('each takes any PATCH of a tus upload, and any chunk of Resumable.js', async () => {
      const { servers, read, keys, close } = await nodes()
      const file = bytes(13 * MiB + 1, 4)
      const tus = tusClients(servers)
      const url = await tus[0].create(file.length)
      const urls = [url, onOther(url, servers)] as const
      for (let at = 0, turn = 0; at < file.length; turn++) {
        const size = Math.min([3 * MiB, 6 * MiB, 100_000][turn % 3] ?? MiB, file.length - at)
        const [client, there] = turn % 2 === 0 ? [tus[0], urls[0]] : [tus[1], urls[1]]
        expect((await client.head(there)).headers['upload-offset']).toBe(`${at}`)
        expect((await client.patch(there, at, file.subarray(at, at + size))).status).toBe(204)
        at += size
      }
      const tusKeys = (await keys()).filter((name) => name.startsWith('uploads/'))
      expect(tusKeys).toHaveLength(1)
      expect(sha256(await read(tusKeys[0] ?? ''))).toBe(sha256(file))

      const resumable = servers.map((server) => resumableClient(`${server.url}/resumable`))
      const toSend = { data: file, chunkSize: 2 * MiB }
      for (let number = 1; number <= chunkCount(toSend); number++) {
        const other = resumable[number % 2]
        expect((await resumable[(number + 1) % 2]?.send(toSend, number))?.status).toBe(200)
        // A test after the end is the beginning of a new run.
        if (number < chunkCount(toSend)) expect((await other?.test(toSend, number))?.status).toBe(200)
        expect((await other?.send(toSend, number))?.status).toBe(200)
      }
      const more = (await keys()).filter((name) => name.startsWith('uploads/') && !tusKeys.includes(name))
      expect(more).toHaveLength(1)
      expect(sha256(await read(more[0] ?? ''))).toBe(sha256(file))
      await eventually(async () => expect(await keys()).toHaveLength(2))
      await close()
    })

    test('one that is killed takes no acknowledged byte with it', async () => {
      const { servers, read, keys, close, another } = await nodes()
      const file = bytes(14 * MiB, 6)
      const chunks = cut(file, MiB)
      let [a, b] = nativeClients(servers)
      const id = await a.start(file.length, { chunkSize: MiB })
      const done = new Set<number>()
      for (const [index, data] of chunks.entries()) {
        if (index === 6) {
          await servers[0].kill()
          a = nativeClient((await another()).url)
        }
        const { status } = await (index % 2 === 0 ? a : b).chunk(id, index, data)
        expect(status).toBe(200)
        done.add(index)
      }
      const { body } = await b.complete(id)
      expect(sha256(await read(body.key))).toBe(sha256(file))
      await eventually(async () => expect(await keys()).toEqual([body.key]))
      await close()
    })
  })
})
