/** The extensions of tus 1.0 beyond creation: with upload, deferred length, expiration, checksum, concatenation, termination. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { describe, expect, it } from 'vitest'
import { ProcessingError } from '../../src/errors.ts'
import { bytes, sha256 } from '../support/random.ts'
import { filesBelow } from '../support/temp-folder.ts'
import {
  eventually,
  idIn,
  metadataHeader,
  offsetType,
  openTus,
  storedAt,
  tusServer,
  unknownId,
} from '../support/tus-client.ts'

const withBody = { 'Content-Type': offsetType }
const hash = (algorithm: string, data: Buffer | string) => createHash(algorithm).update(data).digest('base64')
const sha1 = (data: Buffer | string) => `sha1 ${hash('sha1', data)}`

describe('creation with upload', () => {
  it('of the whole file answers 201 with the offset and the outcome [T30]', async () => {
    const server = await tusServer()
    const file = bytes(300_000)
    for (const chunked of [false, true]) {
      const answer = await server.post({ ...withBody, 'Upload-Length': file.length }, { body: file, chunked })
      expect([answer.status, answer.headers['upload-offset']]).toEqual([201, '300000'])
      expect(sha256(await storedAt(server, answer))).toBe(sha256(file))
      expect((await server.head(server.resolve(answer.headers.location))).headers['upload-offset']).toBe('300000')
    }
  })

  it('of a first piece answers 201 with its offset, and PATCH goes on there [T30]', async () => {
    const server = await tusServer()
    const file = bytes(300_000)
    const answer = await server.post({ ...withBody, 'Upload-Length': file.length }, { body: file.subarray(0, 100_001) })
    expect([answer.status, answer.headers['upload-offset']]).toEqual([201, '100001'])
    expect(answer.headers['content-location']).toBeUndefined()
    const last = await server.patch(server.resolve(answer.headers.location), 100_001, file.subarray(100_001))
    expect(sha256(await storedAt(server, last))).toBe(sha256(file))
  })

  it('takes a body without a length of the upload, too [T30 T35]', async () => {
    const server = await tusServer()
    const answer = await server.post({ ...withBody, 'Upload-Defer-Length': '1' }, { body: 'abc' })
    expect([answer.status, answer.headers['upload-offset']]).toEqual([201, '3'])
    const { headers } = await server.head(server.resolve(answer.headers.location))
    expect([headers['upload-offset'], headers['upload-defer-length']]).toEqual(['3', '1'])
  })

  it('ignores a body of another type [T30]', async () => {
    const server = await tusServer()
    for (const type of [undefined, 'text/plain', 'application/octet-stream']) {
      const answer = await server.post({ 'Upload-Length': 3, 'Content-Type': type }, { body: 'abc' })
      expect([answer.status, answer.headers['upload-offset']]).toEqual([201, '0'])
    }
  })

  it('keeps the upload and what arrived when the body breaks off [T30 T11]', async () => {
    const server = await tusServer()
    const created = once(server.engine.events, 'created')
    const open = openTus('POST', server.folder, { ...withBody, 'Upload-Length': 1000, 'Content-Length': 1000 })
    open.request.write(Buffer.alloc(321))
    const [{ session }] = await created
    await server.arrived(open)
    const kept = once(server.engine.events, 'appended')
    open.request.destroy()
    expect(await open.answer).toBeNull()
    await kept
    expect((await server.head(`${server.folder}/${session.id}`)).headers['upload-offset']).toBe('321')
  })

  it('with more bytes than the length is 413 and stores nothing [T30 T13]', async () => {
    let completions = 0
    const server = await tusServer({ hooks: { onComplete: () => void completions++ } })
    const long = await server.post({ ...withBody, 'Upload-Length': 3 }, { body: 'abcd' })
    expect([long.status, long.headers['tus-resumable']]).toEqual([413, '1.0.0'])
    expect(completions).toBe(0)
    expect(await filesBelow(server.directory)).toEqual([])
  })

  it('that finds no room answers 201 with the true offset, so that the client goes on with PATCH [T30]', async () => {
    const server = await tusServer({ maxTempBytes: 1000 })
    const answer = await server.post({ ...withBody, 'Upload-Length': 5000 }, { body: Buffer.alloc(5000) })
    expect([answer.status, answer.headers['upload-offset']]).toEqual([201, '0'])
    expect((await server.head(server.resolve(answer.headers.location))).headers['upload-offset']).toBe('0')
  })

  it('respects Upload-Checksum: a match is 201, a mismatch 460 and ends the upload [T30 T45]', async () => {
    const server = await tusServer()
    const headers = { ...withBody, 'Upload-Length': 6 }
    const good = await server.post({ ...headers, 'Upload-Checksum': sha1('abc') }, { body: 'abc' })
    expect([good.status, good.headers['upload-offset']]).toEqual([201, '3'])
    const created = once(server.engine.events, 'created')
    const bad = await server.post({ ...headers, 'Upload-Checksum': sha1('abx') }, { body: 'abc' })
    expect([bad.status, bad.headers.location]).toEqual([460, undefined])
    const [{ session }] = await created
    expect((await server.head(`${server.folder}/${session.id}`)).status).toBe(410)
    expect((await server.post({ ...headers, 'Upload-Checksum': 'sha1 ?' }, { body: 'abc' })).status).toBe(400)
  })
})

describe('deferred length', () => {
  it('is told on every HEAD until it is known, and then replaced by the length [T35]', async () => {
    const server = await tusServer()
    const file = bytes(10_000)
    const url = await server.create('deferred')
    const told = async () => {
      const { headers } = await server.head(url)
      return [headers['upload-offset'], headers['upload-length'], headers['upload-defer-length']]
    }
    expect(await told()).toEqual(['0', undefined, '1'])
    await server.patch(url, 0, file.subarray(0, 4000))
    expect(await told()).toEqual(['4000', undefined, '1'])
    await server.patch(url, 4000, file.subarray(4000, 6000), { 'Upload-Length': 10_000 })
    expect(await told()).toEqual(['6000', '10000', undefined])
    const last = await server.patch(url, 6000, file.subarray(6000), { 'Upload-Length': 10_000 })
    expect(sha256(await storedAt(server, last))).toBe(sha256(file))
  })

  it('may come with an empty body, which completes the upload [T35]', async () => {
    const server = await tusServer()
    const url = await server.create('deferred')
    const open = await server.patch(url, 0, 'abc')
    expect(open.headers['content-location']).toBeUndefined()
    const last = await server.patch(url, 3, '', { 'Upload-Length': 3 })
    expect([last.status, last.headers['upload-offset']]).toEqual([204, '3'])
    expect((await storedAt(server, last)).toString()).toBe('abc')
  })

  it('does not change once it is known [T35]', async () => {
    const server = await tusServer()
    const url = await server.create('deferred')
    await server.patch(url, 0, 'abc', { 'Upload-Length': 10 })
    for (const length of [9, 11, 3]) {
      expect((await server.patch(url, 3, 'd', { 'Upload-Length': length })).status).toBe(400)
    }
    const { headers } = await server.head(url)
    expect([headers['upload-offset'], headers['upload-length']]).toEqual(['3', '10'])
  })

  it('below the offset is 400, over the largest size 413, and stays unknown [T35 T22]', async () => {
    const server = await tusServer({ maxFileSize: 1000 })
    const url = await server.create('deferred')
    await server.patch(url, 0, Buffer.alloc(100))
    expect((await server.patch(url, 100, '', { 'Upload-Length': 99 })).status).toBe(400)
    expect((await server.patch(url, 100, '', { 'Upload-Length': 1001 })).status).toBe(413)
    const { headers } = await server.head(url)
    expect([headers['upload-offset'], headers['upload-defer-length']]).toEqual(['100', '1'])
  })

  it('takes no more bytes than the largest size, with and without Content-Length [T22]', async () => {
    const server = await tusServer({ maxFileSize: 1000 })
    const url = await server.create('deferred')
    expect((await server.patch(url, 0, Buffer.alloc(1001))).status).toBe(413)
    expect((await server.patch(url, 0, Buffer.alloc(100_000), {}, { chunked: true })).status).toBe(413)
    expect(Number((await server.head(url)).headers['upload-offset'])).toBeLessThanOrEqual(1000)
  })
})

describe('expiration', () => {
  it('is told on POST, HEAD and each PATCH of an unfinished upload, and moves on with it [T40]', async () => {
    let now = Date.parse('2026-03-01T10:00:00Z')
    const server = await tusServer({ sessionTtl: 60_000, clock: () => now })
    const answer = await server.post({ 'Upload-Length': 10 })
    expect(answer.headers['upload-expires']).toBe('Sun, 01 Mar 2026 10:01:00 GMT')
    const url = server.resolve(answer.headers.location)
    now += 30_000
    expect((await server.head(url)).headers['upload-expires']).toBe('Sun, 01 Mar 2026 10:01:00 GMT')
    expect((await server.patch(url, 0, 'abc')).headers['upload-expires']).toBe('Sun, 01 Mar 2026 10:01:30 GMT')
    expect((await server.head(url)).headers['upload-expires']).toBe('Sun, 01 Mar 2026 10:01:30 GMT')
    const last = await server.patch(url, 3, 'defghij')
    expect(last.headers['content-location']).toBeDefined()
    expect(last.headers['upload-expires']).toBeUndefined()
  })

  it('of an upload makes it 410, without an offset, and removes its bytes [T40]', async () => {
    let now = Date.now()
    const server = await tusServer({ sessionTtl: 60_000, completedTtl: 60_000, clock: () => now })
    const url = await server.create(10)
    await server.patch(url, 0, 'abc')
    now += 61_000
    await server.engine.sweep()
    const head = await server.head(url)
    expect([head.status, head.headers['upload-offset']]).toEqual([410, undefined])
    expect((await server.patch(url, 3, 'abc')).status).toBe(410)
    expect((await server.remove(url)).status).toBe(410)
    expect(await filesBelow(`${server.tempDir}/staging`)).toEqual([])
    now += 61_000
    await server.engine.sweep()
    expect((await server.head(url)).status).toBe(404)
  })
})

describe('checksum', () => {
  const crc32c = 'crc32c yZRlqg=='

  it.each([
    ['sha1', sha1('hello world')],
    ['sha256', `sha256 ${hash('sha256', 'hello world')}`],
    ['md5', `md5 ${hash('md5', 'hello world')}`],
    ['crc32c', crc32c],
  ])('%s that matches is 204, that does not is 460 and changes nothing [T45]', async (_name, checksum) => {
    const server = await tusServer()
    const url = await server.create(11)
    const wrong = await server.patch(url, 0, 'hello_world', { 'Upload-Checksum': checksum })
    expect([wrong.status, wrong.statusMessage]).toEqual([460, 'Checksum Mismatch'])
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
    const right = await server.patch(url, 0, 'hello world', { 'Upload-Checksum': checksum })
    expect(right.status).toBe(204)
    expect((await storedAt(server, right)).toString()).toBe('hello world')
  })

  it('is of the body of its request, wherever that begins [T45]', async () => {
    const server = await tusServer()
    const file = bytes(200_000)
    const url = await server.create(file.length)
    const pieces = [file.subarray(0, 70_000), file.subarray(70_000, 70_001), file.subarray(70_001)] as const
    let offset = 0
    for (const piece of pieces) {
      const checksum = { 'Upload-Checksum': sha1(piece) }
      expect((await server.patch(url, offset, Buffer.alloc(piece.length, 9), checksum)).status).toBe(460)
      const { status, headers } = await server.patch(url, offset, piece, checksum)
      offset += piece.length
      expect([status, headers['upload-offset']]).toEqual([204, String(offset)])
    }
    expect(sha256(await storedAt(server, await server.head(url)))).toBe(sha256(file))
  })

  it('that is malformed or of an unknown algorithm is 400 and changes nothing [T45] [B13]', async () => {
    const server = await tusServer()
    const url = await server.create(11)
    const wrong = [
      '',
      'sha1',
      'sha1 ',
      'sha1 ?',
      'sha1 YWJj',
      `SHA1 ${hash('sha1', 'hello world')}`,
      `sha512 ${hash('sha512', 'hello world')}`,
      `crc32 DUoRhQ==`,
      `__proto__ ${hash('sha1', 'hello world')}`,
      `${sha1('hello world')} x`,
      hash('sha1', 'hello world'),
    ]
    for (const checksum of wrong) {
      expect((await server.patch(url, 0, 'hello world', { 'Upload-Checksum': checksum })).status, checksum).toBe(400)
    }
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
  })

  it('makes a body that breaks off count for nothing [T45]', async () => {
    const server = await tusServer()
    const file = bytes(100_000)
    const url = await server.create(file.length)
    const checksum = { 'Upload-Checksum': sha1(file) }
    const open = server.openPatch(url, 0, file.subarray(0, 60_000), file.length, checksum)
    await server.arrived(open)
    open.request.destroy()
    await open.answer
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
    expect((await server.patch(url, 0, file, checksum)).status).toBe(204)
  })

  it('in the trailer is checked: a match is 204, a mismatch 460, nonsense 400 [T46] [B13]', async () => {
    const server = await tusServer()
    const url = await server.create(11)
    const send = (trailer: string | undefined, body: string) =>
      server.patch(
        url,
        0,
        body,
        { Trailer: 'Upload-Checksum' },
        { chunked: true, ...(trailer === undefined ? {} : { trailers: { 'Upload-Checksum': trailer } }) },
      )
    const offset = async () => (await server.head(url)).headers['upload-offset']
    expect((await send(sha1('hello world'), 'hello_world')).status).toBe(460)
    expect(await offset()).toBe('0')
    for (const wrong of ['sha1 ?', 'sha1', `sha512 ${hash('sha512', 'hello world')}`]) {
      expect((await send(wrong, 'hello world')).status, wrong).toBe(400)
      expect(await offset()).toBe('0')
    }
    const right = await send(sha1('hello world'), 'hello world')
    expect([right.status, right.headers['upload-offset']]).toEqual([204, '11'])
  })

  it('that the trailer announces and does not bring is none [T46]', async () => {
    const server = await tusServer()
    const url = await server.create(11)
    const answer = await server.patch(url, 0, 'hello world', { Trailer: 'upload-checksum' }, { chunked: true })
    expect([answer.status, answer.headers['upload-offset']]).toEqual([204, '11'])
  })
})

describe('concatenation', () => {
  it('joins whole partial uploads in the order of the list [T51 T52]', async () => {
    const server = await tusServer()
    const [a, b, c] = [bytes(70_000, 1), bytes(1, 2), bytes(100_001, 3)] as const
    const urls = [await server.partial(a), await server.partial(b), await server.partial(c)] as const
    const answer = await server.concat([urls[2], urls[0], urls[1]])
    expect([answer.status, answer.headers['upload-offset']]).toEqual([201, '170002'])
    expect(sha256(await storedAt(server, answer))).toBe(sha256(Buffer.concat([c, a, b])))
    const { headers } = await server.head(server.resolve(answer.headers.location))
    expect(headers).toMatchObject({
      'upload-offset': '170002',
      'upload-length': '170002',
      'upload-concat': `final;${urls[2]} ${urls[0]} ${urls[1]}`,
    })
    expect(headers['content-location']).toBe(answer.headers['content-location'])
  })

  it('takes paths and URLs of any host, by their last part [T52 T58]', async () => {
    const server = await tusServer()
    const a = await server.partial(Buffer.from('a'))
    const id = idIn(a)
    const same = [`/files/${id}`, id, `https://evil.example/x/../${id}?q=1`, a]
    const answer = await server.concat(same)
    expect(answer.status).toBe(201)
    expect((await storedAt(server, answer)).toString()).toBe('aaaa')
    const { headers } = await server.head(server.resolve(answer.headers.location))
    expect(headers['upload-concat']).toBe(`final;${same.join(' ')}`)
  })

  it('may use a partial upload several times and in several uploads [T52 T57]', async () => {
    const server = await tusServer()
    const [a, b] = [await server.partial(Buffer.from('a')), await server.partial(Buffer.from('b'))] as const
    const first = await server.concat([a, b, a])
    const second = await server.concat([b, b])
    expect((await storedAt(server, first)).toString()).toBe('aba')
    expect((await storedAt(server, second)).toString()).toBe('bb')
    expect((await server.head(a)).headers['upload-offset']).toBe('1')
  })

  it('repeated finds the same upload again [T57]', async () => {
    let completions = 0
    const server = await tusServer({ hooks: { onComplete: () => void completions++ } })
    const urls = [await server.partial(Buffer.from('a')), await server.partial(Buffer.from('b'))]
    const answers = [await server.concat(urls), await server.concat(urls)] as const
    expect(answers[1].headers.location).toBe(answers[0].headers.location)
    expect(answers[1].headers['content-location']).toBe(answers[0].headers['content-location'])
    expect(completions).toBe(1)
    const named = await server.concat(urls, { 'Upload-Metadata': metadataHeader({ filename: 'x' }) })
    expect(named.headers.location).not.toBe(answers[0].headers.location)
  })

  it('of empty partial uploads is an empty file [T52]', async () => {
    const server = await tusServer()
    const empty = await server.partial(Buffer.alloc(0))
    const answer = await server.concat([empty])
    expect([answer.status, answer.headers['upload-offset']]).toEqual([201, '0'])
    expect((await storedAt(server, answer)).length).toBe(0)
  })

  it('takes the metadata of the final request only, and checks only that [T51 T53]', async () => {
    const completed: string[] = []
    let drafts = 0
    const server = await tusServer({
      allowedMimeTypes: ['image/*'],
      hooks: { onCreate: () => void drafts++, onComplete: ({ fileName }) => void completed.push(fileName) },
    })
    const partial = { 'Upload-Concat': 'partial', 'Upload-Metadata': metadataHeader({ filename: 'piece.txt' }) }
    const url = await server.create(1, partial)
    expect((await server.patch(url, 0, 'a')).headers['content-location']).toBeUndefined()
    expect([drafts, completed]).toEqual([0, []])
    const concat = (filetype: string) =>
      server.concat([url], { 'Upload-Metadata': metadataHeader({ filename: 'whole.png', filetype }) })
    expect((await concat('text/plain')).status).toBe(415)
    expect((await concat('image/png')).status).toBe(201)
    expect(completed).toEqual(['whole.png'])
    expect((await server.head(url)).headers['upload-metadata']).toBe(partial['Upload-Metadata'])
  })

  it('HEAD of a partial upload says so, whole or not [T55]', async () => {
    const server = await tusServer()
    const url = await server.create(3, { 'Upload-Concat': 'partial' })
    for (const offset of ['0', '3']) {
      const { status, headers } = await server.head(url)
      expect(status).toBe(200)
      expect(headers).toMatchObject({ 'upload-offset': offset, 'upload-length': '3', 'upload-concat': 'partial' })
      expect(headers['content-location']).toBeUndefined()
      await server.patch(url, Number(offset), offset === '0' ? 'abc' : '')
    }
  })

  it('of unfinished partial uploads has no offset until the last byte of them has come [T50 T55]', async () => {
    const server = await tusServer()
    const [a, b] = [bytes(50_000, 1), bytes(60_000, 2)] as const
    const first = await server.partial(a)
    const second = await server.create(b.length, { 'Upload-Concat': 'partial' })
    const created = await server.concat([first, second])
    expect([created.status, created.headers['upload-offset']]).toEqual([201, undefined])
    expect(created.headers['content-location']).toBeUndefined()
    const url = server.resolve(created.headers.location)
    const before = await server.head(url)
    expect([before.status, before.headers['upload-offset'], before.headers['upload-length']]).toEqual([
      200,
      undefined,
      '110000',
    ])
    expect(before.headers['upload-concat']).toBe(`final;${first} ${second}`)
    await server.patch(second, 0, b.subarray(0, 30_000))
    expect((await server.head(url)).headers['upload-offset']).toBeUndefined()
    expect((await server.patch(second, 30_000, b.subarray(30_000))).status).toBe(204)
    const after = await server.head(url)
    expect(after.headers['upload-offset']).toBe('110000')
    expect(sha256(await storedAt(server, after))).toBe(sha256(Buffer.concat([a, b])))
  })

  it('completes with the last byte of a partial upload, without anybody asking [T50]', async () => {
    let completions = 0
    const server = await tusServer({ hooks: { onComplete: () => void completions++ } })
    const piece = await server.create(3, { 'Upload-Concat': 'partial' })
    await server.concat([piece])
    await server.patch(piece, 0, 'abc')
    await eventually(() => expect(completions).toBe(1))
  })

  it('of a partial upload whose length is not known has no length until it is [T50 T55]', async () => {
    const server = await tusServer()
    const piece = await server.create('deferred', { 'Upload-Concat': 'partial' })
    const url = server.resolve((await server.concat([piece])).headers.location)
    const before = await server.head(url)
    expect([before.headers['upload-length'], before.headers['upload-offset']]).toEqual([undefined, undefined])
    await server.patch(piece, 0, 'abc', { 'Upload-Length': 3 })
    const after = await server.head(url)
    expect([after.headers['upload-length'], after.headers['upload-offset']]).toEqual(['3', '3'])
  })

  it('PATCH of a final upload is 403 and changes nothing, completed or not [T54]', async () => {
    const server = await tusServer()
    const whole = await server.partial(Buffer.from('abc'))
    const unfinished = await server.create(3, { 'Upload-Concat': 'partial' })
    for (const source of [whole, unfinished]) {
      const url = server.resolve((await server.concat([source])).headers.location)
      const before = await server.head(url)
      for (const offset of [0, 3]) expect((await server.patch(url, offset, 'xyz')).status).toBe(403)
      expect((await server.patch(url, 0, '')).status).toBe(403)
      const after = await server.head(url)
      expect(after.headers['upload-offset']).toBe(before.headers['upload-offset'])
    }
  })

  it('with a length is 400, with a body 403 [T52]', async () => {
    const server = await tusServer()
    const url = await server.partial(Buffer.from('a'))
    expect((await server.concat([url], { 'Upload-Length': 1 })).status).toBe(400)
    expect((await server.concat([url], { 'Upload-Defer-Length': '1' })).status).toBe(400)
    expect((await server.concat([url], withBody, { body: 'x' })).status).toBe(403)
    expect((await server.concat([url], withBody, { body: 'x', chunked: true })).status).toBe(403)
  })

  it('of what is unknown is 404, of what is no partial upload 400 [T56 T58]', async () => {
    const server = await tusServer()
    const partial = await server.partial(Buffer.from('a'))
    const whole = await server.create(1)
    expect((await server.concat([partial, `/files/${unknownId}`])).status).toBe(404)
    for (const url of ['/files/', '/files/x', '../../etc/passwd', `${partial}/..`, '__proto__']) {
      expect((await server.concat([partial, url])).status, url).toBe(404)
    }
    expect((await server.concat([partial, whole])).status).toBe(400)
    for (const value of ['final;', 'final', 'final; ', '', 'Partial', 'partial, partial', 'x']) {
      const { status } = await server.post({ 'Upload-Concat': value, 'Upload-Length': 1 })
      expect(status, value).toBe(400)
    }
  })

  it('over the largest size is 413 [T56]', async () => {
    const server = await tusServer({ maxFileSize: 10 })
    const url = await server.partial(Buffer.alloc(6))
    expect((await server.concat([url, url])).status).toBe(413)
    expect((await server.concat([url])).status).toBe(201)
  })

  it('of a partial upload that was deleted is gone [T50 T60]', async () => {
    const server = await tusServer()
    const piece = await server.create(3, { 'Upload-Concat': 'partial' })
    const url = server.resolve((await server.concat([piece])).headers.location)
    expect((await server.remove(piece)).status).toBe(204)
    expect([404, 410]).toContain((await server.head(url)).status)
    expect([404, 410]).toContain((await server.concat([piece])).status)
  })

  it('that the application refuses answers its error, and again when it is repeated [T52]', async () => {
    const server = await tusServer({
      hooks: {
        onComplete: () => {
          throw new ProcessingError('No.')
        },
      },
    })
    const url = await server.partial(Buffer.from('a'))
    expect((await server.concat([url])).status).toBe(422)
    expect(await filesBelow(server.directory)).toEqual([])
  })
})

describe('termination', () => {
  it('of an unfinished upload is 204, removes its bytes, and later requests are 410 or 404 [T60]', async () => {
    const server = await tusServer()
    const url = await server.create(100_000)
    await server.patch(url, 0, Buffer.alloc(50_000))
    const { status, body } = await server.remove(url)
    expect([status, body]).toEqual([204, ''])
    const head = await server.head(url)
    expect([404, 410]).toContain(head.status)
    expect(head.headers['upload-offset']).toBeUndefined()
    expect([404, 410]).toContain((await server.remove(url)).status)
    expect([404, 410]).toContain((await server.patch(url, 50_000, 'a')).status)
    expect(await filesBelow(`${server.tempDir}/staging`)).toEqual([])
  })

  it('of a completed upload is 204 and leaves the object [T60]', async () => {
    const server = await tusServer()
    const url = await server.create(3)
    const last = await server.patch(url, 0, 'abc')
    expect((await server.remove(url)).status).toBe(204)
    const head = await server.head(url)
    expect([404, 410]).toContain(head.status)
    expect([404, 410]).toContain((await server.remove(url)).status)
    expect((await storedAt(server, last)).toString()).toBe('abc')
  })

  it('of a completed upload with removeCompleted is 204 and removes the object [T60]', async () => {
    const server = await tusServer({}, { removeCompleted: true })
    const url = await server.create(3)
    await server.patch(url, 0, 'abc')
    expect(await filesBelow(server.directory)).toHaveLength(1)
    expect((await server.remove(url)).status).toBe(204)
    expect(await filesBelow(server.directory)).toEqual([])
    expect([404, 410]).toContain((await server.head(url)).status)
  })

  it('of a final upload leaves its partial uploads [T60]', async () => {
    const server = await tusServer()
    const piece = await server.partial(Buffer.from('abc'))
    const answer = await server.concat([piece])
    expect((await server.remove(server.resolve(answer.headers.location))).status).toBe(204)
    expect((await server.head(piece)).headers['upload-offset']).toBe('3')
    const again = await server.concat([piece])
    expect(again.status).toBe(201)
    expect((await storedAt(server, again)).toString()).toBe('abc')
  })
})
