/** Requests that say they come from elsewhere, or through a proxy: where URLs lead, and what other pages may do. */
import { describe, expect, it } from 'vitest'
import { ietfHandler } from '../../src/ietf.ts'
import type { CorsOptions } from '../../src/protocols/cors.ts'
import { resumableJsHandler } from '../../src/resumablejs.ts'
import { tusHandler } from '../../src/tus.ts'
import { uppyS3Handler } from '../../src/uppy.ts'
import { type EveryWire, everyWire } from '../support/every-wire.ts'
import { survived } from '../support/fault-points.ts'
import { rawSocket } from '../support/raw-http.ts'
import { unknownId } from '../support/tus-client.ts'

interface Reply {
  readonly status: number
  readonly headers: Record<string, string>
  readonly body: string
}

/** By hand: `fetch` sets Host and Origin itself. */
async function say(
  { port }: EveryWire,
  line: string,
  headers: Record<string, string | undefined>,
  body = '',
): Promise<Reply> {
  const socket = await rawSocket(port)
  const all = Object.entries({
    Host: `127.0.0.1:${port}`,
    'Content-Length': String(body.length),
    Connection: 'close',
    ...headers,
  })
  const lines = all.flatMap(([name, value]) => (value === undefined ? [] : [`${name}: ${value}`]))
  socket.send(`${line} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n${body}`)
  const received = await socket.until(null)
  const [head = '', ...rest] = received.split('\r\n\r\n')
  const [first = '', ...fields] = head.split('\r\n')
  const pairs = fields.map((field) => [
    field.slice(0, field.indexOf(':')).toLowerCase(),
    field.slice(field.indexOf(':') + 2),
  ])
  return { status: Number(first.split(' ')[1]), headers: Object.fromEntries(pairs), body: rest.join('\r\n\r\n') }
}

const json = { 'Content-Type': 'application/json' }
/** Creations, and where each tells the URL of what it has made. */
const creations: Record<string, (wire: EveryWire, headers: Record<string, string>) => Promise<string>> = {
  tus: async (wire, headers) =>
    (await say(wire, 'POST /tus', { 'Tus-Resumable': '1.0.0', 'Upload-Length': '1', ...headers })).headers.location ??
    '',
  ietf: async (wire, headers) =>
    (await say(wire, 'POST /ietf', { 'Upload-Complete': '?0', ...headers })).headers.location ?? '',
  async uppy(wire, headers) {
    const { body } = await say(wire, 'GET /companion/s3/params?filename=a&type=b/c', headers)
    return JSON.parse(body).url ?? JSON.parse(body).code
  },
  async 'uppy sign'(wire, headers) {
    const { body } = await say(wire, 'POST /companion/s3/sign', { ...json, ...headers }, '{"method":"POST","key":"a"}')
    return JSON.parse(body).url ?? JSON.parse(body).code
  },
}

const lies: readonly Record<string, string>[] = [
  { 'X-Forwarded-Host': 'evil.example' },
  { 'X-Forwarded-Host': 'evil.example, good.example' },
  { 'X-Forwarded-Proto': 'javascript' },
  { 'X-Forwarded-Proto': 'https', 'X-Forwarded-Host': 'evil.example' },
  { 'X-Forwarded-Port': '666' },
  { 'X-Forwarded-Prefix': '//evil.example' },
  { 'X-Forwarded-Server': 'evil.example' },
  { 'X-Original-URL': '//evil.example/' },
  { 'X-Rewrite-URL': '//evil.example/' },
  { 'X-Host': 'evil.example' },
  { Forwarded: 'host=evil.example;proto=https' },
  { Forwarded: 'for=1.2.3.4;host="evil.example"' },
  { Origin: 'https://evil.example' },
  { Referer: 'https://evil.example/' },
]

describe('the URL of an upload', () => {
  it.each([
    ['as a path', {}],
    ['absolute', { location: 'absolute' as const }],
    ['below publicUrl', { publicUrl: 'https://files.example.com/up' }],
  ])('%s never leads where a header says [B09]', async (how, resource) => {
    const wire = await everyWire({ resource })
    const own = `http://127.0.0.1:${wire.port}/`
    for (const [name, create] of Object.entries(creations)) {
      for (const lie of lies) {
        const location = await create(wire, lie)
        const starts =
          name.startsWith('uppy') || how === 'absolute'
            ? own
            : how === 'as a path'
              ? '/'
              : 'https://files.example.com/up/'
        expect(location.startsWith(starts), `${name} ${JSON.stringify(lie)}: ${location}`).toBe(true)
        expect(location).not.toMatch(/evil|javascript|:666\b|^\/\//)
        survived('attack', `${name}, ${how}: ${JSON.stringify(lie)}`)
      }
    }
  })

  it('is for the host that the proxy names when the app trusts it, and never for what is no host [B09]', async () => {
    const wire = await everyWire({
      resource: { location: 'absolute' },
      prepare: (app) => app.set('trust proxy', 'loopback'),
    })
    for (const [name, create] of Object.entries(creations)) {
      const proxied = { 'X-Forwarded-Host': 'good.example', 'X-Forwarded-Proto': 'https' }
      expect(await create(wire, proxied), name).toMatch(/^https:\/\/good\.example\//)
      for (const host of [
        'evil.example/x?',
        'user:pass@evil.example',
        'evil.example#',
        '<evil>',
        'evil example',
        '"evil"',
        'javascript:alert(1)//',
      ]) {
        const location = await create(wire, { 'X-Forwarded-Host': host })
        expect(location, `${name} ${host}`).not.toMatch(/evil|javascript/)
        survived('attack', `${name}, trusted proxy: X-Forwarded-Host ${host}`)
      }
    }
  })

  it.each(['evil.example', 'evil.example:80', 'x/../evil', 'a@evil.example', '[::1', '', '%65vil'])(
    'as a path does not know the Host %j [B09]',
    async (host) => {
      const wire = await everyWire()
      for (const name of ['tus', 'ietf']) {
        const location = await creations[name]?.(wire, { Host: host })
        expect(location ?? '').not.toContain('evil')
        survived('attack', `${name}: Host ${host}`)
      }
    },
  )
})

const origin = 'https://app.example.com'
const others = [
  'https://evil.example',
  `${origin}.evil.example`,
  `https://evil.example/${origin}`,
  'http://app.example.com',
  'https://app.example.com:8443',
  'https://APP.example.com',
  'https://xapp.example.com',
  'https://app.example.com/',
  'null',
  '*',
  'file://',
  'https://app.example.com, https://evil.example',
  '',
]

/** Answers of every kind, of every wire. */
const requests: readonly [string, string, Record<string, string>][] = [
  ['tus 201', 'POST /tus', { 'Tus-Resumable': '1.0.0', 'Upload-Length': '1' }],
  ['tus 412', 'POST /tus', {}],
  ['tus 404', `HEAD /tus/${unknownId}`, { 'Tus-Resumable': '1.0.0' }],
  ['tus 405', `GET /tus/${unknownId}`, {}],
  ['tus preflight', 'OPTIONS /tus', { 'Access-Control-Request-Method': 'PATCH' }],
  ['ietf 201', 'POST /ietf', { 'Upload-Complete': '?0' }],
  ['ietf 400', 'POST /ietf', { 'Upload-Complete': '?2' }],
  ['ietf 404', `HEAD /ietf/${unknownId}`, { 'Upload-Draft-Interop-Version': '9' }],
  ['ietf preflight', 'OPTIONS /ietf', { 'Access-Control-Request-Method': 'PATCH' }],
  ['tus beside ietf 201', 'POST /files', { 'Tus-Resumable': '1.0.0', 'Upload-Length': '1' }],
  ['ietf beside tus 201', 'POST /files', { 'Upload-Complete': '?0' }],
  ['both preflight', 'OPTIONS /files', { 'Access-Control-Request-Method': 'PATCH' }],
  ['resumable 400', 'POST /resumable', {}],
  ['resumable 405', 'PUT /resumable', {}],
  ['resumable preflight', 'OPTIONS /resumable', { 'Access-Control-Request-Method': 'POST' }],
  ['uppy 200', 'GET /companion/s3/params?filename=a&type=b/c', {}],
  ['uppy 404', `GET /companion/s3/multipart/${unknownId}?key=x`, {}],
  ['uppy 405', 'PUT /companion/s3/params', {}],
  ['uppy preflight', 'OPTIONS /companion/s3/params', { 'Access-Control-Request-Method': 'GET' }],
]
const corsOf = ({ headers }: Reply) => ({
  origin: headers['access-control-allow-origin'],
  credentials: headers['access-control-allow-credentials'],
  methods: headers['access-control-allow-methods'],
})

describe('pages of other origins', () => {
  it.each(requests)('are told by %s exactly what the options say [B10]', async (name, line, headers) => {
    const isPreflight = line.startsWith('OPTIONS')
    const options: [string, CorsOptions | false | undefined][] = [
      ['no options', undefined],
      ['false', false],
      ['a list', { origins: [origin] }],
      ['a list with credentials', { origins: [origin], credentials: true }],
      ['an empty list', { origins: [] }],
    ]
    for (const [how, cors] of options) {
      const wire = await everyWire({ ...(cors !== undefined && { cors }), ends: how === 'a list' })
      for (const from of [undefined, origin, ...others]) {
        const reply = await say(wire, line, { ...headers, ...(from !== undefined && { Origin: from }) })
        const { origin: allowed, credentials, methods } = corsOf(reply)
        const shown = `${how}, from ${from}`
        const isListed = from === origin && (how === 'a list' || how === 'a list with credentials')
        expect(allowed, shown).toBe(how === 'no options' ? '*' : isListed ? origin : undefined)
        expect(credentials, shown).toBe(isListed && how.endsWith('credentials') ? 'true' : undefined)
        if (isPreflight) expect(methods !== undefined, shown).toBe(allowed !== undefined)
        // Without it a cache would give one origin the answer that was made for another.
        expect((reply.headers.vary ?? '').includes('Origin'), shown).toBe(how.includes('list'))
        if (from !== undefined && from !== origin) survived('attack', `${name}, ${how}: Origin ${from}`)
      }
    }
  })

  it('get no headers from the documented routes: those are the app’s to set [B10]', async () => {
    const wire = await everyWire()
    for (const line of [
      'POST /upload/init',
      'POST /upload/chunk',
      'POST /upload',
      `GET /upload/progress/${unknownId}`,
    ]) {
      expect(corsOf(await say(wire, line, { Origin: 'https://evil.example' }))).toEqual({})
      survived('attack', `native: Origin for ${line.replace(unknownId, ':id')}`)
    }
  })

  it('never get credentials together with every origin: that is a TypeError at once [B10]', async () => {
    const { engine } = await everyWire({ ends: false })
    for (const cors of [
      { credentials: true },
      { credentials: true, origins: '*' },
      { credentials: true, origins: [origin, '*'] },
    ] as const) {
      for (const make of [
        () => tusHandler(engine, { cors }),
        () => ietfHandler(engine, { cors }),
        () => resumableJsHandler(engine, { cors, owner: () => null }),
        () => uppyS3Handler(engine, { cors }),
      ]) {
        expect(make).toThrow(TypeError)
      }
    }
    for (const origins of [origin, 7, [7], [/x/]] as never[])
      expect(() => tusHandler(engine, { cors: { origins } })).toThrow(TypeError)
  })
})
