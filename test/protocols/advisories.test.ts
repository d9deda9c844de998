/**
 * What has broken other form parsers and upload libraries, sent to ours: each is refused or taken for what it is, and the
 * server goes on.
 */
import { readdirSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { survived } from '../support/fault-points.ts'
import { nativeClient } from '../support/native-client.ts'
import { bytes } from '../support/random.ts'
import { chunkForm, chunkHead, rawSocket } from '../support/raw-http.ts'
import { type TestServer, testServer } from '../support/server.ts'
import { filesBelow } from '../support/temp-folder.ts'

const boundary = 'xxBOUNDARYxx'

function part(headers: string, data = ''): string {
  return `--${boundary}\r\n${headers}\r\n\r\n${data}\r\n`
}

function field(name: string, value: string): string {
  return part(`Content-Disposition: form-data; name="${name}"`, value)
}

const chunkPart = (disposition: string) => part(`Content-Disposition: form-data; ${disposition}`, '0123456789')
const end = `--${boundary}--\r\n`

/** The form's bytes, by the id of the upload they are for. */
type Form = (id: string) => string

const refused: readonly (readonly [string, Form])[] = [
  ['multer CVE-2025-47944: a part without headers', (id) => field('uploadId', id) + part('') + end],
  [
    'multer CVE-2025-7338: a form that ends within the headers of a part',
    (id) => `${field('uploadId', id)}--${boundary}\r\nContent-Disp`,
  ],
  [
    'multer CVE-2025-7338: a file part without data that is never closed',
    () => `--${boundary}\r\nContent-Disposition: form-data; name="chunk"; filename="a"\r\n\r\n`,
  ],
  [
    'multer CVE-2025-48997: a file part whose name is empty',
    (id) => field('uploadId', id) + chunkPart('name=""; filename="a"') + end,
  ],
  [
    'multer CVE-2025-48997: a field whose name is empty',
    (id) => field('', id) + chunkPart('name="chunk"; filename="a"') + end,
  ],
  ['multer CVE-2026-5079: a field name nested a thousand deep', (id) => field(`a${'[a]'.repeat(1000)}`, id) + end],
  [
    'multer CVE-2026-5079: a field name nested within the length that is allowed',
    (id) => field('a[b][c][d][e][f]', id) + end,
  ],
  [
    'multiparty CVE-2026-8162: filename* with a percent sign and nothing behind it',
    (id) => field('uploadId', id) + chunkPart('name="other"; filename*=UTF-8\'\'%') + end,
  ],
  ['multer CVE-2026-3520: thousands of tiny broken parts', () => `--${boundary}\r\n\r\n`.repeat(20_000) + end],
  [
    'multer CVE-2026-3304: a second file part that is not expected',
    (id) =>
      field('uploadId', id) +
      field('chunkIndex', '0') +
      chunkPart('name="other"; filename="a"') +
      chunkPart('name="chunk"; filename="a"') +
      end,
  ],
  [
    'dicer CVE-2022-24434: a part header that is nothing but white space',
    () => part(' \r\nContent-Disposition: form-data; name="chunk"; filename="a"') + end,
  ],
  ['dicer CVE-2022-24434: a part header without a name', () => part(': form-data; name="chunk"') + end],
  [
    'multiparty CVE-2026-8162: filename* with a broken percent sign',
    (id) => field('uploadId', id) + chunkPart('name="other"; filename*=UTF-8\'\'%E0%A4%A') + end,
  ],
  [
    'multiparty CVE-2026-8159: a disposition that backtracks',
    () => chunkPart(`name="chunk"; filename=${'"\\'.repeat(20_000)}`) + end,
  ],
  [
    'express-fileupload CVE-2020-7699: a field that reaches for the prototype',
    () => field('__proto__.polluted', 'yes') + field('__proto__[polluted]', 'yes') + end,
  ],
]

async function sendForm({ port }: TestServer, form: string): Promise<number> {
  const { socket, send, until } = await rawSocket(port)
  send(chunkHead(Buffer.byteLength(form)))
  send(form)
  const received = await until('\r\n\r\n')
  socket.destroy()
  return Number(/^HTTP\/1\.1 (\d{3})/.exec(received)?.[1])
}

async function expectHealthy(server: TestServer): Promise<void> {
  const client = nativeClient(server.url)
  const id = await client.start(10)
  expect((await client.chunk(id, 0, bytes(10))).body).toEqual({ success: true })
  expect((await client.complete(id)).status).toBe(200)
  expect((Object.prototype as { polluted?: unknown }).polluted).toBeUndefined()
}

describe('a form that broke another parser', () => {
  it.each(refused)('%s [A05]', async (name, formOf) => {
    const server = await testServer({ bodyIdleTimeout: 1000 })
    const client = nativeClient(server.url)
    const id = await client.start(10)
    const started = performance.now()
    const status = await sendForm(server, formOf(id))
    expect([400, 408, 413]).toContain(status)
    expect(performance.now() - started).toBeLessThan(5000)
    expect((await client.progress(id)).body.uploadedChunks).toBe(0)
    await client.abort(id)
    expect(await filesBelow(`${server.tempDir}/spool`)).toEqual([])
    await expectHealthy(server)
    survived('attack', name)
  })

  it.each([
    [
      'multiparty CVE-2026-8161: a field named __proto__',
      (id: string) => field('__proto__', '1') + field('uploadId', id),
    ],
    [
      'multiparty CVE-2026-8161: a field named constructor',
      (id: string) => field('constructor', '1') + field('uploadId', id),
    ],
  ])('%s is plain data, or refused [A06]', async (name, fieldsOf) => {
    const server = await testServer()
    const id = await nativeClient(server.url).start(10)
    const form = `${fieldsOf(id)}${field('chunkIndex', '0')}${chunkPart('name="chunk"; filename="a"')}${end}`
    expect([200, 400]).toContain(await sendForm(server, form))
    await expectHealthy(server)
    survived('attack', name)
  })

  it('tells of a header that is longer than any name may be, at once', async () => {
    const server = await testServer()
    const form = part(`Content-Disposition: form-data; name="chunk"; filename="${'a'.repeat(200_000)}"`) + end
    expect([400, 413]).toContain(await sendForm(server, form))
    await expectHealthy(server)
  })
})

const hasProc = process.platform === 'linux'

describe('connections that break off in the middle of a file', () => {
  it.each([
    ['multer CVE-2025-47935, CVE-2026-2359: reset within the data', 0.5],
    ['multer CVE-2025-47935: reset within the part headers', 0.05],
    ['multer CVE-2026-2359: reset right before the end of the form', 0.999],
  ] as const)('%s: 300 times, and no file stays open or behind [B02]', async (name, share) => {
    const server = await testServer()
    const id = await nativeClient(server.url).start(100_000)
    const form = chunkForm(id, 0, bytes(100_000))
    const before = hasProc ? readdirSync('/proc/self/fd').length : 0
    const breakOff = async () => {
      const { socket, send } = await rawSocket(server.port)
      await new Promise<void>((resolve) => {
        send(chunkHead(form.length))
        socket.write(form.subarray(0, Math.floor(form.length * share)), () => resolve())
      })
      socket.resetAndDestroy()
    }
    for (let n = 0; n < 30; n++) await Promise.all(Array.from({ length: 10 }, breakOff))
    await expect.poll(() => filesBelow(`${server.tempDir}/spool`), { timeout: 5000 }).toEqual([])
    if (hasProc) {
      await expect.poll(() => readdirSync('/proc/self/fd').length, { timeout: 10_000 }).toBeLessThanOrEqual(before + 8)
    }
    expect((await nativeClient(server.url).progress(id)).body.uploadedChunks).toBe(0)
    await expectHealthy(server)
    survived('attack', name)
  })
})

it('formidable CVE-2025-46653: ids cannot be guessed, and one tells nothing of the next [B06]', async () => {
  const { url } = await testServer()
  const client = nativeClient(url)
  const ids = await Promise.all(Array.from({ length: 200 }, () => client.start(1)))
  expect(new Set(ids).size).toBe(200)
  const hex = ids.map((id) => id.replaceAll('-', ''))
  // 122 random bits: every position but version and variant takes many values.
  for (let at = 0; at < 32; at++) {
    const values = new Set(hex.map((id) => id[at])).size
    expect(values, `position ${at}`).toBeGreaterThan(at === 12 ? 0 : at === 16 ? 2 : 10)
  }
  survived('attack', 'formidable CVE-2025-46653')
})
