/** Parameters that no client of good will sends, and statuses that keep clients from storming. */
import { describe, expect, it } from 'vitest'
import { NexusUploaderError } from '../../src/errors.ts'
import { statusOf } from '../../src/protocols/resumablejs/answers.ts'
import { survived } from '../support/fault-points.ts'
import { bytes, sha256 } from '../support/random.ts'
import { rawSocket } from '../support/raw-http.ts'
import {
  type FileToSend,
  type Library,
  type Method,
  type Parameters,
  parametersOf,
  resumableServer,
  storedAt,
} from '../support/resumable-client.ts'
import { filesBelow } from '../support/temp-folder.ts'

const KiB = 1024
const file: FileToSend = { data: bytes(350 * KiB), chunkSize: 100 * KiB }
const badNumbers = [
  '',
  '-1',
  '1.5',
  '1e3',
  '0x10',
  '01',
  ' 1',
  '1 ',
  '+1',
  'NaN',
  'Infinity',
  '12abc',
  '9007199254740992',
]
const wires: [Library, Method][] = [
  ['resumable', 'multipart'],
  ['resumable', 'octet'],
  ['flow', 'multipart'],
  ['flow', 'octet'],
  ['dropzone', 'multipart'],
]

/** Parameters of chunk 1 by their wire names, each with a value that is wrong. */
function wrongParameters(library: Library): Parameters[] {
  const names = Object.keys(parametersOf(library, file, 1))
  const numbers = names.filter((name) => /(number|index|size|chunks|count|offset)$/i.test(name))
  const identifier = names.find((name) => /identifier|uuid/i.test(name)) ?? ''
  const [number = '', chunkSize = '', total = '', count = ''] = [
    /number|chunkindex/i,
    /(resumable|flow)chunksize|dzchunksize/i,
    /total(file)?size/i,
    /total(chunks|chunkcount)/i,
  ].map((pattern) => names.find((name) => pattern.test(name)))
  const required = [number, chunkSize, total, count, identifier]
  return [
    ...numbers.flatMap((name) => badNumbers.map((value) => ({ [name]: value }))),
    ...names.map((name) => ({ [name]: ['1', '2'] })),
    ...required.map((name) => ({ [name]: undefined })),
    { [number]: 99 },
    { [number]: library === 'dropzone' ? 4 : 0 },
    { [chunkSize]: 0 },
    { [chunkSize]: 9007199254740991 },
    { [total]: 9007199254740991 },
    { [total]: 550 * KiB },
    { [count]: 2 },
    { [count]: 5 },
    { [count]: 0 },
    { [identifier]: '' },
    { [identifier]: 'x'.repeat(5000) },
    ...(library === 'dropzone' ? [{ dzchunkbyteoffset: 1 }] : [{ [`${library}CurrentChunkSize`]: 1 }]),
  ]
}

describe.each(wires)('%s, %s', (library, method) => {
  const dropzone = { forceChunkSize: library === 'dropzone' }

  it('refuses every wrong parameter for good, keeps nothing of it, and goes on working [A11]', async () => {
    const server = await resumableServer({ library, method })
    const created: unknown[] = []
    server.engine.events.on('created', (event) => created.push(event))
    const allowed = { resumable: [400, 404, 415], flow: [404, 413, 415], dropzone: [400, 413] }[library]
    for (const parameters of wrongParameters(library)) {
      const name = JSON.stringify(parameters).slice(0, 100)
      const { status, body } = await server.send({ ...file, ...dropzone }, 1, { parameters })
      // Without any parameter that tells them apart it is nobody's request.
      expect([...allowed, 400], name).toContain(status)
      expect(body, name).toMatchObject({ retryable: false, code: expect.any(String), message: expect.any(String) })
      survived('attack', `${library}, ${method}: ${name}`)
      if (library === 'dropzone') continue
      const tested = await server.test(file, 1, { parameters })
      expect([...allowed, 400], `GET ${name}`).toContain(tested.status)
    }
    expect(created).toEqual([])
    expect((await filesBelow(server.tempDir)).filter((path) => /^(staging|spool)/.test(path))).toEqual([])
    const done = await server.run({ ...file, ...dropzone })
    expect(sha256(await storedAt(server, done))).toBe(sha256(file.data))
  })
})

it.each([
  '__proto__',
  'constructor',
  'toString',
  '../../../etc/passwd',
  '..\\..\\x',
  'a\u0000b',
  '["flow","x",1,1,1]',
  '\ud83d\ude00'.repeat(100),
  '%2e%2e%2f',
])('takes %j for an identifier, a name and a path, and nothing else [A11]', async (text) => {
  const server = await resumableServer({ method: 'octet' })
  const hostile = { ...file, identifier: text, name: text, relativePath: text }
  const done = await server.run(hostile)
  expect(sha256(await storedAt(server, done))).toBe(sha256(file.data))
  const paths = [...(await filesBelow(server.tempDir)), ...(await filesBelow(server.directory))]
  expect(paths.filter((path) => path.includes('..') || path.includes('passwd/'))).toEqual([])
  expect(Object.keys(Object.prototype)).toEqual([])
  survived('attack', `resumable: identifier ${JSON.stringify(text).slice(0, 60)}`)
})

it('is not polluted by the names of fields [A11]', async () => {
  const server = await resumableServer()
  for (const name of ['__proto__', 'constructor', 'hasOwnProperty']) {
    const { status } = await server.send(file, 1, { parameters: { [name]: 'polluted' } })
    expect([200, 400]).toContain(status)
  }
  expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false)
  expect((await server.run(file)).body).toMatchObject({ complete: true })
})

it('does not let two different lists of words make one key', async () => {
  const server = await resumableServer()
  const ids = new Set<string>()
  for (const [identifier, name] of [
    ['a', 'b"'],
    ['a","b', ''],
    ['a|b', 'c'],
    ['a', 'b|c'],
  ] as const) {
    ids.add((await server.send({ ...file, identifier, name, relativePath: 'p' }, 1)).body.uploadId)
  }
  expect(ids.size).toBe(4)
})

describe('a form', () => {
  const boundary = 'xxBOUNDARYxx'
  const head = (length: number) =>
    `POST /files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=${boundary}\r\n` +
    `Content-Length: ${length}\r\n\r\n`
  const field = (name: string, value: string) =>
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`
  const filePart = (name: string) =>
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"; filename="x"\r\n\r\nxx\r\n`
  const fields = Object.entries(parametersOf('flow', { ...file, data: Buffer.from('xx') }, 1))
    .map(([name, value]) => field(name, String(value)))
    .join('')

  it.each([
    ['has two files', `${fields}${filePart('file')}${filePart('file')}--${boundary}--\r\n`],
    ['has a file under another name', `${fields}${filePart('other')}--${boundary}--\r\n`],
    ['has no file', `${fields}--${boundary}--\r\n`],
    ['has no end', `${fields}${filePart('file')}--${boundary}`],
    ['has only a file', `${filePart('file')}--${boundary}--\r\n`],
    ['has a parameter twice', `${fields}${field('flowIdentifier', 'x')}${filePart('file')}--${boundary}--\r\n`],
    ['has too many fields', `${fields}${field('x', '').repeat(100)}${filePart('file')}--${boundary}--\r\n`],
    [
      'has a field that is too long',
      `${fields}${field('x', 'y'.repeat(20_000))}${filePart('file')}--${boundary}--\r\n`,
    ],
  ])('that %s is refused, and no file comes of it [A06, A07]', async (_, form) => {
    for (const on of ['express', 'bare'] as const) {
      const server = await resumableServer({ on })
      const socket = await rawSocket(server.port)
      socket.send(head(form.length) + form)
      const answer = await socket.until('retryable')
      expect(answer).toMatch(/^HTTP\/1.1 4(00|15) /)
      socket.socket.destroy()
      expect((await filesBelow(server.directory)).filter((name) => name.startsWith('uploads/'))).toEqual([])
    }
  })

  it('that is far too large is refused before it is read [B04]', async () => {
    const server = await resumableServer({ maxChunkSize: 10 * KiB })
    const socket = await rawSocket(server.port)
    socket.send(head(10 ** 9))
    expect(await socket.until('CHUNK_SIZE_EXCEEDED')).toMatch(/^HTTP\/1.1 413 /)
    socket.socket.destroy()
  })

  it('that is compressed is refused [B01]', async () => {
    const server = await resumableServer()
    const { status } = await server.send(file, 1, { headers: { 'Content-Encoding': 'gzip' } })
    expect(status).toBe(415)
  })
})

describe('statuses', () => {
  const every = [400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 422, 423, 429, 500, 502, 503, 504, 507]
  const errors = every.flatMap((status) =>
    [true, false].map((retryable) => new NexusUploaderError('X', status, 'x', { retryable })),
  )

  it('of what no repetition mends are final for each client; of all else they are not', () => {
    const final = { resumable: [400, 404, 415, 500, 501], flow: [404, 413, 415, 500, 501] }
    for (const dialect of ['resumable', 'flow'] as const) {
      for (const error of errors) {
        const name = `${dialect} ${error.status} ${error.retryable}`
        expect(final[dialect].includes(statusOf(dialect, error)), name).toBe(!error.retryable)
        expect([200, 201, 202, 204]).not.toContain(statusOf(dialect, error))
      }
    }
  })

  it('for Dropzone, which looks at none, say what is the matter', () => {
    for (const error of errors) {
      const status = statusOf('dropzone', error)
      if (error.retryable) expect([error.status, 503]).toContain(status)
      else expect([error.status, 500]).toContain(status)
    }
  })
})

it('too many uploads are a status that clients repeat, slowly', async () => {
  for (const library of ['resumable', 'flow'] as const) {
    const server = await resumableServer({ library, maxSessionsPerOwner: 1 })
    expect((await server.send(file, 1)).status).toBe(200)
    const started = Date.now()
    const refused = await server.send({ ...file, name: 'other.bin' }, 1)
    expect(refused).toMatchObject({ status: 503, body: { code: 'TOO_MANY_UPLOADS', retryable: true } })
    expect(Date.now() - started).toBeGreaterThan(900)
  }
})
