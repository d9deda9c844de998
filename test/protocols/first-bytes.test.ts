/** A file that is not what it is declared as is refused as soon as its first bytes are there, whoever sends it. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { picture, program, sendSlowly } from '../support/disguised.ts'
import { ietfServer, partialUpload, problemIn } from '../support/ietf-client.ts'
import { nativeClient } from '../support/native-client.ts'
import { cut } from '../support/random.ts'
import { resumableServer } from '../support/resumable-client.ts'
import { testServer } from '../support/server.ts'
import { filesBelow } from '../support/temp-folder.ts'
import { metadataHeader, offsetType, tusServer } from '../support/tus-client.ts'
import { postForm, putBytes, uppyServer } from '../support/uppy-client.ts'

const MiB = 1024 * 1024
const png = 'image/png'
const declared = { verifyMimeType: true, allowedMimeTypes: [png] }
const refused = { status: 415, code: 'INVALID_FILE_TYPE' }

/** Nothing published, nothing left. */
async function nothingIn(storage: MemoryStorageAdapter, tempDir: string): Promise<void> {
  expect(storage.keys()).toEqual([])
  expect(storage.openMultipartUploads()).toEqual([])
  expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
}

function storageOf() {
  return new MemoryStorageAdapter({ multipart: { minPartSize: 64 * 1024, partSize: 64 * 1024 } })
}

describe('the documented routes', () => {
  it('refuse other bytes that come for the first chunk too late, but not the upload', async () => {
    const storage = storageOf()
    const { url, middleware } = await testServer({ storage, ...declared })
    const client = nativeClient(url)
    const chunks = cut(picture(200_000), 65_536)
    const id = await client.start(200_000, { mimeType: png, fileName: 'a.png', chunkSize: 65_536 })
    expect((await client.chunk(id, 0, chunks[0] as Buffer)).status).toBe(200)
    const session = () => middleware.engine.get({ uploadId: id, protocol: 'native' })
    await expect.poll(async () => (await session()).sentParts).toEqual([[1, 1]])
    const late = await client.chunk(id, 0, program(200_000).subarray(0, 65_536))
    expect([late.status, late.body.code]).toEqual([409, 'CHUNK_CONFLICT'])
    for (const [index, chunk] of chunks.entries()) expect((await client.chunk(id, index, chunk)).status).toBe(200)
    expect((await client.complete(id)).status).toBe(200)
  })

  it('refuse a program called a picture at its first chunk, and all that comes after it', async () => {
    const storage = storageOf()
    const { url, tempDir } = await testServer({ storage, ...declared })
    const client = nativeClient(url)
    const chunks = cut(program(400_000), 100_000)
    const id = await client.start(400_000, { mimeType: png, fileName: 'a.png' })
    // The first one comes last but one.
    for (const index of [2, 1]) expect((await client.chunk(id, index, chunks[index] as Buffer)).status).toBe(200)
    const { status, body } = await client.chunk(id, 0, chunks[0] as Buffer)
    expect({ status, code: body.code }).toEqual(refused)
    expect(body).toMatchObject({ declared: png, detected: 'application/x-msdownload', retryable: false })
    for (const late of [await client.chunk(id, 3, chunks[3] as Buffer), await client.complete(id)]) {
      expect({ status: late.status, code: late.body.code }).toEqual(refused)
      expect(late.body.message).toBe(body.message)
    }
    const progress = await client.progress(id)
    expect([progress.status, progress.body.refusal.code]).toEqual([410, 'INVALID_FILE_TYPE'])
    await nothingIn(storage, tempDir)
  })

  it('take a picture that is one, in any order', async () => {
    const storage = storageOf()
    const { url } = await testServer({ storage, ...declared })
    const client = nativeClient(url)
    const file = picture(400_000)
    const id = await client.start(file.length, { mimeType: png })
    for (const [index, data] of [...cut(file, 100_000).entries()].reverse()) {
      expect((await client.chunk(id, index, data)).status).toBe(200)
    }
    const { status, body } = await client.complete(id)
    expect(status).toBe(200)
    expect(storage.read(body.key)?.equals(file)).toBe(true)
  })

  it.each(['form', 'bytes'])('in one request (%s): before the rest is sent', async (kind) => {
    const storage = storageOf()
    const { url, tempDir } = await testServer({ storage, ...declared })
    const head =
      '--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    const start = kind === 'form' ? Buffer.concat([Buffer.from(head), program(MiB)]) : program(MiB)
    const type = kind === 'form' ? 'multipart/form-data; boundary=b' : png
    const body = { start, size: 60 * MiB }
    const { sent, ...answer } = await sendSlowly('POST', `${url}/upload?fileName=a.png`, { 'Content-Type': type }, body)
    expect(answer).toEqual(refused)
    expect(sent).toBeLessThan(20 * MiB)
    await nothingIn(storage, tempDir)
  })
})

describe('tus', () => {
  const metadata = { 'Upload-Metadata': metadataHeader({ filename: 'a.png', filetype: png }) }

  it('one PATCH for the whole file: before the rest is sent', async () => {
    const storage = storageOf()
    const server = await tusServer({ storage, ...declared })
    const url = await server.create(60 * MiB, metadata)
    const headers = { 'Tus-Resumable': '1.0.0', 'Content-Type': offsetType, 'Upload-Offset': 0 }
    const { sent, ...answer } = await sendSlowly('PATCH', url, headers, { start: program(8192), size: 60 * MiB })
    expect(answer).toEqual(refused)
    expect(sent).toBeLessThan(20 * MiB)
    expect((await server.head(url)).status).toBe(410)
    expect((await server.patch(url, 8192, 'abc')).status).toBe(415)
    await nothingIn(storage, server.tempDir)
  })

  it('small PATCHes, and a file of few bytes', async () => {
    const storage = storageOf()
    const server = await tusServer({ storage, ...declared })
    const url = await server.create(9000, metadata)
    expect((await server.patch(url, 0, program(4099))).status).toBe(204)
    expect((await server.patch(url, 4099, Buffer.alloc(1))).status).toBe(415)
    const small = await server.create(600, metadata)
    expect((await server.patch(small, 0, program(600))).status).toBe(415)
    const withBody = { ...metadata, 'Upload-Length': 600, 'Content-Type': offsetType }
    expect((await server.post(withBody, { body: program(600) })).status).toBe(415)
    await nothingIn(storage, server.tempDir)
  })

  it('a concatenation is looked at as a whole, when it is made', async () => {
    const storage = storageOf()
    const server = await tusServer({ storage, ...declared })
    const [first, second] = cut(program(200_000), 100) as [Buffer, Buffer]
    const pieces = [await server.partial(first), await server.partial(second)]
    expect((await server.concat(pieces, metadata)).status).toBe(415)
    expect((await server.concat([pieces[1] ?? ''], metadata)).status).toBe(415)
    const good = await server.partial(picture(100_000))
    expect((await server.concat([good, pieces[0] ?? ''], metadata)).status).toBe(201)
    expect(storage.keys()).toHaveLength(1)
  })
})

describe('IETF', () => {
  it('an append of the whole file: before the rest is sent, with a final answer', async () => {
    const storage = storageOf()
    const server = await ietfServer({ version: 8, storage, ...declared })
    const url = await server.create({ 'Upload-Length': 60 * MiB, 'Content-Type': png })
    const headers = {
      ...{ 'Upload-Draft-Interop-Version': 8, 'Content-Type': partialUpload },
      ...{ 'Upload-Offset': 0, 'Upload-Complete': '?1' },
    }
    const { sent, ...answer } = await sendSlowly('PATCH', url, headers, { start: program(8192), size: 60 * MiB })
    expect(answer).toEqual(refused)
    expect(sent).toBeLessThan(20 * MiB)
    const again = await server.append(url, 8192, 'abc', false)
    expect([again.status, again.headers['upload-complete']]).toEqual([415, '?1'])
    expect(problemIn(again).code).toBe('INVALID_FILE_TYPE')
    await nothingIn(storage, server.tempDir)
    const small = await server.create({ 'Upload-Length': 600, 'Content-Type': png })
    const final = await server.append(small, 0, program(600), true)
    expect([final.status, final.headers['upload-complete']]).toEqual([415, '?1'])
  })
})

describe('Resumable.js', () => {
  it('a refusal at the first chunk is final for the client, and begins anew with the next run', async () => {
    const storage = storageOf()
    const server = await resumableServer({ storage, ...declared })
    const file = { data: program(350_000), chunkSize: 100_000, name: 'a.png', type: png }
    expect((await server.send(file, 2)).status).toBe(200)
    expect((await server.send(file, 1)).status).toBe(415)
    expect((await server.send(file, 3)).status).toBe(404)
    await nothingIn(storage, server.tempDir)
    const good = await server.run({ ...file, data: picture(350_000) })
    expect(good.status).toBe(200)
    expect(storage.keys()).toHaveLength(1)
  })
})

describe('Uppy', () => {
  it('parts and forms are refused with the reason', async () => {
    const storage = storageOf()
    const { uppy, tempDir } = await uppyServer({}, { storage, ...declared })
    const upload = await uppy.start({ filename: 'a.png', type: png, metadata: {} })
    const part = await putBytes(await uppy.urlOf(upload, 1), program(200_000))
    expect([part.status, part.body.code]).toEqual([415, 'INVALID_FILE_TYPE'])
    const complete = await uppy.complete(upload, [{ PartNumber: 1, ETag: '"x"' }])
    expect([complete.status, complete.body.code]).toEqual([415, 'INVALID_FILE_TYPE'])
    const { body } = await uppy.params({ filename: 'a.png', type: png })
    const form = await postForm(body.url, body.fields, program(200_000))
    expect([form.status, form.body.code]).toEqual([415, 'INVALID_FILE_TYPE'])
    await nothingIn(storage, tempDir)
    const { body: next } = await uppy.params({ filename: 'a.png', type: png })
    expect((await postForm(next.url, next.fields, picture(200_000))).status).toBe(201)
  })
})

it('no wire is left out: every folder of a protocol is named here', async () => {
  const entries = await readdir(join(import.meta.dirname, '../../src/protocols'), { withFileTypes: true })
  const folders = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
  expect(folders.sort()).toEqual(['ietf', 'native', 'resumablejs', 'tus', 'uppy'])
})
