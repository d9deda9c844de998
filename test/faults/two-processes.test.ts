/** Several processes on one tempDir, as under PM2 or node:cluster: no sticky sessions, no lock server. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { nativeClient } from '../support/native-client.ts'
import { type ServerProcess, startServer } from '../support/process.ts'
import { bytes, cut, seeded, sha256 } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const MiB = 1024 * 1024
const seeds = Array.from({ length: Number(process.env.CRASH_SEEDS ?? 6) }, (_, i) => i + 1)
const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

describe('two processes on one tempDir', () => {
  it.each(seeds)(
    'take chunks of one upload at random, some twice, and complete it at once (seed %i) [C06]',
    async (seed) => {
      const random = seeded(seed * 7)
      const settings = { tempDir: tempFolder(), directory: tempFolder() }
      const servers = await Promise.all([startServer(settings), startServer(settings)])
      const clients = servers.map(({ url }) => nativeClient(url))
      const any = () => clients[random.integer(0, 1)] ?? nativeClient('')
      const file = bytes(5 * MiB + seed, seed)
      const chunks = cut(file, random.integer(100_000, 600_000))
      const chunkSize = chunks[0]?.length ?? 0
      const id = await any().start(file.length, random.next() < 0.5 ? { chunkSize } : {})
      const twice = random.shuffle([...chunks.keys(), ...chunks.keys()])
      const queue = twice.values()
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
      const body = results[0]?.body
      expect(sha256(await readFile(join(settings.directory, body.key)))).toBe(sha256(file))
      expect((await filesBelow(settings.directory)).filter((name) => name.startsWith('uploads/'))).toEqual([body.key])
      expect(await filesBelow(join(settings.tempDir, 'staging'))).toEqual([])
      await Promise.all(servers.map((server) => server.kill()))
    },
  )

  it.each(seeds)(
    'lose nothing when one of them is killed, and the other goes on alone (seed %i) [C06]',
    async (seed) => {
      const random = seeded(seed * 13)
      const settings = { tempDir: tempFolder(), directory: tempFolder() }
      const servers = (await Promise.all([startServer(settings), startServer(settings)])) as [
        ServerProcess,
        ServerProcess,
      ]
      const [doomed, survivor] = servers.map(({ url }) => nativeClient(url)) as [
        ReturnType<typeof nativeClient>,
        ReturnType<typeof nativeClient>,
      ]
      const file = bytes(6 * MiB, seed)
      const chunks = cut(file, 400_000)
      const id = await survivor.start(file.length)
      const queue = [...chunks.keys()].values()
      const acknowledged = new Set<number>()
      const worker = async (client: typeof survivor) => {
        for (const index of queue) {
          const { body } = await client.chunk(id, index, chunks[index] as Buffer)
          if (body?.success) acknowledged.add(index)
        }
      }
      const workers = Promise.allSettled([worker(doomed), worker(survivor), worker(doomed), worker(survivor)])
      await pause(random.integer(0, 80))
      await servers[0].kill()
      await workers
      const { body } = await survivor.progress(id)
      for (const index of acknowledged) {
        expect(body.received.some(([first, last]: [number, number]) => first <= index && index <= last)).toBe(true)
      }
      for (const [index, data] of chunks.entries()) {
        expect((await survivor.chunk(id, index, data)).body).toMatchObject({ success: true })
      }
      const done = await survivor.complete(id)
      expect(done.status).toBe(200)
      expect(sha256(await readFile(join(settings.directory, done.body.key)))).toBe(sha256(file))
      await servers[1].kill()
    },
  )

  it('give one object when the completing one is stopped half way and wakes up later [C07]', async () => {
    const settings = { tempDir: tempFolder(), directory: tempFolder() }
    const servers = (await Promise.all([startServer(settings), startServer(settings)])) as [
      ServerProcess,
      ServerProcess,
    ]
    const [a, b] = servers.map(({ url }) => nativeClient(url)) as [
      ReturnType<typeof nativeClient>,
      ReturnType<typeof nativeClient>,
    ]
    for (let round = 0; round < 8; round++) {
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
    expect((await filesBelow(settings.directory)).filter((name) => name.startsWith('uploads/'))).toHaveLength(8)
    await Promise.all(servers.map((server) => server.kill()))
  })
})

describe('a process', () => {
  it('ends by itself after close(), with uploads open, and the next one goes on with them', async () => {
    const settings = { tempDir: tempFolder(), directory: tempFolder() }
    const file = bytes(2 * MiB)
    const chunks = cut(file, MiB)
    const first = await startServer(settings)
    const id = await nativeClient(first.url).start(file.length)
    await nativeClient(first.url).chunk(id, 0, chunks[0] as Buffer)
    expect(await first.close()).toBe(0)
    const second = await startServer(settings)
    const client = nativeClient(second.url)
    await client.chunk(id, 1, chunks[1] as Buffer)
    const { body } = await client.complete(id)
    expect(sha256(await readFile(join(settings.directory, body.key)))).toBe(sha256(file))
    expect(await second.close()).toBe(0)
  })

  it('that was killed in the middle of a chunk leaves nothing for good', async () => {
    const settings = { tempDir: tempFolder(), directory: tempFolder(), config: { cleanupInterval: 400 } }
    const first = await startServer(settings)
    const id = await nativeClient(first.url).start(40 * MiB)
    const sending = Promise.allSettled(
      [0, 1, 2].map((index) =>
        nativeClient(first.url).chunk(id, index, bytes(5 * MiB, index), index === 2 ? 'file first' : 'fields first'),
      ),
    )
    await pause(15)
    await first.kill()
    await sending
    const second = await startServer(settings)
    const status = async () => (await nativeClient(second.url).progress(id)).status
    await expect.poll(status, { timeout: 10_000 }).toBe(410)
    const left = () => filesBelow(join(settings.tempDir, 'staging'))
    await expect.poll(left, { timeout: 10_000 }).toEqual([])
    await second.kill()
  })
})
