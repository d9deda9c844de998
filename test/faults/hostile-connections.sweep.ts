/** Connections that lie about what they carry, fall apart, or go on where they should have ended. */
import { readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { type EveryWire, everyWire, expectNothingInside } from '../support/every-wire.ts'
import { survived } from '../support/fault-points.ts'
import { bytes, sha256 } from '../support/random.ts'
import { chunkForm, rawSocket } from '../support/raw-http.ts'
import { offsetType, unknownId } from '../support/tus-client.ts'

const size = 1000

/** A request that brings bytes to an upload, without the lines that say how many. */
interface Bringing {
  /** Request line and header lines. */
  readonly head: readonly string[]
  /** The whole body, for the upload's first 1000 bytes. */
  readonly body: Buffer
  /** How many bytes have counted. */
  counted(): Promise<number>
}

const data = bytes(size)
const counted = async ({ engine }: EveryWire, uploadId: string, protocol: string) => {
  // Bytes beyond the length of an upload of the IETF protocol end it.
  const { chunks } = await engine.listChunks({ uploadId, protocol }).catch(() => ({ chunks: [] }))
  return chunks.reduce((sum, chunk) => sum + chunk.size, 0)
}
const idIn = (url: string) => url.split('/').at(-1) ?? ''

let identifiers = 0

/** A new upload on each wire, and the request that would bring it its bytes. */
const wires: Record<string, (wire: EveryWire) => Promise<Bringing>> = {
  async 'native form'(wire) {
    const id = await wire.as().native.start(size)
    return {
      head: ['POST /upload/chunk HTTP/1.1', 'Content-Type: multipart/form-data; boundary=xxBOUNDARYxx'],
      body: chunkForm(id, 0, data),
      counted: () => counted(wire, id, 'native'),
    }
  },
  async 'native bytes'(wire) {
    const id = await wire.as().native.start(size)
    return {
      head: [`POST /upload/chunk?uploadId=${id}&chunkIndex=0 HTTP/1.1`, 'Content-Type: application/octet-stream'],
      body: data,
      counted: () => counted(wire, id, 'native'),
    }
  },
  async tus(wire) {
    const id = idIn(await wire.as().tus.create(size))
    return {
      head: [`PATCH /tus/${id} HTTP/1.1`, 'Tus-Resumable: 1.0.0', `Content-Type: ${offsetType}`, 'Upload-Offset: 0'],
      body: data,
      counted: () => counted(wire, id, 'tus'),
    }
  },
  async ietf(wire) {
    const id = idIn(await wire.as().ietf.create({ 'Upload-Length': size }))
    const type = 'Content-Type: application/partial-upload'
    return {
      head: [`PATCH /ietf/${id} HTTP/1.1`, type, 'Upload-Offset: 0', 'Upload-Complete: ?0'],
      body: data,
      counted: () => counted(wire, id, 'ietf'),
    }
  },
  async resumable(wire) {
    identifiers += 1
    const query = new URLSearchParams({
      resumableChunkNumber: '1',
      resumableChunkSize: String(size),
      resumableTotalSize: String(size * 2),
      resumableTotalChunks: '2',
      resumableIdentifier: `x${identifiers}`,
      resumableCurrentChunkSize: String(size),
      resumableFilename: 'x',
      resumableRelativePath: 'x',
      resumableType: '',
    })
    let id: string | null = null
    wire.engine.events.on('created', ({ session }) => {
      id = session.protocol === 'resumablejs' ? session.id : id
    })
    return {
      head: [`POST /resumable?${query} HTTP/1.1`, 'Content-Type: application/octet-stream'],
      body: data,
      counted: async () => (id === null ? 0 : counted(wire, id, 'resumablejs')),
    }
  },
  async uppy(wire) {
    const { uppy } = wire.as()
    const upload = await uppy.start()
    const { pathname, search } = new URL(await uppy.urlOf(upload, 1))
    return {
      head: [`PUT ${pathname}${search} HTTP/1.1`, 'Content-Type: application/octet-stream'],
      body: data,
      counted: () => counted(wire, upload.uploadId, 'uppy-s3'),
    }
  },
}
const every = Object.entries(wires)
/** Bytes of a chunk are all or nothing; bytes that are appended are kept as they come. */
const keepsPrefix = (name: string) => name === 'tus' || name === 'ietf'

function headOf(lines: readonly string[], more: readonly string[]): string {
  return `${[...lines, 'Host: x', ...more].join('\r\n')}\r\n\r\n`
}

function statusesIn(received: string): number[] {
  return [...received.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status))
}

describe.each(every)('a body that lies, over %s', (name, bring) => {
  it.each([
    ['is shorter than its Content-Length', (n: number) => [`Content-Length: ${n + 100}`]],
    ['is longer than its Content-Length', (n: number) => [`Content-Length: ${n - 100}`]],
    ['has Content-Length and Transfer-Encoding', (n: number) => [`Content-Length: ${n}`, 'Transfer-Encoding: chunked']],
    ['has Transfer-Encoding and Content-Length', (n: number) => ['Transfer-Encoding: chunked', `Content-Length: ${n}`]],
    ['has two lengths', (n: number) => [`Content-Length: ${n}`, `Content-Length: ${n - 1}`]],
    ['has two lengths in a line', (n: number) => [`Content-Length: ${n}, ${n - 1}`]],
    ['has a negative length', () => ['Content-Length: -1']],
    ['has a length with a sign', (n: number) => [`Content-Length: +${n}`]],
    ['has a hexadecimal length', () => ['Content-Length: 0x3e8']],
    ['has a length beyond all', () => ['Content-Length: 18446744073709551617']],
    ['has an unknown Transfer-Encoding', () => ['Transfer-Encoding: xchunked']],
    ['has chunked not at the end', () => ['Transfer-Encoding: chunked, identity']],
    ['has a folded header', (n: number) => ['X-Fold: a', ' b', `Content-Length: ${n}`]],
    ['has a bare LF', (n: number) => [`X-LF: a\nContent-Length: ${n}`]],
    ['has a bare CR', (n: number) => [`X-CR: a\rContent-Length: ${n}`]],
    ['has a space before the colon', (n: number) => [`Content-Length : ${n}`]],
    ['has a NUL in a header', (n: number) => [`X-NUL: a\0b`, `Content-Length: ${n}`]],
  ] as const)('%s: nothing is taken that was not sent, and a new connection works [B02]', async (lie, linesOf) => {
    const wire = await everyWire()
    const { head, body, counted } = await bring(wire)
    const socket = await rawSocket(wire.port)
    socket.send(headOf(head, linesOf(body.length)))
    socket.send(body)
    socket.socket.end()
    const received = await socket.until(null)
    const [status, ...more] = statusesIn(received).filter((one) => one >= 200)
    const isTooLong = lie === 'is longer than its Content-Length'
    if (status !== undefined && !isTooLong) expect(status, received).toBeGreaterThanOrEqual(400)
    // What is beyond the length is no request.
    for (const one of more) expect(one, received).toBe(400)
    const kept = await counted()
    if (isTooLong && name !== 'native form') expect([0, size - 100]).toContain(kept)
    else expect(keepsPrefix(name) ? [0, size] : [0], `${kept} bytes counted`).toContain(kept)
    if (kept === size) expect(lie).toBe('is shorter than its Content-Length')
    expectNothingInside(received)
    survived('attack', `${name}: a body that ${lie}`)
  })

  it.each([
    ['no size', '\r\nabc\r\n0\r\n\r\n'],
    ['a size that is none', 'zz\r\nabc\r\n0\r\n\r\n'],
    ['a negative size', '-3\r\nabc\r\n0\r\n\r\n'],
    ['a size with 0x', '0x3\r\nabc\r\n0\r\n\r\n'],
    ['a size beyond all', 'ffffffffffffffffff\r\nabc\r\n0\r\n\r\n'],
    ['data without its end', '3\r\nabcdef\r\n0\r\n\r\n'],
    ['a size and white space', '3 \r\nabc\r\n0 \r\n\r\n'],
    ['LF for CRLF', '3\nabc\n0\n\n'],
    ['an endless extension', `3;${'a'.repeat(200_000)}\r\nabc\r\n0\r\n\r\n`],
    ['a trailer that is a request', '3\r\nabc\r\n0\r\nGET /x HTTP/1.1\r\n\r\n'],
  ])('chunked with %s is no whole body [B02]', async (what, text) => {
    const wire = await everyWire()
    const { head, counted } = await bring(wire)
    const socket = await rawSocket(wire.port)
    socket.send(headOf(head, ['Transfer-Encoding: chunked']))
    socket.send(text)
    socket.socket.end()
    const received = await socket.until(null)
    const statuses = statusesIn(received).filter((one) => one >= 200)
    for (const status of statuses) expect(status, received).toBeGreaterThanOrEqual(400)
    expect(statuses.length).toBeLessThanOrEqual(1)
    expect(keepsPrefix(name) ? [0, 3] : [0]).toContain(await counted())
    survived('attack', `${name}: chunked with ${what}`)
  })

  it('that is compressed is 415, whatever it is called [B01]', async () => {
    const wire = await everyWire()
    const { head, body, counted } = await bring(wire)
    const bomb = gzipSync(Buffer.alloc(20 * 1024 * 1024))
    for (const encoding of [
      'gzip',
      'GZIP',
      'br',
      'deflate',
      'zstd',
      'compress',
      'x-gzip',
      'gzip, identity',
      'identity, gzip',
      'aws-chunked',
      '*',
    ]) {
      for (const content of [bomb, body]) {
        const socket = await rawSocket(wire.port)
        socket.send(
          headOf(head, [`Content-Encoding: ${encoding}`, `Content-Length: ${content.length}`, 'Connection: close']),
        )
        socket.send(content)
        expect(statusesIn(await socket.until(null)), encoding).toEqual([415])
      }
      survived('attack', `${name}: Content-Encoding ${encoding}`)
    }
    expect(await counted()).toBe(0)
  })

  it('that is far too long is refused before it is sent, also after the 100 of Node [B03]', async () => {
    const wire = await everyWire({ maxChunkSize: 200_000, maxFileSize: 1_000_000 })
    for (const own of [false, true]) {
      const { head, body, counted } = await bring(wire)
      // An app that wants no 100 before a refusal passes such requests on by itself.
      if (own) {
        wire.server.on('checkContinue', (request, response) => {
          if (Number(request.headers['content-length']) < 1_000_000) response.writeContinue()
          wire.server.emit('request', request, response)
        })
      }
      const expecting = async (length: number) => {
        const socket = await rawSocket(wire.port)
        socket.send(headOf(head, [`Content-Length: ${length}`, 'Expect: 100-continue', 'Connection: close']))
        await socket.until('\r\n\r\n')
        return socket
      }
      const good = await expecting(body.length)
      expect(statusesIn(good.received())).toEqual([100])
      good.send(body)
      const [, status = 0] = statusesIn(await good.until(null))
      expect([200, 201, 204]).toContain(status)
      expect(await counted()).toBe(size)
      const large = await expecting(50_000_000)
      const statuses = statusesIn(await large.until(null))
      if (!own) expect(statuses.shift()).toBe(100)
      expect(statuses, large.received()).toHaveLength(1)
      expect([400, 409, 413]).toContain(statuses[0])
      survived('attack', `${name}: Expect and 50 MB, checkContinue ${own}`)
    }
  })

  it('that is refused while it flows: the answer arrives, little is read, the connection ends [B04]', {
    timeout: 60_000,
  }, async () => {
    const wire = await everyWire({ maxChunkSize: 200_000, maxFileSize: 400_000 })
    const { head, counted } = await bring(wire)
    const [start = '', ...lines] = head
    const unknown = start.replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/, unknownId)
    for (const [how, length] of [
      ['announced', 'Content-Length: 1073741824'],
      ['not announced', 'Transfer-Encoding: chunked'],
    ] as const) {
      const serverSide = new Promise<{ bytesRead: number }>((resolve) => wire.server.once('connection', resolve))
      const flood = await flooded(wire.port, headOf([unknown, ...lines], [length]), how)
      const [status = 0] = statusesIn(flood.received).filter((one) => one >= 200)
      expect(status, flood.received).toBeGreaterThanOrEqual(400)
      expect(status).toBeLessThan(500)
      expect(flood.failedBeforeAnswer).toBe(false)
      expect(flood.received.toLowerCase()).toContain('connection: close')
      // The largest chunk, what is drained beyond it, and what was on its way.
      const { bytesRead } = await serverSide
      expect(bytesRead).toBeLessThan(1_500_000)
      expectNothingInside(flood.received)
      survived('attack', `${name}: 1 GiB for nobody, length ${how}`)
    }
    expect(await counted()).toBe(0)
  })
})

/** Sends as fast as it can until the answer is there and the connection has ended. */
function flooded(port: number, head: string, how: string) {
  const block = bytes(256 * 1024)
  const isLate = how.endsWith('after the answer')
  const wrapped =
    how === 'not announced'
      ? Buffer.concat([Buffer.from(`${block.length.toString(16)}\r\n`), block, Buffer.from('\r\n')])
      : block
  return new Promise<{ received: string; failedBeforeAnswer: boolean }>((resolve) => {
    const socket = connect(port, '127.0.0.1')
    let received = ''
    let failedBeforeAnswer = false
    const pump = () => {
      while (!socket.destroyed && socket.writable && socket.write(wrapped));
    }
    socket.on('connect', () => {
      socket.write(head)
      if (!isLate) pump()
    })
    socket.on('drain', pump)
    // To go on sending when the other side has ended.
    socket.allowHalfOpen = true
    socket.on('data', (text) => {
      received += text.toString('latin1')
      if (isLate) pump()
    })
    socket.on('error', () => {
      failedBeforeAnswer = !received.includes('\r\n\r\n')
    })
    socket.on('close', () => resolve({ received, failedBeforeAnswer }))
  })
}

describe('one connection', () => {
  it.each(['one after the other', 'pipelined'])(
    'carries 1000 requests, errors among them, %s: each gets its own answer [B05]',
    { timeout: 120_000 },
    async (how) => {
      const wire = await everyWire()
      const count = 1000
      const id = await wire.as().native.start(count * 10)
      const requests = Array.from({ length: count }, (_, n) => requestOf(n, id))
      const socket = await rawSocket(wire.port)
      if (how === 'pipelined') {
        for (const { bytes: sent } of requests) socket.send(sent)
        await answered(socket, count)
      } else {
        for (const [n, { bytes: sent }] of requests.entries()) {
          socket.send(sent)
          await answered(socket, n + 1)
        }
      }
      expect(statusesIn(socket.received())).toEqual(requests.map(({ status }) => status))
      expect(socket.isClosed()).toBe(false)
      socket.socket.destroy()
      const { body } = await wire.as().native.progress(id)
      const good = requests.filter(({ status }) => status === 200).length
      expect(body.uploadedChunks).toBe(good)
      survived('attack', `one connection, 1000 requests ${how}`)
    },
  )
})

async function answered(socket: Awaited<ReturnType<typeof rawSocket>>, count: number): Promise<void> {
  for (const deadline = Date.now() + 60_000; ; ) {
    const all = statusesIn(socket.received()).length
    if (all >= count && socket.received().endsWith('}')) return
    if (socket.isClosed() || Date.now() > deadline)
      throw new Error(`${all} answers of ${count}: ${socket.received().slice(-300)}`)
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** Every second is a chunk; between them come refusals whose bodies look like requests. */
function requestOf(n: number, id: string): { bytes: Buffer; status: number } {
  const smuggled = Buffer.from(`DELETE /upload/${id} HTTP/1.1\r\nHost: x\r\n\r\n`.repeat(1 + (n % 40)))
  const post = (path: string, type: string, body: Buffer, status: number) => {
    const head = headOf([`POST ${path} HTTP/1.1`, `Content-Type: ${type}`], [`Content-Length: ${body.length}`])
    return { bytes: Buffer.concat([Buffer.from(head), body]), status }
  }
  const octets = 'application/octet-stream'
  const good = () => post(`/upload/chunk?uploadId=${id}&chunkIndex=${n / 2}`, octets, bytes(10, n), 200)
  const bad = [
    () => post(`/upload/chunk?uploadId=${unknownId}&chunkIndex=0`, octets, smuggled, 404),
    () => post(`/upload/chunk?uploadId=${id}&chunkIndex=-1`, octets, smuggled, 400),
    () => post('/upload/chunk', 'text/plain', smuggled, 415),
    () => post('/upload/init', 'application/json', smuggled, 400),
    () => post('/upload/init', 'application/xml', smuggled, 415),
    () => post('/upload/complete', 'application/json', Buffer.from('{"uploadId":"x"}'), 404),
    () => post('/upload/chunk', 'multipart/form-data; boundary=xxBOUNDARYxx', chunkForm(unknownId, 0, smuggled), 404),
  ]
  return n % 2 === 0 ? good() : (bad[((n - 1) / 2) % bad.length] ?? good)()
}

describe('verbs and types that a route does not have', () => {
  const paths = [
    '/upload/init',
    '/upload/chunk',
    '/upload/complete',
    `/upload/progress/${unknownId}`,
    `/upload/${unknownId}`,
  ]
  const others = [
    '/tus',
    `/tus/${unknownId}`,
    '/ietf',
    `/ietf/${unknownId}`,
    '/resumable',
    '/companion/s3/multipart',
    '/companion/s3/sign',
  ]
  const verbs = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'TRACE', 'PROPFIND', 'LOCK', 'M-SEARCH', 'BREW']

  it('are 4xx, and make nothing [B01]', async () => {
    const wire = await everyWire()
    for (const path of [...paths, ...others]) {
      for (const verb of verbs) {
        const socket = await rawSocket(wire.port)
        socket.send(
          headOf(
            [`${verb} ${path} HTTP/1.1`],
            ['Content-Length: 3', 'Content-Type: application/x-evil', 'Connection: close'],
          ),
        )
        socket.send('abc')
        const received = await socket.until(null)
        const [status = 0] = statusesIn(received)
        const route = `${verb} ${path.replace(unknownId, ':id')}`
        expect(status, `${route} answered ${received}`).toBeGreaterThanOrEqual(400)
        expect(status, `${route} answered ${received}`).toBeLessThan(500)
        survived('attack', `no such request: ${route}`)
      }
    }
    expect(wire.created()).toBe(0)
  })

  it('JSON of a megabyte, compressed JSON, and JSON of another type are refused on every route that reads it [B01]', async () => {
    const wire = await everyWire()
    const { uppy } = wire.as()
    const upload = await uppy.start()
    const routes = ['/upload/init', '/upload/complete', '/companion/s3/multipart', '/companion/s3/sign']
    const bomb = gzipSync(JSON.stringify({ fileName: 'a', totalSize: 1, more: 'x'.repeat(5_000_000) }))
    const cases: [string, number[], string[], Buffer | string][] = [
      ['a megabyte', [413], ['Content-Type: application/json'], JSON.stringify({ a: 'x'.repeat(1024 * 1024) })],
      ['a bomb', [415], ['Content-Type: application/json', 'Content-Encoding: gzip'], bomb],
      ['another type', [415], ['Content-Type: application/xml'], '<a/>'],
      ['a form', [415], ['Content-Type: multipart/form-data; boundary=x'], '--x--'],
      ['UTF-16', [400], ['Content-Type: application/json; charset=utf-16'], Buffer.from('{"fileName":"a"}', 'utf16le')],
      ['UTF-7', [400], ['Content-Type: application/json; charset=utf-7'], '+AHs-'],
      ['nothing at all', [400], [], ''],
    ]
    for (const path of [
      ...routes,
      `/companion/s3/multipart/${upload.uploadId}/complete?key=${encodeURIComponent(upload.key)}`,
    ]) {
      for (const [what, statuses, lines, body] of cases) {
        const isList = path.includes('complete?key') && what === 'a megabyte'
        const socket = await rawSocket(wire.port)
        socket.send(
          headOf(
            [`POST ${path} HTTP/1.1`],
            [...lines, `Content-Length: ${Buffer.byteLength(body)}`, 'Connection: close'],
          ),
        )
        socket.send(body as Buffer)
        const [status = 0] = statusesIn(await socket.until(null))
        const shown = `${what} to ${path.replace(/[0-9a-f-]{36}.*/, ':id/complete')}`
        // A list of ten thousand parts is that long.
        expect(isList ? [400, 413] : statuses, `${shown}: ${status}`).toContain(status)
        survived('attack', `JSON: ${shown}`)
      }
    }
    expect(wire.created()).toBe(1)
  })
})

it('what was attacked at all ends stores the right bytes [B02]', async () => {
  const wire = await everyWire()
  const { tus } = wire.as()
  const url = await tus.create(size)
  for (const garbage of [
    '\r\n\r\n',
    '\0'.repeat(100),
    'GET',
    `${'A'.repeat(70_000)}`,
    '\x16\x03\x01\x02\x00\x01\x00',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  ]) {
    const socket = await rawSocket(wire.port)
    socket.send(garbage)
    socket.socket.end()
    expect(await socket.until(null)).not.toContain(' 200 ')
    survived('attack', `no HTTP at all: ${JSON.stringify(garbage).slice(0, 30)}`)
  }
  const { headers } = await tus.patch(url, 0, data)
  const path = decodeURIComponent(new URL(String(headers['content-location'])).pathname)
  expect(sha256(await readFile(join(wire.directory, path)))).toBe(sha256(data))
})
