import { readdirSync, readlinkSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { safeFileName } from '../../src/engine/names.ts'
import { survived } from '../support/fault-points.ts'
import { answer, nativeClient } from '../support/native-client.ts'
import { bytes } from '../support/random.ts'
import { chunkForm, chunkHead, rawSocket } from '../support/raw-http.ts'
import { type TestServer, testServer } from '../support/server.ts'
import { filesBelow } from '../support/temp-folder.ts'

const numbers: unknown[] = [
  -1,
  1.5,
  '1e3',
  '-1',
  '1.5',
  'NaN',
  'Infinity',
  '0x10',
  '+1',
  ' 1',
  '01',
  '',
  2 ** 53,
  '9007199254740993',
  [1],
  ['1'],
  {},
  { toString: 1 },
  true,
  null,
]

/** The upload is as before and a clean upload works: nothing leaked, nothing broke. */
async function expectUntouched(server: TestServer, id: string): Promise<void> {
  const client = nativeClient(server.url)
  expect((await client.progress(id)).body.uploadedChunks).toBe(0)
  await client.abort(id)
  await eventually(async () => expect(await filesBelow(`${server.tempDir}/staging`)).toEqual([]))
  expect(await filesBelow(`${server.tempDir}/spool`)).toEqual([])
  await eventually(async () => expect(openFilesIn(server.tempDir)).toEqual([]))
  const clean = await client.start(10)
  expect((await client.chunk(clean, 0, bytes(10))).body).toEqual({ success: true })
  expect((await client.complete(clean)).status).toBe(200)
}

function openFilesIn(folder: string): string[] {
  if (process.platform !== 'linux') return []
  return readdirSync('/proc/self/fd')
    .map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`)
      } catch {
        return ''
      }
    })
    .filter((path) => path.startsWith(folder) && !path.includes('/sessions/'))
}

async function eventually(check: () => Promise<void>): Promise<void> {
  for (let i = 0; i < 100; i++) {
    try {
      return await check()
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  await check()
}

describe('hostile fields', () => {
  it('of init are 400 and make no upload [A01]', async () => {
    const { url, middleware } = await testServer()
    const client = nativeClient(url)
    let created = 0
    middleware.engine.events.on('created', () => created++)
    for (const totalSize of numbers) {
      const { status, body } = await client.init({ fileName: 'a', totalSize })
      expect([status, typeof body.code], JSON.stringify(totalSize)).toEqual([400, 'string'])
      survived('attack', `init: totalSize ${JSON.stringify(totalSize)}`)
    }
    for (const fileName of [undefined, null, 7, [], {}, '', ['a']]) {
      expect((await client.init({ fileName, totalSize: 1 })).status, JSON.stringify(fileName)).toBe(400)
    }
    for (const body of [[], 'text', 7, null, true]) expect((await client.init(body)).status).toBe(400)
    expect((await client.init({ fileName: 'a', totalSize: 1, chunkSize: 0 })).status).toBe(400)
    expect((await client.init({ fileName: 'a', totalSize: 1, resumeKey: {} })).status).toBe(400)
    expect((await client.init({ fileName: 'a'.repeat(5000), totalSize: 1 })).status).toBe(400)
    expect(created).toBe(0)
    const polluted = await client.init(JSON.parse('{"fileName":"a","totalSize":1,"__proto__":{"chunkSize":1}}'))
    expect([polluted.status, polluted.body.chunkSize]).toEqual([200, 5 * 1024 * 1024])
    expect(created).toBe(1)
  })

  it('of a body that is no JSON, too large or compressed are 4xx [B01]', async () => {
    for (const json of [true, false]) {
      const { url } = await testServer({ json })
      const send = (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string>) =>
        answer(fetch(`${url}/upload/init`, { method: 'POST', body, headers }))
      const type = { 'Content-Type': 'application/json' }
      expect((await send('{"fileName":', type)).status).toBe(400)
      expect((await send(JSON.stringify({ fileName: 'a'.repeat(200_000) }), type)).status).toBeGreaterThanOrEqual(400)
      expect((await send('<xml/>', { 'Content-Type': 'application/xml' })).status).toBe(415)
      if (json) continue
      const packed = new Uint8Array(gzipSync(JSON.stringify({ fileName: 'a', totalSize: 1 })))
      expect((await send(packed, { ...type, 'Content-Encoding': 'gzip' })).status).toBe(415)
    }
  })

  it('of a chunk are 4xx, touch nothing and leave nothing [A02, B06]', async () => {
    const server = await testServer()
    const client = nativeClient(server.url)
    const id = await client.start(100)
    for (const index of [
      '-1',
      '1.5',
      '1e3',
      'NaN',
      '',
      ' 1',
      '01',
      '99999999999999999999',
      '__proto__',
      '10000',
      '0x1',
    ]) {
      expect((await client.chunk(id, index, bytes(10))).status, index).toBe(400)
      expect((await client.chunk(id, index, bytes(10), 'file first')).status, index).toBe(400)
      expect((await client.raw(id, encodeURIComponent(index), bytes(10))).status, index).toBe(400)
      survived('attack', `native: chunkIndex ${index}`, 3)
    }
    for (const uploadId of [
      'x',
      '../../etc/passwd',
      '__proto__',
      'a'.repeat(300),
      `${id}\0`,
      id.toUpperCase(),
      `${id} `,
      '%2e%2e%2f',
    ]) {
      expect((await client.chunk(uploadId, 0, bytes(10))).status, uploadId).toBe(404)
      expect((await client.raw(encodeURIComponent(uploadId), 0, bytes(10))).status, uploadId).toBe(404)
      expect((await client.complete(uploadId)).status, uploadId).toBe(404)
      expect((await client.progress(encodeURIComponent(uploadId))).status, uploadId).toBe(404)
      survived('attack', `native: uploadId ${uploadId.slice(0, 40)}`, 4)
    }
    for (const uploadId of [7, [id], { id }, null, undefined]) {
      expect((await client.complete(uploadId)).status).toBe(400)
    }
    await expectUntouched(server, id)
  })

  it('in a form are 400: two files, wrong names, too many or nested or huge fields, no file, no boundary [A06, A07]', async () => {
    const server = await testServer()
    const id = await nativeClient(server.url).start(100)
    const send = (fill: (form: FormData) => void) => {
      const form = new FormData()
      fill(form)
      return answer(fetch(`${server.url}/upload/chunk`, { method: 'POST', body: form }))
    }
    const ids = (form: FormData) => {
      form.append('uploadId', id)
      form.append('chunkIndex', '0')
    }
    const blob = new Blob([new Uint8Array(10)])
    const forms: ((form: FormData) => void)[] = [
      (form) => ids(form),
      (form) => form.append('chunk', blob),
      (form) => {
        ids(form)
        form.append('file', blob)
      },
      (form) => {
        ids(form)
        form.append('chunkIndex', '1')
        form.append('chunk', blob)
      },
      (form) => {
        ids(form)
        for (let i = 0; i < 10; i++) form.append(`f${i}`, 'x')
        form.append('chunk', blob)
      },
      (form) => {
        form.append('uploadId[x]', id)
        form.append('chunk', blob)
      },
      (form) => {
        form.append('uploadId', 'x'.repeat(2000))
        form.append('chunk', blob)
      },
      (form) => {
        form.append('__proto__', 'x')
        form.append('constructor', 'x')
        form.append('chunk', blob)
      },
      (form) => {
        form.append('n'.repeat(100), 'x')
        form.append('chunk', blob)
      },
    ]
    for (const fill of forms) {
      const { status, body } = await send(fill)
      expect([status, typeof body.code]).toEqual([400, 'string'])
    }
    const noBoundary = await answer(
      fetch(`${server.url}/upload/chunk`, {
        method: 'POST',
        body: 'x',
        headers: { 'Content-Type': 'multipart/form-data' },
      }),
    )
    expect(noBoundary.status).toBe(400)
    const wrongType = await answer(
      fetch(`${server.url}/upload/chunk`, {
        method: 'POST',
        body: '{}',
        headers: { 'Content-Type': 'application/xml' },
      }),
    )
    expect(wrongType.status).toBe(415)
    await expectUntouched(server, id)
  })

  it('mutated at random never are a 5xx and never break the server [A05]', async () => {
    const server = await testServer({ bodyIdleTimeout: 2000 })
    const id = await nativeClient(server.url).start(1000)
    const valid = chunkForm(id, 0, bytes(60))
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.tuple(fc.nat(valid.length - 1), fc.integer({ min: 0, max: 255 }), fc.constantFrom('set', 'cut', 'double')),
          {
            minLength: 1,
            maxLength: 4,
          },
        ),
        async (mutations) => {
          let body = Buffer.from(valid)
          for (const [at, value, kind] of mutations) {
            if (kind === 'set') body[at % body.length] = value
            else if (kind === 'cut') body = Buffer.concat([body.subarray(0, at), body.subarray(at + (value % 20))])
            else body = Buffer.concat([body.subarray(0, at), body.subarray(Math.max(0, at - (value % 50)))])
          }
          const { status } = await answer(
            fetch(`${server.url}/upload/chunk`, {
              method: 'POST',
              body: new Uint8Array(body),
              headers: { 'Content-Type': 'multipart/form-data; boundary=xxBOUNDARYxx' },
            }),
          )
          expect(status).toBeLessThan(500)
        },
      ),
      { numRuns: 300 },
    )
    const client = nativeClient(server.url)
    await client.abort(id)
    await eventually(async () => expect(openFilesIn(server.tempDir)).toEqual([]))
    expect(await filesBelow(`${server.tempDir}/spool`)).toEqual([])
  })
})

describe('a hostile connection', () => {
  it('that breaks off in the middle of a chunk leaves nothing [B02]', async () => {
    const server = await testServer()
    const id = await nativeClient(server.url).start(3_000_000)
    for (const share of [0.01, 0.3, 0.9, 0.999]) {
      const form = chunkForm(id, 0, bytes(2_000_000))
      const socket = await rawSocket(server.port)
      socket.send(chunkHead(form.length))
      socket.send(form.subarray(0, form.length * share))
      await new Promise((resolve) => setTimeout(resolve, 30))
      socket.socket.resetAndDestroy()
    }
    await eventually(async () => expect(openFilesIn(server.tempDir)).toEqual([]))
    await expectUntouched(server, id)
  })

  it('that announces more than it sends is not believed [B02]', async () => {
    const server = await testServer()
    const id = await nativeClient(server.url).start(1000)
    const form = chunkForm(id, 0, bytes(500))
    const socket = await rawSocket(server.port)
    socket.send(chunkHead(form.length + 100))
    socket.send(form)
    socket.socket.end()
    await socket.until(null)
    expect(socket.received()).not.toContain('200 OK')
    const cut = await rawSocket(server.port)
    cut.send(chunkHead(form.length - 40))
    cut.send(form.subarray(0, form.length - 40))
    expect(await cut.until('HTTP/1.1')).toContain('400 Bad Request')
    cut.socket.destroy()
    const both = await rawSocket(server.port)
    both.send(chunkHead(10).replace('\r\n\r\n', '\r\nTransfer-Encoding: chunked\r\n\r\n'))
    expect(await both.until(null)).toContain('400 Bad Request')
    const progress = await nativeClient(server.url).progress(id)
    expect(progress.body.uploadedBytes === 0 || progress.body.uploadedBytes === 500).toBe(true)
  })

  it('that falls silent gets 408 and is closed [B02]', async () => {
    const server = await testServer({ bodyIdleTimeout: 150 })
    const id = await nativeClient(server.url).start(1000)
    const form = chunkForm(id, 0, bytes(500))
    const socket = await rawSocket(server.port)
    socket.send(chunkHead(form.length))
    socket.send(form.subarray(0, form.length - 200))
    const text = await socket.until(null)
    expect(text).toContain('408 Request Timeout')
    expect(text).toContain('BODY_TIMEOUT')
    await expectUntouched(server, id)
  })

  it.each([
    ['announced', 1_000_000_000],
    ['not announced', 'chunked'],
  ] as const)(
    'that sends without end (length %s) sees the answer, and is not read for long [B04]',
    async (_name, length) => {
      const server = await testServer({ maxChunkSize: 100_000 })
      const id = await nativeClient(server.url).start(1000)
      const socket = await rawSocket(server.port)
      const form = chunkForm(id, 0, Buffer.alloc(0))
      socket.send(chunkHead(length))
      const block = Buffer.alloc(64 * 1024)
      const wrapped = (data: Buffer) =>
        length === 'chunked'
          ? Buffer.concat([Buffer.from(`${data.length.toString(16)}\r\n`), data, Buffer.from('\r\n')])
          : data
      socket.send(wrapped(form.subarray(0, -20)))
      let sent = 0
      const pump = setInterval(() => {
        for (let i = 0; i < 4 && !socket.isClosed() && socket.socket.writableLength < 4_000_000; i++) {
          socket.send(wrapped(block))
          sent += block.length
        }
      }, 2)
      const text = await socket.until('\r\n\r\n').finally(() => clearInterval(pump))
      socket.socket.destroy()
      expect(text).toContain('413 Payload Too Large')
      expect(text.toLowerCase()).toContain('connection: close')
      expect(socket.failed()).toBe(false)
      expect(sent).toBeLessThan(60_000_000)
      await expectUntouched(server, id)
    },
  )

  it('with refused chunks can be used again for good ones [B05]', async () => {
    const server = await testServer()
    const id = await nativeClient(server.url).start(1000)
    const socket = await rawSocket(server.port)
    for (let i = 0; i < 50; i++) {
      const bad = chunkForm('6b6d1a3c-5b1e-4b8e-9d53-0a3a4f3f0a11', 0, bytes(50_000))
      socket.send(chunkHead(bad.length))
      socket.send(bad)
      await socket.until('"retryable":false}')
    }
    const good = chunkForm(id, 0, bytes(1000))
    socket.send(chunkHead(good.length))
    socket.send(good)
    expect(await socket.until('{"success":true}')).toContain('200 OK')
    socket.socket.destroy()
  })
})

describe('errors', () => {
  it.each([true, false])(
    'tell no path, no stack and no secret (uploadErrorHandler mounted: %s)',
    async (errorHandler) => {
      const server = await testServer({
        errorHandler,
        hooks: {
          onCreate(draft) {
            if (draft.fileName === 'boom') throw new Error('password=hunter2 at /srv/app/secret.ts')
          },
        },
      })
      const client = nativeClient(server.url)
      const answers = [
        await client.init({ fileName: 'boom', totalSize: 1 }),
        await client.init({ fileName: 'x', totalSize: -1 }),
        await client.progress('nope'),
        await client.complete('6b6d1a3c-5b1e-4b8e-9d53-0a3a4f3f0a11'),
        await client.chunk('nope', 0, bytes(10)),
        await client.raw('nope', 0, bytes(10)),
      ]
      expect(answers.map(({ status }) => status)).toEqual([500, 400, 404, 404, 404, 404])
      for (const { text } of answers) {
        expect(text).not.toMatch(/hunter2|\/srv\/|node_modules|\.ts:\d| {4}at |\/tmp\//)
      }
      expect(server.errors).toHaveLength(6)
      if (errorHandler) {
        for (const { body } of answers) {
          expect(body).toMatchObject({
            error: expect.any(String),
            code: expect.any(String),
            message: expect.any(String),
          })
        }
      }
    },
  )
})

describe('file names', () => {
  it('become safe keys, whatever they are [A03]', () => {
    const hostile = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 400 }),
      fc.constantFrom(
        '../../etc/passwd',
        'CON',
        'aux.txt',
        'a.',
        '.htaccess',
        '..',
        '.',
        '',
        '\0',
        'a\r\nb: c',
        '‮gpj.exe',
        'é',
        'é',
        '\ud800',
        'x'.repeat(100_000),
        `${'💥'.repeat(300)}.tar.gz`,
        'C:\\x\\y.txt',
        '..\\..\\z',
      ),
    )
    fc.assert(
      fc.property(hostile, (name) => {
        const safe = safeFileName(name)
        expect(safe).toMatch(/^[\p{L}\p{N}_-][\p{L}\p{N}._-]*$/u)
        expect(Buffer.byteLength(safe)).toBeLessThanOrEqual(201)
        expect(safeFileName(safe)).toBe(safe)
      }),
      { numRuns: 2000 },
    )
    expect(safeFileName('large video (1).mp4')).toBe('large_video_1_.mp4')
    expect(safeFileName('Übergröße.tar.gz')).toBe('Übergröße.tar.gz')
  })
})
