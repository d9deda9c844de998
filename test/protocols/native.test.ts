import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import request from 'supertest'
import { describe, expect, it } from 'vitest'
import { createChunkedUploadMiddleware } from '../../src/protocols/native/create-chunked-upload-middleware.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { orders, send } from '../support/engine.ts'
import { answer, nativeClient } from '../support/native-client.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { express, testServer } from '../support/server.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const MiB = 1024 * 1024

describe('the documented routes', () => {
  it('answer exactly what is documented, and more beside it', async () => {
    const { url } = await testServer()
    const client = nativeClient(url)
    const init = await client.init({ fileName: 'large-video.mp4', totalSize: 10, mimeType: 'video/mp4' })
    expect(init.status).toBe(200)
    expect(init.body.uploadId).toMatch(/^[0-9a-f-]{36}$/)
    expect(init.body).toMatchObject({ chunkSize: 5 * MiB, maxChunkSize: 5 * MiB, totalChunks: 1 })
    const id = init.body.uploadId
    const chunk = await client.chunk(id, 0, Buffer.from('01234'))
    expect([chunk.status, chunk.body]).toEqual([200, { success: true }])
    const progress = await client.progress(id)
    expect(progress.body).toMatchObject({
      uploadedChunks: 1,
      totalChunks: 2,
      received: [[0, 0]],
      missing: [[1, 1]],
      uploadedBytes: 5,
      totalSize: 10,
      state: 'active',
    })
    expect((await client.chunk(id, 1, Buffer.from('56789'))).body).toEqual({ success: true })
    const done = await client.complete(id)
    expect(done.status).toBe(200)
    expect(done.body.url).toMatch(/uploads\/[0-9a-f-]{36}-large-video\.mp4$/)
    expect(done.body.url).not.toContain(id)
    expect((await client.complete(id)).body).toEqual(done.body)
    expect((await client.progress(id)).body).toMatchObject({
      uploadedChunks: 2,
      totalChunks: 2,
      missing: [],
      url: done.body.url,
    })
  })

  for (const order of orders) {
    for (const [form, chunkSize] of [
      ['fields first', 2 * MiB],
      ['file first', 2 * MiB],
      ['raw', 5 * MiB],
    ] as const) {
      it(`upload a file in chunks of ${chunkSize / MiB} MiB, ${order}, ${form}`, async () => {
        const directory = tempFolder()
        const { url, tempDir } = await testServer({ storage: new LocalStorageAdapter({ directory }) })
        const client = nativeClient(url)
        const file = bytes(13 * MiB + 12_345, 5)
        const id = await client.start(file.length)
        await send(order, cut(file, chunkSize), async (index, data) => {
          const sent = form === 'raw' ? await client.raw(id, index, data) : await client.chunk(id, index, data, form)
          expect(sent.body).toEqual({ success: true })
        })
        const { body } = await client.complete(id)
        expect(sha256(await readFile(join(directory, body.key)))).toBe(sha256(file))
        expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
        expect(await filesBelow(join(tempDir, 'spool'))).toEqual([])
      })
    }
  }

  it('work without express.json()', async () => {
    const { url } = await testServer({ json: false })
    const client = nativeClient(url)
    const id = await client.start(0)
    expect((await client.complete(id)).status).toBe(200)
  })

  it('work with urlencoded bodies', async () => {
    const { url } = await testServer()
    const body = new URLSearchParams({ fileName: 'a.bin', totalSize: '0', mimeType: '' })
    const { status } = await answer(fetch(`${url}/upload/init`, { method: 'POST', body }))
    expect(status).toBe(200)
  })

  it('work behind a multer of the app', async () => {
    const { default: multer } = await import('multer')
    const storage = new MemoryStorageAdapter({ multipart: false })
    const middleware = createChunkedUploadMiddleware(storage, { tempDir: tempFolder() })
    const app = express()
    app.use(express.json())
    app.post('/upload/init', middleware.init)
    app.post('/upload/chunk', multer().single('chunk'), middleware.uploadChunk)
    app.post('/upload/complete', middleware.complete)
    const init = await request(app)
      .post('/upload/init')
      .send({ fileName: 'a.txt', totalSize: 5, mimeType: 'text/plain' })
    const { uploadId } = init.body
    const chunk = request(app).post('/upload/chunk').field('uploadId', uploadId).field('chunkIndex', '0')
    await chunk.attach('chunk', Buffer.from('hello'), 'blob').expect(200, { success: true })
    const { body } = await request(app).post('/upload/complete').send({ uploadId }).expect(200)
    expect(storage.read(body.key)?.toString()).toBe('hello')
    await middleware.close()
  })

  it('find an upload again by its resumeKey', async () => {
    const { url } = await testServer()
    const client = nativeClient(url)
    const init = { fileName: 'a.bin', totalSize: 30, mimeType: '', resumeKey: 'my file', chunkSize: 10 }
    const first = await client.init(init)
    await client.chunk(first.body.uploadId, 1, Buffer.alloc(10))
    const again = await client.init(init)
    expect(again.body).toMatchObject({
      uploadId: first.body.uploadId,
      resumed: true,
      received: [[1, 1]],
      uploadedBytes: 10,
    })
    const other = await client.init({ ...init, totalSize: 31 })
    expect(other.body.resumed).toBeUndefined()
    expect(other.body.uploadId).not.toBe(first.body.uploadId)
    const racing = await Promise.all(Array.from({ length: 8 }, () => client.init({ ...init, resumeKey: 'raced' })))
    expect(new Set(racing.map(({ body }) => body.uploadId)).size).toBe(1)
  })

  it('abort an upload', async () => {
    const { url, tempDir } = await testServer()
    const client = nativeClient(url)
    const id = await client.start(3 * MiB)
    await client.chunk(id, 0, bytes(MiB))
    expect((await client.abort(id)).status).toBe(204)
    expect((await client.abort(id)).status).toBe(204)
    expect((await client.progress(id)).status).toBe(410)
    expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
  })
})

describe('the one-request upload', () => {
  it.each(['local', 'memory with parts'])('stores a file of any size within the limit (%s)', async (kind) => {
    const directory = tempFolder()
    const memory = new MemoryStorageAdapter({ multipart: { minPartSize: 1000, partSize: 100_000 } })
    const { url, tempDir } = await testServer({
      storage: kind === 'local' ? new LocalStorageAdapter({ directory }) : memory,
      maxFileSize: MiB,
    })
    for (const size of [0, 1, 99_999, 100_000, 100_001, MiB]) {
      const form = new FormData()
      const file = bytes(size, 2)
      form.append('anything', new Blob([new Uint8Array(file)], { type: 'text/plain' }), 'häßlich.txt')
      const { status, body } = await answer(fetch(`${url}/upload`, { method: 'POST', body: form }))
      expect([status, body.size]).toEqual([200, size])
      const stored = kind === 'local' ? await readFile(join(directory, body.key)) : memory.read(body.key)
      expect(sha256(stored ?? '')).toBe(sha256(file))
    }
    const form = new FormData()
    form.append('file', new Blob([new Uint8Array(MiB + 1)]), 'big.bin')
    const { status, body } = await answer(fetch(`${url}/upload`, { method: 'POST', body: form }))
    expect([status, body.code]).toEqual([413, 'FILE_SIZE_EXCEEDED'])
    expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
  })
})

describe('a one-request upload that goes wrong after its file', () => {
  it('stores nothing and calls no hook', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    let told = 0
    const { url } = await testServer({ storage, hooks: { onComplete: () => void told++ } })
    const form = new FormData()
    form.append('file', new Blob(['one']), 'a.txt')
    form.append('file', new Blob(['two']), 'b.txt')
    const { status } = await answer(fetch(`${url}/upload`, { method: 'POST', body: form }))
    expect([status, told, storage.keys()]).toEqual([400, 0, []])
  })
})

describe('limits', () => {
  it('have an error of their own each', async () => {
    const { url } = await testServer({
      maxChunkSize: 1000,
      maxFileSize: 5000,
      maxChunks: 4,
      maxSessions: 3,
      allowedMimeTypes: ['video/*'],
    })
    const client = nativeClient(url)
    const file = { fileName: 'a.mp4', mimeType: 'video/mp4' }
    expect((await client.init({ ...file, totalSize: 5001 })).body).toMatchObject({
      code: 'FILE_SIZE_EXCEEDED',
      limit: 5000,
    })
    expect((await client.init({ ...file, totalSize: 5, mimeType: 'text/html' })).body).toMatchObject({
      code: 'INVALID_FILE_TYPE',
    })
    expect((await client.init({ ...file, totalSize: 5000, chunkSize: 1000 })).status).toBe(413)
    expect((await client.init({ ...file, totalSize: 5, chunkSize: 1001 })).body.code).toBe('INVALID_CHUNK_SIZE')
    const id = (await client.init({ ...file, totalSize: 3000 })).body.uploadId
    const large = await client.chunk(id, 0, bytes(1001))
    expect([large.status, large.body.code, large.body.limit]).toEqual([413, 'CHUNK_SIZE_EXCEEDED', 1000])
    const raw = await client.raw(id, 0, bytes(1001))
    expect([raw.status, raw.body.code]).toEqual([413, 'CHUNK_SIZE_EXCEEDED'])
    expect((await client.chunk(id, 4, bytes(10))).body.code).toBe('INVALID_CHUNK_INDEX')
    await client.start(1)
    await client.start(1)
    const refused = await client.init({ ...file, totalSize: 5 })
    expect([refused.status, refused.body.code]).toEqual([429, 'TOO_MANY_UPLOADS'])
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
    await client.abort(id)
    expect((await client.init({ ...file, totalSize: 5 })).status).toBe(200)
  })

  it('of one owner do not touch another', async () => {
    const { url } = await testServer({ maxSessionsPerOwner: 1, owner: (req) => String(req.headers['x-user']) })
    const ann = nativeClient(url, { 'x-user': 'ann' })
    const bob = nativeClient(url, { 'x-user': 'bob' })
    const init = { fileName: 'a', totalSize: 5 }
    expect((await ann.init(init)).status).toBe(200)
    expect((await ann.init(init)).status).toBe(429)
    expect((await bob.init(init)).status).toBe(200)
  })

  it('of the temp folder answer 507 and let the upload go on later', async () => {
    const { url } = await testServer({ maxTempBytes: 3 * MiB, maxChunkSize: MiB })
    const client = nativeClient(url)
    const first = await client.start(3 * MiB)
    const second = await client.start(2 * MiB)
    for (const index of [0, 1]) expect((await client.raw(first, index, bytes(MiB))).status).toBe(200)
    const full = await client.raw(second, 0, bytes(MiB))
    const overfull = await client.raw(second, 1, bytes(MiB))
    expect([full.status, overfull.status].sort()).toContain(507)
    await client.abort(first)
    await new Promise((resolve) => setTimeout(resolve, 2100))
    for (const index of [0, 1]) expect((await client.raw(second, index, bytes(MiB))).status).toBe(200)
    expect((await client.complete(second)).status).toBe(200)
  })
})

describe('a disk that is nearly full', () => {
  it('takes no new body, loses nothing, and can still complete and abort', async () => {
    const tempDir = tempFolder()
    const before = await testServer({ tempDir })
    const [whole, part] = [await nativeClient(before.url).start(5), await nativeClient(before.url).start(10)]
    for (const id of [whole, part]) expect((await nativeClient(before.url).raw(id, 0, bytes(5))).status).toBe(200)
    await before.close()
    const { url } = await testServer({ tempDir, minFreeBytes: Number.MAX_SAFE_INTEGER })
    const client = nativeClient(url)
    const refused = await client.raw(part, 1, bytes(5))
    expect([refused.status, refused.body.code]).toEqual([507, 'INSUFFICIENT_STORAGE'])
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await client.chunk(part, 1, bytes(5))).status).toBe(507)
    const atOnce = await Promise.all([1, 2, 3].map((index) => client.raw(part, index, bytes(1))))
    expect(atOnce.map(({ status }) => status)).toEqual([507, 507, 507])
    expect((await client.progress(part)).body.received).toEqual([[0, 0]])
    expect((await client.complete(whole)).status).toBe(200)
    expect((await client.abort(part)).status).toBe(204)
  })

  it('takes bodies when nothing has to be kept free', async () => {
    const { url } = await testServer({ minFreeBytes: 0 })
    const client = nativeClient(url)
    const id = await client.start(5)
    expect((await client.raw(id, 0, bytes(5))).status).toBe(200)
  })
})

describe('an upload of somebody else', () => {
  it('is not there, on any route, exactly like one that never was [B07]', async () => {
    const { url } = await testServer({ owner: async (req) => req.headers['x-user']?.toString() ?? null })
    const ann = nativeClient(url, { 'x-user': 'ann' })
    const id = await ann.start(5)
    const unknown = await nativeClient(url).progress('6b6d1a3c-5b1e-4b8e-9d53-0a3a4f3f0a11')
    for (const user of ['bob', '']) {
      const other = nativeClient(url, { 'x-user': user })
      const answers = await Promise.all([
        other.progress(id),
        other.chunk(id, 0, Buffer.from('12345')),
        other.raw(id, 0, Buffer.from('12345')),
        other.complete(id),
        other.abort(id),
      ])
      for (const { status, body } of answers) expect([status, body]).toEqual([404, unknown.body])
    }
    expect((await ann.progress(id)).body.uploadedChunks).toBe(0)
  })
})
