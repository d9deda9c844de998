/** Uppy's S3 plugins on the engine: the routes, what they answer, and that the file arrives whole. */
import { EventEmitter, once } from 'node:events'
import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { ProcessingError, StorageUnavailableError } from '../../src/errors.ts'
import { uppyS3Handler } from '../../src/protocols/uppy/handler.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { StorageAdapter } from '../../src/types.ts'
import { answer } from '../support/native-client.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'
import { type Part, postForm, putBytes, unknownId, uppyServer } from '../support/uppy-client.ts'

const KiB = 1024
const file = bytes(1_000_003, 5)
const parts = cut(file, 256 * KiB)

function unquoted({ PartNumber, ETag }: Part) {
  return { PartNumber, ETag: ETag?.replaceAll('"', '') }
}

describe.each(['express', 'bare'] as const)('a file in parts, on %s', (on) => {
  it.each(['quoted', 'unquoted'])('arrives whole, with %s ETags, whatever the order of its parts', async (form) => {
    const server = await uppyServer({}, { on })
    const upload = await server.uppy.start()
    expect(upload).toEqual({ uploadId: expect.stringMatching(/^[0-9a-f-]{36}$/), key: expect.any(String) })
    const sent: Part[] = []
    for (const number of [3, 1, 4, 2]) sent.push(await server.uppy.part(upload, number, parts[number - 1] as Buffer))
    expect(sent.map(({ ETag }) => ETag).filter((etag) => !/^"[0-9a-f]{8}-\d+"$/.test(etag ?? ''))).toEqual([])
    const named = form === 'quoted' ? sent : sent.map(unquoted)
    const { status, body } = await server.uppy.complete(upload, named)
    expect({ status, body }).toMatchObject({ status: 200, body: { key: upload.key, size: file.length } })
    expect(body.location).toBe(`https://cdn.example.com/${upload.key}`)
    expect(body).not.toHaveProperty('error')
    expect(sha256(await readFile(join(server.directory, upload.key)))).toBe(sha256(file))
  })

  it('gets absolute URLs for its parts', async () => {
    const server = await uppyServer({}, { on })
    const upload = await server.uppy.start()
    const { body } = await server.uppy.sign(upload, 2)
    expect(body).toMatchObject({ method: 'PUT', expires: 3600 })
    expect(new URL(body.url).pathname).toBe(`${new URL(server.url).pathname}/s3/multipart/${upload.uploadId}/2`)
    expect(new URL(body.url).host).toBe(new URL(server.url).host)
  })
})

describe('a file in parts', () => {
  it('arrives whole when all parts are sent at once', async () => {
    const server = await uppyServer()
    const upload = await server.uppy.start()
    const sent = await Promise.all(parts.map((part, i) => server.uppy.part(upload, i + 1, part)))
    expect((await server.uppy.complete(upload, sent)).status).toBe(200)
    expect(sha256(await readFile(join(server.directory, upload.key)))).toBe(sha256(file))
  })

  it('may be sent as anything, and a body parser before the handler is named as the culprit', async () => {
    const server = await uppyServer()
    const upload = await server.uppy.start()
    const typed = await putBytes(await server.uppy.urlOf(upload, 1), file, { 'Content-Type': 'application/json' })
    expect(typed.status).toBe(200)
    expect((await server.uppy.complete(upload, [{ PartNumber: 1, ETag: typed.headers.get('etag') }])).status).toBe(200)
    const parsed = await uppyServer(
      {},
      {
        prepare: (app) => {
          app.use((request, _response, next) => void request.resume().once('end', next))
        },
      },
    )
    const { engine } = parsed
    const { session } = await engine.create({ fileName: 'a', totalSize: null, protocol: 'uppy-s3' })
    const url = await parsed.uppy.urlOf({ uploadId: session.id, key: session.key }, 1)
    expect(await putBytes(url, file)).toMatchObject({ status: 500, body: { code: 'BODY_ALREADY_READ' } })
  })

  it('keeps its name, type and metadata, in whatever form they come', async () => {
    const server = await uppyServer()
    const metadata = { name: 'ü.pdf', relativePath: null, pages: 3, tags: ['a', 'b'], fileSize: file.length }
    const { uploadId } = await server.uppy.start({ filename: 'ü.pdf', type: 'application/pdf', metadata })
    const session = await server.engine.get({ uploadId, protocol: 'uppy-s3' })
    expect(session).toMatchObject({ fileName: 'ü.pdf', mimeType: 'application/pdf', totalSize: file.length })
    expect(session.metadata).toEqual({ name: 'ü.pdf', pages: '3', tags: '["a","b"]', fileSize: String(file.length) })
  })

  it('needs a name, and refuses what is no text: 400 with a message', async () => {
    const { uppy } = await uppyServer()
    for (const body of [
      {},
      { filename: '' },
      { filename: 1 },
      { filename: 'a', type: 1 },
      { filename: 'a', metadata: [] },
    ]) {
      const { status, body: told } = await uppy.create(body)
      expect({ status, told }, JSON.stringify(body)).toMatchObject({
        status: 400,
        told: { error: expect.any(String), message: expect.any(String) },
      })
    }
    expect((await uppy.create({ filename: 'a' })).status).toBe(200)
    const long = { filename: 'a', metadata: { text: 'x'.repeat(9000) } }
    expect((await uppy.create(long)).status).toBe(400)
  })

  it('is listed with numbers, ETags and sizes, also after a restart', async () => {
    const tempDir = tempFolder()
    const storage = new MemoryStorageAdapter({ multipart: false })
    const first = await uppyServer({}, { tempDir, storage })
    const upload = await first.uppy.start()
    const urls = await Promise.all([1, 2, 3, 4].map((number) => first.uppy.urlOf(upload, number)))
    const two = await first.uppy.part(upload, 2, parts[1] as Buffer)
    const one = await first.uppy.part(upload, 1, parts[0] as Buffer)
    await first.close()
    const second = await uppyServer({}, { tempDir, storage })
    const { body } = await second.uppy.list(upload)
    expect(body).toEqual([
      { ...one, Size: 256 * KiB },
      { ...two, Size: 256 * KiB },
    ])
    // The signed URLs are those of any server of this kind.
    const moved = urls.map((url) => url.replace(first.url, second.url))
    const rest = await Promise.all([3, 4].map((n) => putBytes(moved[n - 1] ?? '', parts[n - 1] as Buffer)))
    const sent = [one, two, ...rest.map(({ headers }, i) => ({ PartNumber: i + 3, ETag: headers.get('etag') }))]
    const { status, body: done } = await second.uppy.complete(upload, sent)
    expect({ status, done }).toMatchObject({ status: 200, done: { size: file.length } })
  })

  it('takes a part again, and its last bytes count', async () => {
    const server = await uppyServer()
    const upload = await server.uppy.start()
    const wrong = await server.uppy.part(upload, 1, bytes(256 * KiB, 77))
    const right = await server.uppy.part(upload, 1, parts[0] as Buffer)
    expect(await server.uppy.part(upload, 1, parts[0] as Buffer)).toEqual(right)
    expect(wrong.ETag).not.toBe(right.ETag)
    expect((await server.uppy.complete(upload, [wrong])).status).toBe(400)
    expect((await server.uppy.complete(upload, [right])).status).toBe(200)
    expect(sha256(await readFile(join(server.directory, upload.key)))).toBe(sha256(parts[0] as Buffer))
  })

  it('whose checksums are lost is told by its sizes, and a part that comes again has one again', async () => {
    const server = await uppyServer()
    const upload = await server.uppy.start()
    const sent = await Promise.all(parts.map((part, i) => server.uppy.part(upload, i + 1, part)))
    await rm(join(server.tempDir, 'staging', upload.uploadId, 'sums'))
    const etags = async () => (await server.uppy.list(upload)).body.map(({ ETag }: Part) => ETag)
    expect(await etags()).toEqual(parts.map(({ length }) => `"${length}"`))
    expect(await server.uppy.part(upload, 2, parts[1] as Buffer)).toEqual(sent[1])
    expect((await etags())[1]).toBe(sent[1]?.ETag)
    const short = sent.map((part, i) => (i === 0 ? { ...part, ETag: part.ETag?.replace('262144', '262143') } : part))
    expect((await server.uppy.complete(upload, short)).status).toBe(400)
    expect((await server.uppy.complete(upload, sent)).status).toBe(200)
  })

  it('is gone after DELETE, which answers JSON', async () => {
    const server = await uppyServer()
    const upload = await server.uppy.start()
    const url = await server.uppy.urlOf(upload, 2)
    await server.uppy.part(upload, 1, parts[0] as Buffer)
    expect(await server.uppy.abort(upload)).toMatchObject({ status: 200, body: {} })
    const gone = [
      await server.uppy.list(upload),
      await server.uppy.sign(upload, 1),
      await server.uppy.complete(upload, []),
    ]
    expect(gone.map(({ status }) => status)).toEqual([404, 404, 404])
    expect((await putBytes(url, parts[1] as Buffer)).status).toBe(404)
  })
})

describe('complete', () => {
  async function started() {
    const server = await uppyServer()
    const upload = await server.uppy.start()
    const sent = await Promise.all(parts.map((part, i) => server.uppy.part(upload, i + 1, part)))
    return { server, upload, sent }
  }

  it('with missing, extra, wrong or repeated parts is 400 with a message, and nothing is lost', async () => {
    const { server, upload, sent } = await started()
    const [one, two, three, four] = sent as [Part, Part, Part, Part]
    const wrong: unknown[] = [
      [],
      undefined,
      'all',
      {},
      [one, two, three],
      [two, three, four],
      [one, two, four],
      [...sent, { PartNumber: 5, ETag: four.ETag }],
      [...sent, four],
      [one, two, three, { PartNumber: 4, ETag: one.ETag }],
      [two, one, three, four].map(({ ETag }, i) => ({ PartNumber: i + 1, ETag: sent[(i + 1) % 4]?.ETag ?? ETag })),
      [one, two, three, { PartNumber: 4 }],
      [one, two, three, { PartNumber: 'x', ETag: four.ETag }],
      [one, two, three, { PartNumber: 4.5, ETag: four.ETag }],
      [one, two, three, null],
      Array.from({ length: 10_001 }, (_, i) => ({ PartNumber: i + 1, ETag: 'x' })),
    ]
    for (const list of wrong) {
      const { status, body } = await server.uppy.complete(upload, list)
      expect({ status, body }, JSON.stringify(list)?.slice(0, 300)).toMatchObject({
        status: 400,
        body: { message: expect.any(String) },
      })
    }
    expect((await server.uppy.complete(upload, sent)).status).toBe(200)
    expect(sha256(await readFile(join(server.directory, upload.key)))).toBe(sha256(file))
  })

  it('ten times at once makes one object, and later repeats get the same answer', async () => {
    let completed = 0
    const server = await uppyServer({}, { hooks: { onComplete: () => void completed++ } })
    const upload = await server.uppy.start()
    const sent = await Promise.all(parts.map((part, i) => server.uppy.part(upload, i + 1, part)))
    const answers = await Promise.all(Array.from({ length: 10 }, () => server.uppy.complete(upload, sent)))
    answers.push(await server.uppy.complete(upload, sent))
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 11 }, () => 200))
    expect(completed).toBe(1)
    const late = await putBytes(await server.uppy.urlOf(upload, 1), parts[0] as Buffer)
    expect(late).toMatchObject({ status: 409, body: { code: 'UPLOAD_CLOSED' } })
    expect((await server.uppy.abort(upload)).status).toBe(409)
  })

  it('takes a list of ten thousand parts', async () => {
    const server = await uppyServer()
    const upload = await server.uppy.start()
    await server.uppy.part(upload, 1, parts[0] as Buffer)
    const long = Array.from({ length: 10_000 }, (_, i) => ({ PartNumber: i + 1, ETag: `"${'f'.repeat(32)}-10000"` }))
    expect(await server.uppy.complete(upload, long)).toMatchObject({ status: 400, body: { code: 'PARTS_MISMATCH' } })
  })

  it('is 503 while the storage fails, and works when it does again', async () => {
    const memory = new MemoryStorageAdapter({ multipart: false })
    let fails = true
    const storage: StorageAdapter = {
      upload: (...args) => (fails ? Promise.reject(new StorageUnavailableError()) : memory.upload(...args)),
    }
    const server = await uppyServer({}, { storage })
    const upload = await server.uppy.start()
    const sent = [await server.uppy.part(upload, 1, file)]
    const failed = await server.uppy.complete(upload, sent)
    expect(failed).toMatchObject({ status: 503, body: { message: expect.any(String) } })
    expect(Number(failed.headers.get('retry-after'))).toBeGreaterThan(0)
    fails = false
    expect((await server.uppy.complete(upload, sent)).status).toBe(200)
  })

  it('is 422 for a file that the application refuses, and stays so', async () => {
    const onComplete = () => {
      throw new ProcessingError('This is no picture.')
    }
    const server = await uppyServer({}, { hooks: { onComplete } })
    const upload = await server.uppy.start()
    const sent = [await server.uppy.part(upload, 1, file)]
    for (const time of ['first', 'second']) {
      const { status, body } = await server.uppy.complete(upload, sent)
      expect({ status, body }, time).toMatchObject({ status: 422, body: { message: 'This is no picture.' } })
    }
  })
})

describe('limits', () => {
  it('hold for parts and for the sum of them, whatever the client says of the size', async () => {
    const server = await uppyServer({}, { maxChunkSize: 100 * KiB, maxFileSize: 150 * KiB })
    const upload = await server.uppy.start()
    const put = async (number: number, size: number) =>
      (await putBytes(await server.uppy.urlOf(upload, number), bytes(size, number))).status
    expect(await put(1, 100 * KiB + 1)).toBe(413)
    expect(await put(1, 100 * KiB)).toBe(200)
    expect(await put(2, 50 * KiB + 1)).toBe(413)
    expect(await put(2, 50 * KiB)).toBe(200)
    const told = await server.uppy.create({ filename: 'a', metadata: { fileSize: 150 * KiB + 1 } })
    expect(told).toMatchObject({ status: 413, body: { message: expect.stringContaining('limit') } })
    const form = (await server.uppy.params()).body
    expect((await postForm(form.url, form.fields, bytes(150 * KiB + 1))).status).toBe(413)
  })

  it('hold for media types and the number of uploads', async () => {
    const server = await uppyServer({}, { allowedMimeTypes: ['image/*'], maxSessions: 1 })
    expect((await server.uppy.create()).status).toBe(415)
    expect((await server.uppy.params()).status).toBe(415)
    expect((await server.uppy.create({ filename: 'a', type: 'image/png' })).status).toBe(200)
    const { status, headers } = await server.uppy.create({ filename: 'a', type: 'image/png' })
    expect(status).toBe(429)
    expect(headers.get('retry-after')).not.toBe(null)
  })

  it('let only part numbers from 1 to maxChunks be signed', async () => {
    const server = await uppyServer({}, { maxChunks: 3 })
    const upload = await server.uppy.start()
    const statuses = await Promise.all(['1', '3', '0', '4', '-1', '1.5', 'x'].map((n) => server.uppy.sign(upload, n)))
    expect(statuses.map(({ status }) => status)).toEqual([200, 200, 400, 400, 404, 404, 404])
  })
})

describe('a small file', () => {
  it.each([0, 1, 300_000])('of %i bytes arrives by a form, with Location and ETag', async (size) => {
    const server = await uppyServer()
    const { status, body } = await server.uppy.params({
      filename: 'small.txt',
      type: 'text/plain',
      'metadata[name]': 'small.txt',
      'metadata[relativePath]': 'null',
      'metadata[a]b]': 'x',
    })
    expect({ status, body }).toMatchObject({
      status: 200,
      body: { method: 'POST', fields: { key: expect.any(String) } },
    })
    const data = bytes(size, 9)
    const posted = await postForm(body.url, body.fields, data)
    const location = `https://cdn.example.com/${body.fields.key}`
    expect(posted).toMatchObject({ status: 201, body: { location, key: body.fields.key, size } })
    expect(posted.headers.get('location')).toBe(location)
    expect(posted.headers.get('etag')).toMatch(/^"[0-9a-f]{8}-\d+"$/)
    expect(posted.headers.get('access-control-expose-headers')).toMatch(/Location.*ETag/)
    expect(sha256(await readFile(join(server.directory, body.fields.key)))).toBe(sha256(data))
    const [uploadId = ''] = body.fields.token.split('.')
    const session = await server.engine.get({ uploadId, protocol: 'uppy-s3' })
    expect(session.metadata).toEqual({ name: 'small.txt', 'a]b': 'x' })
    // Its answer was lost; the client sends it once more.
    expect((await postForm(body.url, body.fields, data)).body).toEqual(posted.body)
  })

  it('is stored once however often its form is sent, and again after a failure', async () => {
    const memory = new MemoryStorageAdapter({ multipart: false })
    let failures = 1
    const storage: StorageAdapter = {
      upload: (...args) => (failures-- > 0 ? Promise.reject(new StorageUnavailableError()) : memory.upload(...args)),
    }
    const server = await uppyServer({}, { storage })
    const { body } = await server.uppy.params()
    expect((await postForm(body.url, body.fields, file)).status).toBe(503)
    // As clients do: once more after a 503.
    const post = async (): Promise<Awaited<ReturnType<typeof postForm>>> => {
      const posted = await postForm(body.url, body.fields, file)
      return posted.status === 503 ? post() : posted
    }
    const again = await Promise.all([1, 2, 3].map(post))
    expect(again.map(({ status }) => status)).toEqual([201, 201, 201])
  })

  it('that comes again while it is being stored is told of when it is', async () => {
    const memory = new MemoryStorageAdapter({ multipart: false })
    const gate = new EventEmitter()
    const storage: StorageAdapter = {
      upload: async (...args) => {
        const opened = once(gate, 'open')
        gate.emit('begun')
        await opened
        return memory.upload(...args)
      },
    }
    const server = await uppyServer({}, { storage })
    const { body } = await server.uppy.params()
    const begun = once(gate, 'begun')
    const first = postForm(body.url, body.fields, file)
    await begun
    const [again, other] = [file, Buffer.from('other')].map((data) => postForm(body.url, body.fields, data))
    await wait(200)
    gate.emit('open')
    const { text } = await first
    expect(await again).toMatchObject({ status: 201, text })
    expect(await other).toMatchObject({ status: 409, body: { code: 'FILE_CHANGED' } })
  })

  it('can be posted to the URL that stored files have, which makes the URL true that Uppy 6 makes up', async () => {
    const server = await uppyServer({ formUrl: 'http://127.0.0.1/stored' })
    const { body } = await server.uppy.params()
    expect(body.url).toBe('http://127.0.0.1/stored')
    // The app passes POSTs of that URL to the handler.
    expect((await postForm(`${server.url}/stored`, body.fields, file)).status).toBe(201)
  })

  it('needs its name, its token before the file, and the part named file', async () => {
    const server = await uppyServer()
    expect((await server.uppy.params({ type: 'text/plain' })).status).toBe(400)
    const { body } = await server.uppy.params()
    const late = new FormData()
    late.set('file', new Blob(['x']))
    for (const [name, value] of Object.entries(body.fields)) late.set(name, value as string)
    const post = (form: FormData) => answer(fetch(body.url, { method: 'POST', body: form }))
    expect((await post(late)).status).toBe(404)
    const without = new FormData()
    for (const [name, value] of Object.entries(body.fields)) without.set(name, value as string)
    expect((await post(without)).status).toBe(400)
    without.set('other', new Blob(['x']))
    expect((await post(without)).status).toBe(400)
    expect((await answer(fetch(body.url, { method: 'POST', body: 'x' }))).status).toBe(400)
  })
})

describe('answers', () => {
  it('carry CORS headers on errors too, expose ETag, and never name another host', async () => {
    const server = await uppyServer()
    const unknown = await server.uppy.list({ uploadId: unknownId, key: 'k' })
    const preflight = await answer(fetch(`${server.url}/s3/multipart`, { method: 'OPTIONS' }))
    expect([unknown.status, preflight.status]).toEqual([404, 204])
    for (const { headers } of [unknown, preflight, await server.uppy.create()]) {
      expect(headers.get('access-control-allow-origin')).toBe('*')
      expect(headers.get('access-control-expose-headers')).toContain('ETag')
      expect(headers.has('i-am')).toBe(false)
    }
    expect(preflight.headers.get('access-control-allow-methods')).toContain('DELETE')
    const silent = await uppyServer({ cors: false })
    expect((await silent.uppy.create()).headers.has('access-control-allow-origin')).toBe(false)
  })

  it('for other paths and methods are 404 and 405', async () => {
    const { url } = await uppyServer()
    const status = async (method: string, path: string) => (await fetch(url + path, { method })).status
    expect(await status('GET', '/')).toBe(404)
    expect(await status('GET', '/s3/sts')).toBe(404)
    expect(await status('GET', `/s3/multipart/${unknownId}/1/2`)).toBe(404)
    expect(await status('GET', '/s3/multipart')).toBe(405)
    expect(await status('POST', '/s3/params')).toBe(405)
    const wrong = await fetch(`${url}/s3/multipart`, { method: 'PUT' })
    expect(wrong.headers.get('allow')).toBe('POST, OPTIONS')
  })

  it('name the public URL when there is one', async () => {
    const server = await uppyServer({ publicUrl: 'https://up.example.com/base/' })
    const upload = await server.uppy.start()
    expect(await server.uppy.urlOf(upload, 1)).toMatch(/^https:\/\/up\.example\.com\/base\/s3\/multipart\//)
    expect((await server.uppy.params()).body.url).toBe('https://up.example.com/base/s3/form')
  })

  it('take X-Forwarded headers only from a proxy that the app trusts', async () => {
    const forwarded = { 'X-Forwarded-Host': 'evil.example.com', 'X-Forwarded-Proto': 'https' }
    const urlFrom = async (trust: boolean) => {
      const server = await uppyServer({}, { prepare: (app) => void app.set('trust proxy', trust) })
      const upload = await server.uppy.start()
      const path = `${server.url}/s3/multipart/${upload.uploadId}/1?key=${encodeURIComponent(upload.key)}`
      return (await answer(fetch(path, { headers: forwarded }))).body.url as string
    }
    expect(await urlFrom(false)).toMatch(/^http:\/\/127\.0\.0\.1/)
    expect(await urlFrom(true)).toMatch(/^https:\/\/evil\.example\.com\/files\/s3/)
  })
})

describe('options', () => {
  it.each([
    { publicUrl: '/companion' },
    { formUrl: 'stored' },
    { urlTtl: 0 },
    { urlTtl: 8 * 24 * 3_600_000 },
    { cors: { credentials: true } },
  ])('%o are refused at once', async (options) => {
    const { engine } = await uppyServer()
    expect(() => uppyS3Handler(engine, options)).toThrow(TypeError)
  })
})
