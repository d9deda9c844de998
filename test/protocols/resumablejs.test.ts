/** Resumable.js, Flow.js and the chunks of Dropzone over HTTP: what arrives, and what the clients are told. */
import express4or5 from 'express'
import { describe, expect, it, vi } from 'vitest'
import { resumableJsHandler } from '../../src/protocols/resumablejs/handler.ts'
import type { UploadSession } from '../../src/types.ts'
import { bytes, seeded, sha256 } from '../support/random.ts'
import {
  byHeader,
  chunkCount,
  type FileToSend,
  type Library,
  type Method,
  parametersOf,
  resumableServer,
  storedAt,
} from '../support/resumable-client.ts'
import { filesBelow } from '../support/temp-folder.ts'

const KiB = 1024
const wires: [Library, Method][] = [
  ['resumable', 'multipart'],
  ['resumable', 'octet'],
  ['flow', 'multipart'],
  ['flow', 'octet'],
  ['dropzone', 'multipart'],
]

function fileOf(size: number, more: Partial<FileToSend> = {}): FileToSend {
  return { data: bytes(size, size), chunkSize: 100 * KiB, ...more }
}

describe.each(wires)('%s, %s', (library, method) => {
  const forceChunkSize = library === 'dropzone'

  it.each(['express', 'bare'] as const)('stores a file chunk by chunk on %s, and tells how far it is', async (on) => {
    const server = await resumableServer({ on, library, method })
    const file = fileOf(350 * KiB + 7, { forceChunkSize })
    const total = chunkCount(file)
    for (let number = 1; number < total; number++) {
      if (library !== 'dropzone') expect((await server.test(file, number)).status).toBe(204)
      const { status, body } = await server.send(file, number)
      const uploadId = expect.any(String)
      expect({ status, body }).toEqual({
        status: 200,
        body: { success: true, uploadId, uploadedChunks: number, totalChunks: total, complete: false },
      })
      if (library !== 'dropzone') expect(await server.test(file, number)).toMatchObject({ status: 200, body })
    }
    const done = await server.send(file, total)
    expect(done).toMatchObject({ status: 200, body: { success: true, complete: true, uploadedChunks: total } })
    expect(sha256(await storedAt(server, done))).toBe(sha256(file.data))
    expect(done.headers.get('content-type')).toContain('application/json')
  })

  it.each([
    ['smaller than a chunk', 40 * KiB],
    ['exactly a chunk', 100 * KiB],
    ['nearly two chunks', 200 * KiB - 1],
    ['exactly two chunks', 200 * KiB],
    ['empty', 0],
  ])('stores a file that is %s', async (_, size) => {
    const server = await resumableServer({ library, method, maxChunkSize: 100 * KiB })
    const file = fileOf(size, { forceChunkSize })
    const done = await server.run(file)
    expect(done).toMatchObject({ status: 200, body: { complete: true } })
    expect(sha256(await storedAt(server, done))).toBe(sha256(file.data))
  })

  it('stores a file whose chunks come in any order, in parallel and twice, once', async () => {
    const created: UploadSession[] = []
    const server = await resumableServer({ library, method })
    server.engine.events.on('created', ({ session }) => created.push(session))
    const file = fileOf(900 * KiB + 1, { forceChunkSize })
    const numbers = Array.from({ length: chunkCount(file) }, (_, at) => at + 1)
    const answers = await Promise.all(
      seeded(3)
        .shuffle([...numbers, ...numbers])
        .map((number) => server.sendAgain(file, number)),
    )
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
    const urls = new Set(answers.map(({ body }) => body.url).filter((url) => url !== undefined))
    expect(created).toHaveLength(1)
    expect(urls.size).toBe(1)
    const done = answers.find(({ body }) => body.complete)
    expect(done && sha256(await storedAt(server, done))).toBe(sha256(file.data))
    expect((await filesBelow(server.directory)).filter((name) => name.startsWith('uploads/'))).toHaveLength(1)
  })

  it('opens one upload for three first chunks at the same time', async () => {
    const server = await resumableServer({ library, method })
    const file = fileOf(500 * KiB, { forceChunkSize })
    const answers = await Promise.all([1, 2, 3].map((number) => server.send(file, number)))
    expect(new Set(answers.map(({ body }) => body.uploadId)).size).toBe(1)
    const done = await server.run(file, { from: 4, tests: false })
    expect(sha256(await storedAt(server, done))).toBe(sha256(file.data))
  })

  it('tells hooks the name, the type and the path of the file', async () => {
    const seen: object[] = []
    const hooks = {
      onComplete: ({ fileName, mimeType, metadata }: UploadSession) => void seen.push({ fileName, mimeType, metadata }),
    }
    const server = await resumableServer({ library, method, hooks })
    await server.run(fileOf(10, { name: 'Übersicht 表.pdf', relativePath: 'a/b/Übersicht 表.pdf', forceChunkSize }))
    expect(seen).toEqual([
      {
        fileName: 'Übersicht 表.pdf',
        mimeType: library === 'dropzone' ? 'application/octet-stream' : 'application/pdf',
        metadata: library === 'dropzone' ? {} : { relativePath: 'a/b/Übersicht 表.pdf' },
      },
    ])
  })
})

describe('parameters', () => {
  it('in a form may come after the file', async () => {
    for (const library of ['resumable', 'flow', 'dropzone'] as const) {
      const server = await resumableServer({ library })
      const file = fileOf(300 * KiB, { forceChunkSize: library === 'dropzone' })
      const done = await server.run(file, { order: 'file first' })
      expect(sha256(await storedAt(server, done)), library).toBe(sha256(file.data))
      expect((await filesBelow(server.tempDir)).filter((name) => name.startsWith('spool/'))).toEqual([])
    }
  })

  it('may stand on both sides of the file', async () => {
    const server = await resumableServer()
    const file = fileOf(10)
    const pairs = Object.entries(parametersOf('flow', file, 1))
    const form = new FormData()
    for (const [name, value] of pairs.slice(0, 4)) form.append(name, String(value))
    form.append('file', new Blob([new Uint8Array(file.data)]))
    for (const [name, value] of pairs.slice(4)) form.append(name, String(value))
    const response = await fetch(server.url, { method: 'POST', body: form })
    expect(await response.json()).toMatchObject({ complete: true, url: expect.stringContaining('report.bin') })
  })

  it('of Resumable.js count in the query alone and in the form alone', async () => {
    const server = await resumableServer()
    const file = fileOf(10)
    const form = new FormData()
    for (const [name, value] of Object.entries(parametersOf('resumable', file, 1))) form.append(name, String(value))
    form.append('file', new Blob([new Uint8Array(file.data)]))
    const inForm = await fetch(server.url, { method: 'POST', body: form })
    expect(await inForm.json()).toMatchObject({ complete: true })
    const { url, send } = await resumableServer()
    const query = new URLSearchParams(parametersOf('resumable', file, 1) as Record<string, string>)
    const onlyFile = new FormData()
    onlyFile.append('file', new Blob([new Uint8Array(file.data)]))
    const inQuery = await fetch(`${url}?${query}`, { method: 'POST', body: onlyFile })
    expect(await inQuery.json()).toMatchObject({ complete: true })
    expect((await send(file, 1, { parameters: { resumableChunkSize: 50 * KiB } })).status).toBe(200)
  })

  it('may have other names and a namespace, as in the options of Resumable.js', async () => {
    const names = {
      parameterNamespace: 'x.',
      chunkNumberParameterName: 'n',
      chunkSizeParameterName: 'c',
      currentChunkSizeParameterName: 's',
      totalSizeParameterName: 't',
      typeParameterName: 'y',
      identifierParameterName: 'i',
      fileNameParameterName: 'f',
      relativePathParameterName: 'p',
      totalChunksParameterName: 'k',
      fileParameterName: 'bytes',
    }
    const server = await resumableServer({}, names)
    const file = fileOf(250 * KiB)
    const short = 'n c s t y i f p k'.split(' ')
    let last = null
    for (const number of [1, 2]) {
      const values = Object.values(parametersOf('resumable', file, number))
      const renamed = Object.fromEntries(short.map((name, at) => [`x.${name}`, values[at]]))
      const none = Object.fromEntries(Object.keys(parametersOf('resumable', file, 1)).map((name) => [name, undefined]))
      const parameters = { ...none, ...renamed }
      expect((await server.test(file, number, { parameters })).status).toBe(204)
      last = await server.send(file, number, { parameters, fileField: 'x.bytes' })
    }
    expect(last && sha256(await storedAt(server, last))).toBe(sha256(file.data))
    const { body, status } = await server.send(file, 1, { fileField: 'x.bytes' })
    expect({ status, code: body.code }).toEqual({ status: 400, code: 'INVALID_REQUEST' })
  })

  it('of the application may be there as well, many of them', async () => {
    const server = await resumableServer()
    const own = Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`own${i}`, 'x'.repeat(100)]))
    expect((await server.run(fileOf(10), { parameters: own })).body).toMatchObject({ complete: true })
    const tooMany = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`own${i}`, 'x']))
    expect(await server.send(fileOf(11), 1, { parameters: tooMany })).toMatchObject({
      status: 400,
      body: { code: 'INVALID_FORM' },
    })
  })

  it('that differ make another upload, never a mix', async () => {
    const server = await resumableServer()
    const file = fileOf(250 * KiB)
    const { body: first } = await server.send(file, 1)
    const others: FileToSend[] = [
      { ...file, name: 'other.bin', identifier: 'x' },
      { ...file, name: 'third.bin', identifier: 'x' },
      { ...file, relativePath: 'a/report.bin' },
      { ...file, chunkSize: 50 * KiB },
      { ...file, forceChunkSize: true },
      { ...file, data: bytes(260 * KiB), identifier: '256000-reportbin' },
    ]
    const ids = new Set([first.uploadId])
    for (const other of others) {
      expect((await server.test(other, 1)).status).toBe(204)
      ids.add((await server.send(other, 1)).body.uploadId)
    }
    expect(ids.size).toBe(1 + others.length)
  })

  it('with the type "" make an application/octet-stream', async () => {
    const types: string[] = []
    const hooks = { onCreate: ({ mimeType }: { mimeType: string }) => void types.push(mimeType) }
    for (const [library, method] of wires) {
      const server = await resumableServer({ library, method, hooks })
      await server.run(fileOf(10, { type: '' }))
    }
    expect(types).toEqual(wires.map(() => 'application/octet-stream'))
  })
})

describe('the body', () => {
  it('of Flow.js octets may have any media type', async () => {
    for (const type of ['application/json', 'text/plain', 'application/x-www-form-urlencoded', 'video/mp4']) {
      const server = await resumableServer({ library: 'flow', method: 'octet' })
      const file = fileOf(150 * KiB, { type })
      expect(sha256(await storedAt(server, await server.run(file))), type).toBe(sha256(file.data))
    }
  })

  it('that a body parser has taken is a clear, final error', async () => {
    const prepare = (app: ReturnType<typeof express4or5>) => void app.use(express4or5.json())
    const server = await resumableServer({ library: 'flow', method: 'octet', prepare })
    const file = fileOf(2, { type: 'application/json', data: Buffer.from('{}') })
    expect(await server.send(file, 1)).toMatchObject({ status: 500, body: { code: 'BODY_ALREADY_READ' } })
  })

  it.each([
    ['short', 20],
    ['long', 200 * KiB],
  ])('as base64 text is refused, %s or not', async (_, size) => {
    const server = await resumableServer()
    const file = fileOf(size, { chunkSize: 1024 * KiB })
    const form = new FormData()
    const parameters = parametersOf('resumable', file, 1) as Record<string, string>
    for (const [name, value] of Object.entries(parameters)) form.append(name, String(value))
    form.append('file', `data:application/octet-stream;base64,${file.data.toString('base64')}`)
    const response = await fetch(`${server.url}?${new URLSearchParams(parameters)}`, { method: 'POST', body: form })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ code: 'INVALID_FORM', message: expect.stringContaining('base64') })
    expect((await server.test(file, 1)).status).toBe(204)
  })

  it.each(['multipart', 'octet'] as const)('of another size than announced does not count (%s)', async (method) => {
    for (const library of ['resumable', 'flow'] as const) {
      const server = await resumableServer({ library, method })
      const file = fileOf(350 * KiB)
      for (const [number, data] of [
        [1, bytes(10)],
        [1, bytes(100 * KiB + 1)],
        [3, bytes(100 * KiB)],
        [3, bytes(250 * KiB)],
        [1, Buffer.alloc(0)],
      ] as const) {
        const { status } = await server.send(file, number, { data })
        expect([400, 413, 415]).toContain(status)
        expect((await server.test(file, number)).status, `${library} ${number} ${data.length}`).toBe(204)
      }
      expect(sha256(await storedAt(server, await server.run(file)))).toBe(sha256(file.data))
    }
  })

  it('that breaks off does not count, and the chunk can be sent again', async () => {
    const server = await resumableServer({ method: 'octet' })
    const file = fileOf(3000 * KiB, { chunkSize: 1000 * KiB })
    const query = new URLSearchParams(parametersOf('resumable', file, 1) as Record<string, string>)
    const cut = new AbortController()
    const body = new ReadableStream({
      async start(controller) {
        controller.enqueue(new Uint8Array(300 * KiB))
        await new Promise((resolve) => setTimeout(resolve, 100))
        cut.abort()
      },
    })
    const init = { method: 'POST', body, signal: cut.signal, duplex: 'half', headers: { 'Content-Type': 'a/b' } }
    await expect(fetch(`${server.url}?${query}`, init as RequestInit)).rejects.toThrow()
    expect((await server.test(file, 1)).status).toBe(204)
    expect(sha256(await storedAt(server, await server.run(file)))).toBe(sha256(file.data))
  })
})

describe('the handler', () => {
  it('does not come into being without an owner, or with an option that is none', async () => {
    const { engine } = await resumableServer()
    const make = (options: object) => () => resumableJsHandler(engine, options as never)
    expect(make({})).toThrow(/needs owner/)
    expect(() => (resumableJsHandler as (engine: unknown) => unknown)(engine)).toThrow(/needs owner/)
    expect(make({ owner: 'ann' })).toThrow(TypeError)
    const owner = () => null
    expect(make({ owner })).not.toThrow()
    for (const wrong of [{ completedGrace: -1 }, { completedGrace: '5' }, { identifierParameterName: '' }]) {
      expect(make({ owner, ...wrong })).toThrow(TypeError)
    }
    expect(make({ owner, fileParamName: 'x' })).toThrow(/fileParamName/)
    expect(make({ owner, cors: { credentials: true } })).toThrow(/cors/)
  })

  it('answers preflights and has CORS headers on errors, unless the app does that', async () => {
    const server = await resumableServer()
    const preflight = await fetch(server.url, { method: 'OPTIONS', headers: { Origin: 'https://a.example' } })
    expect(preflight.status).toBe(204)
    expect(preflight.headers.get('access-control-allow-methods')).toContain('POST')
    const failed = await fetch(server.url, { headers: { Origin: 'https://a.example' } })
    expect(failed.status).toBe(400)
    expect(failed.headers.get('access-control-allow-origin')).toBe('*')
    const without = await resumableServer({}, { cors: false })
    const plain = await fetch(without.url, { method: 'OPTIONS', headers: { Origin: 'https://a.example' } })
    expect([...plain.headers.keys()].filter((name) => name.startsWith('access-control'))).toEqual([])
  })

  it('knows no other methods', async () => {
    const server = await resumableServer()
    const response = await fetch(server.url, { method: 'DELETE' })
    expect(response.status).toBe(405)
    expect(response.headers.get('allow')).toBe('GET, POST, OPTIONS')
  })

  it('works when Express has parsed the query before, and when it has not', async () => {
    for (const parser of ['simple', 'extended', false] as const) {
      const server = await resumableServer({ prepare: (app) => void app.set('query parser', parser) })
      expect((await server.run(fileOf(200 * KiB))).body, String(parser)).toMatchObject({ complete: true })
    }
  })

  it('warns of a server that cuts long requests', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    try {
      const server = await resumableServer()
      server.server.requestTimeout = 300_000
      await server.test(fileOf(10), 1)
      expect(warn).toHaveBeenCalledWith(expect.any(String), { code: 'NEXUS_REQUEST_TIMEOUT' })
    } finally {
      warn.mockRestore()
    }
  })
})

describe('owners', () => {
  it('with the same file have uploads of their own, and do not learn of each other', async () => {
    for (const library of ['resumable', 'flow'] as const) {
      const server = await resumableServer({ library }, { owner: byHeader })
      const file = fileOf(250 * KiB)
      const others = { ...file, data: bytes(250 * KiB, 99) }
      const [ann, bob] = [{ headers: { 'X-User': 'ann' } }, { headers: { 'X-User': 'bob' } }]
      const { body } = await server.send(file, 1, ann)
      expect((await server.test(file, 1, ann)).status).toBe(200)
      const unknown = await server.test(fileOf(300 * KiB), 1, bob)
      const foreign = await server.test(file, 1, bob)
      expect(foreign.status).toBe(204)
      expect([...foreign.headers.keys()]).toEqual([...unknown.headers.keys()])
      expect((await server.send(others, 1, bob)).body.uploadId).not.toBe(body.uploadId)
      const ofAnn = await server.run(file, ann)
      const ofBob = await server.run(others, bob)
      expect(sha256(await storedAt(server, ofAnn))).toBe(sha256(file.data))
      expect(sha256(await storedAt(server, ofBob))).toBe(sha256(others.data))
    }
  })

  it('that are not known are refused, for good', async () => {
    for (const [library, method] of wires) {
      const server = await resumableServer({ library, method }, { owner: byHeader })
      const answer = await server.send(fileOf(10), 1)
      expect(answer.body, `${library} ${method}`).toMatchObject({ code: 'OWNER_UNKNOWN', retryable: false })
      const expected = { resumable: 400, flow: 404, dropzone: method === 'multipart' ? 404 : 403 }[library]
      expect(answer.status, `${library} ${method}`).toBe(expected)
    }
  })

  it('that `authorize` refuses get what unknown uploads get', async () => {
    const hooks = { authorize: (_: string, __: unknown, context: unknown) => !isEve(context) }
    const server = await resumableServer({ hooks })
    const file = fileOf(250 * KiB)
    await server.send(file, 1)
    const eve = { headers: { 'X-User': 'eve' } }
    expect((await server.test(file, 1, eve)).status).toBe(204)
    expect(await server.send(file, 2, eve)).toMatchObject({ status: 404, body: { code: 'UPLOAD_NOT_FOUND' } })
    expect((await server.run(file)).body).toMatchObject({ complete: true })
  })
})

function isEve(context: unknown): boolean {
  return (context as { headers: Record<string, string> }).headers['x-user'] === 'eve'
}

it('keeps no identifier in any path', async () => {
  const server = await resumableServer()
  const identifier = '../../../../etc/cron.d/x'
  const file = fileOf(250 * KiB, { identifier, name: '../../evil', relativePath: '../../../evil' })
  await server.send(file, 1)
  const during = await filesBelow(server.tempDir)
  const done = await server.run(file)
  const paths = [...during, ...(await filesBelow(server.directory))]
  expect(paths.filter((path) => /\.\.|cron|etc/.test(path))).toEqual([])
  expect(sha256(await storedAt(server, done))).toBe(sha256(file.data))
})
