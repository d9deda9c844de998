/** tus 1.0: the core protocol and the creation extension. Row ids in brackets are those of the checklist of the protocol. */
import { once } from 'node:events'
import { describe, expect, it } from 'vitest'
import { bytes, cut, sha256 } from '../support/random.ts'
import {
  metadataHeader,
  offsetType,
  sendTus,
  storedAt,
  type TusAnswer,
  tusServer,
  unknownId,
} from '../support/tus-client.ts'

const rfc1123 = /^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$/

describe.each(['express', 'bare'] as const)('tus on %s', (on) => {
  it('an upload in pieces becomes exactly those bytes, and its URL is in Content-Location [T9 T21]', async () => {
    const server = await tusServer({ on })
    const file = bytes(700_003)
    const url = await server.create(file.length)
    let offset = 0
    let last: TusAnswer | undefined
    for (const piece of cut(file, 100_000, 1, 333_333, 200_000)) {
      last = await server.patch(url, offset, piece)
      offset += piece.length
      expect(last.status).toBe(204)
      expect(last.body).toBe('')
      expect(last.headers['upload-offset']).toBe(String(offset))
    }
    if (!last) throw new Error('nothing was sent')
    expect(sha256(await storedAt(server, last))).toBe(sha256(file))
    const head = await server.head(url)
    expect(head.headers['content-location']).toBe(last.headers['content-location'])
  })

  it('every answer but that to OPTIONS says Tus-Resumable: 1.0.0, errors too [T1]', async () => {
    const server = await tusServer({ on, maxFileSize: 1000 })
    const url = await server.create(10)
    const gone = await server.create(10)
    await server.remove(gone)
    const unknown = `${server.folder}/${unknownId}`
    const answers: TusAnswer[] = [
      await server.post({ 'Upload-Length': 5 }),
      await server.post({}),
      await server.post({ 'Upload-Length': 1001 }),
      await server.post({ 'Upload-Length': 5, 'Tus-Resumable': '0.9' }),
      await server.patch(url, 0, 'abc'),
      await server.patch(url, 1, 'abc'),
      await server.patch(url, 3, 'abc', { 'Content-Type': 'text/plain' }),
      await server.patch(url, 3, 'abc', { 'Upload-Checksum': 'sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=' }),
      await server.patch(unknown, 0, 'abc'),
      await server.head(url),
      await server.head(unknown),
      await server.head(gone),
      await server.remove(unknown),
      await server.remove(url),
      await sendTus('GET', url),
      await sendTus('PUT', url),
    ]
    const statuses = answers.map(({ status }) => status)
    expect(statuses).toEqual([201, 400, 413, 412, 204, 409, 415, 460, 404, 200, 404, 410, 404, 204, 405, 405])
    expect(answers.map(({ headers }) => headers['tus-resumable'])).toEqual(answers.map(() => '1.0.0'))
  })

  it('a request without the version, or with another one, answers 412 and does nothing [T2] [B12]', async () => {
    const server = await tusServer({ on })
    const url = await server.create(10)
    let created = 0
    server.engine.events.on('created', () => created++)
    for (const version of [undefined, '', '0.2.2', '1.0', '1.0.1', 'x', ['1.0.0', '1.0.0']]) {
      const wrong = { 'Tus-Resumable': version }
      const answers = [
        await server.post({ 'Upload-Length': 10, ...wrong }),
        await server.patch(url, 0, 'abc', wrong),
        await server.head(url, wrong),
        await server.remove(url, wrong),
      ]
      expect(answers.map(({ status }) => status)).toEqual([412, 412, 412, 412])
      expect(answers.map(({ headers }) => headers['tus-version'])).toEqual(['1.0.0', '1.0.0', '1.0.0', '1.0.0'])
    }
    expect(created).toBe(0)
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
  })

  it('OPTIONS tells version, extensions, largest size and checksums, whatever version is asked for [T12]', async () => {
    const server = await tusServer({ on, maxFileSize: 123_456 })
    const url = await server.create(10)
    for (const target of [server.folder, url]) {
      for (const version of [undefined, '1.0.0', '0.1']) {
        const { status, headers, body } = await sendTus('OPTIONS', target, { 'Tus-Resumable': version })
        expect([status, body]).toEqual([204, ''])
        expect(headers['tus-version']).toBe('1.0.0')
        expect(headers['tus-max-size']).toBe('123456')
        expect(String(headers['tus-checksum-algorithm']).split(',')).toEqual(['sha1', 'sha256', 'md5', 'crc32c'])
        expect(String(headers['tus-extension']).split(',').sort()).toEqual([
          'checksum',
          'checksum-trailer',
          'concatenation',
          'concatenation-unfinished',
          'creation',
          'creation-defer-length',
          'creation-with-upload',
          'expiration',
          'termination',
        ])
      }
    }
  })

  it('X-HTTP-Method-Override replaces the method, whatever it is [T3]', async () => {
    const server = await tusServer({ on })
    const url = await server.create(6)
    const instead = (method: string) => ({ 'X-HTTP-Method-Override': method })
    const type = { 'Content-Type': offsetType }
    const first = await sendTus('POST', url, { ...instead('PATCH'), ...type, 'Upload-Offset': 0 }, { body: 'abc' })
    expect([first.status, first.headers['upload-offset']]).toEqual([204, '3'])
    const head = await sendTus('DELETE', url, instead('HEAD'))
    expect([head.status, head.headers['upload-offset'], head.body]).toEqual([200, '3', ''])
    const put = await sendTus('PUT', url, { ...instead('PATCH'), ...type, 'Upload-Offset': 3 }, { body: 'd' })
    expect(put.status).toBe(204)
    const missing = await sendTus('POST', `${server.folder}/${unknownId}`, instead('HEAD'), { body: '' })
    expect([missing.status, missing.body]).toEqual([404, ''])
    expect((await sendTus('POST', url, instead('DELETE'), { body: '' })).status).toBe(204)
    expect((await server.head(url)).status).toBe(410)
  })

  it('X-HTTP-Method-Override of another method is 400 and does nothing [T3]', async () => {
    const server = await tusServer({ on })
    let created = 0
    server.engine.events.on('created', () => created++)
    for (const method of ['POST', 'PUT', 'GET', 'CONNECT', 'x', '__proto__', 'PATCH, PATCH']) {
      const headers = { 'X-HTTP-Method-Override': method, 'Upload-Length': 1 }
      expect((await server.post(headers)).status, method).toBe(400)
    }
    expect(created).toBe(0)
  })

  it('HEAD tells offset, length and metadata, may not be cached, and has no body [T5]', async () => {
    const server = await tusServer({ on })
    const metadata = metadataHeader({ filename: 'ä.bin', filetype: 'video/mp4' })
    const url = await server.create(1000, { 'Upload-Metadata': metadata })
    const fresh = await server.head(url)
    expect([200, 204]).toContain(fresh.status)
    expect(fresh.headers).toMatchObject({
      'upload-offset': '0',
      'upload-length': '1000',
      'upload-metadata': metadata,
      'cache-control': 'no-store',
    })
    expect(fresh.headers['upload-defer-length']).toBeUndefined()
    expect(fresh.headers['upload-concat']).toBeUndefined()
    expect(fresh.headers['content-location']).toBeUndefined()
    await server.patch(url, 0, Buffer.alloc(400))
    expect((await server.head(url)).headers['upload-offset']).toBe('400')
    await server.patch(url, 400, Buffer.alloc(600))
    const whole = await server.head(url)
    expect(whole.headers).toMatchObject({
      'upload-offset': '1000',
      'upload-length': '1000',
      'upload-metadata': metadata,
    })
    expect(whole.body).toBe('')
  })

  it('HEAD of an unknown upload is 404 without Upload-Offset [T6]', async () => {
    const server = await tusServer({ on })
    for (const name of [unknownId, 'x', '', '..%2f..', `${unknownId}x`, unknownId.toUpperCase().replaceAll('0', 'A')]) {
      const { status, headers, body } = await server.head(`${server.folder}/${name}`)
      expect([status, headers['upload-offset'], body], name).toEqual([404, undefined, ''])
    }
    expect((await server.head(server.folder)).status).toBe(404)
  })

  it('PATCH of another media type is 415 and changes nothing [T7] [B12]', async () => {
    const server = await tusServer({ on })
    const url = await server.create(10)
    const types = [undefined, 'application/octet-stream', 'text/plain', `x${offsetType}`, 'application/offset']
    for (const type of types) {
      expect((await server.patch(url, 0, 'abc', { 'Content-Type': type })).status, type).toBe(415)
    }
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
    const odd = await server.patch(url, 0, 'abc', { 'Content-Type': 'Application/Offset+Octet-Stream; charset=x' })
    expect([odd.status, odd.headers['upload-offset']]).toEqual([204, '3'])
  })

  it('PATCH of a compressed body is 415 and changes nothing [T7]', async () => {
    const server = await tusServer({ on })
    const url = await server.create(10)
    for (const encoding of ['gzip', 'br', 'identity, gzip']) {
      expect((await server.patch(url, 0, 'abc', { 'Content-Encoding': encoding })).status).toBe(415)
    }
    expect((await server.patch(url, 0, 'abc', { 'Content-Encoding': 'identity' })).headers['upload-offset']).toBe('3')
  })

  it('PATCH with a stale offset answers 409 with the right one and changes nothing [T8] [B12]', async () => {
    const server = await tusServer({ on })
    const file = bytes(50_000)
    const url = await server.create(file.length)
    await server.patch(url, 0, file.subarray(0, 20_000))
    for (const stale of [0, 19_999, 20_001, 50_000, 9_007_199_254_740_991]) {
      const { status, headers, body } = await server.patch(url, stale, Buffer.alloc(1000, 7))
      expect([status, headers['upload-offset']], String(stale)).toEqual([409, '20000'])
      expect(JSON.parse(body)).toMatchObject({ code: 'OFFSET_MISMATCH', error: 'OffsetMismatchError' })
    }
    expect((await server.head(url)).headers['upload-offset']).toBe('20000')
    const last = await server.patch(url, 20_000, file.subarray(20_000))
    expect(sha256(await storedAt(server, last))).toBe(sha256(file))
  })

  it('PATCH without Upload-Offset is 400 and changes nothing [T8]', async () => {
    const server = await tusServer({ on })
    const url = await server.create(10)
    const answer = await sendTus('PATCH', url, { 'Content-Type': offsetType }, { body: 'abc' })
    expect(answer.status).toBe(400)
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
  })

  it('PATCH with an empty body at the right offset is 204 and changes nothing [T9]', async () => {
    const server = await tusServer({ on })
    const url = await server.create(10)
    await server.patch(url, 0, 'abc')
    const { status, headers } = await server.patch(url, 3, '')
    expect([status, headers['upload-offset']]).toEqual([204, '3'])
  })

  it('PATCH and DELETE of an unknown upload are 404 [T10]', async () => {
    const server = await tusServer({ on })
    for (const name of [unknownId, 'x', '__proto__', '%00']) {
      const url = `${server.folder}/${name}`
      expect((await server.patch(url, 0, 'abc')).status, name).toBe(404)
      expect((await server.remove(url)).status, name).toBe(404)
    }
    expect((await server.patch(server.folder, 0, 'abc')).status).toBe(404)
    expect((await server.remove(server.folder)).status).toBe(404)
  })

  it('what arrived of a body that breaks off is kept [T11]', async () => {
    const server = await tusServer({ on })
    const file = bytes(400_000)
    for (const announced of [300_000, undefined]) {
      const url = await server.create(file.length)
      const open = server.openPatch(url, 0, file.subarray(0, 123_457), announced)
      open.request.on('error', () => {})
      const kept = once(server.engine.events, 'appended')
      await server.arrived(open)
      open.request.destroy()
      await kept
      expect((await server.head(url)).headers['upload-offset']).toBe('123457')
      const last = await server.patch(url, 123_457, file.subarray(123_457))
      expect(sha256(await storedAt(server, last))).toBe(sha256(file))
    }
  })

  it('a body that breaks off is not answered, and does not complete the upload [T11]', async () => {
    const server = await tusServer({ on })
    const url = await server.create(100)
    const open = server.openPatch(url, 0, Buffer.alloc(60), 100)
    await server.arrived(open)
    const kept = once(server.engine.events, 'appended')
    open.request.destroy()
    expect(await open.answer).toBeNull()
    await kept
    const { headers } = await server.head(url)
    expect([headers['upload-offset'], headers['content-location']]).toEqual(['60', undefined])
  })

  it('PATCH with more bytes than are missing is 413 and takes none when the length says so [T13] [B12]', async () => {
    const server = await tusServer({ on })
    const url = await server.create(10)
    await server.patch(url, 0, 'abc')
    expect((await server.patch(url, 3, Buffer.alloc(8))).status).toBe(413)
    expect((await server.patch(url, 3, Buffer.alloc(1_000_000))).status).toBe(413)
    expect((await server.head(url)).headers['upload-offset']).toBe('3')
  })

  it('PATCH with another Upload-Length than the upload has is 400 [T13 T35]', async () => {
    const server = await tusServer({ on })
    const url = await server.create(10)
    for (const length of [9, 11, 0, 'x', '-1']) {
      expect((await server.patch(url, 0, 'abc', { 'Upload-Length': length })).status, String(length)).toBe(400)
    }
    const { headers } = await server.head(url)
    expect([headers['upload-offset'], headers['upload-length']]).toEqual(['0', '10'])
    expect((await server.patch(url, 0, 'abc', { 'Upload-Length': 10 })).status).toBe(204)
  })

  it('PATCH of a complete upload at its end repeats the outcome without storing again [T14]', async () => {
    let completions = 0
    const server = await tusServer({ on, hooks: { onComplete: () => void completions++ } })
    const url = await server.create(3)
    const first = await server.patch(url, 0, 'abc')
    const again = await server.patch(url, 3, '')
    expect([again.status, again.headers['upload-offset']]).toEqual([204, '3'])
    expect(again.headers['content-location']).toBe(first.headers['content-location'])
    expect((await server.patch(url, 0, 'abc')).status).toBe(409)
    expect((await server.patch(url, 3, 'd')).status).toBe(413)
    expect(completions).toBe(1)
    expect((await storedAt(server, again)).toString()).toBe('abc')
  })

  it('GET on an upload is 405 and names the methods there are, whatever the version [T61]', async () => {
    const server = await tusServer({ on })
    const url = await server.create(10)
    for (const version of ['1.0.0', undefined]) {
      const { status, headers } = await sendTus('GET', url, { 'Tus-Resumable': version })
      expect(status).toBe(405)
      const allowed = String(headers.allow).split(/, */)
      expect(allowed).toEqual(expect.arrayContaining(['HEAD', 'PATCH', 'DELETE', 'OPTIONS']))
      expect(allowed).not.toContain('GET')
    }
  })

  it('methods that tus does not have are 405, and so is POST on an upload', async () => {
    const server = await tusServer({ on })
    const url = await server.create(10)
    for (const method of ['PUT', 'TRACE', 'PROPFIND']) expect((await sendTus(method, url)).status, method).toBe(405)
    const post = await sendTus('POST', url, { 'Upload-Length': 10 }, { body: '' })
    expect(post.status).toBe(405)
    expect(String(post.headers.allow)).not.toContain('POST')
  })
})

describe('creation', () => {
  it('needs exactly one of Upload-Length and Upload-Defer-Length: 1 [T20]', async () => {
    const server = await tusServer()
    let created = 0
    server.engine.events.on('created', () => created++)
    const wrong = [
      {},
      { 'Upload-Length': 10, 'Upload-Defer-Length': '1' },
      { 'Upload-Defer-Length': '0' },
      { 'Upload-Defer-Length': 'true' },
      { 'Upload-Defer-Length': '' },
      { 'Upload-Defer-Length': ['1', '1'] },
      { 'Upload-Length': 10, 'Upload-Defer-Length': '0' },
    ]
    for (const headers of wrong) expect((await server.post(headers)).status, JSON.stringify(headers)).toBe(400)
    expect(created).toBe(0)
    expect((await server.post({ 'Upload-Length': 0 })).status).toBe(201)
    expect((await server.post({ 'Upload-Defer-Length': '1' })).status).toBe(201)
  })

  it('answers 201 with Location, Upload-Offset and Upload-Expires, also below a slash [T21 T40]', async () => {
    const server = await tusServer()
    for (const folder of [server.folder, `${server.folder}/`]) {
      const { status, headers } = await sendTus('POST', folder, { 'Upload-Length': 10 }, { body: '' })
      expect(status).toBe(201)
      expect(headers.location).toMatch(/^\/files\/[0-9a-f-]{36}$/)
      expect(headers['upload-offset']).toBe('0')
      expect(headers['upload-expires']).toMatch(rfc1123)
      expect((await server.head(server.resolve(headers.location))).status).toBe(200)
    }
  })

  it('makes another upload each time [T21]', async () => {
    const server = await tusServer()
    const urls = await Promise.all(Array.from({ length: 20 }, () => server.create(10)))
    expect(new Set(urls).size).toBe(20)
  })

  it('over the largest size is 413, at it 201 [T22]', async () => {
    const server = await tusServer({ maxFileSize: 1000 })
    expect((await server.post({ 'Upload-Length': 1001 })).status).toBe(413)
    expect((await server.post({ 'Upload-Length': 9_007_199_254_740_991 })).status).toBe(413)
    expect((await server.post({ 'Upload-Length': 1000 })).status).toBe(201)
  })

  it('of an empty file completes it in the POST [T23]', async () => {
    const names: string[] = []
    const server = await tusServer({ hooks: { onComplete: ({ fileName }) => void names.push(fileName) } })
    const metadata = metadataHeader({ filename: 'empty.txt' })
    const answer = await server.post({ 'Upload-Length': 0, 'Upload-Metadata': metadata })
    expect([answer.status, answer.headers['upload-offset']]).toEqual([201, '0'])
    expect((await storedAt(server, answer)).length).toBe(0)
    expect(names).toEqual(['empty.txt'])
    const head = await server.head(server.resolve(answer.headers.location))
    expect(head.headers).toMatchObject({ 'upload-offset': '0', 'upload-length': '0' })
    expect(head.headers['content-location']).toBe(answer.headers['content-location'])
  })

  it('takes name, type and values from Upload-Metadata [T24]', async () => {
    const server = await tusServer()
    const created = async (metadata: string | readonly string[] | undefined) => {
      const next = once(server.engine.events, 'created')
      expect((await server.post({ 'Upload-Length': 1, 'Upload-Metadata': metadata })).status).toBe(201)
      return (await next)[0].session
    }
    const b64 = (text: string) => Buffer.from(text).toString('base64')
    const utf8 = await created(`filename ${b64('naïve 文件.txt')},filetype ${b64('image/png')},note ${b64('ß')}`)
    expect(utf8).toMatchObject({ fileName: 'naïve 文件.txt', mimeType: 'image/png' })
    expect(utf8.metadata.note).toBe('ß')
    expect(await created(`name ${b64('b.bin')},type ${b64('text/css')}`)).toMatchObject({
      fileName: 'b.bin',
      mimeType: 'text/css',
    })
    expect((await created(undefined)).fileName).toBe('file')
    expect((await created('is_private')).metadata).toEqual({ is_private: '' })
    expect((await created(`a ,b ${b64('x')}`)).metadata).toEqual({ a: '', b: 'x' })
    expect((await created([`a ${b64('x')}`, `b ${b64('y')}`])).metadata).toEqual({ a: 'x', b: 'y' })
    expect((await created(`bytes /////w==,b ${b64('y')}`)).metadata).toEqual({ b: 'y' })
  })

  it('with malformed Upload-Metadata is 400 and makes nothing [T24] [A08]', async () => {
    const server = await tusServer()
    let created = 0
    server.engine.events.on('created', () => created++)
    const wrong = ['a YQ', 'a Y', 'a ?', 'a YQ==,a Yg==', 'a YQ== Yg==', ',', 'a YQ==,', ',a YQ==', 'a Y_-=', 'a,a']
    for (const metadata of wrong) {
      expect((await server.post({ 'Upload-Length': 1, 'Upload-Metadata': metadata })).status, metadata).toBe(400)
    }
    expect(created).toBe(0)
  })

  it('keeps Upload-Metadata byte for byte, whatever order and padding it has [T26]', async () => {
    const server = await tusServer()
    for (const metadata of ['z eg==,a ,filename YS5i,flag', 'bytes /////w==', 'A YQ==, a Yg==', 'a ,b ']) {
      const url = await server.create(1, { 'Upload-Metadata': metadata })
      expect((await server.head(url)).headers['upload-metadata']).toBe(metadata.trimEnd())
    }
    const none = await server.head(await server.create(1))
    expect(none.headers['upload-metadata']).toBeUndefined()
  })

  it('with Upload-Metadata over 8 KiB or 64 keys is 400 [T26] [A08]', async () => {
    const server = await tusServer()
    const status = async (metadata: string) =>
      (await server.post({ 'Upload-Length': 1, 'Upload-Metadata': metadata })).status
    const keys = (count: number) => Array.from({ length: count }, (_, i) => `k${i} YQ==`).join(',')
    expect(await status(keys(64))).toBe(201)
    expect(await status(keys(65))).toBe(400)
    expect(await status(`a ${'A'.repeat(8188)}`)).toBe(201)
    expect(await status(`a ${'A'.repeat(8192)}`)).toBe(400)
  })

  it('of a type that is not accepted is 415 [T24]', async () => {
    const server = await tusServer({ allowedMimeTypes: ['image/*'] })
    const status = async (filetype: string) =>
      (await server.post({ 'Upload-Length': 1, 'Upload-Metadata': metadataHeader({ filetype }) })).status
    expect(await status('text/html')).toBe(415)
    expect(await status('image/png')).toBe(201)
  })

  it('over the number of open uploads is 503 with Retry-After, which clients repeat', async () => {
    const server = await tusServer({ maxSessions: 1 })
    await server.create(10)
    const { status, headers } = await server.post({ 'Upload-Length': 10 })
    expect([status, headers['retry-after']]).toEqual([503, '30'])
  })

  it('puts the Location where publicUrl or location: absolute say [T25]', async () => {
    const fixed = await tusServer({}, { publicUrl: 'https://up.example.com/in/' })
    const atFixed = (await fixed.post({ 'Upload-Length': 1 })).headers.location
    expect(atFixed).toMatch(/^https:\/\/up\.example\.com\/in\/[0-9a-f-]{36}$/)
    const absolute = await tusServer({}, { location: 'absolute' })
    const { location } = (await absolute.post({ 'Upload-Length': 1 })).headers
    expect(location?.startsWith(`${absolute.folder}/`)).toBe(true)
  })
})
