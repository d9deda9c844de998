/** What the app or a line does at a bad moment stays with them. */
import { PassThrough } from 'node:stream'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
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
