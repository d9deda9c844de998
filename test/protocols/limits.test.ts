/** Limits hold on every wire, a server's own timeout is survived, and nothing stays behind of an engine that was closed. */
import { createServer, request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { createChunkedUploadMiddleware } from '../../src/protocols/native/create-chunked-upload-middleware.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { tusHandler } from '../../src/tus.ts'
import { streamOf } from '../support/engine.ts'
import { openFiles } from '../support/epilogue.ts'
import { ietfServer } from '../support/ietf-client.ts'
import { nativeClient } from '../support/native-client.ts'
import { bytes, sha256 } from '../support/random.ts'
import { resumableServer } from '../support/resumable-client.ts'
import { express, testServer } from '../support/server.ts'
import { tempFolder } from '../support/temp-folder.ts'
import { tusServer } from '../support/tus-client.ts'
import { uppyServer } from '../support/uppy-client.ts'

const limit = { maxSessions: 1 }

function retryAfter(value: string | number | null | undefined | readonly string[]): number {
  return Number(value ?? 0)
}

describe('maxSessions', () => {
  it('the documented routes: 429 with Retry-After, the upload that is open goes on [H06]', async () => {
    const { url } = await testServer(limit)
    const client = nativeClient(url)
    const first = await client.start(5)
    const refused = await client.init({ fileName: 'b', totalSize: 5 })
    expect([refused.status, refused.body.code, refused.body.limit]).toEqual([429, 'TOO_MANY_UPLOADS', 1])
    expect(retryAfter(refused.headers.get('retry-after'))).toBe(30)
    const single = await fetch(`${url}/upload?fileName=c`, { method: 'POST', body: 'hello' })
    expect([single.status, retryAfter(single.headers.get('retry-after'))]).toEqual([429, 30])
    expect((await client.chunk(first, 0, bytes(5))).status).toBe(200)
    expect((await client.complete(first)).status).toBe(200)
    expect((await client.init({ fileName: 'b', totalSize: 5 })).status).toBe(200)
  })

  it('tus: 503, since 429 would be final for its clients [H06]', async () => {
    const server = await tusServer(limit)
    const first = await server.create(5)
    const refused = await server.post({ 'Upload-Length': 5 })
    expect([refused.status, retryAfter(refused.headers['retry-after'])]).toEqual([503, 30])
    expect((await server.patch(first, 0, bytes(5))).status).toBe(204)
    expect((await server.post({ 'Upload-Length': 5 })).status).toBe(201)
  })

  it('IETF: 429 with Retry-After [H06]', async () => {
    const server = await ietfServer({ version: 8, ...limit })
    const first = await server.create({ 'Upload-Length': 5 })
    await expect(server.create({ 'Upload-Length': 5 })).rejects.toThrow(/429/)
    expect((await server.append(first, 0, bytes(5), true)).status).toBe(200)
    await server.create({ 'Upload-Length': 5 })
  })

  it('Resumable.js: a status that it repeats, with Retry-After [H06]', async () => {
    const server = await resumableServer(limit)
    const file = { data: bytes(250), chunkSize: 100, name: 'a.bin' }
    const other = { data: bytes(100, 2), chunkSize: 100, name: 'b.bin' }
    expect((await server.send(file, 1)).status).toBe(200)
    const refused = await server.send(other, 1)
    expect(refused.body).toMatchObject({ code: 'TOO_MANY_UPLOADS', retryable: true })
    expect([400, 401, 403, 404, 409, 415, 500, 501]).not.toContain(refused.status)
    expect(retryAfter(refused.headers.get('retry-after'))).toBe(30)
    expect((await server.send(file, 2)).status).toBe(200)
    expect((await server.send(other, 1)).status).toBe(200)
  })

  it('Uppy: 429 with Retry-After [H06]', async () => {
    const { uppy } = await uppyServer({}, limit)
    const first = await uppy.start()
    const refused = await uppy.create()
    expect([refused.status, retryAfter(refused.headers.get('retry-after'))]).toEqual([429, 30])
    const part = await uppy.part(first, 1, bytes(1_000))
    expect((await uppy.complete(first, [part])).status).toBe(200)
    expect((await uppy.create()).status).toBe(200)
  })
})

describe("a server's requestTimeout", () => {
  const running: { close(): Promise<unknown> }[] = []
  afterEach(async () => {
    for (const { close } of running.splice(0)) await close()
  })

  it('cuts a long chunk with 408: it does not count, sending it again works, and there was a warning [I04]', async () => {
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    const storage = new MemoryStorageAdapter({ multipart: false })
    const uploads = createChunkedUploadMiddleware(storage, { tempDir: tempFolder() })
    const app = express()
    app.post('/upload/init', express.json(), uploads.init)
    app.post('/upload/chunk', uploads.uploadChunk)
    app.post('/upload/complete', express.json(), uploads.complete)
    app.get('/upload/progress/:uploadId', uploads.getProgress)
    const server = createServer({ requestTimeout: 3_000, headersTimeout: 2_000, connectionsCheckingInterval: 200 }, app)
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    running.push({
      close: async () => {
        server.closeAllConnections()
        server.close()
        await uploads.close()
      },
    })
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const client = nativeClient(url)
    const file = bytes(50_000)
    const id = await client.start(file.length)
    const target = `${url}/upload/chunk?uploadId=${id}&chunkIndex=0`
    const headers = { 'Content-Type': 'application/octet-stream', 'Content-Length': file.length }
    const request = httpRequest(target, { method: 'POST', agent: false, headers })
    const status = new Promise<number>((resolve, reject) => {
      request.on('response', (response) => resolve(response.statusCode ?? 0)).on('error', reject)
    })
    // It gets on all the time, but takes 5 seconds.
    for (let at = 0; at < file.length && !request.destroyed; at += 1_000) {
      request.write(file.subarray(at, at + 1_000))
      await wait(100)
    }
    expect(await status).toBe(408)
    expect((await client.progress(id)).body).toMatchObject({ uploadedChunks: 0, uploadedBytes: 0 })
    expect((await client.raw(id, 0, file)).status).toBe(200)
    const { body } = await client.complete(id)
    expect(sha256(storage.read(body.key) ?? '')).toBe(sha256(file))
    const codes = warned.mock.calls.map(([, options]) => (options as { code?: string }).code)
    expect(codes).toEqual(['NEXUS_REQUEST_TIMEOUT'])
    warned.mockRestore()
  })

  it('of five minutes is enough for chunks of the documented size: no warning', async () => {
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    const { url, server } = await testServer()
    server.requestTimeout = 300_000
    const client = nativeClient(url)
    const id = await client.start(5)
    await client.chunk(id, 0, bytes(5))
    expect(warned).not.toHaveBeenCalled()
    // But not for two gigabytes in one request.
    await fetch(`${url}/upload?fileName=c`, { method: 'POST', body: 'hello' })
    expect(warned).toHaveBeenCalledTimes(1)
    warned.mockRestore()
  })
})

it('a hundred middlewares, made, used and closed, leave no timer, listener or socket [H07]', async () => {
  const warnings: Error[] = []
  const onWarning = (warning: Error) => warnings.push(warning)
  process.on('warning', onWarning)
  // Timers that keep no process alive are not among its active resources.
  const intervals = new Set<unknown>()
  const [set, clear] = [globalThis.setInterval, globalThis.clearInterval]
  globalThis.setInterval = ((...args: Parameters<typeof set>) => {
    const interval = set(...args)
    intervals.add(interval)
    return interval
  }) as typeof set
  globalThis.clearInterval = (interval) => {
    intervals.delete(interval)
    clear(interval)
  }
  const listeners = () => process.eventNames().map((name) => [String(name), process.listenerCount(name)])
  const sockets = () => process.getActiveResourcesInfo().filter((name) => /Wrap$/.test(name)).length
  const round = async (count: number) => {
    const made = Array.from({ length: count }, () => {
      const storage = new LocalStorageAdapter({ directory: tempFolder() })
      const uploads = createChunkedUploadMiddleware(storage, { tempDir: tempFolder() })
      tusHandler(uploads.engine)
      return uploads
    })
    expect(intervals.size).toBeGreaterThanOrEqual(count)
    const file = { fileName: 'a', totalSize: 5, protocol: 'native' }
    for (const { engine } of made) {
      const { session } = await engine.create(file)
      const ref = { uploadId: session.id, protocol: 'native' }
      await engine.writeChunk({ ...ref, index: 0, body: streamOf(Buffer.from('hello')) })
      await engine.complete(ref)
    }
    await Promise.all(made.map((uploads) => uploads.close()))
  }
  try {
    await round(2)
    const [before, files, open] = [listeners(), openFiles(), sockets()]
    await round(100)
    expect(listeners()).toEqual(before)
    expect([...intervals]).toEqual([])
    expect(sockets()).toBeLessThanOrEqual(open)
    expect(openFiles()).toBeLessThanOrEqual(files)
    expect(warnings).toEqual([])
  } finally {
    Object.assign(globalThis, { setInterval: set, clearInterval: clear })
    process.off('warning', onWarning)
  }
})
