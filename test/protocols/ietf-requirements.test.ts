/** Resumable Uploads for HTTP, interop versions 8 and 9; numbers in brackets are requirements of the draft. */
import { readFile } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { createServer as createHttp2Server, connect as http2Connect } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import {
  InvalidRequestError,
  StorageUnavailableError,
  TooManyUploadsError,
  UploadLockedError,
} from '../../src/errors.ts'
import { type IetfOptions, ietfHandler } from '../../src/protocols/ietf/handler.ts'
import { testEngine } from '../support/engine.ts'
import { chunked, ietfSpeaker, rawHead } from '../support/ietf-exchange.ts'
import { protocolServer } from '../support/protocol-server.ts'
import { bytes, sha256 } from '../support/random.ts'
import { rawSocket } from '../support/raw-http.ts'
import { express } from '../support/server.ts'

const MiB = 1024 * 1024
const problem = 'https://iana.org/assignments/http-problem-types#'
const unknownId = '6b6d1a3c-5b1e-4b8e-9d53-0a3a4f3f0a11'
const uuid = /[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

type ServerOptions = Parameters<typeof protocolServer>[1]

async function start(version: number | null, options: IetfOptions = {}, serverOptions: ServerOptions = {}) {
  const server = await protocolServer((engine) => ietfHandler(engine, options), serverOptions)
  const client = ietfSpeaker(server.url, version)
  const ref = (location: string) => ({ uploadId: location.split('/').at(-1) ?? '', protocol: 'ietf' })
  return {
    server,
    client,
    ref,
    stored: (key: string) => readFile(join(server.directory, key)),
    session: (location: string) => server.engine.get(ref(location)),
  }
}

/** Waits until the newest request has been read up to the last byte that has come. */
function watchRequests({ server }: Awaited<ReturnType<typeof protocolServer>>) {
  let newest: IncomingMessage | undefined
  server.prependListener('request', (request) => {
    newest = request
  })
  return async (received: number) => {
    await vi.waitFor(() => {
      expect(newest?.socket.bytesRead).toBe(received)
      expect([newest?.readableFlowing, newest?.readableLength]).toEqual([true, 0])
    }, 5000)
  }
}

/** Waits until the upload has this offset, without disturbing whoever writes to it. */
async function arrived(server: Awaited<ReturnType<typeof start>>, location: string, offset: number) {
  await vi.waitFor(async () => {
    const { chunks } = await server.session(location)
    expect(chunks.reduce((sum, { count, size }) => sum + count * size, 0)).toBe(offset)
  }, 5000)
}

describe.each([8, 9])('interop version %d', (version) => {
  const field = { 'Upload-Draft-Interop-Version': String(version) }

  describe('a creation', () => {
    it.each(['POST', 'PUT', 'PATCH'])(
      'by %s with ?1 takes the whole file and answers like a normal request [R1] [R4]',
      async (method) => {
        const { client, stored } = await start(version)
        const file = bytes(300_000)
        const { status, headers, json } = await client.create(file, true, { 'Content-Type': 'text/plain' }, method)
        expect(status).toBe(200)
        expect(Object.keys(json).sort()).toEqual(['key', 'size', 'uploadId', 'url'])
        expect(json.size).toBe(file.length)
        expect(headers['upload-complete']).toBe('?1')
        expect(headers['upload-offset']).toBe('300000')
        expect(headers['content-location']).toBe(json.url)
        expect(headers['cache-control']).toBe('no-store')
        expect(headers.location).toBe(`/files/${json.uploadId}`)
        expect(sha256(await stored(json.key))).toBe(sha256(file))
      },
    )

    it('with ?1 and a body of unknown length learns the length at its end [R1]', async () => {
      const { client, stored } = await start(version)
      const { status, headers, json } = await client.create(chunked('hello ', 'world'), true)
      expect([status, headers['upload-complete'], json.size]).toEqual([200, '?1', 11])
      expect((await stored(json.key)).toString()).toBe('hello world')
    })

    it('with ?1 and nothing makes an empty file [R4]', async () => {
      const { client, stored } = await start(version)
      const { status, json } = await client.create(Buffer.alloc(0), true)
      expect([status, json.size, (await stored(json.key)).length]).toEqual([200, 0, 0])
    })

    it('with ?0 and nothing answers 201 with Location and Upload-Limit, and needs no interim response [R5]', async () => {
      const { client } = await start(version, {}, { maxFileSize: 12_345, sessionTtl: 100_000 })
      const { status, headers, interim } = await client.create(Buffer.alloc(0), false)
      expect(status).toBe(201)
      expect(headers.location).toMatch(uuid)
      expect(headers['upload-complete']).toBe('?0')
      expect(headers['upload-offset']).toBe('0')
      expect(headers['upload-limit']).toMatch(/^max-size=12345, max-age=(99|100)$/)
      expect(interim).toEqual([])
    })

    it('with ?0 and content keeps it, and answers neither a redirect nor complete [R1] [R5] [R10]', async () => {
      const { client } = await start(version)
      const { status, headers } = await client.create(Buffer.from('01234'), false, { 'Upload-Length': '10' })
      expect([status, headers['upload-complete'], headers['upload-offset']]).toEqual([201, '?0', '5'])
      expect(await client.offset(headers.location ?? '')).toBe(5)
      const { status: next, json } = await client.append(headers.location ?? '', 5, Buffer.from('56789'), true)
      expect([next, json.size]).toEqual([200, 10])
    })

    it('tells the URL and the limits at once, in an interim response [R2]', async () => {
      const { client } = await start(version, {}, { maxFileSize: 1000, sessionTtl: 100_000 })
      const { headers, interim } = await client.create(Buffer.from('01234'), true)
      expect(interim[0]?.status).toBe(104)
      expect(interim[0]?.headers.location).toMatch(uuid)
      expect(interim[0]?.headers['upload-limit']).toMatch(/^max-size=1000, max-age=(99|100)$/)
      expect(interim[0]?.headers['upload-draft-interop-version']).toBe(String(version))
      expect(headers.location).toBe(interim[0]?.headers.location)
    })

    it('names one and the same URL in all its answers [R3]', async () => {
      const { client } = await start(version)
      const { headers, interim } = await client.create(Buffer.from('01234'), false)
      expect(headers.location).toMatch(uuid)
      expect(interim[0]?.headers.location).toBe(headers.location)
      const final = await client.append(headers.location ?? '', 5, Buffer.alloc(0), true)
      expect(final.headers.location).toBe(headers.location)
    })

    it('still gets its 100 (Continue) [R11]', async () => {
      const { server } = await start(version)
      const { send, until } = await rawSocket(server.port)
      send(
        rawHead('POST', '/files', { ...field, 'Upload-Complete': '?1', 'Content-Length': '5', Expect: '100-continue' }),
      )
      const before = await until('HTTP/1.1 104')
      expect(before).toContain('HTTP/1.1 100 Continue\r\n')
      send('01234')
      expect(await until('"url"')).toContain('HTTP/1.1 200 OK\r\n')
    })

    it('without Upload-Complete is left to the next route, and a 400 where there is none', async () => {
      const { client } = await start(version, {}, { prepare: (app) => app.set('env', 'test') })
      expect((await client.create(Buffer.from('x'), undefined)).text).toContain('Cannot POST /files')
      const broken = await client.create(Buffer.from('x'), undefined, { 'Upload-Complete': '?2' })
      expect([broken.status, broken.json.code]).toEqual([400, 'INVALID_REQUEST'])
      const bare = await start(version, {}, { on: 'bare' })
      const { status, json } = await bare.client.create(Buffer.from('x'), undefined)
      expect([status, json.code]).toEqual([400, 'INVALID_REQUEST'])
    })

    it('whose lengths contradict each other is refused, and opens nothing [R6]', async () => {
      const { client, server } = await start(version)
      const created = vi.fn()
      server.engine.events.on('created', created)
      const wrong = [
        client.create(Buffer.from('01234'), true, { 'Upload-Length': '6' }),
        client.create(Buffer.from('01234'), true, { 'Upload-Length': '4' }),
        client.create(Buffer.from('01234'), false, { 'Upload-Length': '4' }),
      ]
      for (const { status, headers, json } of await Promise.all(wrong)) {
        expect([status, json.type]).toEqual([400, `${problem}inconsistent-upload-length`])
        expect(headers['content-type']).toBe('application/problem+json')
        expect(headers['upload-complete']).toBe('?0')
      }
      expect(created).not.toHaveBeenCalled()
    })

    it('with ?1 whose content ends before Upload-Length is refused [R6]', async () => {
      const { client } = await start(version)
      const { status, json, interim } = await client.create(chunked('01234'), true, { 'Upload-Length': '6' })
      expect([status, json.type]).toEqual([400, `${problem}inconsistent-upload-length`])
      expect((await client.head(interim[0]?.headers.location ?? '')).status).toBe(410)
    })

    it('whose content goes beyond Upload-Length is refused for good [R35]', async () => {
      const { client } = await start(version)
      const { status, json, interim } = await client.create(chunked('01234', '56789'), false, { 'Upload-Length': '6' })
      expect([status, json.type]).toEqual([400, `${problem}inconsistent-upload-length`])
      expect((await client.head(interim[0]?.headers.location ?? '')).status).toBe(410)
    })

    it('that breaks off gets no answer; its bytes are kept, and do not count as complete [R7]', async () => {
      const context = await start(version)
      const { server, client } = context
      const taken = watchRequests(server)
      const { socket, send, until, received } = await rawSocket(server.port)
      send(rawHead('POST', '/files', { ...field, 'Upload-Complete': '?1', 'Content-Length': '100000' }))
      send(bytes(100_000).subarray(0, 40_000))
      const location = /location: (\S+)/i.exec(await until('\r\n\r\n'))?.[1] ?? ''
      await taken(socket.bytesWritten)
      socket.destroy()
      await until(null)
      expect(received()).not.toMatch(/HTTP\/1.1 [2-5]/)
      await arrived(context, location, 40_000)
      const { status, headers } = await client.head(location)
      expect([status, headers['upload-offset'], headers['upload-complete']]).toEqual([204, '40000', '?0'])
      const { json } = await client.append(location, 40_000, bytes(100_000).subarray(40_000), true)
      expect(json.size).toBe(100_000)
    })

    it('that breaks off before anybody knew its URL leaves nothing open', async () => {
      const { server } = await start(version, { interim: false })
      const aborted = vi.fn()
      server.engine.events.on('aborted', aborted)
      const taken = watchRequests(server)
      const { socket, send } = await rawSocket(server.port)
      send(rawHead('POST', '/files', { ...field, 'Upload-Complete': '?1', 'Content-Length': '100' }))
      send('0123')
      await taken(socket.bytesWritten)
      socket.destroy()
      await vi.waitFor(() => expect(aborted).toHaveBeenCalledOnce(), 5000)
    })

    it('says what the file is [R8]', async () => {
      const { client, session } = await start(version)
      const location = await client.open(5, {
        'Content-Type': 'text/plain; charset=utf-8',
        'Content-Disposition': 'inline; filename="a.txt"; filename*=UTF-8\'\'%2e%2e%2fh%C3%A4%C3%9Flich.txt',
        'Content-Encoding': 'gzip',
      })
      expect(await session(location)).toMatchObject({
        fileName: 'häßlich.txt',
        mimeType: 'text/plain',
        metadata: { contentEncoding: 'gzip' },
      })
      const { status, json } = await client.append(location, 0, Buffer.from('01234'), true)
      expect([status, json.key]).toEqual([200, expect.stringMatching(/-häßlich\.txt$/)])
    })

    it('of more than the limit is refused with the limit, however it is sent [R9] [R39]', async () => {
      const { client, server } = await start(version, {}, { maxFileSize: 1000 })
      const aborted = vi.fn()
      server.engine.events.on('aborted', aborted)
      const answers = await Promise.all([
        client.create(Buffer.alloc(0), false, { 'Upload-Length': '1001' }),
        client.create(Buffer.alloc(1001), true),
        client.create(Buffer.alloc(1001), false),
        client.create(chunked(Buffer.alloc(600), Buffer.alloc(600)), true),
      ])
      for (const { status, headers, json } of answers) {
        expect([status, json.code, headers['upload-limit']]).toEqual([413, 'FILE_SIZE_EXCEEDED', 'max-size=1000'])
        expect(headers['upload-complete']).toBe('?0')
      }
      expect(aborted).toHaveBeenCalledTimes(2)
      expect((await client.create(Buffer.alloc(1000), true)).status).toBe(200)
    })

    it('of a type that is not accepted is refused', async () => {
      const { client } = await start(version, {}, { allowedMimeTypes: ['image/*'] })
      const { status, json } = await client.create(Buffer.from('x'), true, { 'Content-Type': 'text/html' })
      expect([status, json.code]).toEqual([415, 'INVALID_FILE_TYPE'])
    })

    it('that the application refuses opens nothing', async () => {
      const onCreate = () => {
        throw new InvalidRequestError('No such album.', { code: 'NO_ALBUM' })
      }
      const { client } = await start(version, {}, { hooks: { onCreate } })
      const { status, headers, json } = await client.create(Buffer.alloc(200_000), true)
      expect([status, json.code, json.detail]).toEqual([400, 'NO_ALBUM', 'No such album.'])
      expect([headers.location, headers['upload-complete']]).toEqual([undefined, '?0'])
    })

    it('has a URL that cannot be guessed, and each has another [R12]', async () => {
      const { client } = await start(version)
      const locations = await Promise.all([client.open(1), client.open(1), client.open(1)])
      expect(new Set(locations).size).toBe(3)
      for (const location of locations) expect(location).toMatch(uuid)
    })

    it('of a body that a parser has taken is a 500 that says so', async () => {
      const { client } = await start(version, {}, { prepare: (app) => app.use(express.json()) })
      const type = { 'Content-Type': 'application/json' }
      const { status, json } = await client.create(Buffer.from('{"a":1}'), true, type)
      expect([status, json.code]).toEqual([500, 'BODY_ALREADY_READ'])
      expect((await client.create(Buffer.alloc(0), true, type)).status).toBe(200)
    })
  })

  describe('asking for the offset', () => {
    it.each(['HEAD', 'GET'])('by %s tells everything about the upload [R20]', async (method) => {
      const { client } = await start(version, {}, { maxFileSize: 1000, sessionTtl: 100_000 })
      const location = await client.open(10)
      await client.append(location, 0, Buffer.from('0123'), false)
      const { status, headers, text } = await client.send(method, location)
      expect([status, text]).toEqual([204, ''])
      expect(headers).toMatchObject({
        'upload-offset': '4',
        'upload-complete': '?0',
        'upload-length': '10',
        'cache-control': 'no-store',
      })
      expect(headers['upload-limit']).toMatch(/^max-size=1000, max-age=(99|100)$/)
    })

    it('of an upload of unknown length tells no length until it is known [R20]', async () => {
      const { client } = await start(version)
      const location = await client.open(null)
      expect((await client.head(location)).headers['upload-length']).toBeUndefined()
      await client.append(location, 0, Buffer.from('0123'), false, { 'Upload-Length': '8' })
      expect((await client.head(location)).headers['upload-length']).toBe('8')
    })

    it('says ?1, and where the file is, only when the upload is complete [R20] [R37]', async () => {
      const { client } = await start(version)
      const location = await client.open(4)
      await client.append(location, 0, Buffer.from('0123'), false)
      const before = await client.head(location)
      expect([before.headers['upload-offset'], before.headers['upload-complete']]).toEqual(['4', '?0'])
      expect(before.headers['content-location']).toBeUndefined()
      const { json } = await client.append(location, 4, Buffer.alloc(0), true)
      const { headers } = await client.head(location)
      expect([headers['upload-offset'], headers['upload-complete'], headers['upload-length']]).toEqual(['4', '?1', '4'])
      expect(headers['content-location']).toBe(json.url)
    })

    it('ends a transfer under way, and names an offset that the next append is accepted at [R21] [C.7]', async () => {
      const context = await start(version)
      const { client, server } = context
      const taken = watchRequests(server)
      const location = await client.open(100_000)
      const { socket, send, until } = await rawSocket(server.port)
      const head = {
        ...field,
        'Upload-Offset': '0',
        'Upload-Complete': '?1',
        'Content-Type': 'application/partial-upload',
      }
      send(rawHead('PATCH', location, { ...head, 'Content-Length': '100000' }))
      send(bytes(100_000).subarray(0, 30_000))
      await taken(socket.bytesWritten)
      expect((await client.head(location)).headers['upload-offset']).toBe('30000')
      const ended = await until(null)
      expect(ended).toContain('HTTP/1.1 409 Conflict')
      expect(ended).toMatch(/upload-offset: 30000/i)
      expect(ended).toMatch(/upload-complete: \?0/i)
      const { status, json } = await client.append(location, 30_000, bytes(100_000).subarray(30_000), true)
      expect([status, json.size]).toEqual([200, 100_000])
    })

    it('never shows less than before [R22]', async () => {
      const context = await start(version)
      const { client, server } = context
      const taken = watchRequests(server)
      const location = await client.open(60)
      let seen = 0
      for (const size of [10, 0, 20, 5]) {
        const { send, socket } = await rawSocket(server.port)
        const head = { ...field, 'Upload-Offset': String(seen), 'Upload-Complete': '?0' }
        send(
          rawHead('PATCH', location, {
            ...head,
            'Content-Type': 'application/partial-upload',
            'Content-Length': String(60 - seen),
          }),
        )
        send(Buffer.alloc(size))
        await taken(socket.bytesWritten)
        socket.destroy()
        seen += size
        await arrived(context, location, seen)
        expect(await client.offset(location)).toBe(seen)
      }
    })

    it('of an upload that never was is 404, of one that has ended 410 [R23]', async () => {
      const { client } = await start(version)
      expect((await client.head(`/files/${unknownId}`)).status).toBe(404)
      expect((await client.head('/files/nothing-of-ours')).status).toBe(404)
      const location = await client.open(4)
      await client.cancel(location)
      expect((await client.head(location)).status).toBe(410)
    })

    it('does not mind upload fields [R24]', async () => {
      const { client } = await start(version)
      const location = await client.open(4)
      const fields = { 'Upload-Offset': '0', 'Upload-Complete': '?1', 'Upload-Length': '4' }
      expect((await client.head(location, fields)).status).toBe(204)
      expect((await client.cancel(location, fields)).status).toBe(204)
    })

    it.each([
      ['the storage', new StorageUnavailableError()],
      ['a lock', new UploadLockedError()],
      ['a limit', new TooManyUploadsError(1)],
      ['a defect', new Error('secret')],
    ])('meets trouble with %s as "ask again", never as a lost upload', async (_, error) => {
      const { client, server } = await start(version)
      const location = await client.open(4)
      vi.spyOn(server.engine, 'retrieveOffset').mockRejectedValue(error)
      for (const method of ['HEAD', 'GET']) {
        const { status, headers, text } = await client.send(method, location)
        expect(status).toBe(423)
        expect(Number(headers['retry-after'])).toBeGreaterThan(0)
        expect(text).not.toContain('secret')
      }
    })
  })

  describe('an append', () => {
    it('adds bytes, and says ?0 until the one with ?1 completes the upload [R32] [R33]', async () => {
      const { client, stored } = await start(version)
      const file = bytes(3 * MiB)
      const location = await client.open(null, { 'Content-Type': 'video/mp4' })
      const first = await client.append(location, 0, file.subarray(0, MiB), false)
      expect([first.status, first.headers['upload-complete'], first.headers['upload-offset']]).toEqual([
        204,
        '?0',
        String(MiB),
      ])
      const second = await client.append(location, MiB, chunked(file.subarray(MiB, 2 * MiB)), false)
      expect([second.status, second.headers['upload-offset']]).toEqual([204, String(2 * MiB)])
      const last = await client.append(location, 2 * MiB, file.subarray(2 * MiB), true)
      expect([last.status, last.headers['upload-complete'], last.headers['upload-offset']]).toEqual([
        200,
        '?1',
        String(3 * MiB),
      ])
      expect(last.headers['content-location']).toBe(last.json.url)
      expect(sha256(await stored(last.json.key))).toBe(sha256(file))
    })

    it('with ?1 answers what the creation in one request would have got [R33]', async () => {
      const { client } = await start(version)
      const direct = await client.create(Buffer.from('0123'), true)
      const location = await client.open(4)
      const resumed = await client.append(location, 0, Buffer.from('0123'), true)
      expect(resumed.status).toBe(direct.status)
      expect(Object.keys(resumed.json)).toEqual(Object.keys(direct.json))
      const names = (headers: object) =>
        Object.keys(headers)
          .filter((name) => name !== 'date')
          .sort()
      expect(names(resumed.headers)).toEqual(names(direct.headers))
    })

    it.each([
      ['no Upload-Offset', { 'Upload-Offset': undefined, 'Upload-Complete': '?0' }],
      ['a string', { 'Upload-Offset': '"0"', 'Upload-Complete': '?0' }],
      ['a decimal', { 'Upload-Offset': '0.0', 'Upload-Complete': '?0' }],
      ['a negative number', { 'Upload-Offset': '-1', 'Upload-Complete': '?0' }],
      ['two offsets', { 'Upload-Offset': '0, 0', 'Upload-Complete': '?0' }],
      ['no Upload-Complete', { 'Upload-Offset': '0' }],
      ['an Upload-Complete that is none', { 'Upload-Offset': '0', 'Upload-Complete': '?2' }],
    ])('with %s is refused [R30]', async (_, fields) => {
      const { client } = await start(version)
      const location = await client.open(4)
      const { status, headers, json } = await client.append(location, 0, Buffer.from('0123'), undefined, fields)
      expect([status, json.type, json.status, json.code]).toEqual([400, 'about:blank', 400, 'INVALID_REQUEST'])
      expect(headers['upload-complete']).toBe('?0')
      expect(await client.offset(location)).toBe(0)
    })

    it('whose fields come on two lines is refused [R30]', async () => {
      const { client, server } = await start(version)
      const location = await client.open(4)
      const { send, until } = await rawSocket(server.port)
      const head = {
        ...field,
        'Upload-Complete': '?0',
        'Content-Type': 'application/partial-upload',
        'Content-Length': '1',
      }
      send(rawHead('PATCH', location, head).replace('\r\n\r\n', '\r\nUpload-Offset: 0\r\nUpload-Offset: 0\r\n\r\nx'))
      expect(await until('INVALID_REQUEST')).toContain('HTTP/1.1 400')
    })

    it('with parameters behind its fields is as good as without [R30]', async () => {
      const { client } = await start(version)
      const location = await client.open(4)
      const fields = { 'Upload-Offset': '0;a=1', 'Upload-Complete': '?0;b' }
      expect((await client.append(location, 0, Buffer.from('01'), undefined, fields)).status).toBe(204)
    })

    it.each(['application/octet-stream', undefined, 'multipart/form-data; boundary=x'])(
      'of type %s is refused [R30]',
      async (type) => {
        const { client } = await start(version)
        const location = await client.open(4)
        const { status, json } = await client.append(location, 0, Buffer.from('01'), false, { 'Content-Type': type })
        expect([status, json.code]).toEqual([415, 'UNSUPPORTED_MEDIA_TYPE'])
        expect(await client.offset(location)).toBe(0)
      },
    )

    it('with a content coding of its own is refused', async () => {
      const { client } = await start(version)
      const location = await client.open(4)
      const { status } = await client.append(location, 0, Buffer.from('01'), false, { 'Content-Encoding': 'gzip' })
      expect(status).toBe(415)
    })

    it.each([0, 3, 5, 10])('at offset %d instead of 4 answers 409 with its problem document [R31]', async (offset) => {
      const { client } = await start(version)
      const location = await client.open(10)
      await client.append(location, 0, Buffer.from('0123'), false)
      for (const complete of [true, false]) {
        const { status, headers, json } = await client.append(location, offset, Buffer.from('x'), complete)
        expect(status).toBe(409)
        expect(headers).toMatchObject({
          'upload-offset': '4',
          'upload-complete': '?0',
          'content-type': 'application/problem+json',
        })
        expect(json).toMatchObject({
          type: `${problem}mismatching-upload-offset`,
          title: expect.any(String),
          status: 409,
          'expected-offset': 4,
          'provided-offset': offset,
        })
      }
      expect(await client.offset(location)).toBe(4)
    })

    it('with ?1 and nothing completes what is there [R34]', async () => {
      const { client, stored } = await start(version)
      for (const length of [4, null]) {
        const location = await client.open(length)
        await client.append(location, 0, Buffer.from('0123'), false)
        const { status, headers, json } = await client.append(location, 4, Buffer.alloc(0), true)
        expect([status, headers['upload-complete'], json.size]).toEqual([200, '?1', 4])
        expect((await stored(json.key)).toString()).toBe('0123')
      }
    })

    it('with ?1 before all of the known length is there is refused, and nothing is lost [R34] [R6]', async () => {
      const { client } = await start(version)
      const location = await client.open(10)
      const wrong = [
        await client.append(location, 0, Buffer.from('0123'), true),
        await client.append(location, 0, chunked('0123'), true),
        await client.append(location, 4, Buffer.alloc(0), true),
      ]
      for (const { status, headers, json } of wrong) {
        expect([status, json.type]).toEqual([400, `${problem}inconsistent-upload-length`])
        expect(headers['upload-complete']).toBe('?0')
      }
      const { status, json } = await client.append(location, 4, Buffer.from('456789'), true)
      expect([status, json.size]).toEqual([200, 10])
    })

    it('with another Upload-Length than before is refused [R6]', async () => {
      const { client } = await start(version)
      for (const location of [await client.open(10), await client.open(null)]) {
        await client.append(location, 0, Buffer.from('01'), false, { 'Upload-Length': '10' })
        for (const length of ['9', '11']) {
          const { status, json } = await client.append(location, 2, Buffer.from('23'), false, {
            'Upload-Length': length,
          })
          expect([status, json.type]).toEqual([400, `${problem}inconsistent-upload-length`])
        }
        expect(await client.offset(location)).toBe(2)
      }
    })

    it('that announces more bytes than the length has room for ends the upload, whatever it carries [R35]', async () => {
      const { client } = await start(version)
      for (const complete of [true, false]) {
        const location = await client.open(10)
        await client.append(location, 0, Buffer.from('01234567'), false)
        const { status, headers, json } = await client.append(location, 8, Buffer.from('xyz'), complete)
        expect([status, json.type]).toEqual([400, `${problem}inconsistent-upload-length`])
        expect(headers['upload-complete']).toBe('?0')
        const later = [
          await client.append(location, 8, Buffer.from('89'), true),
          await client.append(location, 10, Buffer.alloc(0), true),
          await client.head(location),
          await client.cancel(location),
        ]
        expect(later.map(({ status }) => status)).toEqual([410, 410, 410, 410])
      }
    })

    it('that sends more bytes than it said it would ends the upload [R35]', async () => {
      const { client } = await start(version)
      for (const complete of [true, false]) {
        const location = await client.open(10)
        const { status, json } = await client.append(location, 0, chunked('01234567', '89x'), complete)
        expect([status, json.type]).toEqual([400, `${problem}inconsistent-upload-length`])
        expect((await client.head(location)).status).toBe(410)
      }
    })

    it('at a stale offset does not end the upload, however long it is [R31] [R35] [B14]', async () => {
      const { client } = await start(version)
      const location = await client.open(10)
      await client.append(location, 0, Buffer.from('01234567'), false)
      expect((await client.append(location, 7, Buffer.alloc(50), false)).status).toBe(409)
      expect((await client.append(location, 9, Buffer.alloc(50), true)).status).toBe(409)
      expect((await client.append(location, 8, Buffer.from('89'), true)).status).toBe(200)
    })

    it('that takes an upload of unknown length over the limit is refused with the limit [R39]', async () => {
      const { client } = await start(version, {}, { maxFileSize: 1000 })
      const location = await client.open(null)
      await client.append(location, 0, Buffer.alloc(900), false)
      for (const body of [Buffer.alloc(101), chunked(Buffer.alloc(101))]) {
        const { status, headers } = await client.append(location, 900, body, false)
        expect([status, headers['upload-limit'], headers['upload-complete']]).toEqual([413, 'max-size=1000', '?0'])
      }
      const { status } = await client.append(location, 900, Buffer.alloc(101), false, { 'Upload-Length': '1001' })
      expect(status).toBe(413)
      expect((await client.append(location, 900, Buffer.alloc(100), true)).status).toBe(200)
    })

    it('that reaches the length does not complete the upload by that [R37]', async () => {
      const { client, server } = await start(version)
      const completed = vi.fn()
      server.engine.events.on('completed', completed)
      const location = await client.open(4)
      const { status, headers } = await client.append(location, 0, Buffer.from('0123'), false)
      expect([status, headers['upload-complete']]).toEqual([204, '?0'])
      await client.head(location)
      expect(completed).not.toHaveBeenCalled()
      await client.append(location, 4, Buffer.alloc(0), true)
      expect(completed).toHaveBeenCalledOnce()
    })

    it('to a complete upload gets the same final answer when it repeats the end, else a refusal [R38] [R12]', async () => {
      const { client, stored } = await start(version)
      const location = await client.open(4)
      const first = await client.append(location, 0, Buffer.from('0123'), true)
      for (const nothing of [Buffer.alloc(0), chunked()]) {
        const again = await client.append(location, 4, nothing, true)
        expect([again.status, again.text]).toEqual([first.status, first.text])
        const withoutDate = ({ date, ...headers }: Record<string, unknown>) => headers
        expect(withoutDate(again.headers)).toEqual(withoutDate(first.headers))
      }
      const refused = [
        await client.append(location, 4, Buffer.from('4'), true),
        await client.append(location, 4, chunked('4'), true),
        await client.append(location, 4, Buffer.from('4'), false),
        await client.append(location, 4, Buffer.alloc(0), false),
      ]
      for (const { status, headers, json } of refused) {
        expect([status, json.type]).toEqual([400, `${problem}completed-upload`])
        expect(headers['upload-complete']).toBe('?0')
      }
      const { status, headers } = await client.append(location, 0, Buffer.from('0123'), true)
      expect([status, headers['upload-offset']]).toEqual([409, '4'])
      expect((await stored(first.json.key)).toString()).toBe('0123')
    })

    it('always tells the offset, also when the answer is final [R40]', async () => {
      const { client } = await start(version)
      const location = await client.open(4)
      expect((await client.append(location, 0, Buffer.from('01'), false)).headers['upload-offset']).toBe('2')
      expect((await client.append(location, 2, Buffer.from('23'), true)).headers['upload-offset']).toBe('4')
    })

    it('that breaks off keeps what had arrived, and completes nothing although it said ?1 [R7]', async () => {
      const context = await start(version)
      const { client, server } = context
      const location = await client.open(null)
      const taken = watchRequests(server)
      const { socket, send } = await rawSocket(server.port)
      const head = { ...field, 'Upload-Offset': '0', 'Upload-Complete': '?1' }
      const type = { 'Content-Type': 'application/partial-upload' }
      send(rawHead('PATCH', location, { ...head, ...type, 'Transfer-Encoding': 'chunked' }))
      send('4\r\n0123\r\n5\r\n45')
      await taken(socket.bytesWritten)
      socket.destroy()
      await arrived(context, location, 6)
      const { headers } = await client.head(location)
      expect([headers['upload-offset'], headers['upload-complete']]).toEqual(['6', '?0'])
    })

    it('that stalls is cut without an answer, and what had arrived is kept', async () => {
      const context = await start(version, {}, { bodyIdleTimeout: 200 })
      const { client, server } = context
      const location = await client.open(100)
      const { send, until } = await rawSocket(server.port)
      const head = {
        ...field,
        'Upload-Offset': '0',
        'Upload-Complete': '?1',
        'Content-Type': 'application/partial-upload',
      }
      send(`${rawHead('PATCH', location, { ...head, 'Content-Length': '100' })}0123`)
      expect(await until(null)).toBe('')
      expect(await client.offset(location)).toBe(4)
    })

    it('of an unknown or ended upload is 404 or 410', async () => {
      const { client } = await start(version)
      expect((await client.append(`/files/${unknownId}`, 0, Buffer.from('x'), true)).status).toBe(404)
      expect((await client.append('/files/nothing-of-ours', 0, Buffer.from('x'), true)).status).toBe(404)
      const location = await client.open(4)
      await client.cancel(location)
      const { status, headers, json } = await client.append(location, 0, Buffer.from('0123'), true)
      expect([status, json.code, headers['upload-complete']]).toEqual([410, 'UPLOAD_ABORTED', '?0'])
    })

    it('refused while a large body is on its way still gets its answer', async () => {
      const { client, server } = await start(version)
      const location = await client.open(64 * MiB)
      const { send, until, socket } = await rawSocket(server.port)
      const head = {
        ...field,
        'Upload-Offset': '7',
        'Upload-Complete': '?0',
        'Content-Type': 'application/partial-upload',
      }
      send(rawHead('PATCH', location, { ...head, 'Content-Length': String(64 * MiB) }))
      const pump = setInterval(() => socket.writable && socket.writableLength < MiB && send(Buffer.alloc(MiB)), 5)
      try {
        const answer = await until('provided-offset')
        expect(answer).toContain('HTTP/1.1 409')
        expect(answer).toMatch(/connection: close/i)
      } finally {
        clearInterval(pump)
      }
    })
  })

  describe('DELETE', () => {
    it('gives the upload up, also one that is being sent [R50]', async () => {
      const context = await start(version)
      const { client, server } = context
      const location = await client.open(100_000)
      const { send, until } = await rawSocket(server.port)
      const head = {
        ...field,
        'Upload-Offset': '0',
        'Upload-Complete': '?1',
        'Content-Type': 'application/partial-upload',
      }
      send(rawHead('PATCH', location, { ...head, 'Content-Length': '100000' }))
      send(bytes(30_000))
      await until('HTTP', 1500).catch(() => {})
      expect((await client.cancel(location)).status).toBe(204)
      await until(null)
      expect((await client.head(location)).status).toBe(410)
      expect((await client.cancel(location)).status).toBe(410)
    })

    it('of an unknown upload is 404 [R50]', async () => {
      const { client } = await start(version)
      expect((await client.cancel(`/files/${unknownId}`)).status).toBe(404)
    })

    it('of a complete upload forgets it, and leaves the file', async () => {
      const { client, stored } = await start(version)
      const { headers, json } = await client.create(Buffer.from('0123'), true)
      expect((await client.cancel(headers.location ?? '')).status).toBe(204)
      expect((await client.head(headers.location ?? '')).status).toBe(410)
      expect((await stored(json.key)).toString()).toBe('0123')
    })
  })

  it('OPTIONS tells the limits and what appends look like [R51]', async () => {
    const { client } = await start(version, {}, { maxFileSize: 1000 })
    for (const target of ['/files', `/files/${unknownId}`]) {
      const { status, headers } = await client.send('OPTIONS', target)
      expect(status).toBe(204)
      expect(headers['upload-limit']).toBe('max-size=1000')
      expect(headers['accept-patch']).toBe('application/partial-upload')
    }
  })

  it('every answer names the version, and lets pages of other origins read it', async () => {
    const { client } = await start(version)
    const location = await client.open(4)
    const answers = [
      await client.send('OPTIONS', '/files'),
      await client.head(location),
      await client.append(location, 9, Buffer.from('x'), false),
      await client.append(location, 0, Buffer.from('0123'), true),
      await client.create(Buffer.from('x'), true),
      await client.head(`/files/${unknownId}`),
      await client.send('PROPFIND', location),
    ]
    expect(answers.map(({ status }) => status)).toEqual([204, 204, 409, 200, 200, 404, 405])
    for (const { headers } of answers) {
      expect(headers['upload-draft-interop-version']).toBe(String(version))
      expect(headers['access-control-allow-origin']).toBe('*')
      expect(headers['access-control-expose-headers']).toContain('Upload-Offset')
    }
  })

  it('an upload of somebody else is not there, whoever asks for what [R12]', async () => {
    const { server, client, ref } = await start(version, {
      owner: async (request) => request.headers['x-user'] as string,
    })
    const ann = ietfSpeaker(server.url, version, { 'X-User': 'ann' })
    const location = await ann.open(4)
    for (const user of ['bob', '']) {
      const other = ietfSpeaker(server.url, version, { 'X-User': user })
      const unknown = await other.append(`/files/${unknownId}`, 0, Buffer.from('0123'), true)
      const refused = await other.append(location, 0, Buffer.from('0123'), true)
      expect([refused.status, refused.text]).toEqual([404, unknown.text])
      expect((await other.head(location)).status).toBe(404)
      expect((await other.cancel(location)).status).toBe(404)
    }
    expect((await client.head(location)).status).toBe(404)
    expect(ref(location).uploadId).toMatch(uuid)
    expect((await ann.append(location, 0, Buffer.from('0123'), true)).status).toBe(200)
  })

  it('works on a bare server as below Express', async () => {
    const { client } = await start(version, {}, { on: 'bare' })
    const { status, headers } = await client.create(Buffer.from('0123'), false, { 'Upload-Length': '8' })
    expect([status, headers.location]).toEqual([201, expect.stringMatching(/^\/files\/[0-9a-f-]{36}$/)])
    const { json } = await client.append(headers.location ?? '', 4, Buffer.from('4567'), true)
    expect(json.size).toBe(8)
  })

  it('works over HTTP/2, with interim responses', async () => {
    const { engine } = testEngine()
    const handler = ietfHandler(engine)
    const server = createHttp2Server((request, response) => handler(request as never, response as never))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const session = http2Connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
    const exchange = (headers: Record<string, string>, body: Buffer) =>
      new Promise<{ interim: Record<string, unknown>[]; head: Record<string, unknown>; text: string }>(
        (resolve, reject) => {
          const stream = session.request({ ...headers, 'upload-draft-interop-version': String(version) })
          const interim: Record<string, unknown>[] = []
          let head: Record<string, unknown> = {}
          let text = ''
          stream.on('headers', (fields) => interim.push(fields))
          stream.on('response', (fields) => {
            head = fields
          })
          stream.on('data', (data) => {
            text += data
          })
          stream.on('error', reject)
          stream.on('close', () => resolve({ interim, head, text }))
          stream.end(body)
        },
      )
    try {
      const creation = { ':method': 'POST', ':path': '/files', 'upload-complete': '?0' }
      const { interim, head } = await exchange(creation, Buffer.from('0123'))
      expect(interim[0]).toMatchObject({ ':status': 104, location: head.location })
      expect(head).toMatchObject({ ':status': 201, 'upload-offset': '4' })
      const append = {
        ':method': 'PATCH',
        ':path': String(head.location),
        'content-type': 'application/partial-upload',
      }
      const stale = await exchange({ ...append, 'upload-offset': '1', 'upload-complete': '?1' }, Buffer.alloc(2 * MiB))
      expect(stale.head).toMatchObject({ ':status': 409, 'upload-offset': '4' })
      const last = await exchange({ ...append, 'upload-offset': '4', 'upload-complete': '?1' }, Buffer.from('45'))
      expect([last.head[':status'], JSON.parse(last.text).size]).toEqual([200, 6])
    } finally {
      session.destroy()
      await new Promise((resolve) => server.close(resolve))
    }
  })
})

describe('a request that names no version', () => {
  it('is taken for the newest, but gets no interim responses [R2]', async () => {
    const { client } = await start(null)
    const { status, headers, interim } = await client.create(Buffer.from('0123'), false)
    expect([status, interim]).toEqual([201, []])
    expect(headers['upload-draft-interop-version']).toBeUndefined()
    const location = headers.location ?? ''
    expect((await client.append(location, 4, Buffer.from('45'), undefined)).status).toBe(400)
    const last = await client.append(location, 4, Buffer.from('45'), true)
    expect([last.status, last.interim, last.json.size]).toEqual([200, [], 6])
  })
})

describe('a version that is not spoken here', () => {
  it.each([1, 2, 10, 99])('%d still gets a whole file into the storage, as a plain upload', async (version) => {
    const { client, stored } = await start(version)
    const { status, headers, interim, json } = await client.create(Buffer.from('0123'), true)
    expect([status, interim, headers.location]).toEqual([200, [], undefined])
    expect(headers['upload-draft-interop-version']).toBeUndefined()
    expect((await stored(json.key)).toString()).toBe('0123')
  })

  it('cannot do anything with uploads', async () => {
    const { client, server } = await start(10)
    const location = await ietfSpeaker(server.url, 9).open(4)
    const answers = [
      await client.create(Buffer.from('01'), false),
      await client.append(location, 0, Buffer.from('01'), true),
      await client.head(location),
      await client.cancel(location),
    ]
    expect(answers.map(({ status }) => status)).toEqual([400, 400, 400, 400])
    expect(answers[0]?.json.code).toBe('UNKNOWN_VERSION')
    expect(await ietfSpeaker(server.url, 9).offset(location)).toBe(0)
  })

  it('leaves nothing open when its upload fails', async () => {
    const fail = () => Promise.reject(new StorageUnavailableError())
    const { client, server } = await start(10, {}, { hooks: { onComplete: fail } })
    const aborted = vi.fn()
    server.engine.events.on('aborted', aborted)
    const { status, headers } = await client.create(Buffer.from('0123'), true)
    expect([status, headers.location]).toEqual([503, undefined])
  })
})

describe('the options', () => {
  it('refuse what they do not know', () => {
    const { engine } = testEngine()
    const wrong = [
      { interim: true },
      { interim: 'always' },
      { owner: 'ann' },
      { others: {} },
      { location: 'x' },
      { publicUrl: '/x' },
    ]
    for (const options of wrong)
      expect(() => ietfHandler(engine, options as never), JSON.stringify(options)).toThrow(TypeError)
  })

  it('interim: false sends none', async () => {
    const { client } = await start(9, { interim: false })
    const { status, headers, interim } = await client.create(Buffer.from('0123'), true)
    expect([status, interim, headers.location]).toEqual([200, [], expect.stringMatching(uuid)])
  })

  it('location and publicUrl decide what the upload is called, in every answer', async () => {
    const absolute = await start(9, { location: 'absolute' })
    expect(await absolute.client.open(1)).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/files\/[0-9a-f-]{36}$/)
    const { client } = await start(9, { publicUrl: 'https://up.example.com/a/' })
    const location = await client.open(4)
    expect(location).toMatch(/^https:\/\/up\.example\.com\/a\/[0-9a-f-]{36}$/)
    const here = `/files/${location.split('/').at(-1)}`
    expect((await client.append(here, 0, Buffer.from('0123'), true)).headers.location).toBe(location)
  })

  it('cors: false leaves the headers to the app; a list of origins names one of them', async () => {
    const without = await start(9, { cors: false })
    expect((await without.client.send('OPTIONS', '/files')).headers['access-control-allow-origin']).toBeUndefined()
    const { client } = await start(9, { cors: { origins: ['https://a.example'], credentials: true } })
    const { headers } = await client.send('OPTIONS', '/files', { Origin: 'https://a.example' })
    expect(headers['access-control-allow-origin']).toBe('https://a.example')
    expect(headers['access-control-allow-credentials']).toBe('true')
    expect((await client.head(`/files/${unknownId}`, { Origin: 'https://b.example' })).headers).not.toHaveProperty(
      'access-control-allow-origin',
    )
  })

  it('an owner function that fails hides what it said', async () => {
    const owner = () => Promise.reject(new Error('secret'))
    const { client, server } = await start(9, { owner })
    const { status, text, json } = await client.create(Buffer.from('x'), true)
    expect([status, json.code]).toEqual([500, 'INTERNAL_ERROR'])
    expect(text).not.toContain('secret')
    expect(server.warnings).toContain('REQUEST_FAILED')
  })
})
