/** Forms whose file nobody reads: it was refused, or its client goes before anybody could. */
import { setTimeout as wait } from 'node:timers/promises'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { rawSocket } from '../support/raw-http.ts'
import { testServer } from '../support/server.ts'
import { uppyServer } from '../support/uppy-client.ts'

const boundary = 'x--x'
const uncaught: unknown[] = []
let before: NodeJS.UncaughtExceptionListener[] = []

beforeEach(() => {
  uncaught.length = 0
  before = process.rawListeners('uncaughtException') as NodeJS.UncaughtExceptionListener[]
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', (error) => uncaught.push(error))
})

afterEach(() => {
  process.removeAllListeners('uncaughtException')
  for (const listener of before) process.on('uncaughtException', listener)
})

/** The first bytes of a form of 100 000. */
function beginning(path: string, form = `${fileHead('file')}${'x'.repeat(1000)}`): string {
  return (
    `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=${boundary}\r\n` +
    `Content-Length: 100000\r\n\r\n${form}`
  )
}

function fileHead(name: string): string {
  return (
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"; filename="a.bin"\r\n` +
    'Content-Type: application/octet-stream\r\n\r\n'
  )
}

it('a client that goes while its refused form is read to the end ends no process', async () => {
  const { port } = await uppyServer()
  const client = await rawSocket(port)
  client.send(beginning('/files/s3/form'))
  await wait(100)
  client.socket.destroy()
  await wait(100)
  expect(uncaught).toEqual([])
})

it('a client that goes while a hook still looks at its form ends no process', async () => {
  let asked = false
  const onCreate = async () => {
    asked = true
    await wait(200)
  }
  const { port } = await testServer({ hooks: { onCreate } })
  const client = await rawSocket(port)
  client.send(beginning('/upload'))
  await expect.poll(() => asked).toBe(true)
  client.socket.destroy()
  await wait(400)
  expect(uncaught).toEqual([])
})

it.each([
  ['before its first byte', ''],
  ['in a field', `--${boundary}\r\nContent-Disposition: form-data; name="uploadId"\r\n\r\nabc`],
  ['in a file that nobody asked for', `${fileHead('other')}abc`],
  ['in its file', `${fileHead('chunk')}abc`],
  ['behind its file', `${fileHead('chunk')}abc\r\n--${boundary}\r\nContent-Dis`],
])('a form that falls silent %s ends after bodyIdleTimeout', async (_where, form) => {
  const { port } = await testServer({ bodyIdleTimeout: 200 })
  const client = await rawSocket(port)
  client.send(beginning('/upload/chunk', form))
  expect(await client.until('BODY_TIMEOUT', 5_000)).toMatch(/^HTTP\/1.1 408 /)
})

it('a form may be silent while its file is stored', async () => {
  let asked = false
  const onCreate = async () => {
    asked = true
    await wait(600)
  }
  const { port } = await testServer({ bodyIdleTimeout: 200, hooks: { onCreate } })
  const client = await rawSocket(port)
  const form = `${fileHead('file')}${'x'.repeat(1000)}\r\n--${boundary}`
  client.send(beginning('/upload', form))
  await expect.poll(() => asked).toBe(true)
  await wait(300)
  client.send(`--${' '.repeat(100_000 - form.length - 2)}`)
  expect(await client.until('"size":1000', 5_000)).toMatch(/^HTTP\/1.1 200 /)
})

it('a form may take longer than bodyIdleTimeout before and behind its file, as long as it gets on', async () => {
  const { port } = await testServer({ bodyIdleTimeout: 1_000 })
  const client = await rawSocket(port)
  const field = `--${boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\n`
  const form = `${fileHead('file')}${'x'.repeat(1000)}\r\n--${boundary}--`
  client.send(beginning('/upload', field))
  for (let piece = 0; piece < 6; piece++) {
    await wait(300)
    client.send('slow')
  }
  client.send(`\r\n${form}`)
  const left = 100_000 - field.length - 24 - 2 - form.length
  for (const piece of [1, 1, 1, 1, 1, left - 5]) {
    await wait(300)
    client.send(' '.repeat(piece))
  }
  expect(await client.until('"size":1000', 5_000)).toMatch(/^HTTP\/1.1 200 /)
})

it('a form with more metadata than there may be is refused, and the server goes on', async () => {
  const { url } = await testServer()
  const upload = (length: number) => {
    const form = new FormData()
    for (const name of ['a', 'b', 'c']) form.set(name, 'x'.repeat(length))
    form.set('file', new Blob(['bytes']), 'a.bin')
    return fetch(`${url}/upload`, { method: 'POST', body: form, signal: AbortSignal.timeout(5_000) })
  }
  const refused = await upload(3_000)
  expect(refused.status).toBe(400)
  expect(await refused.json()).toMatchObject({ code: 'INVALID_REQUEST' })
  expect((await upload(2_000)).status).toBe(200)
  expect(uncaught).toEqual([])
})
