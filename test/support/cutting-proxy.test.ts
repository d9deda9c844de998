import { Agent, createServer, request, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { cuttingProxy } from './cutting-proxy.ts'
import { bytes, sha256 } from './random.ts'

let server: Server
let port: number
/** What of each request's body has arrived, bytes, once the request is over. */
let arrived: number[]

beforeEach(async () => {
  arrived = []
  server = createServer((incoming, response) => {
    const data: Buffer[] = []
    incoming.on('data', (piece) => data.push(piece))
    incoming.on('end', () => response.end(sha256(Buffer.concat(data))))
    incoming.on('error', () => {})
    incoming.on('close', () => arrived.push(Buffer.concat(data).length))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  port = (server.address() as AddressInfo).port
})

afterEach(async () => {
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
})

async function send(to: number, body: Buffer, agent = new Agent()): Promise<string> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ port: to, host: '127.0.0.1', method: 'POST', agent }, async (response) => {
      let text = ''
      for await (const piece of response) text += piece
      resolve(text)
    })
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('it did not happen within 10 s')
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

const never = () => Number.POSITIVE_INFINITY
const body = bytes(3_000_000)

it('a passing proxy changes nothing and counts what the client sends', async () => {
  const proxy = await cuttingProxy(port, { seed: 1, cutAfter: () => 0 })
  proxy.passThrough()
  expect(await send(proxy.port, body)).toBe(sha256(body))
  expect([proxy.connections, proxy.cuts]).toEqual([1, 0])
  expect(proxy.bytesFromClient).toBeGreaterThan(body.length)
  expect(proxy.bytesFromClient).toBeLessThan(body.length + 1000)
})

it('a connection is cut after exactly as many bytes as were drawn, or fewer when it is reset', async () => {
  const drawn: number[] = []
  const proxy = await cuttingProxy(port, {
    seed: 2,
    atAnswer: never,
    cutAfter: (random) => {
      drawn.push(random.integer(1000, 2_000_000))
      return drawn.at(-1) ?? 0
    },
  })
  for (let n = 0; n < 20; n++) await expect(send(proxy.port, body)).rejects.toThrow()
  await until(() => arrived.length === 20)
  expect([proxy.connections, proxy.cuts, proxy.answerCuts]).toEqual([20, 20, 0])
  // The request's head is part of the count.
  const missing = drawn.map((after, index) => after - (arrived[index] ?? 0))
  expect(missing.every((head) => head > 0)).toBe(true)
  expect(missing.filter((head) => head < 500).length).toBeGreaterThanOrEqual(5)
})

it('an answer is cut before it begins or within its head, after the server got the whole request', async () => {
  const proxy = await cuttingProxy(port, { seed: 3, atAnswer: () => 1, cutAfter: never })
  for (let n = 0; n < 20; n++) await expect(send(proxy.port, body)).rejects.toThrow()
  expect([proxy.cuts, proxy.answerCuts]).toEqual([20, 20])
  expect(arrived).toEqual(Array(20).fill(body.length))
})

it('a connection can die at its second answer', async () => {
  const proxy = await cuttingProxy(port, { seed: 5, atAnswer: () => 2, cutAfter: never })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  expect(await send(proxy.port, body, agent)).toBe(sha256(body))
  await expect(send(proxy.port, body, agent)).rejects.toThrow()
  expect([proxy.connections, proxy.cuts, proxy.answerCuts]).toEqual([1, 1, 1])
  agent.destroy()
})

it('a connection that was opened while the proxy passed is cut once it cuts', async () => {
  const proxy = await cuttingProxy(port, { seed: 4, atAnswer: never, cutAfter: () => 10_000 })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  proxy.passThrough()
  expect(await send(proxy.port, body, agent)).toBe(sha256(body))
  proxy.passThrough(false)
  await expect(send(proxy.port, body, agent)).rejects.toThrow()
  expect([proxy.connections, proxy.cuts]).toEqual([1, 1])
  agent.destroy()
})
