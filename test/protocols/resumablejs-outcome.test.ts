/** When a file of Resumable.js or Flow.js is a success, and what becomes of its name afterwards. */
import { EventEmitter, once } from 'node:events'
import { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { ProcessingError, StorageUnavailableError } from '../../src/errors.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { StorageAdapter } from '../../src/types.ts'
import { answer } from '../support/native-client.ts'
import { bytes, sha256 } from '../support/random.ts'
import { rawSocket } from '../support/raw-http.ts'
import {
  chunkCount,
  chunkOf as dataOf,
  type FileToSend,
  type Library,
  type Method,
  parametersOf,
  resumableClient,
  resumableServer,
  storedAt,
} from '../support/resumable-client.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const KiB = 1024
const hour = 60 * 60_000
const wires: [Library, Method][] = [
  ['resumable', 'multipart'],
  ['resumable', 'octet'],
  ['flow', 'multipart'],
  ['flow', 'octet'],
]

function fileOf(size = 350 * KiB, seed = 1): FileToSend {
  return { data: bytes(size, seed), chunkSize: 100 * KiB }
}

/** Same name, same size, other bytes. */
function edited(file: FileToSend, at = 0): FileToSend {
  const data = Buffer.from(file.data)
  data[at] = (data[at] ?? 0) ^ 0xff
  return { ...file, data }
}

/** A storage that fails as often as `failures` says. */
function failing(failures: { left: number }, error: () => Error = () => new StorageUnavailableError()): StorageAdapter {
  const storage = new MemoryStorageAdapter({ multipart: false })
  return {
    upload: (key, stream, type, info) => {
      if (failures.left <= 0) return storage.upload(key, stream, type, info)
      failures.left -= 1
      stream.resume()
      return Promise.reject(error())
    },
    remove: (key) => storage.remove(key),
  }
}

/** A server whose clock can be put forward. */
async function agingServer(options: Parameters<typeof resumableServer>[0] = {}) {
  let ahead = 0
  const server = await resumableServer({ ...options, clock: () => Date.now() + ahead, cleanupInterval: hour })
  const pass = async (time: number) => {
    ahead += time
    await server.engine.sweep()
  }
  return { ...server, pass }
}

describe.each(wires)('%s, %s: a storage that fails for a while', (library, method) => {
  it('makes a retry of the last chunk complete the file, and the test ask for it', async () => {
    const failures = { left: 2 }
    const server = await resumableServer({ library, method, storage: failing(failures) })
    const file = fileOf()
    const last = chunkCount(file)
    await server.send(file, 1)
    await server.send(file, 2)
    const started = Date.now()
    expect(await server.send(file, last)).toMatchObject({ status: 503, body: { retryable: true } })
    // Clients repeat at once: the answer takes its time.
    expect(Date.now() - started).toBeGreaterThan(900)
    expect((await server.test(file, 1)).body).toMatchObject({ complete: false, uploadedChunks: last })
    expect((await server.test(file, 2)).status).toBe(200)
    expect((await server.test(file, last)).status).toBe(204)
    expect((await server.send(file, last)).status).toBe(503)
    expect(await server.send(file, last)).toMatchObject({
      status: 200,
      body: { complete: true, url: expect.any(String) },
    })
  })

  it('is also got over by another run of the client', async () => {
    const server = await resumableServer({ library, method, storage: failing({ left: 1 }) })
    const file = fileOf()
    expect((await server.run(file)).status).toBe(503)
    expect((await server.run(file)).body).toMatchObject({ complete: true })
  })
})

describe('a completion', () => {
  it('that fails in the hook is tried again with the same object', async () => {
    const seen: string[] = []
    const hooks = {
      onComplete: (_: unknown, { key }: { key: string }) => {
        seen.push(key)
        if (seen.length < 3) throw new Error('the database is gone')
      },
    }
    const server = await resumableServer({ hooks })
    const file = fileOf()
    expect(await server.run(file)).toMatchObject({ status: 503, body: { code: 'COMPLETION_HOOK_FAILED' } })
    expect((await server.test(file, 1)).status).toBe(200)
    expect((await server.test(file, 3)).status).toBe(204)
    expect((await server.send(file, 3)).status).toBe(503)
    const done = await server.send(file, 3)
    expect(sha256(await storedAt(server, done))).toBe(sha256(file.data))
    expect(new Set(seen).size).toBe(1)
  })

  it('that the application refuses ends the file at once, and a new run is a new upload', async () => {
    for (const [library, status] of [
      ['resumable', 400],
      ['flow', 415],
      ['dropzone', 422],
    ] as const) {
      let refuse = true
      const hooks = {
        onComplete: () => {
          if (refuse) throw new ProcessingError('There is a virus in it.', { code: 'VIRUS' })
        },
      }
      const server = await resumableServer({ library, hooks })
      const file = { ...fileOf(), forceChunkSize: library === 'dropzone' }
      const refused = await server.run(file)
      expect(refused, library).toMatchObject({ status, body: { code: 'VIRUS', message: 'There is a virus in it.' } })
      expect((await server.send(file, chunkCount(file))).status).toBe(404)
      refuse = false
      expect(sha256(await storedAt(server, await server.run(file)))).toBe(sha256(file.data))
    }
  })

  it('asked for by the same last chunk many times at once makes one object and gives one URL', async () => {
    let objects = 0
    const memory = new MemoryStorageAdapter({ multipart: false })
    const storage: StorageAdapter = {
      upload: async (key, stream, type, info) => {
        objects += 1
        await new Promise((resolve) => setTimeout(resolve, 300))
        return memory.upload(key, stream, type, info)
      },
    }
    for (const size of [350 * KiB, 10]) {
      const server = await resumableServer({ storage })
      const file = fileOf(size)
      objects = 0
      const last = chunkCount(file)
      for (let number = 1; number < last; number++) await server.send(file, number)
      const early = [server.sendAgain(file, last), server.sendAgain(file, last)]
      await new Promise((resolve) => setTimeout(resolve, 150))
      const late = [server.sendAgain(file, last), server.sendAgain(file, last)]
      const answers = await Promise.all([...early, ...late])
      expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200])
      expect(new Set(answers.map(({ body }) => body.url)).size).toBe(1)
      expect(objects).toBe(1)
    }
  })
})

/** A form of Flow.js as bytes, cut in the middle of its file part. */
function halves(file: FileToSend, number: number): [Buffer, Buffer] {
  const fields = Object.entries(parametersOf('flow', file, number))
    .map(([name, value]) => `--b\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`)
    .join('')
  const head = `${fields}--b\r\nContent-Disposition: form-data; name="file"; filename="report.bin"\r\n\r\n`
  const form = Buffer.concat([Buffer.from(head), dataOf(file, number), Buffer.from('\r\n--b--\r\n')])
  const request =
    'POST /files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n' +
    `Content-Length: ${form.length}\r\n\r\n`
  const middle = head.length + 1000
  return [Buffer.concat([Buffer.from(request), form.subarray(0, middle)]), form.subarray(middle)]
}

describe('a chunk that is still coming in when the same one finishes the file', () => {
  it('is asked for again, and then gets the result', async () => {
    const server = await resumableServer({ library: 'flow' })
    const file = fileOf()
    for (const number of [1, 2]) await server.send(file, number)
    const [begin, rest] = halves(file, 3)
    const socket = await rawSocket(server.port)
    socket.send(begin)
    await new Promise((resolve) => setTimeout(resolve, 200))
    const done = await server.send(file, 3)
    expect(done.body).toMatchObject({ complete: true })
    socket.send(rest)
    expect(await socket.until('\r\n\r\n')).toMatch(/^HTTP\/1.1 503 /)
    socket.socket.destroy()
    expect((await server.send(file, 3)).body).toEqual(done.body)
  })
})

describe('a file of one chunk that is overtaken by another of its name and size', () => {
  it('is not told of as stored', async () => {
    const server = await resumableServer({ library: 'flow' })
    const file = fileOf(50 * KiB)
    const [begin, rest] = halves(file, 1)
    const socket = await rawSocket(server.port)
    socket.send(begin)
    await new Promise((resolve) => setTimeout(resolve, 200))
    const other = await server.send(edited(file), 1)
    expect(other.body).toMatchObject({ complete: true })
    socket.send(rest)
    expect(await socket.until('\r\n\r\n')).toMatch(/^HTTP\/1.1 503 /)
    socket.socket.destroy()
    const again = await server.send(file, 1)
    expect(sha256(await storedAt(server, again))).toBe(sha256(file.data))
    expect(sha256(await storedAt(server, other))).toBe(sha256(edited(file).data))
  })
})

describe('a file of one chunk that is still being stored', () => {
  it('is never told to other bytes of the same name: those are stored as well', async () => {
    const memory = new MemoryStorageAdapter({ multipart: false })
    const gate = new EventEmitter()
    let isOpen = false
    const storage: StorageAdapter = {
      upload: async (key, stream, type, info) => {
        if (isOpen) return memory.upload(key, stream, type, info)
        const opened = once(gate, 'open')
        gate.emit('begun')
        await opened
        return memory.upload(key, stream, type, info)
      },
    }
    const server = await resumableServer({ storage })
    const file = fileOf(10 * KiB)
    const begun = once(gate, 'begun')
    const first = server.send(file, 1)
    await begun
    const second = server.send(edited(file), 1)
    await new Promise((resolve) => setTimeout(resolve, 200))
    isOpen = true
    gate.emit('open')
    const [one, other] = await Promise.all([first, second])
    expect([one.body.complete, other.body.complete]).toEqual([true, true])
    expect(other.body.url).not.toBe(one.body.url)
  })
})

describe('a file of several chunks that is still being stored', () => {
  it('stays when it was told of while other bytes of the same name were coming in', async () => {
    const directory = tempFolder()
    const local = new LocalStorageAdapter({ directory })
    const gate = new EventEmitter()
    const storage: StorageAdapter = {
      upload: async (...args) => {
        const opened = once(gate, 'open')
        gate.emit('begun')
        await opened
        return local.upload(...args)
      },
      remove: (key) => local.remove(key),
    }
    const server = await resumableServer({ library: 'flow', storage })
    const file = fileOf()
    for (const number of [1, 2]) await server.send(file, number)
    const begun = once(gate, 'begun')
    const first = server.send(file, 3)
    await begun
    const [begin, rest] = halves(edited(file), 1)
    const socket = await rawSocket(server.port)
    socket.send(begin)
    await new Promise((resolve) => setTimeout(resolve, 200))
    gate.emit('open')
    expect(await first).toMatchObject({ status: 200, body: { complete: true } })
    socket.send(rest)
    expect(await socket.until('"code"')).toContain('FILE_CHANGED')
    socket.socket.destroy()
    expect((await filesBelow(directory)).filter((name) => name.startsWith('uploads/'))).toHaveLength(1)
  })
})

describe('a file that is stored', () => {
  it.each(wires)('is told again to a chunk whose answer was lost (%s, %s)', async (library, method) => {
    const server = await resumableServer({ library, method })
    const file = fileOf()
    const done = await server.run(file)
    for (const number of [3, 1, 3])
      expect(await server.send(file, number)).toMatchObject({ status: 200, body: done.body })
    expect((await filesBelow(server.directory)).filter((name) => name.startsWith('uploads/'))).toHaveLength(1)
  })

  it.each(wires)('is a new one for a run that begins with tests, at once (%s, %s)', async (library, method) => {
    const server = await resumableServer({ library, method })
    for (const size of [350 * KiB, 10]) {
      const first = fileOf(size)
      const second = edited(first)
      const before = await server.run(first)
      const after = await server.run(second)
      expect(after.body.url).not.toBe(before.body.url)
      expect(sha256(await storedAt(server, after))).toBe(sha256(second.data))
      expect(sha256(await storedAt(server, before))).toBe(sha256(first.data))
    }
  })

  it('is a new one whichever of the first tests arrives first', async () => {
    for (const order of [
      [1, 2, 3],
      [2, 3, 1],
      [3, 1, 2],
    ]) {
      const server = await resumableServer()
      const file = fileOf()
      await server.run(file)
      const second = edited(file, 150 * KiB)
      for (const number of order) expect((await server.test(second, number)).status, String(order)).toBe(204)
      const answers = []
      for (const number of order) answers.push(await server.send(second, number))
      const done = answers.find(({ body }) => body.complete)
      expect(done && sha256(await storedAt(server, done))).toBe(sha256(second.data))
    }
  })

  it('is never told to a chunk with other bytes: one of one chunk is stored', async () => {
    for (const [library, method] of wires) {
      const server = await resumableServer({ library, method })
      const file = fileOf(50 * KiB)
      const before = await server.run(file, { tests: false })
      const again = await server.run(file, { tests: false })
      expect(again.body).toEqual(before.body)
      const second = edited(file)
      const after = await server.run(second, { tests: false })
      expect(sha256(await storedAt(server, after)), library).toBe(sha256(second.data))
      expect((await server.send(second, 1)).body).toEqual(after.body)
    }
  })

  it.each([
    ['the first', 0],
    ['a middle', 150 * KiB],
    ['the last', 349 * KiB],
  ])('is never told to a run without tests that has other bytes in %s chunk: the next try is stored', async (_, at) => {
    for (const library of ['resumable', 'flow'] as const) {
      const server = await resumableServer({ library })
      const file = fileOf()
      await server.run(file, { tests: false })
      const second = edited(file, at)
      const answers = []
      // A client stops at the first error.
      for (const number of [1, 2, 3]) {
        answers.push(await server.send(second, number))
        if (answers.at(-1)?.status !== 200) break
      }
      const refused = answers.at(-1)
      expect(refused).toMatchObject({ status: library === 'flow' ? 415 : 400, body: { code: 'FILE_CHANGED' } })
      // What else was under way finds nothing to go on with.
      expect((await server.send(second, 3)).status).toBe(404)
      const after = await server.run(second, { tests: false })
      expect(sha256(await storedAt(server, after))).toBe(sha256(second.data))
    }
  })

  it('is recognised by a server that has started anew', async () => {
    const [tempDir, directory] = [tempFolder(), tempFolder()]
    const start = () => resumableServer({ tempDir, storage: new LocalStorageAdapter({ directory }) })
    const file = fileOf()
    const first = await start()
    const done = await first.run(file)
    await first.close()
    const second = await start()
    expect(await second.send(file, 3)).toMatchObject({ status: 200, body: done.body })
    expect(await second.send(edited(file), 1)).toMatchObject({ status: 400, body: { code: 'FILE_CHANGED' } })
    await second.engine.sweep()
    expect((await filesBelow(tempDir)).filter((name) => name.startsWith('staging/'))).toHaveLength(1)
  })

  it('is recognised in all that a storage with parts has taken', async () => {
    const storage = new MemoryStorageAdapter({ multipart: { partSize: 64 * KiB } })
    const server = await resumableServer({ storage })
    const file = fileOf(900 * KiB)
    const done = await server.run(file)
    expect(await server.send(file, 2)).toMatchObject({ status: 200, body: done.body })
    expect((await server.send(edited(file, 150 * KiB), 2)).body).toMatchObject({ code: 'FILE_CHANGED' })
  })

  it('is forgotten after `completedGrace`: then the first chunk is a new upload, and others are lost', async () => {
    const server = await resumableServer({}, { completedGrace: 0 })
    const file = fileOf()
    const before = await server.run(file, { tests: false })
    expect(await server.send(file, 3)).toMatchObject({ status: 404, body: { code: 'UPLOAD_NOT_FOUND' } })
    const after = await server.run(file, { tests: false })
    expect(after.body).toMatchObject({ complete: true })
    expect(after.body.uploadId).not.toBe(before.body.uploadId)
  })

  it('leaves nothing behind when its record is forgotten', async () => {
    const server = await agingServer()
    await server.run(fileOf())
    await server.pass(1.1 * hour)
    expect((await filesBelow(server.tempDir)).filter((name) => name.startsWith('staging/'))).toEqual([])
  })
})

describe('an upload that has gone in the middle', () => {
  const endings: [string, (server: Awaited<ReturnType<typeof agingServer>>, uploadId: string) => Promise<void>][] = [
    ['expired', (server) => server.pass(1.1 * hour)],
    [
      'expired and forgotten',
      async (server) => {
        await server.pass(1.1 * hour)
        await server.pass(1.1 * hour)
      },
    ],
    ['aborted', (server, uploadId) => server.engine.abort({ uploadId, protocol: 'resumablejs', owner: 'ann' })],
  ]

  describe.each(endings)('(%s)', (_, end) => {
    it.each(wires)(
      'is no success for who goes on (%s, %s), and a new one for who begins anew',
      async (library, method) => {
        const server = await agingServer({ library, method })
        const file = fileOf()
        const { body } = await server.send(file, 1)
        await server.send(file, 2)
        await end(server, body.uploadId)
        const [tested, sent] = await Promise.all([server.test(file, 3), server.send(file, 3)])
        expect(sent).toMatchObject({ status: 404, body: { error: expect.any(String), code: 'UPLOAD_NOT_FOUND' } })
        expect(tested.status).toBe(404)
        const done = await server.run(file)
        expect(sha256(await storedAt(server, done))).toBe(sha256(file.data))
        expect(done.body.uploadId).not.toBe(body.uploadId)
      },
    )
  })

  it('is no obstacle to a new run whose first chunks arrive out of order', async () => {
    const server = await agingServer()
    const file = fileOf()
    await server.send(file, 1)
    await server.pass(1.1 * hour)
    const later = [server.send(file, 3), server.send(file, 2)]
    await new Promise((resolve) => setTimeout(resolve, 300))
    const answers = await Promise.all([...later, server.send(file, 1)])
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200])
    const done = answers.find(({ body }) => body.complete)
    expect(done && sha256(await storedAt(server, done))).toBe(sha256(file.data))
  })

  it('does not keep the one waiting who has left', async () => {
    const server = await agingServer()
    const file = fileOf()
    await server.send(file, 1)
    await server.pass(1.1 * hour)
    const socket = await rawSocket(server.port)
    const query = new URLSearchParams(parametersOf('resumable', file, 3) as Record<string, string>)
    const closed = new Promise((resolve) => {
      server.server.once('request', (_, response) => response.once('close', () => resolve(Date.now())))
    })
    const started = Date.now()
    socket.send(`GET /files?${query} HTTP/1.1\r\nHost: x\r\n\r\n`)
    setTimeout(() => socket.socket.destroy(), 200)
    expect(Number(await closed) - started).toBeLessThan(1_000)
    await server.engine.close({ timeout: 100 })
  })
})

it('an unknown upload takes any chunk first', async () => {
  const server = await resumableServer()
  const file = fileOf()
  for (const number of [3, 2]) expect((await server.send(file, number)).status).toBe(200)
  expect(sha256(await storedAt(server, await server.send(file, 1)))).toBe(sha256(file.data))
})

it('a server that starts anew between chunks goes on where it was', async () => {
  const [tempDir, directory] = [tempFolder(), tempFolder()]
  const file = fileOf(950 * KiB)
  let done = null
  for (let number = 1; number <= chunkCount(file); number++) {
    const server = await resumableServer({
      tempDir,
      storage: new LocalStorageAdapter({ directory, baseUrl: 'http://x' }),
    })
    if (number > 1) expect((await server.test(file, number - 1)).status).toBe(200)
    expect((await server.test(file, number)).status).toBe(204)
    done = await server.send(file, number)
    await server.close()
  }
  expect(done && sha256(await storedAt({ directory }, done))).toBe(sha256(file.data))
})

it('a chunk that is replaced by other bytes after its part has left ends the upload', async () => {
  const storage = new MemoryStorageAdapter({ multipart: { partSize: 64 * KiB } })
  const server = await resumableServer({ storage })
  const file = fileOf(900 * KiB)
  const sent = new Promise((resolve) => server.engine.events.once('part', resolve))
  await server.send(file, 1)
  await sent
  expect(await server.send(edited(file), 1)).toMatchObject({ status: 400, body: { code: 'FILE_CHANGED' } })
  expect((await server.send(file, 2)).status).toBe(404)
  const done = await server.run(edited(file), { tests: false })
  expect(done.body).toMatchObject({ complete: true })
})

it('uploads that `onCreate` names differently each time are still one for parallel first chunks', async () => {
  let count = 0
  const hooks = {
    onCreate: async (draft: { fileName: string }) => {
      count += 1
      draft.fileName = `${count}-${draft.fileName}`
      await new Promise((resolve) => setTimeout(resolve, 50))
    },
  }
  const server = await resumableServer({ hooks })
  const file = fileOf()
  const answers = await Promise.all([1, 2, 3].map((number) => server.send(file, number)))
  expect(new Set(answers.map(({ body }) => body.uploadId)).size).toBe(1)
  expect(answers.some(({ body }) => body.complete)).toBe(true)
})

it('an upload that `authorize` hides from its own client is no success', async () => {
  const server = await resumableServer({ hooks: { authorize: (action) => action !== 'read' } })
  const file = fileOf()
  for (const number of [1, 2, 3]) expect((await server.send(file, number)).status).toBe(404)
})

it('two clients of other protocols with the same words do not meet', async () => {
  const server = await resumableServer()
  const flow = resumableClient(server.url, 'flow')
  const file = fileOf()
  const [one, other] = [await server.send(file, 1), await flow.send(file, 1)]
  expect(one.body.uploadId).not.toBe(other.body.uploadId)
})

it('a chunk is taken in as it comes, and a refused one does not hang', async () => {
  const server = await resumableServer({ method: 'octet', maxSessions: 1 })
  await server.send(fileOf(), 1)
  const file = fileOf(340 * KiB)
  const query = new URLSearchParams(parametersOf('resumable', file, 1) as Record<string, string>)
  const body = Readable.toWeb(Readable.from([chunk(60), chunk(40)])) as ReadableStream
  const init = { method: 'POST', body, duplex: 'half', headers: { 'Content-Type': 'application/octet-stream' } }
  const refused = await answer(fetch(`${server.url}?${query}`, init as RequestInit))
  expect(refused).toMatchObject({ status: 503, body: { code: 'TOO_MANY_UPLOADS' } })
  expect(refused.headers.get('retry-after')).toBe('30')
})

function chunk(size: number): Buffer {
  return bytes(size * KiB)
}
