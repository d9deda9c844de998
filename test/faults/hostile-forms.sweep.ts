/** Forms that are not what they should be, on every route that reads forms; and one form, cut at every byte. */
import { describe, expect, it } from 'vitest'
import { readPieces } from '../fuzz/targets.ts'
import { type EveryWire, everyWire, expectNothingInside } from '../support/every-wire.ts'
import { survived } from '../support/fault-points.ts'
import { bytes } from '../support/random.ts'
import { chunkForm, rawSocket } from '../support/raw-http.ts'
import { parametersOf } from '../support/resumable-client.ts'
import { filesBelow } from '../support/temp-folder.ts'

const boundary = 'xxBOUNDARYxx'
const data = bytes(20).toString('latin1')
const end = `--${boundary}--\r\n`

function part(headers: string, content = ''): string {
  return `--${boundary}\r\n${headers}\r\n\r\n${content}\r\n`
}
const field = (name: string, value: string) => part(`Content-Disposition: form-data; name="${name}"`, value)
const file = (disposition: string, content = data) =>
  part(`Content-Disposition: form-data; ${disposition}\r\nContent-Type: application/octet-stream`, content)

interface Route {
  readonly path: string
  /** What names the chunk or the file. */
  readonly fields: readonly string[]
  /** The name of the file part. */
  readonly file: string
  /** Whether the fields may come after the file. */
  readonly isFree: boolean
  /** Whether the part may have any name. */
  readonly takesAny: boolean
  /** Whether a form without any field is whole. */
  readonly needsFields: boolean
}

const routes: Record<string, (wire: EveryWire) => Promise<Route>> = {
  'native chunk': async (wire) => {
    const id = await wire.as().native.start(20)
    const fields = [field('uploadId', id), field('chunkIndex', '0')]
    return { path: '/upload/chunk', fields, file: 'chunk', isFree: true, takesAny: false, needsFields: true }
  },
  'one request': async () => {
    return {
      path: '/upload',
      fields: [field('a', 'b')],
      file: 'file',
      isFree: true,
      takesAny: true,
      needsFields: false,
    }
  },
  resumable: async () => {
    const chunk = { data: Buffer.alloc(20), chunkSize: 100, identifier: String(Math.random()) }
    const fields = Object.entries(parametersOf('flow', chunk, 1)).map(([name, value]) => field(name, String(value)))
    return { path: '/resumable', fields, file: 'file', isFree: true, takesAny: false, needsFields: true }
  },
  uppy: async (wire) => {
    const { body } = await wire.as().uppy.params()
    const fields = Object.entries<string>(body.fields).map(([name, value]) => field(name, value))
    const { pathname } = new URL(body.url)
    return { path: pathname, fields, file: 'file', isFree: false, takesAny: false, needsFields: true }
  },
}

async function post(
  { port }: EveryWire,
  path: string,
  form: string,
  type = `multipart/form-data; boundary=${boundary}`,
) {
  const socket = await rawSocket(port)
  const body = Buffer.from(form, 'latin1')
  const lines = [`POST ${path} HTTP/1.1`, 'Host: x', `Content-Type: ${type}`, `Content-Length: ${body.length}`]
  socket.send(`${[...lines, 'Connection: close'].join('\r\n')}\r\n\r\n`)
  socket.send(body)
  const received = await socket.until(null)
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(received)?.[1]), received }
}

type Form = (route: Route) => string
const good = [200, 201]
const bad = [400, 404, 413, 415]
const named = ({ file: name }: Route, more = '; filename="a"') => file(`name="${name}"${more}`)
const all = ({ fields }: Route) => fields.join('')

/** Forms of the same meaning, forms of another, and forms of none. */
const forms: readonly [string, Form, (route: Route) => readonly number[]][] = [
  ['fields, then the file', (r) => all(r) + named(r) + end, () => good],
  ['the file, then fields', (r) => named(r) + all(r) + end, (r) => (r.isFree ? good : bad)],
  [
    'the file between the fields',
    (r) => [r.fields[0], named(r), ...r.fields.slice(1), end].join(''),
    (r) => (r.isFree ? good : [...good, ...bad]),
  ],
  ['fields in reverse', (r) => [...r.fields].reverse().join('') + named(r) + end, () => good],
  ['a preamble', (r) => `ignore me\r\n${all(r)}${named(r)}${end}`, () => good],
  ['an epilogue', (r) => `${all(r)}${named(r)}${end}ignore me\r\n--${boundary}\r\n`, () => good],
  [
    'another part in the epilogue',
    (r) => all(r) + named(r) + end + field('x', 'y') + named(r) + end,
    () => [...good, ...bad],
  ],
  ['no CRLF at the end', (r) => (all(r) + named(r) + end).slice(0, -2), () => good],
  ['the first field twice', (r) => r.fields[0] + all(r) + named(r) + end, (r) => (r.needsFields ? bad : good)],
  ['the first field twice, once after the file', (r) => all(r) + named(r) + r.fields[0] + end, () => [...good, ...bad]],
  ['two files', (r) => all(r) + named(r) + named(r) + end, () => bad],
  ['two files around the fields', (r) => named(r) + all(r) + named(r) + end, () => bad],
  [
    'a file under another name',
    (r) => `${all(r)}${file('name="other"; filename="a"')}${end}`,
    (r) => (r.takesAny ? good : bad),
  ],
  [
    'a file under its name in capitals',
    (r) => `${all(r)}${file(`name="${r.file.toUpperCase()}"; filename="a"`)}${end}`,
    (r) => (r.takesAny ? good : bad),
  ],
  [
    'a file named __proto__',
    (r) => `${all(r)}${file('name="__proto__"; filename="a"')}${end}`,
    (r) => (r.takesAny ? good : bad),
  ],
  ['a file without a name', (r) => `${all(r)}${file('filename="a"')}${end}`, () => [...good, ...bad]],
  ['a file whose name is empty', (r) => all(r) + named(r, '; filename=""') + end, () => [...good, ...bad]],
  [
    'a file without a type',
    (r) => all(r) + part(`Content-Disposition: form-data; name="${r.file}"; filename="a"`, data) + end,
    () => good,
  ],
  ['a file that is a field', (r) => all(r) + field(r.file, 'text') + end, () => bad],
  [
    'a type alone',
    (r) =>
      all(r) +
      part(`Content-Disposition: form-data; name="${r.file}"\r\nContent-Type: application/octet-stream`, data) +
      end,
    () => [...good, ...bad],
  ],
  [
    'filename* with a broken percent sign',
    (r) => all(r) + named(r, "; filename*=UTF-8''%") + end,
    () => [...good, ...bad],
  ],
  [
    'filename* of an unknown charset',
    (r) => all(r) + named(r, "; filename*=KLINGON''a") + end,
    () => [...good, ...bad],
  ],
  [
    'filename* that is half a letter',
    (r) => all(r) + named(r, "; filename*=UTF-8''%E0%A4%A") + end,
    () => [...good, ...bad],
  ],
  [
    'filename and filename*',
    (r) => all(r) + named(r, '; filename="a"; filename*=UTF-8\'\'../../b') + end,
    () => [...good, ...bad],
  ],
  [
    'a filename with a quote that is never closed',
    (r) => all(r) + named(r, '; filename="a') + end,
    () => [...good, ...bad],
  ],
  ['a filename with NUL', (r) => all(r) + named(r, '; filename="a\0b"') + end, () => [...good, ...bad]],
  [
    'base64',
    (r) =>
      all(r) +
      part(
        `Content-Disposition: form-data; name="${r.file}"; filename="a"\r\nContent-Transfer-Encoding: base64`,
        'YWFhYWFhYWFhYWFhYWFh',
      ) +
      end,
    () => [...good, ...bad],
  ],
  ['LF for CRLF', (r) => (all(r) + named(r) + end).replaceAll('\r\n', '\n'), () => bad],
  ['CR for CRLF', (r) => (all(r) + named(r) + end).replaceAll('\r\n', '\r'), () => bad],
  ['the boundary of another form', (r) => (all(r) + named(r) + end).replaceAll(boundary, 'other'), () => bad],
  [
    'a boundary that ends in white space',
    (r) => (all(r) + named(r) + end).replaceAll(`${boundary}\r\n`, `${boundary} \r\n`),
    () => [...good, ...bad],
  ],
  ['no last boundary', (r) => all(r) + named(r), () => bad],
  ['nothing but the last boundary', () => end, () => bad],
  ['nothing', () => '', () => bad],
  ['fields alone', (r) => all(r) + end, () => bad],
  ['the file alone', (r) => named(r) + end, (r) => (r.needsFields ? bad : good)],
  [
    'a hundred fields',
    (r) => all(r) + Array.from({ length: 100 }, (_, n) => field(`f${n}`, 'x')).join('') + named(r) + end,
    () => bad,
  ],
  ['a field of 20 KiB', (r) => all(r) + field('x', 'y'.repeat(20_000)) + named(r) + end, () => bad],
  ['a field whose name is 1 KiB', (r) => all(r) + field('n'.repeat(1024), 'y') + named(r) + end, () => bad],
  ['a nested field', (r) => `${all(r)}${field('a[b][c][d]', 'y')}${named(r)}${end}`, () => bad],
  [
    'a field that would be a long list',
    (r) => `${all(r)}${field('a[4000000000]', 'y')}${named(r)}${end}`,
    () => [...good, ...bad],
  ],
  [
    'fields of magic names',
    (r) =>
      all(r) +
      ['__proto__', 'constructor', 'hasOwnProperty', 'toString'].map((n) => field(n, 'y')).join('') +
      named(r) +
      end,
    () => [...good, ...bad],
  ],
  [
    'a hundred headers in a part',
    (r) =>
      all(r) +
      part(`${'X-A: b\r\n'.repeat(100)}Content-Disposition: form-data; name="${r.file}"; filename="a"`, data) +
      end,
    () => [...good, ...bad],
  ],
  [
    'a header of 100 KiB in a part',
    (r) =>
      all(r) +
      part(`X-A: ${'b'.repeat(100_000)}\r\nContent-Disposition: form-data; name="${r.file}"; filename="a"`, data) +
      end,
    () => bad,
  ],
  [
    'a form in the form',
    (r) =>
      all(r) +
      part(
        `Content-Type: multipart/mixed; boundary=in\r\nContent-Disposition: form-data; name="${r.file}"`,
        `--in\r\nContent-Disposition: file; filename="a"\r\n\r\nx\r\n--in--`,
      ) +
      end,
    () => [...good, ...bad],
  ],
]

describe.each(Object.entries(routes))('a form for %s', (name, routeOf) => {
  it.each(forms)('with %s is the form or a 4xx [A06, A07]', async (how, formOf, statuses) => {
    const wire = await everyWire({ bodyIdleTimeout: 2000 })
    const route = await routeOf(wire)
    const { status, received } = await post(wire, route.path, formOf(route))
    expect(statuses(route), received).toContain(status)
    if (status >= 400) expectNothingInside(received)
    const stored = (await filesBelow(wire.directory)).filter((path) => path.startsWith('uploads/'))
    if (status >= 400) expect(stored).toEqual([])
    expect(await filesBelow(`${wire.tempDir}/spool`)).toEqual([])
    survived('attack', `form, ${name}: ${how}`)
  })

  it('whose boundary is missing, empty, huge or quoted wrongly is 4xx [A05]', async () => {
    const wire = await everyWire()
    const route = await routeOf(wire)
    for (const type of [
      'multipart/form-data',
      'multipart/form-data; boundary=',
      'multipart/form-data; boundary=""',
      'multipart/form-data; boundary="xx',
      `multipart/form-data; boundary=${'b'.repeat(8000)}`,
      'multipart/form-data; boundary=a; boundary=b',
      'multipart/form-data; charset=x; boundary',
      'multipart/mixed; boundary=xxBOUNDARYxx',
      'multipart/related; boundary=xxBOUNDARYxx',
    ]) {
      const { status, received } = await post(wire, route.path, all(route) + named(route) + end, type)
      // Resumable.js takes every kind of multipart for a form.
      expect(/mixed|related/.test(type) ? [...good, ...bad] : bad, `${type}\n${received}`).toContain(status)
      expectNothingInside(received)
      survived('attack', `form, ${name}: ${type.slice(0, 60)}`)
    }
  })

  it.each([
    ['before its first part', () => ''],
    ['in a header of its first part', () => `--${boundary}\r\nX: `],
    ['in a field', () => `--${boundary}\r\nContent-Disposition: form-data; name="x"\r\n\r\n`],
    ['after its last part', (route: Route) => all(route) + named(route) + end],
  ])('that never ends %s is refused after what the largest may have [A05, B04]', async (where, startOf) => {
    const wire = await everyWire({ maxChunkSize: 110_000, maxFileSize: 400_000 })
    const { path, ...rest } = await routeOf(wire)
    const socket = await rawSocket(wire.port)
    const lines = [`POST ${path} HTTP/1.1`, 'Host: x', `Content-Type: multipart/form-data; boundary=${boundary}`]
    socket.send(`${[...lines, 'Transfer-Encoding: chunked'].join('\r\n')}\r\n\r\n`)
    const say = (text: Buffer) =>
      socket.send(Buffer.concat([Buffer.from(`${text.length.toString(16)}\r\n`), text, Buffer.from('\r\n')]))
    const start = Buffer.from(startOf({ path, ...rest }), 'latin1')
    if (start.length > 0) say(start)
    let sent = 0
    const block = Buffer.alloc(50_000, 'a')
    while (!socket.isClosed() && !socket.received().includes('\r\n\r\n') && sent < 20_000_000) {
      say(block)
      sent += block.length
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
    const received = await socket.until('\r\n\r\n')
    socket.socket.destroy()
    expect(bad, received).toContain(Number(/^HTTP\/1\.1 (\d{3})/.exec(received)?.[1]))
    expect(sent).toBeLessThan(3_000_000)
    expect(await filesBelow(`${wire.tempDir}/spool`)).toEqual([])
    survived('attack', `form, ${name}: no end ${where}`)
  })
})

describe('a valid form', () => {
  const forms = [
    chunkForm('0b4e4ab6-9f0c-4b1c-8a1f-3f1d2c4b5a69', 3, Buffer.from('the bytes of a chunk')),
    Buffer.from(
      `preamble\r\n${file('name="chunk"; filename="a"', `\r\n--${boundary.slice(0, -1)}\r\n-`)}${field('x', 'y')}${end}epilogue`,
    ),
  ]

  it('is the same form wherever it is cut in two, and in pieces of every size [A05]', { timeout: 60_000 }, async () => {
    for (const [n, form] of forms.entries()) {
      const whole = await readPieces([form])
      expect(whole).toContain('form')
      for (let at = 0; at <= form.length; at++) {
        const pieces = [form.subarray(0, at), form.subarray(at)].filter((piece) => piece.length > 0)
        expect(await readPieces(pieces), `cut at ${at}`).toBe(whole)
      }
      for (let size = 1; size <= 7; size++) {
        const pieces = Array.from({ length: Math.ceil(form.length / size) }, (_, i) =>
          form.subarray(i * size, (i + 1) * size),
        )
        expect(await readPieces(pieces), `pieces of ${size}`).toBe(whole)
      }
      survived('attack', `form ${n}: cut at every byte`, form.length)
    }
  })

  it('without any one of its bytes is a form or a refusal, never anything else [A05]', {
    timeout: 60_000,
  }, async () => {
    const [form = Buffer.alloc(0)] = forms
    const outcomes = new Set<string>()
    for (let at = 0; at < form.length; at++) {
      const without = Buffer.concat([form.subarray(0, at), form.subarray(at + 1)])
      outcomes.add((await readPieces([without])).replace(/ .*/s, ''))
    }
    expect(outcomes).toEqual(new Set(['form', 'INVALID_FORM']))
    survived('attack', 'form: each byte left out', form.length)
  })
})
