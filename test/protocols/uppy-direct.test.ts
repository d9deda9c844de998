/** Parts that go from the browser straight to S3: we sign, compare, complete and clean up. */
import { Readable } from 'node:stream'
import { setTimeout as wait } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { StorageUnavailableError } from '../../src/errors.ts'
import { type UppyS3Options, uppyS3Handler } from '../../src/protocols/uppy/handler.ts'
import { S3StorageAdapter } from '../../src/s3.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { StorageAdapter } from '../../src/types.ts'
import { answer } from '../support/native-client.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { MIN_PART, S3Fixture } from '../support/s3-fixture.ts'
import { clientOf, doubleTarget } from '../support/s3-target.ts'
import { tempFolder } from '../support/temp-folder.ts'
import {
  byHeader,
  type Part,
  postForm,
  putBytes,
  type Started,
  uppyClient,
  uppyServer,
} from '../support/uppy-client.ts'

const fixtures: S3Fixture[] = []
afterEach(async () => {
  for (const fixture of fixtures.splice(0)) await fixture.close()
})

type ServerOptions = NonNullable<Parameters<typeof uppyServer>[1]>

async function directServer(options: UppyS3Options = {}, server: ServerOptions = {}, target?: 'double') {
  const fixture = await S3Fixture.start(target && (await doubleTarget()))
  fixtures.push(fixture)
  const storage = server.storage ?? fixture.adapter({ maxAttempts: 3 })
  const started = await uppyServer({ direct: true, ...options }, { ...server, storage })
  return { ...started, fixture, storage }
}

const file = bytes(2 * MIN_PART + 12_345, 3)
const parts = cut(file, MIN_PART)

async function sendAll(client: ReturnType<typeof uppyClient>, upload: Started, data: readonly Buffer[] = parts) {
  return Promise.all(data.map((part, i) => client.part(upload, i + 1, part)))
}

describe('a file in parts', () => {
  it('never passes the server, and is one object with our key, type and name', async () => {
    const completed: string[] = []
    const server = await directServer(
      {},
      {
        maxChunkSize: 1024,
        hooks: { onComplete: (session, object) => void completed.push(`${session.fileName} ${object.size}`) },
      },
    )
    let chunks = 0
    server.engine.events.on('chunk', () => chunks++)
    const upload = await server.uppy.start({ filename: 'ä video.mp4', type: 'video/mp4', metadata: {} })
    const url = await server.uppy.urlOf(upload, 1)
    expect(new URL(url).host).toBe(new URL(server.fixture.target.endpoint).host)
    const sent = await sendAll(server.uppy, upload)
    const { body: listed } = await server.uppy.list(upload)
    expect(listed.map(({ PartNumber, Size }: { PartNumber: number; Size: number }) => [PartNumber, Size])).toEqual(
      parts.map((part, i) => [i + 1, part.length]),
    )
    const { status, body } = await server.uppy.complete(upload, sent)
    expect({ status, body }).toMatchObject({ status: 200, body: { key: upload.key, size: file.length } })
    expect(body.location).toContain(upload.key.split('/')[0])
    expect(sha256(await server.fixture.read(upload.key))).toBe(sha256(file))
    const head = await server.fixture.head(upload.key)
    expect(head).toMatchObject({
      ContentType: 'video/mp4',
      ContentDisposition: expect.stringContaining("UTF-8''%C3%A4"),
    })
    expect(chunks).toBe(0)
    expect(completed).toEqual([`ä video.mp4 ${file.length}`])
  })

  it('is completed once, by ten requests at a time and by one that comes later', async () => {
    let completed = 0
    const server = await directServer({}, { hooks: { onComplete: () => void completed++ } })
    const upload = await server.uppy.start()
    const sent = await sendAll(server.uppy, upload)
    const answers = await Promise.all(Array.from({ length: 10 }, () => server.uppy.complete(upload, sent)))
    answers.push(await server.uppy.complete(upload, sent))
    expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1)
    expect(completed).toBe(1)
    expect((await server.uppy.sign(upload, 1)).status).toBe(409)
  })

  it('that is not what the client names is 400, and nothing is lost', async () => {
    const server = await directServer()
    const upload = await server.uppy.start()
    expect((await server.uppy.complete(upload, [{ PartNumber: 1, ETag: 'x' }])).status).toBe(400)
    const sent = await sendAll(server.uppy, upload)
    const [one, two, three] = sent as [Part, Part, Part]
    const wrong = [
      [one, two],
      [two, three],
      [...sent, { PartNumber: 4, ETag: one.ETag }],
      [one, three, two].map((p, i) => ({ ...p, PartNumber: i + 1 })),
    ]
    for (const list of wrong) {
      expect(await server.uppy.complete(upload, list), JSON.stringify(list)).toMatchObject({
        status: 400,
        body: { code: 'PARTS_MISMATCH', message: expect.any(String) },
      })
    }
    const unquoted = sent.map(({ PartNumber, ETag }) => ({ PartNumber, ETag: ETag?.replaceAll('"', '') }))
    expect((await server.uppy.complete(upload, unquoted)).status).toBe(200)
  })

  it('that is too large for us is refused, and its parts are gone', async () => {
    const server = await directServer({}, { maxFileSize: file.length - 1 })
    const upload = await server.uppy.start()
    const sent = await sendAll(server.uppy, upload)
    expect(await server.uppy.complete(upload, sent)).toMatchObject({
      status: 413,
      body: { code: 'FILE_SIZE_EXCEEDED' },
    })
    expect(await server.fixture.openUploads(upload.key)).toEqual([])
    expect(await server.fixture.exists(upload.key)).toBe(false)
    expect((await server.uppy.complete(upload, sent)).status).toBe(404)
  })

  it('whose parts are too small, or do not have the declared size, is 400', async () => {
    const server = await directServer()
    const upload = await server.uppy.start()
    const sent = await sendAll(server.uppy, upload, cut(file.subarray(0, 100_000), 50_000))
    expect(await server.uppy.complete(upload, sent)).toMatchObject({ status: 400, body: { code: 'PARTS_MISMATCH' } })
    const declared = await server.uppy.start({ filename: 'a', metadata: { fileSize: 1000 } })
    const single = await sendAll(server.uppy, declared, [bytes(999)])
    expect(await server.uppy.complete(declared, single)).toMatchObject({ status: 400, body: { code: 'SIZE_MISMATCH' } })
    const again = await sendAll(server.uppy, declared, [bytes(1000)])
    expect((await server.uppy.complete(declared, again)).status).toBe(200)
  })

  it('is gone from S3 after DELETE, and after it was idle too long', async () => {
    let now = Date.now()
    const server = await directServer({}, { clock: () => now, sessionTtl: 60_000 })
    const [one, two] = [await server.uppy.start(), await server.uppy.start()]
    for (const upload of [one, two]) await server.uppy.part(upload, 1, parts[0] as Buffer)
    expect(await server.fixture.openUploads(one.key)).toHaveLength(1)
    expect(await server.uppy.abort(one)).toMatchObject({ status: 200, body: {} })
    expect(await server.fixture.openUploads(one.key)).toEqual([])
    // Not before the URLs that were signed for it have expired.
    now += 59 * 60_000
    expect(await server.engine.sweep()).toMatchObject({ expired: 0 })
    now += 2 * 60_000
    expect(await server.engine.sweep()).toMatchObject({ expired: 1 })
    expect(await server.fixture.openUploads(two.key)).toEqual([])
    expect((await server.uppy.list(two)).status).toBe(404)
  })

  it('goes on after a restart of the server', async () => {
    const server = await directServer()
    const upload = await server.uppy.start()
    const first = await server.uppy.part(upload, 1, parts[0] as Buffer)
    await server.close()
    const second = await uppyServer({ direct: true }, { tempDir: server.tempDir, storage: server.fixture.adapter() })
    const { body } = await second.uppy.list(upload)
    expect(body).toEqual([{ ...first, Size: MIN_PART }])
    const rest = [
      await second.uppy.part(upload, 2, parts[1] as Buffer),
      await second.uppy.part(upload, 3, parts[2] as Buffer),
    ]
    expect((await second.uppy.complete(upload, [first, ...rest])).status).toBe(200)
    expect(sha256(await server.fixture.read(upload.key))).toBe(sha256(file))
  })
})

describe('a signed URL of S3', () => {
  it('is good for one part of one key, and expires', async () => {
    const server = await directServer({ urlTtl: 1000 })
    const upload = await server.uppy.start()
    const url = await server.uppy.urlOf(upload, 1)
    for (const wrong of [
      url.replace('partNumber=1', 'partNumber=2'),
      url.replace('.bin?', '.txt?'),
      url.replace(/Expires=1\b/, 'Expires=1000'),
    ]) {
      expect(wrong).not.toBe(url)
      expect((await putBytes(wrong, bytes(10))).status).toBe(403)
    }
    expect((await answer(fetch(url))).status).toBe(403)
    expect(url).not.toMatch(/checksum/i)
    await wait(2500)
    expect((await putBytes(url, bytes(10))).status).toBe(403)
    expect((await server.uppy.list(upload)).body).toEqual([])
  })

  it('is not given to strangers, nor for another key', async () => {
    const server = await directServer(byHeader)
    const alice = uppyClient(server.url, { 'X-User': 'alice' })
    const upload = await alice.start()
    expect((await uppyClient(server.url, { 'X-User': 'bob' }).sign(upload, 1)).status).toBe(404)
    expect((await alice.sign({ ...upload, key: 'uploads/other' }, 1)).status).toBe(404)
    expect((await alice.sign(upload, 10_001)).status).toBe(400)
    expect((await alice.sign(upload, 1)).status).toBe(200)
  })

  it('carries no checksum, whatever client the app has given the storage', async () => {
    const fixture = await S3Fixture.start(await doubleTarget())
    fixtures.push(fixture)
    const client = clientOf(fixture.target, { requestChecksumCalculation: 'WHEN_SUPPORTED' })
    const storage = new S3StorageAdapter({ client, bucket: fixture.bucket })
    const server = await uppyServer({ direct: true }, { storage })
    const upload = await server.uppy.start()
    // It would be the checksum of no bytes at all.
    expect(await server.uppy.urlOf(upload, 1)).not.toMatch(/checksum/i)
    const sent = await sendAll(server.uppy, upload)
    expect((await server.uppy.complete(upload, sent)).status).toBe(200)
    expect(sha256(await fixture.read(upload.key))).toBe(sha256(file))
    client.destroy()
  })

  it('is 503 while S3 cannot be asked, and then there is one', async () => {
    const server = await directServer({}, {}, 'double')
    const upload = await server.uppy.start()
    for (let i = 0; i < 3; i++) server.fixture.double.fail('CreateMultipartUpload', { status: 503 })
    expect((await server.uppy.sign(upload, 1)).status).toBe(503)
    expect((await server.uppy.sign(upload, 1)).status).toBe(200)
    expect(server.fixture.double.openUploads(server.fixture.bucket)).toHaveLength(1)
  })
})

describe('a completion', () => {
  it('whose answer from S3 was lost finds the object that is there', async () => {
    const server = await directServer({}, {}, 'double')
    const upload = await server.uppy.start()
    const sent = await sendAll(server.uppy, upload)
    // S3 completes, but cannot be asked whether it has.
    server.fixture.double.fail('CompleteMultipartUpload', { status: 'lost-response' })
    for (let i = 0; i < 3; i++) server.fixture.double.fail('HeadObject', { status: 503 })
    expect((await server.uppy.complete(upload, sent)).status).toBe(503)
    expect(await server.uppy.complete(upload, sent)).toMatchObject({ status: 200, body: { size: file.length } })
    expect(server.fixture.double.log('CompleteMultipartUpload')).toHaveLength(1)
  })

  it('that fails is 503, and the same request works later', async () => {
    const server = await directServer({}, {}, 'double')
    const upload = await server.uppy.start()
    const sent = await sendAll(server.uppy, upload)
    for (let i = 0; i < 3; i++) server.fixture.double.fail('CompleteMultipartUpload', { status: 503 })
    expect((await server.uppy.complete(upload, sent)).status).toBe(503)
    expect((await server.uppy.complete(upload, sent)).status).toBe(200)
    expect(sha256(await server.fixture.read(upload.key))).toBe(sha256(file))
  })

  it('that another server began for fewer parts is not a way around the largest size', async () => {
    const fixture = await S3Fixture.start()
    fixtures.push(fixture)
    const sessions = new MemorySessionStore()
    const shared = { sessions, maxFileSize: 2 * MIN_PART, tempDir: tempFolder() }
    let listed = () => {}
    let go = () => {}
    const isListed = new Promise<void>((resolve) => {
      listed = resolve
    })
    const mayGo = new Promise<void>((resolve) => {
      go = resolve
    })
    const slow = fixture.adapter({ maxAttempts: 3 })
    const list = slow.multipart.listParts.bind(slow.multipart)
    let lists = 0
    slow.multipart.listParts = async (...args) => {
      if (++lists === 2) {
        listed()
        await mayGo
      }
      return list(...args)
    }
    const one = await uppyServer({ direct: true }, { ...shared, storage: slow })
    const other = await uppyServer({ direct: true }, { ...shared, storage: fixture.adapter({ maxAttempts: 3 }) })
    const upload = await one.uppy.start()
    const sent = await sendAll(one.uppy, upload, parts.slice(0, 2))
    const url = await one.uppy.urlOf(upload, 3)
    const first = one.uppy.complete(upload, sent)
    await isListed
    const late = { PartNumber: 3, ETag: (await putBytes(url, parts[2] as Buffer)).headers.get('etag') }
    const second = other.uppy.complete(upload, [...sent, late])
    await wait(300)
    go()
    expect((await first).status).toBe(400)
    expect(await second).toMatchObject({ status: 400, body: { code: 'SIZE_MISMATCH' } })
    expect(await fixture.exists(upload.key)).toBe(false)
  })

  it('that another server has finished while this one was still looking has its result', async () => {
    const fixture = await S3Fixture.start(await doubleTarget())
    fixtures.push(fixture)
    const shared = { sessions: new MemorySessionStore(), tempDir: tempFolder() }
    const slow = await uppyServer({ direct: true }, { ...shared, storage: fixture.adapter() })
    const fast = await uppyServer({ direct: true }, { ...shared, storage: fixture.adapter() })
    const upload = await slow.uppy.start()
    const sent = await sendAll(slow.uppy, upload)
    fixture.double.fail('ListParts', { status: 'ok', delayMs: 1_000 })
    const late = slow.uppy.complete(upload, sent)
    await expect.poll(() => fixture.double.log('ListParts').length).toBe(1)
    const { status, text } = await fast.uppy.complete(upload, sent)
    expect(status).toBe(200)
    expect(await late).toMatchObject({ status: 200, text })
  })

  it('of a multipart upload that somebody else has aborted is 404: there is nothing left', async () => {
    const server = await directServer()
    const upload = await server.uppy.start()
    const sent = await sendAll(server.uppy, upload)
    await server.fixture.storage.multipart.abort({ fileKey: upload.key, multipartId: null })
    expect((await server.uppy.complete(upload, sent)).status).toBe(404)
  })
})

it('a multipart upload whose id was lost goes with its upload', async () => {
  const server = await directServer({}, {}, 'double')
  const upload = await server.uppy.start({ filename: 'a', metadata: { fileSize: 1000 } })
  server.fixture.double.fail('CreateMultipartUpload', { status: 'lost-response' })
  expect((await server.uppy.sign(upload, 1)).status).toBe(200)
  expect(await server.fixture.openUploads(upload.key)).toHaveLength(2)
  await server.uppy.abort(upload)
  expect(await server.fixture.openUploads(upload.key)).toEqual([])

  const lost = await server.uppy.start({ filename: 'a', metadata: { fileSize: 1000 } })
  for (let i = 0; i < 3; i++) server.fixture.double.fail('CreateMultipartUpload', { status: 'lost-response' })
  expect((await server.uppy.sign(lost, 1)).status).toBe(503)
  expect(await server.fixture.openUploads(lost.key)).toHaveLength(3)
  await server.uppy.abort(lost)
  expect(await server.fixture.openUploads(lost.key)).toEqual([])
})

describe('direct mode', () => {
  it('needs a storage that can sign, and says so at once', async () => {
    const { engine } = await uppyServer({}, { storage: new MemoryStorageAdapter() })
    expect(() => uppyS3Handler(engine, { direct: true })).toThrow('direct needs a storage that can sign URLs')
    await expect(engine.create({ fileName: 'a', totalSize: null, protocol: 'x', direct: true })).rejects.toThrow(
      TypeError,
    )
  })

  it('takes small and empty files by form, through the server', async () => {
    const server = await directServer()
    for (const size of [0, 1000]) {
      const { body } = await server.uppy.params()
      expect(body.url).toBe(`${server.url}/s3/form`)
      expect((await postForm(body.url, body.fields, bytes(size))).status).toBe(201)
      expect(sha256(await server.fixture.read(body.fields.key))).toBe(sha256(bytes(size)))
    }
  })

  it('can be changed while uploads are under way: each goes on as it began', async () => {
    const server = await directServer()
    const direct = await server.uppy.start()
    const ours = await uppyServer({}, { tempDir: server.tempDir, storage: server.fixture.adapter() })
    const sent = await sendAll(ours.uppy, direct)
    expect((await ours.uppy.complete(direct, sent)).status).toBe(200)
    const staged = await ours.uppy.start()
    const part = await server.uppy.part(staged, 1, parts[0] as Buffer)
    expect((await server.uppy.complete(staged, [part])).status).toBe(200)
  })

  it('takes no bytes for a direct upload, and signs nothing for one that is not', async () => {
    const server = await directServer()
    const { uploadId } = await server.uppy.start()
    const { engine } = server
    const ref = { uploadId, protocol: 'uppy-s3' }
    await expect(engine.writeChunk({ ...ref, index: 0, body: Readable.from(['x']) })).rejects.toMatchObject({
      code: 'DIRECT',
    })
    await expect(engine.append({ ...ref, offset: 0, body: Readable.from(['x']) })).rejects.toMatchObject({
      code: 'DIRECT',
    })
    const { session } = await engine.create({ fileName: 'a', totalSize: null, protocol: 'uppy-s3' })
    const other = { uploadId: session.id, protocol: 'uppy-s3' }
    await expect(engine.signPart({ ...other, partNumber: 1, lifetime: 1 })).rejects.toMatchObject({
      code: 'NOT_DIRECT',
    })
    await expect(engine.listParts(other)).rejects.toMatchObject({ code: 'NOT_DIRECT' })
  })

  it('asks the hooks as ever', async () => {
    const seen: string[] = []
    const refuses = new Set<string>()
    const server = await directServer(
      {},
      {
        hooks: {
          authorize: (action) => {
            seen.push(action)
            return !refuses.has(action)
          },
          onCreate: (draft) => {
            draft.key = `inbox/${draft.uploadId}`
          },
        },
      },
    )
    const upload = await server.uppy.start()
    expect(upload.key).toBe(`inbox/${upload.uploadId}`)
    seen.length = 0
    const url = await server.uppy.urlOf(upload, 1)
    expect(new URL(url).pathname).toContain(upload.key)
    expect(seen).toEqual(['read', 'write'])
    refuses.add('write')
    expect((await server.uppy.sign(upload, 2)).status).toBe(404)
    refuses.add('complete')
    expect((await server.uppy.complete(upload, [{ PartNumber: 1, ETag: 'x' }])).status).toBe(404)
  })
})

// A storage that loses its connection while the list is compared must not lose the upload.
it('a list that cannot be read is 503', async () => {
  const server = await directServer({}, {}, 'double')
  const upload = await server.uppy.start()
  const sent = await sendAll(server.uppy, upload)
  const storage = server.storage as StorageAdapter & { multipart: { listParts: unknown } }
  const { listParts } = storage.multipart
  Object.defineProperty(storage.multipart, 'listParts', {
    configurable: true,
    value: () => Promise.reject(new StorageUnavailableError()),
  })
  expect((await server.uppy.complete(upload, sent)).status).toBe(503)
  Object.defineProperty(storage.multipart, 'listParts', { configurable: true, value: listParts })
  expect((await server.uppy.complete(upload, sent)).status).toBe(200)
})
