/** A tus client may believe in success exactly when the object exists: failing, hanging and refusing storage, rivals, damage. */
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { ProcessingError, StorageUnavailableError } from '../../src/errors.ts'
import type { Locker, StorageAdapter } from '../../src/types.ts'
import { bytes, seeded, sha256 } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'
import {
  eventually,
  idIn,
  metadataHeader,
  offsetType,
  storedAt,
  type TusAnswer,
  tusServer,
} from '../support/tus-client.ts'

/** Fails `failures` times, then waits for `gate`, then stores. */
class TroubledStorage implements StorageAdapter {
  readonly objects = new Map<string, Buffer>()
  failures = 0
  attempts = 0
  gate: Promise<unknown> = Promise.resolve()
  failure: () => Error = () => new StorageUnavailableError()

  async upload(fileKey: string, stream: Readable): Promise<string> {
    this.attempts += 1
    if (this.failures > 0) {
      this.failures -= 1
      stream.destroy()
      throw this.failure()
    }
    await this.gate
    const pieces: Buffer[] = []
    for await (const piece of stream) pieces.push(piece as Buffer)
    this.objects.set(fileKey, Buffer.concat(pieces))
    return `https://cdn.example.com/${fileKey}`
  }

  async remove(fileKey: string): Promise<void> {
    this.objects.delete(fileKey)
  }

  /** Uploads wait until the returned function is called. */
  hang(): () => void {
    let open = () => {}
    this.gate = new Promise<void>((resolve) => {
      open = resolve
    })
    return open
  }
}

const withBody = { 'Content-Type': offsetType }

/** What a tus client takes for success. */
function looksDone({ status, headers }: TusAnswer, length: number): boolean {
  return status < 400 && headers['upload-offset'] === String(length)
}

describe.each(['express', 'bare'] as const)('a storage that fails on %s', (on) => {
  it('N times: PATCH fails, HEAD is 423 until the object exists [T5 G6]', async () => {
    const storage = new TroubledStorage()
    const server = await tusServer({ on, storage })
    const file = bytes(120_000)
    for (const failure of [() => new StorageUnavailableError(), () => new Error('a secret of the storage')]) {
      storage.failures = 3
      storage.failure = failure
      storage.objects.clear()
      const url = await server.create(file.length)
      const patch = await server.patch(url, 0, file)
      expect(patch.status).toBeGreaterThanOrEqual(500)
      expect(patch.body).not.toContain('secret')
      expect(patch.headers['upload-offset']).toBeUndefined()
      for (let i = 0; i < 2; i++) {
        const head = await server.head(url)
        expect([head.status, head.headers['upload-offset'], head.body]).toEqual([423, undefined, ''])
        expect(Number(head.headers['retry-after'])).toBeGreaterThan(0)
        expect(storage.objects.size).toBe(0)
      }
      const done = await server.head(url)
      expect(looksDone(done, file.length)).toBe(true)
      expect([...storage.objects.values()].map(sha256)).toEqual([sha256(file)])
      expect(done.headers['content-location']).toBe(`https://cdn.example.com/${[...storage.objects.keys()][0]}`)
    }
  })
})

describe('a storage that fails', () => {
  it('lets the PATCH that is repeated at the end complete the upload, too [T14]', async () => {
    const storage = new TroubledStorage()
    storage.failures = 1
    const server = await tusServer({ storage })
    const url = await server.create(3)
    expect((await server.patch(url, 0, 'abc')).status).toBe(503)
    const again = await server.patch(url, 3, '')
    expect([again.status, again.headers['upload-offset']]).toEqual([204, '3'])
    expect(again.headers['content-location']).toBeDefined()
    expect(storage.objects.size).toBe(1)
  })

  it('makes a creation with all bytes a 201 without Upload-Offset, so that the client asks [T30]', async () => {
    const storage = new TroubledStorage()
    const server = await tusServer({ storage })
    for (const failure of [() => new StorageUnavailableError(), () => new Error('down')]) {
      storage.failures = 2
      storage.failure = failure
      const answer = await server.post({ ...withBody, 'Upload-Length': 3 }, { body: 'abc' })
      expect([answer.status, answer.headers['upload-offset']]).toEqual([201, undefined])
      expect(answer.headers['content-location']).toBeUndefined()
      const url = server.resolve(answer.headers.location)
      expect((await server.head(url)).status).toBe(423)
      expect(looksDone(await server.head(url), 3)).toBe(true)
    }
    expect(storage.objects.size).toBe(2)
  })

  it('makes the creation of an empty file a 503, never a success [T23]', async () => {
    const storage = new TroubledStorage()
    storage.failures = 1
    const server = await tusServer({ storage })
    const failed = await server.post({ 'Upload-Length': 0 })
    expect([failed.status, failed.headers['upload-offset']]).toEqual([503, undefined])
    expect(storage.objects.size).toBe(0)
    const again = await server.post({ 'Upload-Length': 0 })
    expect([again.status, storage.objects.size]).toEqual([201, 1])
  })

  it('makes the final POST of a concatenation fail, and its repetition find the same upload [T52 T57]', async () => {
    const storage = new TroubledStorage()
    storage.failures = 1
    const server = await tusServer({ storage })
    const urls = [await server.partial(Buffer.from('ab')), await server.partial(Buffer.from('c'))]
    let created = 0
    server.engine.events.on('created', () => created++)
    expect((await server.concat(urls)).status).toBe(503)
    const again = await server.concat(urls)
    expect([again.status, again.headers['upload-offset'], created]).toEqual([201, '3', 1])
    expect([...storage.objects.values()].map(String)).toEqual(['abc'])
  })

  it('does not fail the PATCH of the last partial upload; HEAD of the final one drives it on [T50 T55]', async () => {
    const storage = new TroubledStorage()
    storage.failures = 2
    const server = await tusServer({ storage })
    const piece = await server.create(3, { 'Upload-Concat': 'partial' })
    const url = server.resolve((await server.concat([piece])).headers.location)
    expect((await server.patch(piece, 0, 'abc')).status).toBe(204)
    const head = await server.head(url)
    expect([head.status, head.headers['upload-offset']]).toEqual([423, undefined])
    expect((await server.head(piece)).headers['upload-offset']).toBe('3')
    expect(looksDone(await server.head(url), 3)).toBe(true)
    expect([...storage.objects.values()].map(String)).toEqual(['abc'])
  })
})

describe('a storage that hangs', () => {
  it('makes HEAD 423 after a few seconds, and the object comes once [T5 G6]', { timeout: 20_000 }, async () => {
    const storage = new TroubledStorage()
    const release = storage.hang()
    const server = await tusServer({ storage })
    const url = await server.create(3)
    const patch = server.patch(url, 0, 'abc')
    await eventually(() => expect(storage.attempts).toBe(1))
    const begun = Date.now()
    const cpu = process.cpuUsage()
    const head = await server.head(url)
    const { user, system } = process.cpuUsage(cpu)
    expect([head.status, head.headers['upload-offset']]).toEqual([423, undefined])
    expect(Number(head.headers['retry-after'])).toBeGreaterThan(0)
    expect(Date.now() - begun).toBeLessThan(8_000)
    expect((user + system) / 1000).toBeLessThan(1_500)
    release()
    expect(looksDone(await patch, 3)).toBe(true)
    expect(looksDone(await server.head(url), 3)).toBe(true)
    expect(storage.attempts).toBe(1)
  })

  it('goes on when the client of the PATCH has gone; HEAD joins it [T5 G6]', async () => {
    const storage = new TroubledStorage()
    const release = storage.hang()
    const server = await tusServer({ storage })
    const url = await server.create(3)
    const open = server.openPatch(url, 0, Buffer.from('abc'), 3)
    open.request.end()
    await eventually(() => expect(storage.attempts).toBe(1))
    open.request.destroy()
    await open.answer
    const head = server.head(url)
    release()
    expect(looksDone(await head, 3)).toBe(true)
    expect([storage.attempts, storage.objects.size]).toEqual([1, 1])
  })

  it('is given up after storageTimeout: PATCH fails, and the upload can still be completed [G6]', async () => {
    const storage = new TroubledStorage()
    const release = storage.hang()
    const server = await tusServer({ storage, storageTimeout: 300 })
    const url = await server.create(3)
    expect((await server.patch(url, 0, 'abc')).status).toBeGreaterThanOrEqual(500)
    expect((await server.head(url)).status).toBe(423)
    release()
    storage.gate = Promise.resolve()
    await eventually(async () => expect(looksDone(await server.head(url), 3)).toBe(true))
    expect([...storage.objects.values()].map(String)).toEqual(['abc'])
  })

  it('makes DELETE 423 while the object is being made [T60]', async () => {
    const storage = new TroubledStorage()
    const release = storage.hang()
    const server = await tusServer({ storage })
    const url = await server.create(3)
    const patch = server.patch(url, 0, 'abc')
    await eventually(() => expect(storage.attempts).toBe(1))
    const { status, headers } = await server.remove(url)
    expect(status).toBe(423)
    expect(Number(headers['retry-after'])).toBeGreaterThan(0)
    release()
    expect((await patch).status).toBe(204)
    expect((await server.remove(url)).status).toBe(204)
  })
})

describe('onComplete', () => {
  it('that refuses the file ends the upload: PATCH has its error, also when it comes again, HEAD 410, no object stays [G6]', async () => {
    const storage = new TroubledStorage()
    const refuse = () => {
      throw new ProcessingError('There is a virus in it.', { code: 'VIRUS' })
    }
    const server = await tusServer({ storage, hooks: { onComplete: refuse } })
    const url = await server.create(3)
    const patch = await server.patch(url, 0, 'abc')
    expect([patch.status, JSON.parse(patch.body).code]).toEqual([422, 'VIRUS'])
    const head = await server.head(url)
    expect([head.status, head.headers['upload-offset']]).toEqual([410, undefined])
    const again = await server.patch(url, 3, '')
    expect([again.status, JSON.parse(again.body).code]).toEqual([422, 'VIRUS'])
    expect(storage.objects.size).toBe(0)
    const posted = await server.post({ ...withBody, 'Upload-Length': 3 }, { body: 'abc' })
    expect([posted.status, JSON.parse(posted.body).code]).toEqual([422, 'VIRUS'])
    expect((await server.post({ 'Upload-Length': 0 })).status).toBe(422)
    expect(storage.objects.size).toBe(0)
  })

  it('that throws something else is a 500 and is repeated by HEAD until it passes [G6]', async () => {
    const storage = new TroubledStorage()
    let calls = 0
    const onComplete = () => {
      calls += 1
      if (calls % 3 !== 0) throw new Error('the database is down')
    }
    const server = await tusServer({ storage, hooks: { onComplete } })
    const url = await server.create(3)
    const patch = await server.patch(url, 0, 'abc')
    expect(patch.status).toBeGreaterThanOrEqual(500)
    expect(patch.body).not.toContain('database')
    expect((await server.head(url)).status).toBe(423)
    expect(looksDone(await server.head(url), 3)).toBe(true)
    expect([calls, storage.attempts]).toEqual([3, 1])
    // A creation with all bytes must not be sent again because of it, and must not look done.
    const posted = await server.post({ ...withBody, 'Upload-Length': 3 }, { body: 'abc' })
    expect([posted.status, posted.headers['upload-offset']]).toEqual([201, undefined])
    const posting = server.resolve(posted.headers.location)
    expect((await server.head(posting)).status).toBe(423)
    expect(looksDone(await server.head(posting), 3)).toBe(true)
  })

  it('sees the file as it was announced', async () => {
    const seen: unknown[] = []
    const server = await tusServer({
      hooks: {
        onComplete: ({ fileName, mimeType, metadata, totalSize }, { size }) =>
          void seen.push({ fileName, mimeType, metadata, totalSize, size }),
      },
    })
    const metadata = { filename: 'a.png', filetype: 'image/png', album: 'ä' }
    await server.patch(await server.create(3, { 'Upload-Metadata': metadataHeader(metadata) }), 0, 'abc')
    expect(seen).toEqual([{ fileName: 'a.png', mimeType: 'image/png', metadata, totalSize: 3, size: 3 }])
  })
})

describe('a completed upload', () => {
  it('is 410 after completedTtl, so that the same file is sent anew and not taken for done', async () => {
    let now = Date.now()
    const server = await tusServer({ completedTtl: 3_600_000, clock: () => now })
    const url = await server.create(3)
    const last = await server.patch(url, 0, 'abc')
    now += 3_599_000
    expect(looksDone(await server.head(url), 3)).toBe(true)
    now += 2_000
    const head = await server.head(url)
    expect([head.status, head.headers['upload-offset']]).toEqual([410, undefined])
    expect([404, 410]).toContain((await server.remove(url)).status)
    expect((await storedAt(server, last)).toString()).toBe('abc')
    await server.engine.sweep()
    expect((await server.head(url)).status).toBe(404)
    expect((await storedAt(server, last)).toString()).toBe('abc')
  })
})

describe('rivals', () => {
  it('two PATCHes at one offset never mix: the bytes are those of one of them [T8 T9]', async () => {
    const server = await tusServer()
    const random = seeded(11)
    for (let round = 0; round < 12; round++) {
      const size = random.integer(1, 400_000)
      const rivals = [Buffer.alloc(size, 'a'), Buffer.alloc(size, 'b')] as const
      const url = await server.create(size + 1)
      const answers = await Promise.all(rivals.map((body) => server.patch(url, 0, body).catch(() => null)))
      for (const answer of answers) expect([204, 409, 423, undefined]).toContain(answer?.status)
      const offset = Number((await server.head(url)).headers['upload-offset'])
      for (const answer of answers) {
        if (answer?.status === 204) expect(Number(answer.headers['upload-offset'])).toBeLessThanOrEqual(offset)
      }
      const last = await server.patch(url, offset, Buffer.alloc(size + 1 - offset, 'z'))
      const stored = await storedAt(server, last)
      const taken = String.fromCharCode(stored[0] ?? 0)
      expect(offset === 0 || taken === 'a' || taken === 'b', `round ${round}`).toBe(true)
      const expected = Buffer.concat([Buffer.alloc(offset, taken), Buffer.alloc(size + 1 - offset, 'z')])
      expect(stored.equals(expected), `round ${round}`).toBe(true)
    }
  })

  it('a HEAD while a PATCH hangs returns at once with what has come, and without burning time [T5]', async () => {
    const server = await tusServer()
    const file = bytes(200_000)
    const url = await server.create(file.length)
    const open = server.openPatch(url, 0, file.subarray(0, 90_000), file.length)
    await server.arrived(open)
    const begun = Date.now()
    const cpu = process.cpuUsage()
    const head = await server.head(url)
    const { user, system } = process.cpuUsage(cpu)
    expect([head.status, head.headers['upload-offset']]).toEqual([200, '90000'])
    expect(Date.now() - begun).toBeLessThan(2_000)
    expect((user + system) / 1000).toBeLessThan(1_000)
    const interrupted = await open.answer
    expect([interrupted?.status, interrupted?.headers['upload-offset']]).toEqual([204, '90000'])
    const last = await server.patch(url, 90_000, file.subarray(90_000))
    expect(sha256(await storedAt(server, last))).toBe(sha256(file))
  })

  it('a PATCH that is interrupted before its first byte is 423 [T9]', async () => {
    const server = await tusServer()
    const url = await server.create(10)
    const open = server.openPatch(url, 0, Buffer.alloc(0), 10)
    open.request.flushHeaders()
    await server.arrived(open)
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
    const { status, headers } = (await open.answer) ?? {}
    expect([status, headers?.['upload-offset']]).toEqual([423, undefined])
  })

  it('a lock that is not let go makes HEAD and PATCH 423 within two seconds or so, at rest [T5]', async () => {
    const stuck: Locker = {
      shared: false,
      acquire: (_key, { signal }) =>
        new Promise((_, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason), { once: true })
        }),
    }
    const server = await tusServer({ locker: stuck })
    const url = await server.create(10)
    const begun = Date.now()
    const cpu = process.cpuUsage()
    const answers = await Promise.all([server.head(url), server.patch(url, 0, 'abc')])
    const { user, system } = process.cpuUsage(cpu)
    expect(answers.map(({ status }) => status)).toEqual([423, 423])
    for (const { headers } of answers) {
      expect(Number(headers['retry-after'])).toBeGreaterThan(0)
      expect(headers['upload-offset']).toBeUndefined()
    }
    expect(Date.now() - begun).toBeLessThan(2_500)
    expect((user + system) / 1000).toBeLessThan(1_000)
  })

  it('a DELETE while a PATCH runs ends both, and leaves nothing [T60] [B12]', async () => {
    const server = await tusServer()
    const url = await server.create(200_000)
    const open = server.openPatch(url, 0, Buffer.alloc(90_000), 200_000)
    await server.arrived(open)
    const begun = Date.now()
    expect((await server.remove(url)).status).toBe(204)
    expect(Date.now() - begun).toBeLessThan(2_000)
    const { status = 410 } = (await open.answer) ?? {}
    expect([410, 404, 423]).toContain(status)
    expect((await server.head(url)).status).toBe(410)
    await eventually(async () => expect(await filesBelow(`${server.tempDir}/staging`)).toEqual([]))
  })

  it('ten HEADs and ten PATCHes at the end share one completion [T14]', async () => {
    const storage = new TroubledStorage()
    let completions = 0
    const server = await tusServer({ storage, hooks: { onComplete: () => void completions++ } })
    const release = storage.hang()
    const url = await server.create(3)
    const first = server.patch(url, 0, 'abc')
    await eventually(() => expect(storage.attempts).toBe(1))
    const rest = Array.from({ length: 10 }, () => [server.head(url), server.patch(url, 3, '')]).flat()
    release()
    for (const answer of await Promise.all([first, ...rest])) expect(looksDone(answer, 3)).toBe(true)
    expect([storage.attempts, completions]).toEqual([1, 1])
  })
})

describe('a damaged session file', () => {
  it('makes HEAD 423 and PATCH 503, never 404, and removes nothing [T6]', async () => {
    const tempDir = tempFolder()
    const before = await tusServer({ tempDir })
    const url = await before.create(10)
    await before.patch(url, 0, 'abc')
    await before.close()
    const sessions = join(tempDir, 'sessions')
    const [name] = (await filesBelow(sessions)).filter((path) => path.startsWith(idIn(url)) && path.endsWith('.log'))
    const journal = join(sessions, name ?? 'none')
    const content = await readFile(journal)

    const server = await tusServer({ tempDir })
    const target = `${server.folder}/${idIn(url)}`
    const flipped = Buffer.from(content)
    flipped[40] = (flipped[40] ?? 0) ^ 1
    for (const damage of [flipped, content.subarray(1), Buffer.alloc(64)]) {
      await writeFile(journal, damage)
      const head = await server.head(target)
      expect([head.status, head.headers['upload-offset']]).toEqual([423, undefined])
      expect((await server.patch(target, 3, 'd')).status).toBe(503)
      expect((await server.remove(target)).status).toBe(503)
    }
    await writeFile(journal, content)
    expect((await server.head(target)).headers['upload-offset']).toBe('3')
    const last = await server.patch(target, 3, 'defghij')
    expect((await storedAt(server, last)).toString()).toBe('abcdefghij')
  })

  it('does not stop an upload that survived a restart [T11]', async () => {
    const tempDir = tempFolder()
    const storage = new TroubledStorage()
    const before = await tusServer({ tempDir, storage })
    const metadata = metadataHeader({ filename: 'a.txt' })
    const url = await before.create(6, { 'Upload-Metadata': metadata })
    await before.patch(url, 0, 'abc')
    await before.close()
    const server = await tusServer({ tempDir, storage })
    const target = `${server.folder}/${idIn(url)}`
    expect((await server.head(target)).headers).toMatchObject({ 'upload-offset': '3', 'upload-metadata': metadata })
    const kept = once(server.engine.events, 'completed')
    expect((await server.patch(target, 3, 'def')).status).toBe(204)
    expect((await kept)[0].session.fileName).toBe('a.txt')
    expect([...storage.objects.values()].map(String)).toEqual(['abcdef'])
  })
})
