import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { nativeClient } from '../support/native-client.ts'
import { type ServerProcess, startServer } from '../support/process.ts'
import { bytes, cut, seeded, sha256 } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const MiB = 1024 * 1024
const seeds = Array.from({ length: Number(process.env.CRASH_SEEDS ?? 10) }, (_, i) => i + 1)
const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Indexes that are in inclusive ranges. */
function indexesOf(ranges: [number, number][]): Set<number> {
  return new Set(ranges.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, i) => first + i)))
}

describe('SIGKILL', () => {
  it.each(seeds)(
    'in the middle of an upload loses no acknowledged chunk and keeps none by half (seed %i)',
    async (seed) => {
      const random = seeded(seed)
      const tempDir = tempFolder()
      const directory = tempFolder()
      const declared = random.next() < 0.5
      const chunkSize = random.integer(50_000, 700_000)
      const file = bytes(6 * MiB + random.integer(0, 99_999), seed)
      const chunks = cut(file, chunkSize)
      const acknowledged = new Set<number>()
      let server = await startServer({ tempDir, directory })
      const id = await nativeClient(server.url).start(file.length, declared ? { chunkSize } : {})
      for (let life = 0; life < 3; life++) {
        const missing = random.shuffle([...chunks.keys()].filter((index) => !acknowledged.has(index)))
        const queue = (random.next() < 0.5 ? missing : missing.sort((a, b) => a - b)).values()
        const client = nativeClient(server.url)
        const worker = async () => {
          for (const index of queue) {
            const { body } = await client.chunk(id, index, chunks[index] as Buffer)
            if (body?.success) acknowledged.add(index)
          }
        }
        const workers = Promise.allSettled([worker(), worker(), worker(), worker()])
        await pause(random.integer(0, 60))
        await server.kill()
        await workers
        server = await startServer({ tempDir, directory })
        const { body } = await nativeClient(server.url).progress(id)
        const received = indexesOf(body.received)
        for (const index of acknowledged) expect(received.has(index), `chunk ${index} was acknowledged`).toBe(true)
        expect(body.uploadedBytes).toBe([...received].reduce((sum, index) => sum + (chunks[index]?.length ?? 0), 0))
        for (const index of received) acknowledged.add(index)
      }
      await finish(server, id, chunks, acknowledged, file, directory)
    },
  )

  it.each(seeds)('around complete ends in one object with one URL (seed %i)', async (seed) => {
    const random = seeded(seed * 31)
    const tempDir = tempFolder()
    const directory = tempFolder()
    const file = bytes(2 * MiB, seed)
    let server = await startServer({ tempDir, directory })
    const client = nativeClient(server.url)
    const id = await client.start(file.length)
    const chunks = cut(file, 500_000)
    for (const [index, data] of chunks.entries()) await client.chunk(id, index, data)
    const urls = new Set<string>()
    for (let life = 0; life < 3; life++) {
      const completed = nativeClient(server.url).complete(id)
      const killed = pause(random.integer(0, 14)).then(() => server.kill())
      const { body } = await completed.catch(() => ({ body: null }))
      if (body?.url) urls.add(body.url)
      await killed
      server = await startServer({ tempDir, directory })
    }
    urls.add(await finish(server, id, chunks, new Set(chunks.keys()), file, directory))
    expect(urls.size).toBe(1)
  })
})

/** Sends what is missing, completes (a dead completer's lease has to run out first), and looks at the disk. */
async function finish(
  server: ServerProcess,
  id: string,
  chunks: readonly Buffer[],
  have: ReadonlySet<number>,
  file: Buffer,
  directory: string,
): Promise<string> {
  const client = nativeClient(server.url)
  for (const [index, data] of chunks.entries()) {
    if (!have.has(index)) expect((await client.chunk(id, index, data)).body).toEqual({ success: true })
  }
  const { status, body } = await client.complete(id)
  expect([status, typeof body.url]).toEqual([200, 'string'])
  expect(sha256(await readFile(join(directory, body.key)))).toBe(sha256(file))
  expect((await filesBelow(directory)).filter((name) => name.startsWith('uploads/'))).toEqual([body.key])
  expect((await client.complete(id)).body.url).toBe(body.url)
  await server.kill()
  return body.url
}
