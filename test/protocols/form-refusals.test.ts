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
function beginning(path: string): string {
  return (
    `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=${boundary}\r\n` +
    `Content-Length: 100000\r\n\r\n--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n` +
    `Content-Type: application/octet-stream\r\n\r\n${'x'.repeat(1000)}`
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
