/** What the app or a line does at a bad moment stays with them. */
import { PassThrough } from 'node:stream'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { SessionRecord } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'

const uncaught: unknown[] = []
const note = (error: unknown) => uncaught.push(error)
let before: NodeJS.UncaughtExceptionListener[] = []

beforeEach(() => {
  uncaught.length = 0
  before = process.rawListeners('uncaughtException') as NodeJS.UncaughtExceptionListener[]
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', note)
})

afterEach(() => {
  process.off('uncaughtException', note)
  for (const listener of before) process.on('uncaughtException', listener)
})

const soon = () => new Promise((resolve) => setTimeout(resolve, 20))

it.each(['write', 'append', 'spool'])(
  'a body that fails while its upload is still looked for ends nothing but its own call (%s)',
  async (verb) => {
    const sessions = new MemorySessionStore()
    const { engine, client } = testEngine({ sessions })
    const uploadId = await client.create(10)
    const get = sessions.get.bind(sessions)
    sessions.get = async (id) => {
      await soon()
      return get(id)
    }
    const body = new PassThrough()
    const ref = { uploadId, protocol: 'native', body }
    const call = {
      write: () => engine.writeChunk({ ...ref, index: 0 }),
      append: () => engine.append({ ...ref, offset: 0 }),
      spool: () => engine.spool(body, { maxSize: 10 }),
    }[verb]
    const failed = call?.().then(
      () => null,
      (error) => error,
    )
    body.destroy(new Error('the line broke'))
    expect(await failed).toMatchObject({ status: 400 })
    await soon()
    expect(uncaught).toEqual([])
  },
)

it('a listener of the app that throws is a warning, and the chunk is acknowledged', async () => {
  const { engine, client } = testEngine()
  const warnings: string[] = []
  engine.events.on('warning', ({ code }) => warnings.push(code))
  for (const name of ['created', 'chunk', 'completed'] as const) {
    engine.events.on(name, () => {
      throw new Error('of the app')
    })
  }
  const id = await client.create(3)
  await expect(client.write(id, 0, bytes(3))).resolves.toMatchObject({ size: 3 })
  await expect(client.complete(id)).resolves.toMatchObject({ size: 3 })
  expect(warnings).toEqual(['LISTENER_FAILED', 'LISTENER_FAILED', 'LISTENER_FAILED'])
  expect(uncaught).toEqual([])
})

it('a body that ends without its end does not count, whatever size it was to have', async () => {
  const { engine, client } = testEngine()
  const uploadId = await client.create(10)
  const body = new PassThrough()
  const writing = engine.writeChunk({ uploadId, protocol: 'native', index: 0, body })
  body.write(bytes(4))
  await soon()
  // As a socket is that was closed from the other side: no error, no end.
  body.destroy()
  await expect(writing).rejects.toMatchObject({ status: 400 })
  expect((await client.get(uploadId)).chunks).toEqual([])
})

it('parts are not joined while the storage holds others than were sent', async () => {
  const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 100, partSize: 100 } })
  const { client } = testEngine({ storage })
  const uploadId = await client.create(300)
  const multipart = storage.multipart as NonNullable<typeof storage.multipart>
  const listParts = multipart.listParts.bind(multipart)
  multipart.listParts = async (ref) => (await listParts(ref))?.slice(0, 2) ?? null
  const complete = vi.spyOn(multipart, 'complete')
  for (let index = 0; index < 3; index++) await client.write(uploadId, index, bytes(100, index))
  await expect(client.complete(uploadId)).rejects.toMatchObject({ status: expect.any(Number) })
  expect(complete).not.toHaveBeenCalled()
})

it('after close() every call is refused with 503, and a client may come back', async () => {
  const { engine, client } = testEngine()
  const uploadId = await client.create(10)
  await engine.close()
  const closing = { status: 503, code: 'CLOSING', retryable: true }
  await expect(client.create(10)).rejects.toMatchObject(closing)
  await expect(client.write(uploadId, 0, bytes(10))).rejects.toMatchObject(closing)
  await expect(client.complete(uploadId)).rejects.toMatchObject(closing)
})

it('a record of a newer release in any store is 503 and stays as it is', async () => {
  const sessions = new MemorySessionStore()
  const { client } = testEngine({ sessions })
  const uploadId = await client.create(10)
  const record = (await sessions.get(uploadId)) as SessionRecord
  const newer = { ...record, version: record.version + 1, format: 2 } as unknown as SessionRecord
  await sessions.replace(newer, record.version)
  const refused = { status: 503, code: 'STATE_NEWER' }
  await expect(client.get(uploadId)).rejects.toMatchObject(refused)
  await expect(client.write(uploadId, 0, bytes(10))).rejects.toMatchObject(refused)
  await expect(client.complete(uploadId)).rejects.toMatchObject(refused)
  expect(await sessions.get(uploadId)).toEqual(newer)
})
