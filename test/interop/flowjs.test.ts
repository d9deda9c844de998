/** The real Flow.js, driven without a browser. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, it } from 'vitest'
import { ProcessingError, StorageUnavailableError } from '../../src/errors.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { cuttingProxy, type Random } from '../support/cutting-proxy.ts'
import { bytes, sha256 } from '../support/random.ts'
import { resumableServer, storedAt } from '../support/resumable-client.ts'
import { filesBelow } from '../support/temp-folder.ts'
import { browserFile, loadLibrary, seen } from '../support/xml-http-request.ts'

const KiB = 1024

interface Library {
  on(event: string, listener: (file: unknown, message: string) => void): void
  addFile(file: File): void
  upload(): void
}

const Flow = loadLibrary('@flowjs/flow.js') as new (options: object) => Library

interface Outcome {
  readonly event: 'fileSuccess' | 'fileError'
  // biome-ignore lint/suspicious/noExplicitAny: what a test expects of a body is its assertion's business
  readonly body: any
}

/** One run of a page. */
function uploadWith(url: string, file: File, options: object = {}): Promise<Outcome> {
  const flow = new Flow({ target: url, chunkSize: 100 * KiB, ...options })
  return new Promise((resolve) => {
    for (const event of ['fileSuccess', 'fileError'] as const) {
      flow.on(event, (_, message) => resolve({ event, body: JSON.parse(message) }))
    }
    flow.addFile(file)
    flow.upload()
  })
}

const stored = async (server: Parameters<typeof storedAt>[0], { body }: Outcome) =>
  sha256(await storedAt(server, { status: 200, headers: new Headers(), text: '', body }))

beforeEach(() => {
  seen.splice(0)
})

describe('Flow.js', () => {
  it.each([
    [{}, 950 * KiB + 3],
    [{ forceChunkSize: true }, 950 * KiB + 3],
    [{ method: 'octet' }, 950 * KiB + 3],
    [{ testChunks: false }, 950 * KiB + 3],
    [{ prioritizeFirstAndLastChunk: true }, 950 * KiB + 3],
    [{ simultaneousUploads: 6, query: { token: 'x' } }, 950 * KiB + 3],
    [{}, 10],
    [{}, 0],
  ])('with %j stores %i bytes, and its page learns the URL', async (options, size) => {
    const server = await resumableServer()
    const data = bytes(size)
    const outcome = await uploadWith(server.url, browserFile(data, 'vidéo.mp4', 'video/mp4'), options)
    expect(outcome).toMatchObject({ event: 'fileSuccess', body: { success: true, complete: true } })
    expect(await stored(server, outcome)).toBe(sha256(data))
  })

  it('in a fresh page stores the new bytes of a file that was edited and kept size and name', async () => {
    for (const options of [
      {},
      { simultaneousUploads: 1 },
      { prioritizeFirstAndLastChunk: true },
      { method: 'octet' },
    ]) {
      const server = await resumableServer()
      const data = bytes(450 * KiB)
      const first = await uploadWith(server.url, browserFile(data, 'a.bin'), options)
      for (const at of [0, 250 * KiB, 449 * KiB]) {
        data[at] = (data[at] ?? 0) ^ 1
        const next = await uploadWith(server.url, browserFile(data, 'a.bin'), options)
        expect(next.body.url).not.toBe(first.body.url)
        expect(await stored(server, next)).toBe(sha256(data))
      }
    }
  })

  it('resumes in a fresh page without sending again what is there', async () => {
    const server = await resumableServer({ library: 'flow' })
    const data = bytes(950 * KiB)
    const identifier = `${data.length}-abin`
    const file = { data, chunkSize: 100 * KiB, name: 'a.bin', identifier, type: '' }
    for (const number of [1, 2, 4]) expect((await server.send(file, number)).status).toBe(200)
    const outcome = await uploadWith(server.url, browserFile(data, 'a.bin'))
    expect(await stored(server, outcome)).toBe(sha256(data))
    expect(seen.filter(({ method }) => method === 'POST')).toHaveLength(6)
  })

  it.each([1, 2, 3, 4])(
    'gets over connections that break, also when answers are lost (seed %i) [B16]',
    async (seed) => {
      const server = await resumableServer()
      const cutAfter = (random: Random) => random.integer(20 * KiB, 600 * KiB)
      const proxy = await cuttingProxy(server.port, { seed, cutAfter })
      const data = bytes(1450 * KiB)
      const url = `http://127.0.0.1:${proxy.port}/files`
      const outcome = await uploadWith(url, browserFile(data, 'a.bin'), {
        chunkRetryInterval: 20,
        maxChunkRetries: 50,
      })
      expect(outcome.event).toBe('fileSuccess')
      expect(proxy.cuts).toBeGreaterThan(0)
      const names = (await filesBelow(server.directory)).filter((name) => name.startsWith('uploads/'))
      expect(names).toHaveLength(1)
      expect(sha256(await readFile(join(server.directory, names[0] ?? '')))).toBe(sha256(data))
      expect(outcome.body).toMatchObject({ complete: true, url: `https://cdn.example.com/${names[0]}` })
    },
  )

  it('gets over a storage that fails at the end, and never calls that a success', async () => {
    let left = 2
    const memory = new MemoryStorageAdapter({ multipart: false })
    const server = await resumableServer({
      storage: {
        upload: (key, stream, type, info) => {
          left -= 1
          if (left < 0) return memory.upload(key, stream, type, info)
          stream.resume()
          return Promise.reject(new StorageUnavailableError())
        },
      },
    })
    const outcome = await uploadWith(server.url, browserFile(bytes(350 * KiB), 'a.bin'), { maxChunkRetries: 5 })
    expect(outcome).toMatchObject({ event: 'fileSuccess', body: { complete: true } })
    expect(seen.filter(({ status }) => status === 503)).toHaveLength(2)
  })

  it.each([
    ['a type that is not accepted', { allowedMimeTypes: ['image/*'] }, 'INVALID_FILE_TYPE'],
    ['a file that is too large', { maxFileSize: 10 * KiB }, 'FILE_SIZE_EXCEEDED'],
    ['chunks that are too large', { maxChunkSize: 10 * KiB }, 'CHUNK_SIZE_EXCEEDED'],
    [
      'a file that the application refuses',
      { hooks: { onComplete: () => Promise.reject(new ProcessingError('No.', { code: 'NO' })) } },
      'NO',
    ],
  ])('ends at once with %s', async (_, options, code) => {
    const server = await resumableServer(options)
    const outcome = await uploadWith(server.url, browserFile(bytes(40 * KiB), 'a.txt', 'text/plain'), {
      maxChunkRetries: 50,
    })
    expect(outcome).toMatchObject({ event: 'fileError', body: { code } })
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(seen.length).toBeLessThanOrEqual(5)
  })
})
