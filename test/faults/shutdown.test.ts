/** The host application crashes or is asked to stop in the middle of chunks. */
import { once } from 'node:events'
import { readdir, readFile, utimes, writeFile } from 'node:fs/promises'
import { type ClientRequest, request as httpRequest } from 'node:http'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { survived } from '../support/fault-points.ts'
import { nativeClient } from '../support/native-client.ts'
import { startServer } from '../support/process.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const source = 'test/support/measured-server.ts'
const chunkSize = 400_000

/** A chunk of which half is sent; resolves with the status, or 0 when the line broke. */
function halfChunk(url: string, id: string, index: number, data: Buffer) {
  const target = `${url}/upload/chunk?uploadId=${id}&chunkIndex=${index}`
  const headers = { 'Content-Type': 'application/octet-stream', 'Content-Length': data.length }
  const request = httpRequest(target, { method: 'POST', agent: false, headers })
  const status = new Promise<number>((resolve) => {
    request.on('response', (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
    request.on('error', () => resolve(0))
  })
  request.write(data.subarray(0, data.length / 2))
  return { status, finish: () => request.end(data.subarray(data.length / 2)), request }
}

async function sent(requests: readonly ClientRequest[]): Promise<void> {
  for (const request of requests) if (request.writableNeedDrain) await once(request, 'drain')
  await wait(300)
}

type Range = [first: number, last: number]

function indexesIn([first, last]: Range): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i)
}

async function finished(url: string, id: string, file: Buffer, directory: string): Promise<void> {
  const client = nativeClient(url)
  const { body: progress } = await client.progress(id)
  const there = new Set((progress.received as Range[]).flatMap(indexesIn))
  for (const [index, data] of cut(file, chunkSize).entries()) {
    if (!there.has(index)) expect((await client.chunk(id, index, data)).status).toBe(200)
  }
  const { status, body } = await client.complete(id)
  expect(status, JSON.stringify(body)).toBe(200)
  expect(sha256(await readFile(join(directory, body.key)))).toBe(sha256(file))
}

it('an exception elsewhere in the application ends the process: the next one goes on and cleans up [D05]', async () => {
  const [tempDir, directory] = [tempFolder(), tempFolder()]
  const settings = { tempDir, directory }
  const first = await startServer(settings, source)
  const file = bytes(4 * chunkSize)
  const chunks = cut(file, chunkSize)
  const client = nativeClient(first.url)
  const id = await client.start(file.length, { chunkSize })
  expect((await client.chunk(id, 0, chunks[0] as Buffer)).status).toBe(200)
  // One in its place, one that replaces another, one whose fields are still to come.
  const open = [halfChunk(first.url, id, 2, chunks[2] as Buffer), halfChunk(first.url, id, 0, chunks[0] as Buffer)]
  await sent(open.map(({ request }) => request))
  first.ask('throw').catch(() => {})
  expect(await first.exited).not.toBe(0)
  expect(await Promise.all(open.map(({ status }) => status))).toEqual([0, 0])
  const left = (await filesBelow(join(tempDir, 'staging'))).filter((name) => name.endsWith('.tmp'))
  expect(left).toHaveLength(1)

  const second = await startServer({ ...settings, config: { cleanupInterval: 500 } }, source)
  await finished(second.url, id, file, directory)
  // What was left in the folder of an upload goes with it; a spooled form is an orphan after ten minutes.
  const spooled = join(tempDir, 'spool', 'left.tmp')
  await writeFile(spooled, 'x')
  const longAgo = new Date(Date.now() - 11 * 60_000)
  await utimes(spooled, longAgo, longAgo)
  await expect.poll(() => readdir(join(tempDir, 'spool')), { timeout: 5_000 }).toEqual([])
  expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
  survived('crash', 'uncaught exception of the application during chunks')
})

it('SIGTERM with 20 chunks under way: ends within the timeout, and loses nothing that was acknowledged [D06]', async () => {
  const [tempDir, directory] = [tempFolder(), tempFolder()]
  const first = await startServer({ tempDir, directory }, source)
  const file = bytes(21 * chunkSize)
  const chunks = cut(file, chunkSize)
  const client = nativeClient(first.url)
  const id = await client.start(file.length, { chunkSize })
  expect((await client.chunk(id, 0, chunks[0] as Buffer)).status).toBe(200)
  const open = chunks.slice(1).map((data, at) => halfChunk(first.url, id, at + 1, data))
  await sent(open.map(({ request }) => request))
  const started = performance.now()
  await first.kill('SIGTERM')
  await wait(200)
  const refused = await client.init({ fileName: 'late', totalSize: 1 }).then(
    ({ status }) => status,
    () => 0,
  )
  expect([0, 503]).toContain(refused)
  // Half of them are slow, half are silent for good.
  for (const [at, { finish }] of open.entries()) if (at % 2 === 0) finish()
  expect(await first.exited).toBe(0)
  const took = performance.now() - started
  expect(took).toBeLessThan(6_000)
  const statuses = await Promise.all(open.map(({ status }) => status))
  const acknowledged = statuses.flatMap((status, at) => (status === 200 ? [at + 1] : []))
  expect(acknowledged.length).toBe(10)
  expect(statuses.filter((status) => ![200, 0, 503].includes(status))).toEqual([])

  const second = await startServer({ tempDir, directory }, source)
  const { body } = await nativeClient(second.url).progress(id)
  expect((body.received as Range[]).flatMap(indexesIn)).toEqual(expect.arrayContaining([0, ...acknowledged]))
  await finished(second.url, id, file, directory)
  survived('crash', 'SIGTERM with 20 chunks under way')
})
