/** `append`, `compose` and the settling `retrieveOffset` of the engine. */

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough, type Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { UploadEngine } from '../../src/types.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { bytes, seeded, sha256 } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const MiB = 1024 * 1024
const protocol = 'tus'

function appender(engine: UploadEngine) {
  return {
    create: async (totalSize: number | null, more: object = {}) =>
      (await engine.create({ fileName: 'a.bin', totalSize, protocol, ...more })).session.id,
    append: (uploadId: string, offset: number, body: Buffer | Readable, more: object = {}) =>
      engine.append({ uploadId, protocol, offset, body: streamOf(body), ...more }),
    offset: async (uploadId: string) => (await engine.retrieveOffset({ uploadId, protocol })).offset,
    complete: (uploadId: string) => engine.complete({ uploadId, protocol }),
  }
}

function local(options: object = {}) {
  const directory = tempFolder()
  const { engine, tempDir } = testEngine({ storage: new LocalStorageAdapter({ directory }), ...options })
  const read = (key: string) => readFile(join(directory, key))
  return { engine, tempDir, read, ...appender(engine) }
}

describe('append', () => {
  it('adds pieces of any size, and completes to exactly them', async () => {
    const { create, append, offset, complete, read } = local()
    const file = bytes(3 * MiB + 17)
    const id = await create(file.length)
    const random = seeded(4)
    for (let at = 0; at < file.length; ) {
      const size = Math.min(random.integer(1, 300_000), file.length - at)
      expect(await append(id, at, file.subarray(at, at + size), { size })).toMatchObject({ offset: at + size, size })
      at += size
      expect(await offset(id)).toBe(at)
    }
    const { key } = await complete(id)
    expect(sha256(await read(key))).toBe(sha256(file))
  })

  it('keeps the record small however many pieces there are', async () => {
    const { engine, create, append } = local()
    const id = await create(1000)
    for (let at = 0; at < 200; at += 2) await append(id, at, Buffer.alloc(2))
    expect((await engine.get({ uploadId: id, protocol })).chunks).toHaveLength(1)
  })

  it('at another offset than the end is refused, and tells the end', async () => {
    const { create, append, offset } = local()
    const id = await create(100)
    await append(id, 0, Buffer.alloc(10))
    for (const wrong of [0, 9, 11, 100]) {
      await expect(append(id, wrong, Buffer.alloc(5))).rejects.toMatchObject({ code: 'OFFSET_MISMATCH', offset: 10 })
    }
    expect(await offset(id)).toBe(10)
  })

  it('keeps what has arrived when the body breaks off', async () => {
    const { create, append, offset, complete, read } = local()
    const file = bytes(2 * MiB)
    const id = await create(file.length)
    const body = new PassThrough()
    const running = append(id, 0, body)
    body.write(file.subarray(0, 700_001))
    await new Promise((resolve) => setTimeout(resolve, 50))
    body.destroy(new Error('the line is dead'))
    await expect(running).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect(await offset(id)).toBe(700_001)
    await append(id, 700_001, file.subarray(700_001))
    expect(sha256(await read((await complete(id)).key))).toBe(sha256(file))
  })

  it('keeps what has arrived of a body that was dead before the first byte was read', async () => {
    const { create, append, offset } = local()
    const id = await create(100)
    for (const error of [undefined, new Error('the line is dead')]) {
      const body = new PassThrough()
      body.on('error', () => {})
      body.write(Buffer.alloc(30))
      body.destroy(error)
      await new Promise((resolve) => body.once('close', resolve))
      const before = await offset(id)
      await expect(append(id, before, body)).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
      expect(await offset(id)).toBe(before + 30)
    }
  })

  it('keeps what has arrived of a caller that is gone before the upload is free', async () => {
    const { create, append, offset } = local()
    const id = await create(100)
    const holder = new PassThrough()
    const first = append(id, 0, holder)
    await new Promise((resolve) => setTimeout(resolve, 50))
    const gone = new AbortController()
    const second = append(id, 0, Buffer.alloc(30), { signal: gone.signal })
    gone.abort(new Error('the client has gone'))
    await expect(second).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect(await offset(id)).toBe(30)
    expect(await first).toMatchObject({ interrupted: true, size: 0 })
  })

  it('with a checksum keeps nothing of a body that breaks off or does not match', async () => {
    const { create, append, offset, complete, read } = local()
    const id = await create(11)
    await append(id, 0, Buffer.from('he'))
    const checksum = 'sha1:Kq5sNclPz7QV2+lfQIuc6R7oRu0='
    await expect(append(id, 2, Buffer.from('hello worlx'.slice(2)), { checksum })).rejects.toMatchObject({
      code: 'CHECKSUM_MISMATCH',
    })
    const body = new PassThrough()
    const running = append(id, 2, body, { checksum })
    body.write('llo')
    await new Promise((resolve) => setTimeout(resolve, 30))
    body.destroy()
    await expect(running).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect(await offset(id)).toBe(2)
    const late = () => 'crc32c:AAAAAA=='
    await expect(append(id, 2, Buffer.from('llo world'), { checksum: late })).rejects.toMatchObject({ status: 422 })
    expect(await offset(id)).toBe(2)
    await append(id, 2, Buffer.from('llo world'))
    expect((await read((await complete(id)).key)).toString()).toBe('hello world')
  })

  it('of more bytes than the upload has room for is refused', async () => {
    const { create, append, offset } = local()
    const id = await create(10)
    await expect(append(id, 0, Buffer.alloc(11), { size: 11 })).rejects.toMatchObject({ status: 413 })
    await expect(append(id, 0, Buffer.alloc(11))).rejects.toMatchObject({ status: 413 })
    expect(await offset(id)).toBeLessThanOrEqual(10)
  })

  it('yields to a newcomer, which goes on where it was [C08]', async () => {
    const { create, append, offset } = local()
    const id = await create(100)
    const body = new PassThrough()
    const first = append(id, 0, body)
    body.write(Buffer.alloc(30))
    await new Promise((resolve) => setTimeout(resolve, 50))
    const before = process.cpuUsage()
    const started = Date.now()
    expect(await offset(id)).toBe(30)
    expect(Date.now() - started).toBeLessThan(1000)
    expect(process.cpuUsage(before).user).toBeLessThan(500_000)
    expect(await first).toMatchObject({ offset: 30, size: 30, interrupted: true })
    await append(id, 30, Buffer.alloc(70))
    expect(await offset(id)).toBe(100)
  })

  it('learns the length late, once', async () => {
    const { create, append, complete } = local()
    const id = await create(null)
    await append(id, 0, Buffer.alloc(20))
    await expect(append(id, 20, Buffer.alloc(0), { totalSize: 19 })).rejects.toMatchObject({
      code: 'INCONSISTENT_LENGTH',
    })
    await append(id, 20, Buffer.alloc(5), { totalSize: 25 })
    await append(id, 25, Buffer.alloc(0), { totalSize: 25 })
    await expect(append(id, 25, Buffer.alloc(0), { totalSize: 26 })).rejects.toMatchObject({
      code: 'INCONSISTENT_LENGTH',
    })
    expect((await complete(id)).size).toBe(25)
    expect(await append(id, 25, Buffer.alloc(0), { size: 0 })).toMatchObject({ size: 0 })
    await expect(append(id, 25, Buffer.alloc(1), { size: 1 })).rejects.toMatchObject({ status: 413 })
  })

  it('is cut off by an abort, cleanly [C04]', async () => {
    const { engine, create, append, tempDir } = local()
    const id = await create(100)
    const body = new PassThrough()
    const first = append(id, 0, body).catch((error) => error)
    body.write(Buffer.alloc(30))
    await new Promise((resolve) => setTimeout(resolve, 50))
    await engine.abort({ uploadId: id, protocol })
    expect(await first).toMatchObject({ status: 410 })
    expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
  })

  it.each([true, false])('sends whole parts on while one long body comes in (length known: %s)', async (known) => {
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: MiB, partSize: MiB } })
    const { engine } = testEngine({ storage })
    const { create, append, complete } = appender(engine)
    const file = bytes(9 * MiB + 5)
    const id = await create(known ? file.length : null)
    const parts: number[] = []
    engine.events.on('part', ({ size }) => parts.push(size))
    const body = new PassThrough()
    const running = append(id, 0, body, known ? {} : { totalSize: undefined })
    for (let at = 0; at < 6 * MiB; at += 64 * 1024) {
      if (!body.write(file.subarray(at, at + 64 * 1024))) await new Promise((resolve) => body.once('drain', resolve))
    }
    while (parts.length < 4) await new Promise((resolve) => setTimeout(resolve, 5))
    body.end(file.subarray(6 * MiB))
    await running
    const { size } = await complete(id)
    expect(size).toBe(file.length)
    expect(parts.filter((part) => part === MiB)).toHaveLength(9)
  })
})

describe('compose', () => {
  for (const multipart of [false, true]) {
    it(`makes one object of partial uploads (multipart: ${multipart})`, async () => {
      const storage = multipart
        ? new MemoryStorageAdapter({ multipart: { minPartSize: MiB, partSize: MiB } })
        : new MemoryStorageAdapter({ multipart: false })
      const { engine } = testEngine({ storage })
      const { create, append, complete } = appender(engine)
      const file = bytes(3 * MiB + 999)
      const cuts = [0, 1_000_000, 1_000_000, 2_500_001, file.length]
      const sources: string[] = []
      for (let i = 0; i < 4; i++) {
        const piece = file.subarray(cuts[i], cuts[i + 1])
        const id = await create(piece.length, { partial: true })
        sources.push(id)
        if (i < 3) await append(id, 0, piece)
      }
      const request = { sources, fileName: 'all.bin', protocol }
      const { session } = await engine.compose(request)
      await expect(complete(session.id)).rejects.toMatchObject({ code: 'UPLOAD_INCOMPLETE' })
      await append(sources[3] ?? '', 0, file.subarray(cuts[3]))
      const object = await complete(session.id)
      expect(object.size).toBe(file.length)
      const again = await engine.compose(request)
      expect([again.session.id, again.resumed]).toEqual([session.id, true])
      expect(sha256(storage.read(object.key) ?? Buffer.alloc(0))).toBe(sha256(file))
    })
  }

  it('refuses uploads that are not partial, and partial ones to be completed by themselves', async () => {
    const { engine, create, complete } = local()
    const whole = await create(0)
    await expect(engine.compose({ sources: [whole], fileName: 'x', protocol })).rejects.toMatchObject({ status: 400 })
    const partial = await create(0, { partial: true })
    await expect(complete(partial)).rejects.toMatchObject({ code: 'PARTIAL' })
  })
})
