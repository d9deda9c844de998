import { PassThrough } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { whenQuiet } from '../../src/engine/quiet.ts'

/** How long it took, ms. */
function waited(body: PassThrough, longest: number): Promise<number> {
  const start = performance.now()
  return new Promise((resolve) => whenQuiet(body, longest, () => resolve(performance.now() - start)))
}

describe('a body that is about to be broken off', () => {
  it('is waited for only as long as it brings something', async () => {
    const body = new PassThrough()
    body.on('data', () => {})
    const waiting = waited(body, 5_000)
    for (let i = 0; i < 20; i++) {
      body.write('x')
      await pause(10)
    }
    const time = await waiting
    expect(time).toBeGreaterThan(190)
    expect(time).toBeLessThan(2_500)
  })

  it('that never falls silent is waited for until the limit', async () => {
    const body = new PassThrough()
    body.on('data', () => {})
    const sending = setInterval(() => body.write('x'), 5)
    expect(await waited(body, 300)).toBeGreaterThan(290)
    clearInterval(sending)
  })

  it('with bytes that its reader has not asked for is waited for until the limit', async () => {
    const body = new PassThrough()
    body.on('data', () => {})
    body.pause()
    body.write('x')
    expect(await waited(body, 200)).toBeGreaterThan(190)
  })

  it('does not begin to flow before its reader is there', async () => {
    const body = new PassThrough()
    body.write('first')
    const waiting = waited(body, 5_000)
    await pause(60)
    const seen: string[] = []
    body.on('data', (data) => seen.push(String(data)))
    expect(await waiting).toBeGreaterThan(60)
    expect(seen).toEqual(['first'])
  })

  it('is heard first when the process was busy while something came', async () => {
    const { connect, createServer } = await import('node:net')
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as { port: number }
    const accepted = new Promise<import('node:net').Socket>((resolve) => server.once('connection', resolve))
    const client = connect(port, '127.0.0.1')
    const body = await accepted
    let received = 0
    body.on('data', (data) => {
      received += data.length
    })
    let receivedThen = -1
    whenQuiet(body, 5_000, () => {
      receivedThen = received
    })
    client.write('late')
    for (const end = performance.now() + 80; performance.now() < end; );
    await expect.poll(() => receivedThen).toBe(4)
    client.destroy()
    server.close()
  })
})
