import { Readable } from 'node:stream'
import { expect, it } from 'vitest'
import { receiveBody, youngWeight } from '../../src/engine/body.ts'
import { InvalidRequestError } from '../../src/errors.ts'
import { bytes, sha256 } from '../support/random.ts'

const MiB = 2 ** 20

async function receive(pieces: Buffer[]): Promise<Buffer> {
  const received: Buffer[] = []
  await receiveBody(Readable.from(pieces, { objectMode: false }), async (buffers) => void received.push(...buffers), {
    maxSize: 100 * MiB,
    tooLarge: () => new InvalidRequestError('too large'),
    idleTimeout: 5000,
    signal: new AbortController().signal,
    crc: false,
  })
  return Buffer.concat(received)
}

it('what is allocated beside a buffer is half of it for those from sockets, and small however large the buffer is', async () => {
  const small = bytes(32 * 1024)
  expect(sha256(await receive([small]))).toBe(sha256(small))
  expect(youngWeight.length * 8).toBe(16 * 1024)
  const large = bytes(48 * MiB)
  expect(sha256(await receive([large]))).toBe(sha256(large))
  expect(youngWeight.length * 8).toBe(32 * 1024)
})

it('a source is stopped while its bytes wait for a slow sink, and at most two batches are in memory', async () => {
  let sent = 0
  const source = Readable.from(
    (function* () {
      for (; sent < 64; sent++) yield Buffer.alloc(256 * 1024)
    })(),
    { objectMode: false, highWaterMark: 64 * 1024 },
  )
  let release: () => void = () => {}
  const options = {
    maxSize: 100 * MiB,
    tooLarge: () => new InvalidRequestError('too large'),
    idleTimeout: 50,
    signal: new AbortController().signal,
    crc: false,
  }
  const slow = () => new Promise<void>((resolve) => (release = resolve))
  const receiving = receiveBody(source, slow, options)
  // Longer than the idle timeout: the silence of a stopped source is not the client's.
  await new Promise((resolve) => setTimeout(resolve, 200))
  expect(source.isPaused()).toBe(true)
  expect(sent).toBeLessThanOrEqual(6)
  const timer = setInterval(() => release(), 1)
  await expect(receiving).resolves.toMatchObject({ size: 16 * MiB })
  clearInterval(timer)
})

it('many bodies at a time are written in smaller batches, one alone in large ones again, also after failures', async () => {
  const largest = async (count: number, size: number) => {
    let most = 0
    const options = () => ({
      maxSize: size,
      tooLarge: () => new InvalidRequestError('too large'),
      idleTimeout: 5000,
      signal: new AbortController().signal,
      crc: false,
    })
    const sink = async (buffers: Buffer[]) => {
      most = Math.max(most, Buffer.concat(buffers).length)
      await new Promise(setImmediate)
    }
    const body = () =>
      Readable.from(
        Array.from({ length: 32 }, () => Buffer.alloc(32 * 1024)),
        { objectMode: false },
      )
    await Promise.allSettled(Array.from({ length: count }, () => receiveBody(body(), sink, options())))
    return most
  }
  expect(await largest(1, MiB)).toBeGreaterThanOrEqual(512 * 1024)
  expect(await largest(200, MiB)).toBeLessThanOrEqual(2 * 64 * 1024)
  // Each is refused in the middle.
  expect(await largest(200, MiB / 2)).toBeGreaterThan(0)
  expect(await largest(1, MiB)).toBeGreaterThanOrEqual(512 * 1024)
})
