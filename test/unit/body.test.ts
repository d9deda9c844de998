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
