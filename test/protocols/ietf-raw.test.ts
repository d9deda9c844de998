/** IETF resumable uploads on the wire, byte by byte: interim responses, and fields that are not what they should be. */
import { describe, expect, it, vi } from 'vitest'
import { ietfServer, partialUpload, problemTypes, sendIetf } from '../support/ietf-client.ts'
import { bytes } from '../support/random.ts'
import { rawSocket } from '../support/raw-http.ts'
import { filesBelow } from '../support/temp-folder.ts'
import { idIn } from '../support/tus-client.ts'

const mebibyte = 2 ** 20

interface Head {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
}

/** The heads of all responses that came over a connection, interim ones too. */
function headsIn(received: string): Head[] {
  return received.split(/(?=HTTP\/1\.1 \d\d\d )/).flatMap((text) => {
    const [start = '', ...lines] = (text.split('\r\n\r\n')[0] ?? '').split('\r\n')
    const status = /^HTTP\/1\.1 (\d+) /.exec(start)?.[1]
    if (status === undefined) return []
    const pairs = lines.map((line) => [line.split(':')[0]?.toLowerCase() ?? '', line.slice(line.indexOf(':') + 2)])
    return [{ status: Number(status), headers: Object.fromEntries(pairs) }]
  })
}

/** Says this on a connection of its own, and returns all that comes back. */
async function exchange(port: number, lines: readonly string[], body: Buffer | string = ''): Promise<string> {
  const socket = await rawSocket(port)
  socket.send(`${[...lines, 'Host: x', 'Connection: close'].join('\r\n')}\r\n\r\n`)
  socket.send(Buffer.from(body))
  return socket.until(null)
}

const named = 'Upload-Draft-Interop-Version: 9'

function chunk(data: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`${data.length.toString(16)}\r\n`), data, Buffer.from('\r\n')])
}

describe('interim responses', () => {
  it('come in order: Location, progress, the final head [R2 R3 R36]', async () => {
    const server = await ietfServer()
    const socket = await rawSocket(server.port)
    const head = ['POST /files HTTP/1.1', 'Host: x', 'Connection: close', named, 'Upload-Complete: ?1']
    socket.send(`${[...head, 'Transfer-Encoding: chunked'].join('\r\n')}\r\n\r\n`)
    await socket.until('\r\n\r\n')
    const feeding = setInterval(() => socket.send(chunk(bytes(mebibyte))), 20)
    await socket.until('Upload-Offset').finally(() => clearInterval(feeding))
    socket.send('0\r\n\r\n')
    const heads = headsIn(await socket.until(null))
    const [first, ...others] = heads
    expect(first?.status).toBe(104)
    expect(first?.headers.location).toMatch(/^\/files\/[0-9a-f-]{36}$/)
    expect(first?.headers['upload-limit']).toContain('max-size=')
    const final = others.pop()
    expect(final).toMatchObject({ status: 200, headers: { 'upload-complete': '?1' } })
    expect(others.length).toBeGreaterThan(0)
    let offset = 0
    for (const { status, headers } of others) {
      expect([status, headers.location]).toEqual([104, undefined])
      expect(Number(headers['upload-offset'])).toBeGreaterThanOrEqual(offset)
      offset = Number(headers['upload-offset'])
    }
    for (const { headers } of heads) expect(headers['upload-draft-interop-version']).toBe('9')
  })

  it('have a status line, headers and nothing else', async () => {
    const server = await ietfServer()
    const received = await exchange(
      server.port,
      ['POST /files HTTP/1.1', named, 'Upload-Complete: ?1', 'Content-Length: 3'],
      'abc',
    )
    // The reason is Node's own where it has a way of its own to send them.
    expect(received).toMatch(/^HTTP\/1\.1 104 [ \w]+\r\n([\w-]+: [^\r\n]+\r\n)+\r\nHTTP\/1\.1 \d/)
  })

  it.each([
    ['HTTP/1.0', ['POST /files HTTP/1.0', named]],
    ['no version', ['POST /files HTTP/1.1']],
    ['a version that is not known', ['POST /files HTTP/1.1', 'Upload-Draft-Interop-Version: 99']],
    ['a version that is no number', ['POST /files HTTP/1.1', 'Upload-Draft-Interop-Version: "9"']],
    ['two versions', ['POST /files HTTP/1.1', named, 'Upload-Draft-Interop-Version: 8']],
  ])('do not come with %s, and the upload works [R2] [B14]', async (_, lines) => {
    const server = await ietfServer()
    const received = await exchange(server.port, [...lines, 'Upload-Complete: ?1', 'Content-Length: 3'], 'abc')
    const heads = headsIn(received)
    expect(heads.map(({ status }) => status)).toEqual([200])
    expect(heads[0]?.headers['upload-complete']).toBe('?1')
  })

  it('do not come before a refusal [R2]', async () => {
    const server = await ietfServer({ maxFileSize: 10 })
    const lines = ['POST /files HTTP/1.1', named, 'Upload-Complete: ?1', 'Content-Length: 11']
    const heads = headsIn(await exchange(server.port, lines, 'abcdefghijk'))
    expect(heads.map(({ status }) => status)).toEqual([413])
  })

  it('carry no line that a request has put into them', async () => {
    const server = await ietfServer({ ietf: { location: 'absolute' } })
    const socket = await rawSocket(server.port)
    const lines = ['POST /files HTTP/1.1', 'Host: x\rX-Evil: 1', named, 'Upload-Complete: ?1', 'Content-Length: 0']
    socket.send(`${[...lines, 'Connection: close'].join('\r\n')}\r\n\r\n`)
    expect(await socket.until(null)).not.toContain('X-Evil')
  })
})

describe('structured fields', () => {
  it.each([
    ['5;a=1', 204],
    ['  5  ', 204],
    ['5;a', 204],
    ['"5"', 400],
    ['-1', 400],
    ['1.0', 400],
    ['5.0', 400],
    ['+5', 400],
    ['0x5', 400],
    ['5, 5', 400],
    ['5 5', 400],
    ['?1', 400],
    ['(5)', 400],
    ['1000000000000000', 400],
    ['', 400],
    ['99999', 409],
    ['999999999999999', 409],
  ])('Upload-Offset: %s at offset 5 answers %i [R30] [A10]', async (value, status) => {
    const server = await ietfServer()
    const url = await server.create()
    await server.append(url, 0, 'abcde', false)
    const lines = [`PATCH /files/${idIn(url)} HTTP/1.1`, named, `Content-Type: ${partialUpload}`]
    const more = ['Upload-Complete: ?0', `Upload-Offset: ${value}`, 'Content-Length: 3']
    const heads = headsIn(await exchange(server.port, [...lines, ...more], 'fgh'))
    expect(heads.at(-1)?.status).toBe(status)
    expect((await server.head(url)).headers['upload-offset']).toBe(status === 204 ? '8' : '5')
  })

  it('Upload-Offset in two lines is missing [R30] [A10]', async () => {
    const server = await ietfServer()
    const url = await server.create()
    for (const values of [
      ['0', '0'],
      ['0', '1'],
    ]) {
      const answer = await server.append(url, 0, 'abc', false, { 'Upload-Offset': values })
      expect(answer.status).toBe(400)
    }
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
  })

  it.each([
    ['?1;a=1', 200],
    ['?1', 200],
    ['?0', 201],
    ['?2', 400],
    ['1', 400],
    ['true', 400],
    ['"?1"', 400],
    ['?1, ?1', 400],
    ['??1', 400],
    ['', 400],
  ])('Upload-Complete: %s on a creation answers %i [R1] [A10]', async (value, status) => {
    const server = await ietfServer({ on: 'bare' })
    const lines = ['POST /files HTTP/1.1', named, `Upload-Complete: ${value}`, 'Content-Length: 3']
    expect(headsIn(await exchange(server.port, lines, 'abc')).at(-1)?.status).toBe(status)
  })

  it('Upload-Complete in two lines is missing [R1 R30] [A10]', async () => {
    const server = await ietfServer()
    const url = await server.create()
    expect((await server.append(url, 0, 'abc', false, { 'Upload-Complete': ['?0', '?1'] })).status).toBe(400)
    expect((await server.append(url, 0, 'abc', false, { 'Upload-Complete': ['?1', '?1'] })).status).toBe(400)
    expect((await server.head(url)).headers).toMatchObject({ 'upload-offset': '0', 'upload-complete': '?0' })
  })

  it.each(['"3"', '-3', '3.0', '3, 3', 'three'])('Upload-Length: %s is missing [R6]', async (value) => {
    const server = await ietfServer()
    const url = await server.create({ 'Upload-Length': value })
    expect((await server.head(url)).headers['upload-length']).toBeUndefined()
  })

  it('a version may have parameters', async () => {
    const server = await ietfServer()
    const answer = await server.begin('abc', true, { 'Upload-Draft-Interop-Version': '9;a=1' })
    expect([answer.status, answer.headers['upload-draft-interop-version']]).toEqual([200, '9'])
    expect(answer.interim[0]?.headers['upload-draft-interop-version']).toBe('9')
  })
})

describe('a body without a length', () => {
  it('that goes beyond the length ends the upload while it is still coming [R35]', async () => {
    const server = await ietfServer()
    const url = await server.create({ 'Upload-Length': 100_000 })
    const socket = await rawSocket(server.port)
    const lines = [`PATCH /files/${idIn(url)} HTTP/1.1`, 'Host: x', named, `Content-Type: ${partialUpload}`]
    const more = ['Upload-Complete: ?0', 'Upload-Offset: 0', 'Transfer-Encoding: chunked']
    socket.send(`${[...lines, ...more].join('\r\n')}\r\n\r\n`)
    for (let sent = 0; sent < 2 * mebibyte && !socket.isClosed(); sent += 60_000) socket.send(chunk(bytes(60_000)))
    const heads = headsIn(await socket.until('inconsistent-upload-length'))
    expect(heads.at(-1)).toMatchObject({ status: 400, headers: { 'upload-complete': '?0' } })
    expect(socket.received()).toContain(`${problemTypes}inconsistent-upload-length`)
    socket.socket.destroy()
    expect((await server.head(url)).status).toBe(410)
    expect((await server.append(url, 0, 'abc', false)).status).toBe(410)
    expect(await filesBelow(server.directory)).toEqual([])
  })

  it('that breaks off in the middle of a chunk is kept up to there, without an answer [R7]', async () => {
    const server = await ietfServer()
    const url = await server.create()
    const socket = await rawSocket(server.port)
    const lines = [`PATCH /files/${idIn(url)} HTTP/1.1`, 'Host: x', named, `Content-Type: ${partialUpload}`]
    const more = ['Upload-Complete: ?1', 'Upload-Offset: 0', 'Transfer-Encoding: chunked']
    socket.send(`${[...lines, ...more].join('\r\n')}\r\n\r\n`)
    socket.send(Buffer.concat([chunk(bytes(30_000)), Buffer.from('7530\r\n'), bytes(1_000)]))
    socket.socket.end()
    const received = await socket.until(null)
    expect(headsIn(received).filter(({ status }) => status >= 200 && status < 300)).toEqual([])
    // HEAD can overtake an append whose line was dead before it began.
    await vi.waitFor(async () => {
      const { headers } = await server.head(url)
      expect([headers['upload-offset'], headers['upload-complete']]).toEqual(['31000', '?0'])
    }, 5000)
  })

  it('that falls silent loses its connection; what came is kept [R7]', async () => {
    const server = await ietfServer({ bodyIdleTimeout: 300 })
    const url = await server.create()
    const open = server.openAppend(url, 0, bytes(40_000), true, { 'Content-Length': 50_000 })
    expect(await open.answer).toBeNull()
    const { headers } = await server.head(url)
    expect([headers['upload-offset'], headers['upload-complete']]).toEqual(['40000', '?0'])
  })

  it('that is empty may complete an upload [R34]', async () => {
    const server = await ietfServer()
    const url = await server.create()
    await server.append(url, 0, 'abc', false)
    const lines = [`PATCH /files/${idIn(url)} HTTP/1.1`, named, `Content-Type: ${partialUpload}`]
    const more = ['Upload-Complete: ?1', 'Upload-Offset: 3', 'Transfer-Encoding: chunked']
    for (let repeat = 0; repeat < 2; repeat++) {
      const heads = headsIn(await exchange(server.port, [...lines, ...more], '0\r\n\r\n'))
      expect(heads.at(-1)).toMatchObject({ status: 200, headers: { 'upload-complete': '?1' } })
    }
  })
})

it('a refusal arrives although the client is still sending [B04]', async () => {
  const server = await ietfServer()
  const url = await server.create()
  await server.append(url, 0, 'abc', false)
  const answer = await sendIetf(
    'PATCH',
    url,
    { 'Upload-Draft-Interop-Version': 9, 'Content-Type': partialUpload, 'Upload-Offset': 1, 'Upload-Complete': '?1' },
    { body: bytes(4 * mebibyte) },
  )
  expect([answer.status, answer.headers['upload-offset']]).toEqual([409, '3'])
})
