/** What wrong, hostile and foreign requests to the tus routes do: nothing, and they say so. */
import { once } from 'node:events'
import { Agent } from 'node:http'
import { describe, expect, it } from 'vitest'
import { NexusUploaderError, ProcessingError } from '../../src/errors.ts'
import { tusHandler } from '../../src/protocols/tus/handler.ts'
import { survived } from '../support/fault-points.ts'
import { protocolServer } from '../support/protocol-server.ts'
import { bytes, sha256 } from '../support/random.ts'
import { rawSocket } from '../support/raw-http.ts'
import { express } from '../support/server.ts'
import { filesBelow } from '../support/temp-folder.ts'
import {
  eventually,
  idIn,
  metadataHeader,
  offsetType,
  openTus,
  sendTus,
  storedAt,
  type TusAnswer,
  tusClient,
  tusServer,
  unknownId,
} from '../support/tus-client.ts'

const badNumbers: readonly (string | readonly string[])[] = [
  '-1',
  '-0',
  '+1',
  '1.5',
  '1.0',
  '1e3',
  '0x10',
  'NaN',
  'Infinity',
  'abc',
  '12abc',
  '1, 1',
  '1;a=1',
  '"1"',
  '',
  '1 2',
  '9007199254740992',
  '99999999999999999999',
  '١',
  ['1', '1'],
]

function latin1(value: string | readonly string[]): string | readonly string[] {
  return typeof value === 'string' ? Buffer.from(value).toString('latin1') : value
}

describe('bad numbers', () => {
  it('in Upload-Length make no upload: 400 [T4] [A09]', async () => {
    const server = await tusServer()
    let created = 0
    server.engine.events.on('created', () => created++)
    for (const number of badNumbers) {
      expect((await server.post({ 'Upload-Length': latin1(number) })).status, String(number)).toBe(400)
      survived('attack', `tus: Upload-Length ${JSON.stringify(number)}`)
    }
    expect(created).toBe(0)
  })

  it('in Upload-Offset and in the Upload-Length of a PATCH change nothing: 400 [T4 T8] [A09]', async () => {
    const server = await tusServer()
    const url = await server.create('deferred')
    const type = { 'Content-Type': offsetType }
    for (const number of badNumbers) {
      const value = latin1(number)
      const wrong = [
        { ...type, 'Upload-Offset': value },
        { ...type, 'Upload-Offset': 0, 'Upload-Length': value },
      ]
      for (const headers of wrong) {
        const { status } = await sendTus('PATCH', url, headers, { body: 'abc' })
        expect(status, JSON.stringify(headers)).toBe(400)
        survived('attack', `tus: PATCH ${JSON.stringify(headers)}`)
      }
    }
    const { headers } = await server.head(url)
    expect([headers['upload-offset'], headers['upload-defer-length']]).toEqual(['0', '1'])
  })
})

describe('hostile metadata', () => {
  it('with magic keys is plain data [T24] [A08]', async () => {
    const server = await tusServer()
    const created = once(server.engine.events, 'created')
    const plain = metadataHeader({ constructor: 'c', toString: 't', hasOwnProperty: 'h' })
    const magic = `${plain},__proto__ ${Buffer.from('polluted').toString('base64')}`
    const url = await server.create(1, { 'Upload-Metadata': magic })
    const [{ session }] = await created
    expect(Object.keys(session.metadata).sort()).toEqual(['__proto__', 'constructor', 'hasOwnProperty', 'toString'])
    expect(Object.getOwnPropertyDescriptor(session.metadata, '__proto__')?.value).toBe('polluted')
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined()
    expect(session.fileName).toBe('file')
    expect((await server.head(url)).headers['upload-metadata']).toBe(magic)
    expect((await server.patch(url, 0, 'a')).status).toBe(204)
  })

  it('never gets into headers or paths decoded [T24] [A03, A08]', async () => {
    const server = await tusServer()
    for (const filename of [
      'a\r\nX-Evil: 1',
      '../../../etc/passwd',
      '/etc/passwd',
      'a\0b',
      'C:\\x\\y',
      '..',
      '<script>',
    ]) {
      const answer = await server.post({ 'Upload-Length': 1, 'Upload-Metadata': metadataHeader({ filename }) })
      expect([201, 400], filename).toContain(answer.status)
      expect(answer.headers['x-evil']).toBeUndefined()
      if (answer.status !== 201) continue
      const last = await server.patch(server.resolve(answer.headers.location), 0, 'x')
      expect(last.status, filename).toBe(204)
      expect(last.headers['x-evil']).toBeUndefined()
      expect((await storedAt(server, last)).toString()).toBe('x')
    }
    const stored = await filesBelow(server.directory)
    expect(stored.every((path) => path.startsWith('uploads/'))).toBe(true)
  })
})

describe('bodies', () => {
  it('that turn out longer than the upload are 413, and no byte beyond the end counts [T13] [B12]', async () => {
    const server = await tusServer()
    const file = bytes(100_000)
    const url = await server.create(60_000)
    expect((await server.patch(url, 0, file, {}, { chunked: true })).status).toBe(413)
    const { headers } = await server.head(url)
    const offset = Number(headers['upload-offset'])
    expect(offset).toBeLessThanOrEqual(60_000)
    if (offset < 60_000) await server.patch(url, offset, file.subarray(offset, 60_000))
    const stored = await storedAt(server, await server.head(url))
    expect(sha256(stored)).toBe(sha256(file.subarray(0, 60_000)))
  })

  it('of refused requests do not become the next request of the connection [T8] [B05]', async () => {
    const server = await tusServer()
    const url = await server.create(1_000_000)
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    try {
      for (const size of [0, 10, 100_000, 600_000]) {
        const body = Buffer.from(`DELETE ${url} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n`.padEnd(size, '\n'))
        expect((await server.patch(url, 5, body, {}, { agent })).status, String(size)).toBe(409)
        const head = await sendTus('HEAD', url, {}, { agent })
        expect([head.status, head.headers['upload-offset']]).toEqual([200, '0'])
      }
    } finally {
      agent.destroy()
    }
  })

  it('that are refused while they come do not hide the answer [T8 T13] [B04]', async () => {
    const server = await tusServer()
    const url = await server.create(10)
    const big = bytes(4_000_000)
    expect((await server.patch(url, 5, big)).status).toBe(409)
    expect((await server.patch(url, 0, big)).status).toBe(413)
    expect((await server.patch(url, 0, big, { 'Content-Type': 'text/plain' }, { chunked: true })).status).toBe(415)
    expect((await server.patch(`${server.folder}/${unknownId}`, 0, big)).status).toBe(404)
  })

  it('that fall silent are cut without an answer, and what came is kept [T11]', async () => {
    const server = await tusServer({ bodyIdleTimeout: 200 })
    const url = await server.create(1000)
    const open = server.openPatch(url, 0, Buffer.alloc(400), 1000)
    expect(await open.answer).toBeNull()
    expect((await server.head(url)).headers['upload-offset']).toBe('400')
  })

  it('that a body parser took are a 500 that says so, and count for nothing', async () => {
    const prepare = (app: ReturnType<typeof express>) => app.use(express.raw({ type: '*/*' }))
    const server = await tusServer({ prepare })
    const url = await server.create(3)
    const answer = await server.patch(url, 0, 'abc')
    expect([answer.status, JSON.parse(answer.body).code]).toEqual([500, 'BODY_ALREADY_READ'])
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
    const created = await server.post({ 'Upload-Length': 3, 'Content-Type': offsetType }, { body: 'abc' })
    expect([created.status, JSON.parse(created.body).code]).toEqual([500, 'BODY_ALREADY_READ'])
  })

  it('are not touched by the parsers that apps usually have', async () => {
    const prepare = (app: ReturnType<typeof express>) =>
      app.use(express.json(), express.urlencoded({ extended: true }), express.text(), express.raw())
    const server = await tusServer({ prepare })
    const url = await server.create(3)
    expect((await storedAt(server, await server.patch(url, 0, 'abc'))).toString()).toBe('abc')
  })
})

describe('X-HTTP-Method-Override', () => {
  it('does not lead around the check of the version [T2 T3] [B01]', async () => {
    const server = await tusServer()
    const url = await server.create(10)
    for (const method of ['GET', 'POST', 'PUT']) {
      const headers = { 'X-HTTP-Method-Override': 'DELETE', 'Tus-Resumable': undefined }
      expect((await sendTus(method, url, headers)).status, method).toBe(412)
    }
    expect((await server.head(url)).status).toBe(200)
  })
})

describe('CORS', () => {
  const origin = 'https://app.example.com'

  it('headers are on every answer, errors too [B10]', async () => {
    const server = await tusServer()
    const url = await server.create(10)
    const answers: TusAnswer[] = [
      await server.post({ Origin: origin }),
      await server.post({ Origin: origin, 'Tus-Resumable': 'x' }),
      await server.patch(url, 4, 'abc', { Origin: origin }),
      await server.patch(url, 0, Buffer.alloc(1_000_000), { Origin: origin }),
      await server.head(`${server.folder}/${unknownId}`, { Origin: origin }),
      await sendTus('GET', url, { Origin: origin }),
      await server.patch(url, 0, 'abc', { Origin: origin }),
    ]
    expect(answers.map(({ status }) => status)).toEqual([400, 412, 409, 413, 404, 405, 204])
    for (const { headers, status } of answers) {
      expect(headers['access-control-allow-origin'], String(status)).toBe('*')
      const exposed = String(headers['access-control-expose-headers']).split(', ')
      expect(exposed).toEqual(
        expect.arrayContaining(['Location', 'Upload-Offset', 'Upload-Expires', 'Tus-Resumable', 'Content-Location']),
      )
    }
  })

  it('preflights are answered together with the discovery [T12]', async () => {
    const server = await tusServer()
    const { status, headers } = await sendTus('OPTIONS', server.folder, {
      Origin: origin,
      'Tus-Resumable': undefined,
      'Access-Control-Request-Method': 'PATCH',
      'Access-Control-Request-Headers': 'tus-resumable,upload-offset,content-type',
    })
    expect(status).toBe(204)
    const allowed = String(headers['access-control-allow-headers']).toLowerCase().split(', ')
    expect(allowed).toEqual(
      expect.arrayContaining([
        'tus-resumable',
        'upload-offset',
        'upload-length',
        'upload-metadata',
        'upload-defer-length',
        'upload-concat',
        'upload-checksum',
        'x-http-method-override',
        'content-type',
      ]),
    )
    expect(String(headers['access-control-allow-methods'])).toContain('PATCH')
    expect(headers['tus-version']).toBe('1.0.0')
  })

  it('with a list of origins is for those only, and credentials need one [B10]', async () => {
    const server = await tusServer({}, { cors: { origins: [origin], credentials: true } })
    const head = (from: string | undefined) => server.head(`${server.folder}/${unknownId}`, { Origin: from })
    const own = (await head(origin)).headers
    expect([own['access-control-allow-origin'], own['access-control-allow-credentials']]).toEqual([origin, 'true'])
    expect(own.vary).toContain('Origin')
    for (const other of ['https://evil.example', `${origin}.evil.example`, 'null', undefined]) {
      const { headers } = await head(other)
      expect(headers['access-control-allow-origin'], other).toBeUndefined()
      expect(headers['access-control-allow-credentials'], other).toBeUndefined()
    }
    const { engine } = server
    expect(() => tusHandler(engine, { cors: { credentials: true } })).toThrow(TypeError)
    expect(() => tusHandler(engine, { cors: { credentials: true, origins: ['*'] } })).toThrow(TypeError)
  })

  it('false leaves the headers to the app', async () => {
    const server = await tusServer({}, { cors: false })
    for (const answer of [
      await sendTus('OPTIONS', server.folder, { Origin: origin }),
      await server.post({ Origin: origin, 'Upload-Length': 1 }),
      await server.post({ Origin: origin }),
    ]) {
      expect(Object.keys(answer.headers).filter((name) => name.startsWith('access-control'))).toEqual([])
    }
  })
})

describe('the Location', () => {
  const hostile = {
    'Upload-Length': 1,
    'X-Forwarded-Host': 'evil.example',
    'X-Forwarded-Proto': 'https',
    Forwarded: 'host=evil.example;proto=https',
  }

  it('is a path, whatever the client says of its proxies [T25] [B09]', async () => {
    const server = await tusServer()
    expect((await server.post({ ...hostile, Host: 'evil.example' })).headers.location).toMatch(
      /^\/files\/[0-9a-f-]{36}$/,
    )
  })

  it.each(['express', 'bare'] as const)('absolute on %s does not believe X-Forwarded-Host [T25]', async (on) => {
    const server = await tusServer({ on }, { location: 'absolute' })
    const { location } = (await server.post(hostile)).headers
    expect(location?.startsWith(`${server.folder}/`)).toBe(true)
  })

  it('absolute believes a proxy that the app trusts, and no host that is none [T25]', async () => {
    const prepare = (app: ReturnType<typeof express>) => app.set('trust proxy', 'loopback')
    const server = await tusServer({ prepare }, { location: 'absolute' })
    const proxied = { ...hostile, 'X-Forwarded-Host': 'files.example.com' }
    const { location } = (await server.post(proxied)).headers
    expect(location).toMatch(/^https:\/\/files\.example\.com\/files\/[0-9a-f-]{36}$/)
    const odd = await server.post({ ...hostile, 'X-Forwarded-Host': 'evil.example/x?' })
    expect(odd.headers.location).toMatch(/^\/files\/[0-9a-f-]{36}$/)
  })

  it('is never for another host, however the path begins [T25]', async () => {
    const server = await tusServer({ on: 'bare' })
    const socket = await rawSocket(server.port)
    socket.send(
      'POST //evil.example/files HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 1\r\n' +
        'Content-Length: 0\r\nConnection: close\r\n\r\n',
    )
    const answer = await socket.until(null)
    expect(answer).toContain('201 Created')
    expect(answer).toMatch(/location: \/evil\.example\/files\//i)
  })

  it('options that are wrong are a TypeError at once', async () => {
    const { engine } = await tusServer()
    expect(() => tusHandler(engine, { publicUrl: '/files' })).toThrow(TypeError)
    expect(() => tusHandler(engine, { location: 'full' as 'path' })).toThrow(TypeError)
    expect(() => tusHandler(engine, { cors: { origins: 'https://a.example' as '*' } })).toThrow(TypeError)
  })
})

describe('an owner', () => {
  const owner = (request: { headers: Record<string, unknown> }) => (request.headers['x-user'] as string) ?? null
  const comparable = ({ status, headers, body }: TusAnswer) => {
    const { date: _, ...rest } = headers
    return { status, headers: rest, body }
  }

  it("gets the same 404 for another's upload as for none [T58] [B07]", async () => {
    const server = await tusServer({}, { owner })
    const ann = { 'X-User': 'ann' }
    const url = await server.create(10, ann)
    const done = await server.create(1, ann)
    await server.patch(done, 0, 'a', ann)
    const unknown = `${server.folder}/${unknownId}`
    for (const stranger of [{ 'X-User': 'bob' }, {}]) {
      const requests = (target: string) => [
        server.head(target, stranger),
        server.patch(target, 0, 'abc', stranger),
        server.patch(target, 5, 'abc', stranger),
        server.remove(target, stranger),
      ]
      const none = (await Promise.all(requests(unknown))).map(comparable)
      expect(none.map(({ status }) => status)).toEqual([404, 404, 404, 404])
      for (const target of [url, done]) expect((await Promise.all(requests(target))).map(comparable)).toEqual(none)
    }
    expect((await server.head(url, ann)).headers['upload-offset']).toBe('0')
    expect((await server.head(done, ann)).status).toBe(200)
  })

  it("cannot use another's partial uploads, nor find another's concatenation [T56 T58]", async () => {
    const server = await tusServer({}, { owner })
    const ann = { 'X-User': 'ann' }
    const bob = { 'X-User': 'bob' }
    const url = await server.create(1, { ...ann, 'Upload-Concat': 'partial' })
    await server.patch(url, 0, 'a', ann)
    const foreign = await server.concat([url], bob)
    const unknown = await server.concat([`/files/${unknownId}`], bob)
    expect(comparable(foreign)).toEqual(comparable(unknown))
    expect(foreign.status).toBe(404)
    expect((await server.concat([url], ann)).status).toBe(201)
  })

  it('that throws is answered with its error, or a 500 that tells nothing', async () => {
    const server = await tusServer(
      {},
      {
        owner: (request) => {
          if (request.headers['x-user'] === 'none') throw new NexusUploaderError('LOGIN', 401, 'Who are you?')
          throw new Error('the secret of the database')
        },
      },
    )
    const refused = await server.post({ 'Upload-Length': 1, 'X-User': 'none' })
    expect([refused.status, JSON.parse(refused.body).code]).toEqual([401, 'LOGIN'])
    expect((await server.head(`${server.folder}/${unknownId}`, { 'X-User': 'none' })).status).toBe(401)
    const broken = await server.post({ 'Upload-Length': 1 })
    expect(broken.status).toBe(500)
    expect(broken.body).not.toContain('secret')
    const head = await server.head(`${server.folder}/${unknownId}`)
    expect([head.status, head.headers['retry-after']]).toEqual([423, '2'])
  })
})

describe('hooks', () => {
  it('that refuse are answered with their status, on HEAD too', async () => {
    let closed = false
    const server = await tusServer({
      hooks: {
        authorize: (action) => {
          if (closed) throw new NexusUploaderError('FORBIDDEN', 403, `No ${action}.`)
        },
        onCreate: ({ fileName }) => {
          if (fileName === 'bad') throw new ProcessingError('No such name.')
        },
      },
    })
    const bad = { 'Upload-Length': 1, 'Upload-Metadata': metadataHeader({ filename: 'bad' }) }
    expect((await server.post(bad)).status).toBe(422)
    const url = await server.create(10)
    closed = true
    const answers = [await server.head(url), await server.patch(url, 0, 'abc'), await server.remove(url)]
    expect(answers.map(({ status }) => status)).toEqual([403, 403, 403])
    closed = false
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
  })
})

describe('the handler', () => {
  it('answers everything itself and never calls next', async () => {
    let nexts = 0
    const server = await protocolServer((engine) => {
      const handler = tusHandler(engine)
      return (request, response) => handler(request, response, () => nexts++)
    })
    const client = tusClient(server.url)
    const url = await client.create(1)
    expect((await sendTus('GET', url)).status).toBe(405)
    expect((await client.head(`${server.url}/${unknownId}`)).status).toBe(404)
    expect((await client.patch(url, 0, 'a')).status).toBe(204)
    expect((await client.post({})).status).toBe(400)
    expect(nexts).toBe(0)
  })

  it('does not take uploads of other protocols, nor let them take its own [B15]', async () => {
    const server = await tusServer()
    const { session } = await server.engine.create({ fileName: 'a', totalSize: 10, protocol: 'native' })
    expect((await server.head(`${server.folder}/${session.id}`)).status).toBe(404)
    expect((await server.remove(`${server.folder}/${session.id}`)).status).toBe(404)
    const url = await server.create(10)
    await expect(server.engine.get({ uploadId: idIn(url), protocol: 'native' })).rejects.toMatchObject({ status: 404 })
  })

  it('warns once for a server that cuts long requests, and only then', async () => {
    const warnings: string[] = []
    const onWarning = (warning: Error & { code?: string }) => {
      if (warning.code === 'NEXUS_REQUEST_TIMEOUT') warnings.push(warning.message)
    }
    process.on('warning', onWarning)
    try {
      const unlimited = await tusServer()
      await unlimited.create(1)
      const limited = await tusServer()
      limited.server.requestTimeout = 300_000
      await limited.create(1)
      await limited.create(1)
      await eventually(() => expect(warnings).toHaveLength(1))
      expect(warnings[0]).toMatch(/300.*server\.requestTimeout = 0/)
    } finally {
      process.off('warning', onWarning)
    }
  })

  it('survives clients that go away at any moment', async () => {
    const rejections: unknown[] = []
    const onRejection = (reason: unknown) => rejections.push(reason)
    process.on('unhandledRejection', onRejection)
    try {
      const server = await tusServer()
      const url = await server.create(100_000)
      for (const method of ['POST', 'PATCH', 'HEAD', 'DELETE', 'OPTIONS', 'GET']) {
        for (const target of [server.folder, `${server.folder}/${unknownId}`, url]) {
          if (method === 'DELETE' && target === url) continue
          const open = openTus(method, target, {
            'Upload-Length': 100_000,
            'Upload-Offset': 7,
            'Content-Type': offsetType,
            'Content-Length': 5000,
          })
          const received = once(server.server, 'request')
          open.request.write(Buffer.alloc(10))
          await received
          open.request.destroy()
          await open.answer
        }
      }
      expect((await server.head(url)).headers['upload-offset']).toBe('0')
      expect((await server.patch(url, 0, bytes(100_000))).status).toBe(204)
      await new Promise((resolve) => setImmediate(resolve))
      expect(rejections).toEqual([])
    } finally {
      process.off('unhandledRejection', onRejection)
    }
  })
})
