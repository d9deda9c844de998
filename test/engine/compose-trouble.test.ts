/** Concatenations that wait, that are too long, whose storage forgets; and objects that nobody took over. */
import { Readable } from 'node:stream'
import { describe, expect, it, vi } from 'vitest'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { StorageAdapter, UploadEngine } from '../../src/types.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'

const protocol = 'tus'

function movable(options: Parameters<typeof testEngine>[0] = {}) {
  let ahead = 0
  const { engine } = testEngine({ sessionTtl: 60_000, clock: () => Date.now() + ahead, ...options })
  const pass = (time: number) => {
    ahead += time
    return engine.sweep()
  }
  return { engine, pass }
}

async function wholePiece(engine: UploadEngine, data: Buffer): Promise<string> {
  const { session } = await engine.create({ fileName: 'p', totalSize: data.length, protocol, partial: true })
  await engine.append({ uploadId: session.id, protocol, offset: 0, body: streamOf(data), size: data.length })
  return session.id
}

describe('the pieces of a concatenation', () => {
  it('stay as long as somebody tries to complete it', async () => {
    const memory = new MemoryStorageAdapter({ multipart: false })
    let isDown = true
    const storage: StorageAdapter = {
      upload: async (...object) => {
        if (isDown) throw new Error('outage')
        return memory.upload(...object)
      },
    }
    const { engine, pass } = movable({ storage })
    const sources = [await wholePiece(engine, Buffer.from('aaaaa')), await wholePiece(engine, Buffer.from('bbbbb'))]
    const { session } = await engine.compose({ fileName: 'f', protocol, sources })
    for (let i = 0; i < 4; i++) {
      await expect(engine.complete({ uploadId: session.id, protocol })).rejects.toMatchObject({ status: 502 })
      await pass(30_000)
    }
    isDown = false
    expect(await engine.complete({ uploadId: session.id, protocol })).toMatchObject({ size: 10 })
  })

  it('stay while one of them is still coming in', async () => {
    const { engine, pass } = movable()
    const first = await wholePiece(engine, Buffer.from('aaaaa'))
    const { session: second } = await engine.create({ fileName: 'p', totalSize: 5, protocol, partial: true })
    const { session } = await engine.compose({ fileName: 'f', protocol, sources: [first, second.id] })
    for (let offset = 0; offset < 5; offset++) {
      await pass(20_000)
      await engine.append({ uploadId: second.id, protocol, offset, body: streamOf(Buffer.from('b')), size: 1 })
    }
    expect(await engine.complete({ uploadId: session.id, protocol })).toMatchObject({ size: 10 })
  })

  it('go when nobody comes back', async () => {
    const { engine, pass } = movable()
    const sources = [await wholePiece(engine, Buffer.from('aaaaa'))]
    await engine.compose({ fileName: 'f', protocol, sources })
    expect(await pass(61_000)).toMatchObject({ expired: 2 })
  })

  it('cannot add up to more than maxFileSize, also when their lengths come late', async () => {
    const { engine } = movable({ maxFileSize: 1000, maxChunks: 500 })
    const { session: piece } = await engine.create({ fileName: 'p', totalSize: null, protocol, partial: true })
    const compose = (count: number) =>
      engine.compose({ fileName: `${count}`, protocol, sources: Array(count).fill(piece.id) })
    const { session } = await compose(3)
    const body = streamOf(Buffer.alloc(400))
    await engine.append({ uploadId: piece.id, protocol, offset: 0, body, size: 400, totalSize: 400 })
    await expect(engine.complete({ uploadId: session.id, protocol })).rejects.toMatchObject({ status: 413 })
    await expect(compose(501)).rejects.toMatchObject({ status: 400 })
  })

  it.each(['one part', 'the multipart upload'])('are sent once more when the storage has lost %s', async (lost) => {
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1024, partSize: 1024 } })
    const { engine } = movable({ storage })
    const data = bytes(5000)
    const { session } = await engine.compose({
      ...{ fileName: 'f', protocol },
      sources: [await wholePiece(engine, data)],
    })
    const multipart = storage.multipart as NonNullable<typeof storage.multipart>
    const { listParts } = multipart
    vi.spyOn(multipart, 'listParts').mockImplementationOnce(async (ref, signal) => {
      if (lost === 'one part') return ((await listParts.call(multipart, ref, signal)) ?? []).slice(1)
      await multipart.abort(ref)
      return null
    })
    const ref = { uploadId: session.id, protocol }
    await expect(engine.complete(ref)).rejects.toMatchObject({ code: 'PARTS_DISAGREE', retryable: true })
    const { key } = await engine.complete(ref)
    expect(storage.read(key)?.equals(data)).toBe(true)
  })
})

describe('an object', () => {
  it('that is published after its upload was aborted is removed', async () => {
    const memory = new MemoryStorageAdapter({ multipart: false })
    let go = () => {}
    const gate = new Promise<void>((resolve) => {
      go = resolve
    })
    const storage: StorageAdapter = {
      upload: async (key, stream, mimeType) => {
        const pieces: Buffer[] = []
        for await (const piece of stream) pieces.push(piece)
        await gate
        return memory.upload(key, Readable.from(pieces, { objectMode: false }), mimeType)
      },
      remove: (key) => memory.remove(key),
    }
    const shared = { tempDir: tempFolder(), storage }
    const slow = movable(shared)
    const other = movable(shared)
    const { session } = await slow.engine.create({ fileName: 'f', totalSize: 5, protocol })
    const ref = { uploadId: session.id, protocol }
    await slow.engine.append({ ...ref, offset: 0, body: streamOf(Buffer.from('hello')), size: 5 })
    const completing = slow.engine.complete(ref)
    completing.catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 100))
    await other.pass(31_000)
    await other.engine.abort(ref)
    go()
    await expect(completing).rejects.toMatchObject({ status: 423 })
    expect(memory.keys()).toEqual([])
  })

  it('that the application never took over can be removed, and is reported when the upload expires', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    const onComplete = () => {
      throw new Error('the database is away')
    }
    const { engine, pass } = movable({ storage, hooks: { onComplete } })
    const warnings: string[] = []
    engine.events.on('warning', ({ code }) => warnings.push(code))
    const stored = async () => {
      const { session } = await engine.create({ fileName: 'f', totalSize: 5, protocol })
      const ref = { uploadId: session.id, protocol }
      await engine.append({ ...ref, offset: 0, body: streamOf(Buffer.from('hello')), size: 5 })
      await expect(engine.complete(ref)).rejects.toMatchObject({ status: 503 })
      return ref
    }
    const ref = await stored()
    await expect(engine.abort(ref)).rejects.toMatchObject({ status: 409 })
    await engine.abort({ ...ref, completed: 'remove' })
    expect(storage.keys()).toEqual([])
    await stored()
    await pass(61_000)
    expect(storage.keys()).toHaveLength(1)
    expect(warnings).toContain('OBJECT_LEFT')
  })

  it('is only for a caller who has named no other size', async () => {
    const memory = new MemoryStorageAdapter({ multipart: false })
    const storage: StorageAdapter = {
      upload: async (...object) => {
        await new Promise((resolve) => setTimeout(resolve, 100))
        return memory.upload(...object)
      },
    }
    const { engine } = movable({ storage })
    const { session } = await engine.create({ fileName: 'a', totalSize: null, protocol })
    const ref = { uploadId: session.id, protocol }
    await engine.append({ ...ref, offset: 0, body: streamOf(Buffer.alloc(10)), size: 10 })
    const first = engine.complete(ref)
    await expect(engine.complete({ ...ref, totalSize: 20 })).rejects.toMatchObject({ code: 'SIZE_MISMATCH' })
    expect(await first).toMatchObject({ size: 10 })
  })
})

it('finds the multipart upload of a killed process also when the length was never known', async () => {
  const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1024, partSize: 1024 } })
  const { engine } = movable({ storage })
  const { session } = await engine.create({ fileName: 'a', totalSize: null, protocol })
  const info = { ...{ size: null, fileName: 'a', mimeType: 'a/b', uploadId: session.id, metadata: {} } }
  await storage.multipart?.create(session.key, { ...info, signal: AbortSignal.timeout(1000) })
  expect(storage.openMultipartUploads()).toHaveLength(1)
  await engine.abort({ uploadId: session.id, protocol })
  expect(storage.openMultipartUploads()).toHaveLength(0)
})
