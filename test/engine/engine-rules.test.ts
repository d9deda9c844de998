/** Who reaches which upload, what a closed engine does, and what becomes of listeners that fail. */
import { PassThrough } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { UploadHooks, UploadSession } from '../../src/types.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'

const protocol = 'native'
const notFound = { code: 'UPLOAD_NOT_FOUND', status: 404 }

describe('an upload', () => {
  it('is reached by its id, in its protocol, and by its owner', async () => {
    const { engine } = testEngine()
    const create = async (owner?: string) =>
      (await engine.create({ fileName: 'a', totalSize: 5, protocol, owner })).session.id
    const [anonymous, owned] = [await create(), await create('ann')]
    const get = (uploadId: string, more: object = {}) => engine.get({ uploadId, protocol, ...more })
    expect((await get(anonymous)).id).toBe(anonymous)
    expect((await get(anonymous, { owner: 'bob' })).id).toBe(anonymous)
    expect((await get(owned, { owner: 'ann' })).owner).toBe('ann')
    await expect(get(owned)).rejects.toMatchObject(notFound)
    await expect(get(owned, { owner: 'bob' })).rejects.toMatchObject(notFound)
    await expect(get(anonymous, { protocol: 'tus' })).rejects.toMatchObject(notFound)
    for (const id of ['', 'x', `${anonymous}x`, `x${anonymous}`, anonymous.toUpperCase(), '../..']) {
      await expect(get(id)).rejects.toMatchObject(notFound)
    }
    // What proves that it is theirs decides alone.
    expect((await get(owned, { proof: (session: UploadSession) => session.owner === 'ann' })).id).toBe(owned)
    await expect(get(anonymous, { proof: () => false })).rejects.toMatchObject(notFound)
  })

  it('asks authorize for each action by its name, with the record and the request', async () => {
    const asked: unknown[] = []
    const hooks: UploadHooks = {
      authorize: (action, session, context) => {
        asked.push([action, session?.id ?? null, context])
      },
    }
    const { engine } = testEngine({ hooks })
    const context = 'request'
    const { session } = await engine.create({ fileName: 'a', totalSize: 5, protocol, context })
    const ref = { uploadId: session.id, protocol, context }
    await engine.get(ref)
    await engine.listChunks(ref)
    await engine.writeChunk({ ...ref, index: 0, body: streamOf(bytes(5)) })
    await engine.matchesChunk({ ...ref, index: 0, body: streamOf(bytes(5)) })
    await engine.complete(ref)
    await engine.abort({ ...ref, completed: 'forget' })
    const { id } = session
    const actions = ['read', 'read', 'write', 'write', 'complete', 'abort']
    expect(asked).toEqual([['create', null, context], ...actions.map((action) => [action, id, context])])
  })

  it('that has ended shows nothing any more', async () => {
    const { engine, client } = testEngine()
    const id = await client.create(5)
    await client.abort(id)
    const ref = { uploadId: id, protocol }
    const body = () => streamOf(bytes(5))
    for (const call of [
      () => engine.get(ref),
      () => engine.listChunks(ref),
      () => engine.retrieveOffset(ref),
      () => engine.writeChunk({ ...ref, index: 0, body: body() }),
      () => engine.matchesChunk({ ...ref, index: 0, body: body() }),
      () => engine.append({ ...ref, offset: 0, body: body() }),
      () => engine.complete(ref),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: 'UPLOAD_ABORTED', status: 410 })
    }
  })

  it('lists its chunks one by one', async () => {
    const { engine, client } = testEngine()
    const id = await client.create(25, { chunkSize: 10 })
    await client.write(id, 2, bytes(5))
    await client.write(id, 0, bytes(10))
    const { session, chunks } = await engine.listChunks({ uploadId: id, protocol })
    expect(session.id).toBe(id)
    expect(chunks.map(({ index, size }) => [index, size])).toEqual([
      [0, 10],
      [2, 5],
    ])
  })

  it('ends where its chunks without a gap do', async () => {
    const { engine, client } = testEngine()
    const id = await client.create(30, { chunkSize: 10 })
    const offset = async () => (await engine.retrieveOffset({ uploadId: id, protocol })).offset
    expect(await offset()).toBe(0)
    for (const index of [0, 2]) await client.write(id, index, bytes(10))
    expect(await offset()).toBe(10)
    await client.write(id, 1, bytes(10))
    expect(await offset()).toBe(30)
    await client.complete(id)
    expect(await offset()).toBe(30)
  })

  it('made of others ends at nothing until it is complete, and is forgotten when its time is over', async () => {
    let ahead = 0
    const { engine } = testEngine({ clock: () => Date.now() + ahead, completedTtl: 1_000 })
    const { session } = await engine.create({ fileName: 'a', totalSize: 5, protocol, partial: true })
    await engine.append({ uploadId: session.id, protocol, offset: 0, body: streamOf(bytes(5)) })
    const final = (await engine.compose({ fileName: 'b', protocol, sources: [session.id] })).session.id
    const offset = async () => (await engine.retrieveOffset({ uploadId: final, protocol })).offset
    expect(await offset()).toBe(0)
    await engine.complete({ uploadId: final, protocol })
    expect(await offset()).toBe(5)
    ahead = 1_001
    await expect(offset()).rejects.toMatchObject({ code: 'UPLOAD_EXPIRED', status: 410 })
  })
})

describe('a closed engine', () => {
  it('takes no new work, lets running work end, and closes its store and storage', async () => {
    const closed: string[] = []
    const sessions = Object.assign(new MemorySessionStore(), { close: async () => void closed.push('sessions') })
    const storage = Object.assign(new MemoryStorageAdapter(), { close: async () => void closed.push('storage') })
    const { engine, client } = testEngine({ sessions, storage })
    const id = await client.create(10)
    const body = new PassThrough()
    const writing = client.write(id, 0, body)
    body.write(bytes(5))
    await new Promise((resolve) => setTimeout(resolve, 30))
    const closing = engine.close()
    await expect(client.get(id)).rejects.toMatchObject({
      code: 'CLOSING',
      status: 503,
      message: 'The server is shutting down. Try again.',
    })
    expect(closed).toEqual([])
    body.end(bytes(5))
    expect((await writing).size).toBe(10)
    await closing
    expect(closed).toEqual(['sessions', 'storage'])
  })

  it('cuts off what does not end in time', async () => {
    const { engine, client } = testEngine()
    const id = await client.create(10)
    const body = new PassThrough()
    body.write(bytes(5))
    const writing = client.write(id, 0, body)
    writing.catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 30))
    await engine.close({ timeout: 20 })
    await expect(writing).rejects.toMatchObject({ code: 'CLOSING', status: 503 })
  })
})

describe('events', () => {
  it('whose listener throws or rejects are warnings, and nothing else comes of it', async () => {
    const { engine, client } = testEngine()
    const warnings: { code: string; message: string; error?: unknown }[] = []
    engine.events.on('warning', (warning) => void warnings.push(warning))
    const [thrown, rejected] = [new Error('thrown'), new Error('rejected')]
    engine.events.on('created', () => {
      throw thrown
    })
    engine.events.on('completed', (async () => {
      throw rejected
    }) as never)
    const id = await client.create(5)
    await client.write(id, 0, bytes(5))
    await client.complete(id)
    await expect
      .poll(() => warnings)
      .toEqual([
        { code: 'LISTENER_FAILED', message: 'A created listener threw.', error: thrown },
        { code: 'LISTENER_FAILED', message: 'A listener rejected.', error: rejected },
      ])
  })

  it('of warnings whose listener throws are let go', async () => {
    const { engine, client } = testEngine()
    let heard = 0
    engine.events.on('warning', () => {
      heard += 1
      throw new Error('again')
    })
    engine.events.on('created', () => {
      throw new Error('thrown')
    })
    await client.create(5)
    expect(heard).toBe(1)
  })
})
