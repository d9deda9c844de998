import { subscribe, tracingChannel, unsubscribe } from 'node:diagnostics_channel'
import { expect, it } from 'vitest'
import type { TracedCall } from '../../src/index.ts'
import { testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'

it('events are published on diagnostics channels', async () => {
  const { client } = testEngine()
  const seen: [string, unknown][] = []
  const listen = (event: unknown, name: string | symbol) => seen.push([String(name), event])
  const names = ['created', 'chunk', 'completed'].map((name) => `nexus-uploader:${name}`)
  for (const name of names) subscribe(name, listen)
  try {
    const id = await client.create(3)
    await client.write(id, 0, bytes(3))
    await client.complete(id)
    expect(seen.map(([name]) => name)).toEqual(names)
    expect(seen[1]?.[1]).toMatchObject({ session: { id }, index: 0, size: 3, duplicate: false })
  } finally {
    for (const name of names) unsubscribe(name, listen)
  }
  await client.create(3)
  expect(seen).toHaveLength(3)
})

it('calls are traced with their upload, their result and their error', async () => {
  const { client } = testEngine()
  const calls: string[] = []
  const note =
    (what: string) =>
    ({ verb, uploadId, protocol, ...more }: TracedCall) => {
      const { error, result } = more as { error?: { code: string }; result?: { size: number } }
      calls.push([what, verb, uploadId, protocol, error?.code ?? result?.size].join(' '))
    }
  const channel = tracingChannel<unknown, TracedCall>('nexus-uploader.writeChunk')
  const subscribers = {
    start: note('start'),
    end: () => {},
    asyncStart: () => {},
    asyncEnd: note('asyncEnd'),
    error: note('error'),
  }
  const id = await client.create(3)
  channel.subscribe(subscribers)
  try {
    await client.write(id, 0, bytes(3))
    await expect(client.write(id, 0, bytes(4))).rejects.toMatchObject({ status: 413 })
  } finally {
    channel.unsubscribe(subscribers)
  }
  const started = `start writeChunk ${id} native `
  expect(calls.slice(0, 3)).toEqual([started, `asyncEnd writeChunk ${id} native 3`, started])
  expect(calls[3]).toMatch(new RegExp(`^error writeChunk ${id} native [A-Z_]+$`))
})

it('a subscriber that throws does not break an upload', async () => {
  const { client } = testEngine()
  const uncaught: unknown[] = []
  const before = process.rawListeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', (error) => uncaught.push(error))
  const listen = () => {
    throw new Error('of the subscriber')
  }
  subscribe('nexus-uploader:chunk', listen)
  try {
    const id = await client.create(3)
    await client.write(id, 0, bytes(3))
    await client.complete(id)
    await new Promise((resolve) => setTimeout(resolve, 20))
    // As Node has it: the subscriber's error is the process's, not the caller's.
    expect(uncaught).toHaveLength(1)
  } finally {
    unsubscribe('nexus-uploader:chunk', listen)
    process.removeAllListeners('uncaughtException')
    for (const listener of before) process.on('uncaughtException', listener as (error: Error) => void)
  }
})

it('a traced call whose result nobody wants does not end the process when it fails', async () => {
  const { engine } = testEngine()
  const unhandled: unknown[] = []
  const before = process.rawListeners('unhandledRejection')
  process.removeAllListeners('unhandledRejection')
  process.on('unhandledRejection', (error) => unhandled.push(error))
  const channel = tracingChannel<unknown, TracedCall>('nexus-uploader.abort')
  const nothing = () => {}
  const subscribers = { start: nothing, end: nothing, asyncStart: nothing, asyncEnd: nothing, error: nothing }
  const drop = () => void engine.abort({ uploadId: 'unknown', protocol: 'native' })
  try {
    drop()
    channel.subscribe(subscribers)
    drop()
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(unhandled).toEqual([])
  } finally {
    channel.unsubscribe(subscribers)
    process.removeAllListeners('unhandledRejection')
    for (const listener of before) process.on('unhandledRejection', listener as (error: unknown) => void)
  }
})
