import { createHash } from 'node:crypto'
import { PassThrough, Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { type BodyOptions, parseChecksum, RunningChecksum, receiveBody } from '../../src/engine/body.ts'
import { ChecksumMismatchError, InvalidRequestError } from '../../src/errors.ts'
import { bytes } from '../support/random.ts'

const KiB = 1024
const batch = 512 * KiB

function receiving(source: Readable, changes: Partial<BodyOptions> = {}, sink?: (size: number) => Promise<void>) {
  const taken: { position: number; data: Buffer }[] = []
  const promise = receiveBody(
    source,
    async (buffers, position) => {
      const data = Buffer.concat(buffers)
      await sink?.(data.length)
      taken.push({ position, data })
    },
    {
      maxSize: 10 * 1024 * KiB,
      tooLarge: () => new InvalidRequestError('too large', { code: 'TOO_LARGE' }),
      idleTimeout: 5_000,
      signal: new AbortController().signal,
      crc: false,
      ...changes,
    },
  )
  // Looked at later.
  promise.catch(() => {})
  return { promise, taken, all: () => Buffer.concat(taken.map(({ data }) => data)) }
}

function expectNoListeners(source: Readable): void {
  for (const event of ['data', 'close']) expect(source.listenerCount(event), event).toBe(0)
  expect(source.listenerCount('error')).toBeGreaterThan(0)
}

describe('a checksum', () => {
  const digests: Readonly<Record<string, (data: Buffer) => Buffer>> = {
    md5: (data) => createHash('md5').update(data).digest(),
    sha1: (data) => createHash('sha1').update(data).digest(),
    sha256: (data) => createHash('sha256').update(data).digest(),
    sha512: (data) => createHash('sha512').update(data).digest(),
    crc32: (data) => {
      const digest = Buffer.alloc(4)
      digest.writeUInt32BE(crc32(data))
      return digest
    },
  }

  it('is read and compared in each of the algorithms, in pieces', () => {
    const data = bytes(1000)
    for (const [algorithm, digestOf] of Object.entries(digests)) {
      const text = `${algorithm}:${digestOf(data).toString('base64')}`
      expect(parseChecksum(text)).toEqual({ algorithm, digest: digestOf(data) })
      const running = new RunningChecksum(parseChecksum(text))
      running.update(data.subarray(0, 300))
      running.update(data.subarray(300))
      expect(() => running.verify()).not.toThrow()
      const other = new RunningChecksum(parseChecksum(text))
      other.update(data.subarray(1))
      expect(() => other.verify()).toThrow(ChecksumMismatchError)
    }
  })

  it('in CRC-32C is that of the test vector', () => {
    const running = new RunningChecksum(parseChecksum('crc32c:4waSgw=='))
    running.update(Buffer.from('1234'))
    running.update(Buffer.from('56789'))
    expect(() => running.verify()).not.toThrow()
  })

  it('is known by names with a hyphen as well', () => {
    expect(parseChecksum('sha-256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=').algorithm).toBe('sha256')
    expect(parseChecksum('crc-32:AAAAAA==').algorithm).toBe('crc32')
  })

  it('of another form, length or algorithm is refused with what there is', () => {
    const four = 'AAAAAA=='
    const wrong = [
      '',
      'crc32',
      `crc32:`,
      `:${four}`,
      `crc32: ${four}`,
      `crc32:${four} `,
      `x crc32:${four}`,
      'crc32:AAAA',
    ]
    const unknown = [
      `toString:${four}`,
      `valueOf:${four}`,
      `crc64:${four}`,
      `md5:${four}`,
      `CRC32:${four}`,
      `crc32:${'A'.repeat(89)}`,
    ]
    for (const text of [...wrong, ...unknown]) {
      const refused = expect.objectContaining({ code: 'INVALID_CHECKSUM', status: 400 })
      expect(() => parseChecksum(text), text).toThrow(refused)
    }
    expect(() => parseChecksum('x')).toThrow('crc32, crc32c, md5, sha1, sha256, sha512')
  })
})

describe('a body', () => {
  it('is handed on whole, in batches at their positions, with size and CRC-32', async () => {
    const data = bytes(2 * batch + 100)
    const pieces = Array.from({ length: Math.ceil(data.length / (64 * KiB)) }, (_, i) =>
      data.subarray(i * 64 * KiB, (i + 1) * 64 * KiB),
    )
    const source = Readable.from(pieces, { objectMode: false })
    const { promise, taken, all } = receiving(source, { crc: true })
    expect(await promise).toEqual({ size: data.length, crc: crc32(data) })
    expect(all().equals(data)).toBe(true)
    expect(taken.map(({ position }) => position)).toEqual([0, batch, 2 * batch])
    expectNoListeners(source)
    expect((await receiving(Readable.from([data], { objectMode: false })).promise).crc).toBe(0)
  })

  it('of no bytes is one, and nothing is written', async () => {
    const { promise, taken } = receiving(Readable.from([], { objectMode: false }))
    expect(await promise).toEqual({ size: 0, crc: 0 })
    expect(taken).toEqual([])
  })

  it('may have as many bytes as allowed; one more ends it, and the rest is left unread', async () => {
    const exact = receiving(Readable.from([bytes(100)], { objectMode: false }), { maxSize: 100 })
    expect(await exact.promise).toMatchObject({ size: 100 })
    const source = new PassThrough()
    const { promise, taken } = receiving(source, { maxSize: 100 })
    source.write(bytes(60))
    await sleep(5)
    source.write(bytes(41))
    await expect(promise).rejects.toMatchObject({ code: 'TOO_LARGE' })
    expect(taken).toEqual([])
    expect(source.isPaused()).toBe(true)
    expectNoListeners(source)
  })

  it('with another checksum than its own is refused after it was written', async () => {
    const checksum = parseChecksum('crc32:AAAAAA==')
    const { promise, all } = receiving(Readable.from([bytes(100)], { objectMode: false }), { checksum })
    await expect(promise).rejects.toBeInstanceOf(ChecksumMismatchError)
    expect(all()).toHaveLength(100)
  })

  it('that goes silent is ended, with the limit told', async () => {
    const source = new PassThrough()
    const { promise, taken } = receiving(source, { idleTimeout: 40 })
    source.write('a')
    await expect(promise).rejects.toMatchObject({ code: 'BODY_TIMEOUT', status: 408 })
    expect(taken).toEqual([])
    expectNoListeners(source)
  })

  it('is not silent as long as something comes, also when it is written meanwhile', async () => {
    const slow = Readable.from(
      (async function* () {
        for (let i = 0; i < 12; i++) {
          await sleep(100)
          yield Buffer.alloc(10)
        }
      })(),
      { objectMode: false },
    )
    expect(await receiving(slow, { idleTimeout: 1_000, flushAfter: 10 }).promise).toMatchObject({ size: 120 })
  })

  it('that breaks off has no end', async () => {
    const source = new PassThrough()
    const { promise, taken } = receiving(source)
    source.write(bytes(100))
    await sleep(5)
    source.destroy()
    await expect(promise).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect(taken).toEqual([])
    const failing = new PassThrough()
    const failed = receiving(failing)
    const cause = new Error('reset')
    failing.destroy(cause)
    await expect(failed.promise).rejects.toMatchObject({ code: 'BODY_INCOMPLETE', cause })
  })

  it('that ended or was torn down before anybody looked is not waited for', async () => {
    const gone = new PassThrough()
    gone.destroy()
    await expect(receiving(gone).promise).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    const over = Readable.from([], { objectMode: false })
    over.resume()
    await sleep(5)
    await expect(receiving(over).promise).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
  })

  it('ends with its signal, before or later, and with the reason if it is one of ours', async () => {
    const before = new PassThrough()
    await expect(receiving(before, { signal: AbortSignal.abort() }).promise).rejects.toMatchObject({
      code: 'BODY_INCOMPLETE',
    })
    expectNoListeners(before)
    const stop = new AbortController()
    const later = receiving(new PassThrough(), { signal: stop.signal })
    stop.abort(new InvalidRequestError('stop', { code: 'STOPPED' }))
    await expect(later.promise).rejects.toMatchObject({ code: 'STOPPED' })
  })

  it('fails with the disk, after the write under way has ended', async () => {
    const full = new Error('full')
    const source = new PassThrough()
    const { promise } = receiving(source, {}, () => Promise.reject(full))
    source.end(bytes(100))
    await expect(promise).rejects.toBe(full)

    let ended = false
    const other = new PassThrough()
    const breaking = receiving(other, {}, async () => {
      await sleep(40)
      ended = true
    })
    other.write(Buffer.alloc(batch))
    await sleep(5)
    other.destroy()
    await expect(breaking.promise).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect(ended).toBe(true)
  })
})

describe('a body that is kept', () => {
  it('leaves what has arrived when it breaks off, also what comes in during a write', async () => {
    const source = new PassThrough({ highWaterMark: 4 * batch })
    const { promise, all } = receiving(source, { keep: true }, () => sleep(20).then(() => {}))
    source.write(Buffer.alloc(batch, 1))
    await sleep(5)
    source.write(Buffer.alloc(100, 2))
    await sleep(5)
    source.destroy()
    await expect(promise).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect(all().equals(Buffer.concat([Buffer.alloc(batch, 1), Buffer.alloc(100, 2)]))).toBe(true)
    expectNoListeners(source)
  })

  it('leaves what the source still holds, but not more than is allowed', async () => {
    const stop = new AbortController()
    const source = new PassThrough({ highWaterMark: 4 * batch })
    const { promise, all } = receiving(source, { keep: true, signal: stop.signal, maxSize: batch * 2 + 60 }, () =>
      sleep(30).then(() => {}),
    )
    source.write(Buffer.alloc(batch, 1))
    await sleep(2)
    source.write(Buffer.alloc(batch, 2))
    await sleep(2)
    for (let i = 0; i < 4; i++) source.write(Buffer.alloc(20, 3))
    stop.abort()
    await expect(promise).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect(all().length).toBeGreaterThanOrEqual(2 * batch)
    expect(all().length).toBeLessThanOrEqual(2 * batch + 60)
  })

  it('is over with its first failure, and nothing is written twice or for nothing', async () => {
    const source = new PassThrough({ highWaterMark: 4 * batch })
    const stop = new AbortController()
    const { promise, taken } = receiving(source, { keep: true, signal: stop.signal }, () => sleep(30).then(() => {}))
    source.write(Buffer.alloc(batch, 1))
    await sleep(5)
    stop.abort(new InvalidRequestError('stop', { code: 'STOPPED' }))
    source.destroy(new Error('reset'))
    await expect(promise).rejects.toMatchObject({ code: 'STOPPED' })
    expect(taken.map(({ data }) => data.length)).toEqual([batch])
    const empty = new PassThrough()
    const nothing = receiving(empty, { keep: true })
    empty.destroy()
    await expect(nothing.promise).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    expect(nothing.taken).toEqual([])
  })

  it('is not written any more after the disk has failed', async () => {
    const source = new PassThrough({ highWaterMark: 4 * batch })
    let writes = 0
    const { promise } = receiving(source, { keep: true }, async () => {
      writes += 1
      await sleep(30)
      throw new Error('full')
    })
    source.write(Buffer.alloc(batch, 1))
    await sleep(5)
    source.write(Buffer.alloc(100, 2))
    await sleep(5)
    source.destroy()
    await expect(promise).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
    await sleep(40)
    expect(writes).toBe(1)
  })

  it('leaves nothing that the disk has not taken', async () => {
    const full = new Error('full')
    const source = new PassThrough()
    const { promise, taken } = receiving(source, { keep: true }, () => Promise.reject(full))
    source.end(bytes(100))
    await expect(promise).rejects.toBe(full)
    expect(taken).toEqual([])
  })

  it('is written after a while when it comes slowly', async () => {
    const source = new PassThrough()
    const { promise, all } = receiving(source, { flushAfter: 200 })
    source.write(bytes(100))
    await sleep(5)
    expect(all()).toHaveLength(0)
    await expect.poll(() => all().length).toBe(100)
    source.write(bytes(50, 2))
    await expect.poll(() => all().length).toBe(150)
    source.end(bytes(7, 3))
    expect(await promise).toMatchObject({ size: 157 })
    expect(all().equals(Buffer.concat([bytes(100), bytes(50, 2), bytes(7, 3)]))).toBe(true)
  })
})
