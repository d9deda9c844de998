/** `signRequest` of Uppy 6: what is signed, where it leads, and what the XML says. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { partsIn } from '../../src/protocols/uppy/xml.ts'
import { answer } from '../support/native-client.ts'
import { bytes, sha256 } from '../support/random.ts'
import { byHeader, postForm, putBytes, type Started, uppyClient, uppyServer } from '../support/uppy-client.ts'

const data = bytes(200_000, 8)

function signing(client: ReturnType<typeof uppyClient>) {
  const sign = (request: object) => client.post('/sign', request)
  const send = async (method: string, request: object, body?: string) => {
    const { body: signed } = await sign({ method, ...request })
    return answer(fetch(signed.url, { method, ...(body !== undefined && { body }) }))
  }
  return {
    sign,
    send,
    /** As Uppy does it: the key of the answer, the id of the XML. */
    async start(more: object = {}): Promise<Started> {
      const { body } = await sign({ method: 'POST', key: '2b1c2b1c-1111-4222-8333-444455556666-a b.txt', ...more })
      const { text } = await answer(fetch(body.url, { method: 'POST', headers: { 'Content-Type': 'text/plain' } }))
      return { key: body.key, uploadId: /<UploadId>(.*)<\/UploadId>/.exec(text)?.[1] ?? '' }
    },
    async part(upload: Started, partNumber: number, bytes: Buffer): Promise<string> {
      const { body } = await sign({ method: 'PUT', ...upload, partNumber })
      const { headers } = await putBytes(body.url, bytes)
      return headers.get('etag')?.replaceAll('"', '') ?? ''
    },
  }
}

function listOf(etags: readonly string[]): string {
  const parts = etags.map((etag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${etag}</ETag></Part>`)
  return `<CompleteMultipartUpload>${parts.join('')}</CompleteMultipartUpload>`
}

describe('signRequest', () => {
  it('brings a file in parts through create, put, list and complete', async () => {
    const server = await uppyServer()
    const client = signing(server.uppy)
    const upload = await client.start()
    expect(upload.key).toMatch(/^uploads\/[0-9a-f-]{36}-a_b\.txt$/)
    const etags = [
      await client.part(upload, 1, data.subarray(0, 150_000)),
      await client.part(upload, 2, data.subarray(150_000)),
    ]
    const listed = await client.send('GET', upload)
    expect(listed.headers.get('content-type')).toBe('application/xml')
    expect(listed.text).toContain(`<PartNumber>2</PartNumber><ETag>&quot;${etags[1]}&quot;</ETag><Size>50000</Size>`)
    const { status, text } = await client.send('POST', upload, listOf(etags))
    expect(status).toBe(200)
    expect(text).toContain(`<Location>https://cdn.example.com/${upload.key}</Location><Key>${upload.key}</Key>`)
    expect(sha256(await readFile(join(server.directory, upload.key)))).toBe(sha256(data))
    expect((await client.send('POST', upload, listOf(etags))).text).toBe(text)
  })

  it('knows of the file what the app tells, or what its key says', async () => {
    const server = await uppyServer({}, { allowedMimeTypes: ['image/*'], maxFileSize: 1000 })
    const client = signing(server.uppy)
    const file = { name: 'ü.png', type: 'image/png', size: 10, meta: { album: 'one' } }
    const { uploadId } = await client.start({ file })
    const session = await server.engine.get({ uploadId, protocol: 'uppy-s3' })
    expect(session).toMatchObject({
      fileName: 'ü.png',
      mimeType: 'image/png',
      totalSize: 10,
      metadata: { album: 'one' },
    })
    expect((await client.sign({ method: 'POST', key: 'a', file: { ...file, size: 1001 } })).status).toBe(413)
    expect((await client.sign({ method: 'POST', key: 'a', file: { ...file, type: 'text/plain' } })).status).toBe(415)
    expect((await client.sign({ method: 'PUT', key: 'a', contentType: 'text/plain' })).status).toBe(415)
  })

  it('brings a small file by form, and takes an upload back', async () => {
    const server = await uppyServer()
    const client = signing(server.uppy)
    const { body } = await client.sign({ method: 'PUT', key: 'x/a.txt', contentType: 'text/plain' })
    expect(body.fields.key).toBe(body.key)
    expect((await postForm(body.url, body.fields, data)).status).toBe(201)
    expect(sha256(await readFile(join(server.directory, body.key)))).toBe(sha256(data))
    const upload = await client.start()
    expect((await client.send('DELETE', upload)).status).toBe(204)
    expect((await client.sign({ method: 'GET', ...upload })).status).toBe(404)
  })

  it('signs nothing else', async () => {
    const server = await uppyServer()
    const client = signing(server.uppy)
    const upload = await client.start()
    for (const request of [
      { method: 'DELETE', key: upload.key },
      { method: 'GET', key: upload.key },
      { method: 'HEAD', ...upload },
      { method: 'PUT', ...upload },
      { method: 'POST', ...upload, partNumber: 1 },
      { method: 'PUT', ...upload, partNumber: 0 },
      { method: 'PUT', ...upload, partNumber: '1; DROP' },
      { method: '__proto__', ...upload },
      { method: 'POST' },
      { method: 'POST', key: '' },
      { method: 'POST', key: ['a'] },
    ]) {
      expect((await client.sign(request)).status, JSON.stringify(request)).toBe(400)
    }
  })

  it('is for the owner; what it signed is for one operation on one upload', async () => {
    const server = await uppyServer(byHeader)
    const alice = signing(uppyClient(server.url, { 'X-User': 'alice' }))
    const bob = signing(uppyClient(server.url, { 'X-User': 'bob' }))
    const [mine, other] = [await alice.start(), await alice.start()]
    for (const method of ['GET', 'POST', 'DELETE']) {
      expect((await bob.sign({ method, ...mine })).status).toBe(404)
      expect((await alice.sign({ method, ...mine, key: other.key })).status).toBe(404)
    }
    const { url } = (await alice.sign({ method: 'GET', ...mine })).body
    const methods = { create: 'POST', complete: 'POST', abort: 'DELETE' }
    for (const [operation, method] of Object.entries(methods)) {
      const wrong = url.replace('/list?', `/${operation}?`)
      expect((await answer(fetch(wrong, { method, ...(method === 'POST' && { body: listOf(['x']) }) }))).status).toBe(
        404,
      )
    }
    expect((await answer(fetch(url.replace(mine.uploadId, other.uploadId)))).status).toBe(404)
    expect((await answer(fetch(url))).status).toBe(200)
  })

  it('refuses lists of parts that are none: 400', async () => {
    const server = await uppyServer()
    const client = signing(server.uppy)
    const upload = await client.start()
    const etag = await client.part(upload, 1, data)
    for (const list of [
      '',
      'x',
      '<Part>',
      listOf([]),
      listOf(['wrong']),
      listOf([etag, etag]),
      listOf([etag]).replace('>1<', '>2<'),
      listOf([etag]).replace('>1<', '>x<'),
    ]) {
      expect((await client.send('POST', upload, list)).status, list).toBe(400)
    }
    expect((await client.send('POST', upload, listOf([`&quot;${etag}&quot;`]))).status).toBe(200)
  })

  it('reads a list of many parts in a time that grows with it, and no more than there may be', () => {
    expect(partsIn(listOf(Array.from({ length: 10_000 }, () => 'x')), 10_000)).toHaveLength(10_000)
    expect(() => partsIn(listOf(['a', 'b']), 1)).toThrow('not readable')
    const started = performance.now()
    expect(() => partsIn('<Part><PartNumber>'.repeat(80_000), 100_000)).toThrow()
    expect(performance.now() - started).toBeLessThan(1000)
  })
})
