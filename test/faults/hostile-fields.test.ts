/** What clients say about their files, on every wire: taken when it is right, refused when it is not, never believed. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { safeFileName } from '../../src/engine/names.ts'
import { everyWire, expectNothingInside } from '../support/every-wire.ts'
import { survived } from '../support/fault-points.ts'
import { answer } from '../support/native-client.ts'
import { chunkForm } from '../support/raw-http.ts'
import { filesBelow } from '../support/temp-folder.ts'
import { metadataHeader } from '../support/tus-client.ts'
import { postForm } from '../support/uppy-client.ts'

const chunk = 110_000
const limits = { maxChunkSize: chunk, maxFileSize: 100 * chunk, maxChunks: 50 }

/** What init must answer to this JSON; written from the documentation, not from the code. */
function statusOfInit(body: unknown): number {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) return 400
  const own = (name: string): unknown =>
    Object.hasOwn(body, name) ? (body as Record<string, unknown>)[name] : undefined
  const given = (name: string) => own(name) !== undefined && own(name) !== null
  const isText = (name: string, max: number) => {
    const value = own(name)
    return typeof value === 'string' && value.length <= max
  }
  if (!isText('fileName', 4096) || own('fileName') === '') return 400
  for (const [name, max] of [
    ['mimeType', 4096],
    ['checksum', 512],
    ['resumeKey', 512],
  ] as const) {
    if (given(name) && !isText(name, max)) return 400
  }
  const totalSize = wholeNumber(own('totalSize'))
  if (totalSize === null) return 400
  const chunkSize = given('chunkSize') ? wholeNumber(own('chunkSize')) : undefined
  if (chunkSize === null) return 400
  if (totalSize > limits.maxFileSize) return 413
  if (chunkSize !== undefined && (chunkSize < 1 || chunkSize > limits.maxChunkSize)) return 400
  if (chunkSize !== undefined && Math.ceil(totalSize / chunkSize) > limits.maxChunks) return 413
  return given('checksum') ? 400 : 200
}

function wholeNumber(value: unknown): number | null {
  if (typeof value === 'string' && String(Number(value)) !== value) return null
  const number = typeof value === 'string' || typeof value === 'number' ? Number(value) : Number.NaN
  return Number.isSafeInteger(number) && number >= 0 && !Object.is(number, -0) ? number : null
}

function init(url: string, json: string) {
  const headers = { 'Content-Type': 'application/json' }
  return answer(fetch(`${url}/upload/init`, { method: 'POST', headers, body: json }))
}

const awkward = fc.oneof(
  fc.jsonValue({ maxDepth: 2 }),
  fc.constantFrom<unknown>(null, '', '0', '-0', '1e3', '01', ' 1', '1.0', 0, -1, 1.5, 2 ** 53, true, [], {}, ['1']),
)
const members = fc.record(
  {
    fileName: fc.oneof({ weight: 3, arbitrary: fc.string({ minLength: 1 }) }, { weight: 1, arbitrary: awkward }),
    totalSize: fc.oneof(
      { weight: 3, arbitrary: fc.integer({ min: 0, max: 120 * chunk }) },
      { weight: 1, arbitrary: fc.nat({ max: 120 * chunk }).map(String) },
      { weight: 1, arbitrary: awkward },
    ),
    mimeType: fc.oneof(fc.string(), awkward),
    chunkSize: fc.oneof(
      { weight: 2, arbitrary: fc.integer({ min: -1, max: 2 * chunk }) },
      { weight: 1, arbitrary: awkward },
    ),
    checksum: fc.oneof(fc.constant(null), awkward),
    resumeKey: fc.oneof(fc.string({ minLength: 1 }), fc.constant(null)),
    ['__proto__']: awkward,
    constructor: awkward,
    toString: awkward,
    hasOwnProperty: awkward,
    uploadId: awkward,
    owner: awkward,
  },
  { requiredKeys: [] },
)
const valid = fc.record({ fileName: fc.constant('a.bin'), totalSize: fc.integer({ min: 0, max: 10 * chunk }) })
const bodies = fc.oneof(
  { weight: 1, arbitrary: fc.jsonValue() },
  { weight: 2, arbitrary: members },
  { weight: 4, arbitrary: fc.tuple(valid, members).map(([needed, more]) => ({ ...more, ...needed })) },
)

/** `__proto__` as a key of the text: objects would swallow it. */
function withMagic(json: string): string {
  return json.startsWith('{"') ? `{"__proto__":{"totalSize":7,"fileName":"x","chunkSize":1},${json.slice(1)}` : json
}

describe('the JSON of init', () => {
  it.each([true, false])(
    'is taken exactly when it is valid, whatever it is (express.json mounted: %s) [A01]',
    async (parsed) => {
      const { express } = await import('../support/server.ts')
      const wire = await everyWire({
        ...limits,
        ...(parsed && { prepare: (app: ReturnType<typeof express>) => app.use(express.json()) }),
      })
      const seen = new Map<number, number>()
      await fc.assert(
        fc.asyncProperty(bodies, fc.boolean(), async (body, magic) => {
          const plain = JSON.stringify(body)
          const json = magic ? withMagic(plain) : plain
          const expected = statusOfInit(JSON.parse(json))
          const before = wire.created()
          const { status, text } = await init(wire.url, json)
          expect([status, json]).toEqual([expected, json])
          if (status !== 200) expect(wire.created()).toBe(before)
          if (status !== 200 && !parsed) expectNothingInside(text)
          seen.set(status, (seen.get(status) ?? 0) + 1)
        }),
        { numRuns: 400, seed: 7 },
      )
      // A generator that makes only one kind of body tests nothing.
      for (const status of [200, 400, 413]) expect(seen.get(status) ?? 0).toBeGreaterThan(15)
      survived('attack', `init: any JSON, express.json ${parsed}`)
    },
  )

  it.each([
    ['no JSON', '{"fileName":'],
    ['two documents', '{"fileName":"a","totalSize":1}{}'],
    ['nothing', ''],
    ['a comment', '{"fileName":"a",/**/"totalSize":1}'],
    ['single quotes', "{'fileName':'a','totalSize':1}"],
    ['NaN', '{"fileName":"a","totalSize":NaN}'],
    ['Infinity', '{"fileName":"a","totalSize":Infinity}'],
    ['a number beyond all', '{"fileName":"a","totalSize":1e309}'],
    ['a number that rounds', '{"fileName":"a","totalSize":9007199254740993}'],
    ['minus zero', '{"fileName":"a","totalSize":-0}'],
    ['a deep nest', `${'['.repeat(8000)}${']'.repeat(8000)}`],
    ['a deep object', `${'{"a":'.repeat(2600)}1${'}'.repeat(2600)}`],
    ['a name in a list', '{"fileName":["a"],"totalSize":1}'],
    ['all in the prototype', '{"__proto__":{"fileName":"a","totalSize":1}}'],
    ['a toJSON', '{"fileName":{"toJSON":"a"},"totalSize":1}'],
    ['a control character in a string', '{"fileName":"a\u0001","totalSize":1}'],
  ])('with %s is 400 [A01]', async (name, json) => {
    const wire = await everyWire(limits)
    const { status, text } = await init(wire.url, json)
    expect([status, wire.created()]).toEqual([400, 0])
    expectNothingInside(text)
    survived('attack', `init: ${name}`)
  })

  it('twice has the last word of JSON, and of 17 KiB nothing is read [A01]', async () => {
    const wire = await everyWire(limits)
    const twice = await init(wire.url, '{"fileName":"a","totalSize":-1,"totalSize":7}')
    expect([twice.status, twice.body.totalChunks]).toEqual([200, 1])
    const large = JSON.stringify({ fileName: 'a', totalSize: 1, more: 'x'.repeat(17 * 1024) })
    expect((await init(wire.url, large)).status).toBe(413)
    survived('attack', 'init: a key twice')
    survived('attack', 'init: 17 KiB')
  })
})

const around = (size: number) => [size - 1, size, size + 1]
const numbers = [0, 1, 2, ...around(chunk), ...around(2 * chunk), ...around(50 * chunk), ...around(limits.maxFileSize)]
const beyond = [2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53 - 1]
const nowhere = [
  '9007199254740992',
  '9007199254740993',
  '18446744073709551616',
  '-1',
  '1.5',
  '1e3',
  '+1',
  '0x10',
  '٣',
  '１',
]

describe('sizes around every limit', () => {
  it('of the documented routes are right to the byte [A02]', async () => {
    const wire = await everyWire(limits)
    for (const totalSize of [...numbers, ...beyond]) {
      for (const said of [totalSize, String(totalSize)]) {
        const { status, body } = await init(wire.url, JSON.stringify({ fileName: 'a', totalSize: said }))
        const expected = totalSize > limits.maxFileSize ? 413 : 200
        expect([said, status]).toEqual([said, expected])
        if (status === 200) expect(body.totalChunks).toBe(Math.ceil(totalSize / limits.maxChunkSize))
        survived('attack', `init: totalSize ${JSON.stringify(said)}`)
      }
    }
    for (const totalSize of nowhere) {
      expect((await init(wire.url, JSON.stringify({ fileName: 'a', totalSize }))).status, totalSize).toBe(400)
      survived('attack', `init: totalSize ${JSON.stringify(totalSize)}`)
    }
    await fc.assert(
      fc.asyncProperty(
        fc.nat({ max: 50 * chunk }),
        fc.integer({ min: 1, max: chunk }),
        async (totalSize, chunkSize) => {
          const { status, body } = await init(wire.url, JSON.stringify({ fileName: 'a', totalSize, chunkSize }))
          const count = Math.ceil(totalSize / chunkSize)
          expect([status, body.totalChunks]).toEqual(count > limits.maxChunks ? [413, undefined] : [200, count])
        },
      ),
      { numRuns: 150, seed: 3 },
    )
  })

  it('of tus, IETF, Resumable.js and signed Uppy requests are, too [A02]', async () => {
    const wire = await everyWire({ ...limits, maxChunks: 1000 })
    const { tus, ietf, resumable, uppy } = wire.as()
    const declare: Record<string, (size: string) => Promise<{ status: number }>> = {
      tus: (size) => tus.post({ 'Upload-Length': Buffer.from(size).toString('latin1') }),
      ietf: (size) => ietf.begin('', false, { 'Upload-Length': Buffer.from(size).toString('latin1') }),
      resumable: (size) => {
        const count = Math.max(1, Math.ceil(Number(size) / chunk)) || 1
        const parameters = {
          resumableTotalSize: size,
          resumableTotalChunks: count,
          resumableCurrentChunkSize: undefined,
        }
        const file = { data: Buffer.alloc(chunk), chunkSize: chunk, identifier: `of-${size}` }
        return resumable.test(file, 1, { parameters })
      },
      uppy: (size) => uppy.post('/sign', { method: 'POST', key: 'x-name', file: { name: 'name', size } }),
    }
    const accepted: Record<string, number[]> = { tus: [201], ietf: [201], resumable: [204], uppy: [200] }
    const tooLarge: Record<string, number[]> = { tus: [413], ietf: [413], resumable: [400, 404, 415], uppy: [413] }
    // A field that is malformed counts as missing for the IETF.
    const malformed: Record<string, number[]> = { tus: [400], ietf: [201, 400], resumable: [400, 404], uppy: [400] }
    for (const [name, send] of Object.entries(declare)) {
      const cases: [string, number[] | undefined][] = [
        ...numbers.map((size): [string, number[] | undefined] => [
          String(size),
          size > limits.maxFileSize ? tooLarge[name] : accepted[name],
        ]),
        ...[2 ** 31, 2 ** 32].map((size): [string, number[] | undefined] => [String(size), tooLarge[name]]),
        ...nowhere.map((size): [string, number[] | undefined] => [size, malformed[name]]),
      ]
      for (const [size, statuses] of cases) {
        const { status } = await send(size)
        expect(statuses, `${name} ${size} answered ${status}`).toContain(status)
        survived('attack', `${name}: size ${size}`)
      }
    }
  })
})

/** Letters of every plane, what joins and hides them, and halves of them. */
const anyCharacter = fc.oneof(
  fc.integer({ min: 0, max: 0x10ffff }).map((code) => String.fromCodePoint(code)),
  fc.integer({ min: 0xd800, max: 0xdfff }).map((code) => String.fromCharCode(code)),
  fc.constantFrom(...'./\\:*?"<>|% ~#&\0\r\n\t', '\u200d', '\u200f', '\u202e', '\u2066', '\ufeff', '\u0301', '\u0308'),
  fc.constantFrom('\u1100', '\u1161', '\u11a8', 'e', 'E', '\u212a', '\u0130', '\u00e9', 'con', 'nul', 'com1', '..'),
)
const anyName = fc.array(anyCharacter, { maxLength: 300 }).map((characters) => characters.join(''))

function expectSafe(name: string): void {
  const safe = safeFileName(name)
  const shown = JSON.stringify(name).slice(0, 200)
  expect(safe, shown).toMatch(/^[\p{L}\p{N}_-][\p{L}\p{N}._-]*$/u)
  expect(safe.endsWith('.'), shown).toBe(false)
  expect(safe, shown).not.toMatch(/^(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])(\.|$)/i)
  expect(Buffer.byteLength(safe), shown).toBeLessThanOrEqual(255)
  expect(safe.normalize('NFC'), shown).toBe(safe)
  expect(safeFileName(safe), shown).toBe(safe)
}

const hostileNames = [
  '../../../etc/passwd',
  '..\\..\\windows\\win.ini',
  '/etc/passwd',
  'C:\\boot.ini',
  '\\\\host\\share\\x',
  'file:///etc/passwd',
  '%2e%2e%2fetc%2fpasswd',
  '%252e%252e%252f',
  '..%c0%af..%c0%afetc',
  '....//....//etc',
  '.',
  '..',
  '...',
  '.htaccess',
  '.nexus-uploader',
  'CON',
  'nul.txt',
  'COM1',
  'LPT9.log',
  'COM¹',
  'a.',
  'a:b',
  'a.txt::$DATA',
  'a\u0000.png',
  'a\nb',
  'a\r\nX-Evil: 1',
  '\u202egnp.exe',
  '\ufeffa',
  'a\u200d\u0301',
  '\u1100\u200d\u1161',
  'e\u0301.txt',
  'K\u212a.txt',
  '"; filename="x.html',
  "'; rm -rf /; '",
  '$(id)',
  '`id`',
  '|id',
  '-rf',
  '~root',
  '*',
  '?x=1#y',
  '<script>alert(1)</script>.svg',
  '{{7*7}}',
  '__proto__',
  'constructor',
  'a'.repeat(4000),
  `${'a'.repeat(199)}.${'b'.repeat(50)}`,
  `${'\u{1f4a5}'.repeat(120)}.tar.gz`,
  'x.php.jpg',
  'con.\u0301txt',
]

describe('file names', () => {
  it('become safe keys, whatever characters they are made of [A03]', () => {
    for (const name of hostileNames) expectSafe(name)
    for (const name of ['\ud800', '\udfff\ud800', 'a '.repeat(50_000), '.'.repeat(100_000), '\u0301'.repeat(100_000)])
      expectSafe(name)
    fc.assert(fc.property(anyName, expectSafe), { numRuns: 4000, seed: 11 })
    survived('attack', 'file name: any characters')
  })

  it('that are equal to a reader are equal as keys [A03]', () => {
    for (const [one, other] of [
      ['e\u0301', '\u00e9'],
      ['\u212a', 'K'],
      ['\u1100\u1161', '\uac00'],
      ['\u1100\u200d\u1161', '\uac00'],
      ['a\u200fb', 'ab'],
    ] as const) {
      expect(safeFileName(one)).toBe(safeFileName(other))
    }
  })

  /** Uploads one byte under a name; the key it got. `null`: refused. */
  type Send = (name: string) => Promise<number>

  it('are labels on every wire: each file lands under its own random key [A03]', { timeout: 120_000 }, async () => {
    const wire = await everyWire({ maxSessions: 5000 })
    const { native, tus, ietf, resumable, uppy } = wire.as()
    const send: Record<string, Send> = {
      async native(fileName) {
        const { status, body } = await native.init({ fileName, totalSize: 1 })
        if (status !== 200) return status
        await native.raw(body.uploadId, 0, Buffer.from('x'))
        return (await native.complete(body.uploadId)).status
      },
      async 'one request'(name) {
        const form = new FormData()
        form.append('file', new Blob(['x']), name)
        return (await answer(fetch(`${wire.url}/upload`, { method: 'POST', body: form }))).status
      },
      async 'plain bytes'(name) {
        const query = new URLSearchParams({ fileName: name })
        return (await answer(fetch(`${wire.url}/upload?${query}`, { method: 'POST', body: new Uint8Array(1) }))).status
      },
      async tus(filename) {
        const { status, headers } = await tus.post({
          'Upload-Length': 1,
          'Upload-Metadata': metadataHeader({ filename }),
        })
        return status === 201 ? (await tus.patch(tus.resolve(headers.location), 0, 'x')).status : status
      },
      async ietf(name) {
        const header = `attachment; filename*=UTF-8''${encodeURIComponent(name.toWellFormed()).replaceAll("'", '%27')}`
        return (await ietf.begin('x', true, { 'Content-Disposition': header })).status
      },
      async resumable(name) {
        const file = { data: Buffer.from('x'), chunkSize: 1000, name, identifier: name, relativePath: name }
        return (await resumable.send(file, 1)).status
      },
      async uppy(filename) {
        const { status, body } = await uppy.create({ filename, type: 'text/html', metadata: { name: filename } })
        if (status !== 200) return status
        return (await uppy.complete(body, [await uppy.part(body, 1, Buffer.from('x'))])).status
      },
      async 'uppy form'(filename) {
        const { status, body } = await uppy.params({ filename, type: 'text/html' })
        return status === 200 ? (await postForm(body.url, body.fields, Buffer.from('x'), filename)).status : status
      },
    }
    let stored = 0
    for (const [protocol, one] of Object.entries(send)) {
      for (const name of hostileNames) {
        const status = await one(name)
        const shown = `${protocol}: ${JSON.stringify(name).slice(0, 60)}`
        expect([200, 201, 204, 400], `${shown} answered ${status}`).toContain(status)
        if (status !== 400) stored += 1
        survived('attack', `file name, ${shown}`)
      }
    }
    expect(stored).toBeGreaterThan(0.9 * Object.keys(send).length * hostileNames.length)
    const paths = (await filesBelow(wire.directory)).filter((path) => !path.startsWith('.nexus-uploader'))
    expect(paths).toHaveLength(stored)
    for (const path of paths)
      expect(path).toMatch(/^uploads\/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[^/\p{C}]{1,255}$/u)
  })
})

const mediaTypes = [
  'text/html',
  'image/svg+xml',
  'a/b;q="',
  'a/b; charset="x\\',
  'a/b\r\nX-Evil: 1',
  'a/b\u0000',
  '*/*',
  'a/',
  '/b',
  'a',
  'a b/c',
  'a/b/c',
  '"a"/b',
  'ä/b',
  'text/html, text/plain',
  '__proto__',
  'multipart/form-data; boundary=x',
  `a/${'b'.repeat(4000)}`,
  `${';'.repeat(4000)}`,
  `a/b;${' '.repeat(4000)}x`,
]

describe('media types', () => {
  it('are a plain type or application/octet-stream, on every wire [A04]', async () => {
    const wire = await everyWire()
    const { native, tus, ietf, uppy } = wire.as()
    const kept: string[] = []
    wire.engine.events.on('created', ({ session }) => kept.push(session.mimeType))
    const send: Record<string, (type: string) => Promise<{ status: number }>> = {
      native: (mimeType) => native.init({ fileName: 'a', totalSize: 1, mimeType }),
      tus: (filetype) => tus.post({ 'Upload-Length': 1, 'Upload-Metadata': metadataHeader({ filetype }) }),
      uppy: (type) => uppy.create({ filename: 'a', type, metadata: { type } }),
      'uppy form': (type) => uppy.params({ filename: 'a', type }),
      'uppy sign': (contentType) => uppy.post('/sign', { method: 'PUT', key: 'a', contentType }),
      ietf: async (type) =>
        /^[\x20-\x7e]*$/.test(type) ? ietf.begin('', false, { 'Content-Type': type }) : { status: 400 },
    }
    for (const [protocol, one] of Object.entries(send)) {
      for (const type of mediaTypes) {
        const { status } = await one(type)
        const shown = `${protocol}: ${JSON.stringify(type).slice(0, 60)}`
        expect([200, 201, 400], `${shown} answered ${status}`).toContain(status)
        survived('attack', `media type, ${shown}`)
      }
    }
    expect(kept.length).toBeGreaterThan(80)
    for (const type of kept) expect(type).toMatch(/^[a-z0-9!#$&^_.+-]{1,64}\/[a-z0-9!#$&^_.+-]{1,64}$/)
  })

  it('of a megabyte are 4xx or 431 [A04]', async () => {
    const wire = await everyWire()
    const type = `a/${'b'.repeat(1024 * 1024)}`
    const json = JSON.stringify({ fileName: 'a', totalSize: 1, mimeType: type })
    expect((await init(wire.url, json)).status).toBe(413)
    const form = chunkForm('x', 0, Buffer.from('x')).toString('latin1').replace('application/octet-stream', type)
    const headers = { 'Content-Type': 'multipart/form-data; boundary=xxBOUNDARYxx' }
    const sent = await answer(
      fetch(`${wire.url}/upload`, { method: 'POST', headers, body: Buffer.from(form, 'latin1') }),
    )
    expect(sent.status).toBe(400)
    survived('attack', 'media type: 1 MiB in JSON')
    survived('attack', 'media type: 1 MiB in a part')
  })

  it('that are refused are refused however they are written, and not let in by a wildcard [A04]', async () => {
    const wire = await everyWire({ allowedMimeTypes: ['image/*', 'video/mp4'], ends: false })
    const { native } = wire.as()
    const status = async (mimeType: string) => (await native.init({ fileName: 'a.png', totalSize: 1, mimeType })).status
    for (const type of [
      'text/html',
      'imagex/png',
      'image',
      'image/*',
      'IMAGE',
      'video/mp4x',
      'a/b;image/png',
      '',
      'text/html;image/png',
    ]) {
      expect([type, await status(type)]).toEqual([type, type === 'image/*' ? 415 : 415])
      survived('attack', `media type that is not allowed: ${type}`)
    }
    for (const type of ['image/png', 'IMAGE/PNG', 'image/png; charset=x', ' video/mp4 '])
      expect(await status(type)).toBe(200)
  })
})
