/**
 * Receives one body in one pass: counts, caps, watches for silence, hashes, and hands batches to a sink while the next
 * batch is coming in. Holds at most two batches.
 */
import { createHash, type Hash } from 'node:crypto'
import type { Readable } from 'node:stream'
import { crc32 } from 'node:zlib'
import crc32c from 'crc-32/crc32c.js'
import {
  BodyIncompleteError,
  BodyTimeoutError,
  ChecksumMismatchError,
  InvalidRequestError,
  isNexusUploaderError,
  type NexusUploaderError,
} from '../errors.ts'

/** One write of 512 KiB costs the disk hardly more than one of 64 KiB; beyond 1 MiB it gets slower again. */
const largestBatch = 512 * 1024
const smallestBatch = 64 * 1024
/**
 * What all bodies together gather before they write, bytes. When many come in at a time they write sooner: else their
 * buffers grow old, V8 frees them late, and no cache holds them any more.
 */
const gatheredAtOnce = 16 * 1024 * 1024
let bodies = 0

function batchSize(): number {
  return Math.min(largestBatch, Math.max(smallestBatch, gatheredAtOnce / bodies))
}

/**
 * The newest of the short-lived arrays that make V8 collect young objects in time. A buffer from a socket lies outside the
 * heap and takes no young memory, so without them dead buffers pile up until V8 runs a full collection, every 12 MiB of
 * body or so with a small heap. With half of each buffer's size as young memory beside it, a cheap scavenge comes first.
 */
export let youngWeight: readonly unknown[] = []
/** Sockets bring no larger buffers; one that was made in memory is not copied into the heap by half. */
const largestFromSocket = 64 * 1024

/** Takes the bytes at this position of the body. The buffers are its own until the promise settles. */
export type Sink = (buffers: Buffer[], position: number) => Promise<void>

export interface BodyOptions {
  /** Most bytes to take. */
  readonly maxSize: number
  /** What to throw when there are more. */
  readonly tooLarge: () => NexusUploaderError
  /** Longest silence, ms. */
  readonly idleTimeout: number
  readonly signal: AbortSignal
  readonly checksum?: Checksum | undefined
  /** Whether to compute the CRC-32 as well. */
  readonly crc: boolean
  /** Whether the sink gets what has arrived also when the body fails. */
  readonly keep?: boolean | undefined
  /** Longest time that bytes wait for a batch to fill, ms. Default: until it is full. */
  readonly flushAfter?: number | undefined
}

export interface ReceivedBody {
  readonly size: number
  /** 0 when it was not asked for. */
  readonly crc: number
}

export interface Checksum {
  readonly algorithm: string
  readonly digest: Buffer
}

const digestSizes = { crc32: 4, crc32c: 4, md5: 16, sha1: 20, sha256: 32, sha512: 64 } as const

/** Reads `<algorithm>:<base64>` (`crc32`, `crc32c`, `md5`, `sha1`, `sha256`, `sha512`). @throws InvalidRequestError */
export function parseChecksum(text: string): Checksum {
  const match = /^([a-z0-9-]{3,10}):([A-Za-z0-9+/]{1,88}={0,2})$/.exec(text)
  const algorithm = (match?.[1] ?? '').replace('-', '')
  const digest = Buffer.from(match?.[2] ?? '', 'base64')
  if (!isAlgorithm(algorithm) || digest.length !== digestSizes[algorithm]) {
    throw new InvalidRequestError(
      `checksum must be <algorithm>:<base64 digest> with one of ${Object.keys(digestSizes).join(', ')}.`,
      { code: 'INVALID_CHECKSUM' },
    )
  }
  return { algorithm, digest }
}

function isAlgorithm(name: string): name is keyof typeof digestSizes {
  return Object.hasOwn(digestSizes, name)
}

const crcs: Readonly<Record<string, (data: Buffer, seed: number) => number>> = {
  crc32,
  crc32c: (data, seed) => crc32c.buf(data, seed) >>> 0,
}

/** A running checksum; CRC-32 in network byte order, like the other digests. */
export class RunningChecksum {
  readonly #expected: Checksum
  readonly #hash: Hash | null
  readonly #update: ((data: Buffer, seed: number) => number) | undefined
  #crc = 0

  constructor(expected: Checksum) {
    this.#expected = expected
    this.#update = crcs[expected.algorithm]
    this.#hash = this.#update ? null : createHash(expected.algorithm)
  }

  update(data: Buffer): void {
    this.#hash?.update(data)
    if (this.#update) this.#crc = this.#update(data, this.#crc)
  }

  /** @throws ChecksumMismatchError */
  verify(options: { wholeFile?: boolean } = {}): void {
    const digest = this.#hash ? this.#hash.digest() : Buffer.alloc(4)
    if (!this.#hash) digest.writeUInt32BE(this.#crc)
    requireDigest(this.#expected, digest, options)
  }
}

/** @throws ChecksumMismatchError */
export function requireDigest(
  expected: Checksum,
  digest: Uint8Array | undefined,
  options: { wholeFile?: boolean } = {},
): void {
  if (!digest || !expected.digest.equals(digest)) throw new ChecksumMismatchError(options)
}

/**
 * Reads `source` to its end. On any failure the rest of the source is left unread and the promise rejects after the
 * write under way has ended, so that the caller may close its files.
 */
export function receiveBody(source: Readable, sink: Sink, options: BodyOptions): Promise<ReceivedBody> {
  return new Promise((resolve, reject) => {
    const checksum = options.checksum && new RunningChecksum(options.checksum)
    let batch: Buffer[] = []
    let batchBytes = 0
    let received = 0
    let written = 0
    let crc = 0
    let writing = false
    let ended = false
    let flushing = false
    let failure: Error | null = null
    let settled = false
    let timer: NodeJS.Timeout | undefined
    let flush: NodeJS.Timeout | undefined

    const watch = () => {
      timer = setTimeout(() => breakOff(new BodyTimeoutError(options.idleTimeout)), options.idleTimeout).unref()
    }
    const fail = (error: Error) => {
      if (failure || settled) return
      failure = error
      settle()
    }
    /** The client's or the line's failure, not the disk's: what has arrived is as good as it was. */
    const breakOff = (error: Error) => {
      if (failure || settled) return
      failure = error
      flushing = options.keep === true
      if (flushing) takeBuffered()
      if (flushing && !writing && batchBytes > 0) write()
      settle()
    }
    /** What the source holds of a line that is dead: it arrived, though nobody had asked for it yet. */
    const takeBuffered = () => {
      source.off('data', onData)
      for (let data = source.read(); data !== null; data = source.read()) {
        if (received + data.length > options.maxSize) return
        received += data.length
        batch.push(data)
        batchBytes += data.length
      }
    }
    const onAbort = () => breakOff(asBodyError(options.signal.reason))
    const onError = (error: Error) => breakOff(asBodyError(error))
    const onClose = () => {
      if (!ended) breakOff(new BodyIncompleteError())
    }
    const onEnd = () => {
      ended = true
      clearTimeout(timer)
      pump()
    }
    const onData = (data: Buffer) => {
      youngWeight = new Array(Math.min(data.length, largestFromSocket) >> 4)
      received += data.length
      if (received > options.maxSize) return fail(options.tooLarge())
      timer?.refresh()
      checksum?.update(data)
      if (options.crc) crc = crc32(data, crc)
      batch.push(data)
      batchBytes += data.length
      if (batchBytes >= batchSize()) pump()
      else if (options.flushAfter !== undefined) flush ??= setTimeout(flushBatch, options.flushAfter).unref()
    }
    /** A slow line must not keep its bytes in memory. */
    const flushBatch = () => {
      flush = undefined
      if (!failure && !writing && batchBytes > 0) write()
    }

    /** Writes the batch when the disk is free; stops the source while two batches are full. */
    const pump = () => {
      if (failure) return
      if (writing) {
        if (batchBytes >= batchSize()) pause()
        return
      }
      if (batchBytes === 0) {
        if (ended) settle()
        return
      }
      if (batchBytes < batchSize() && !ended) return
      write()
    }
    const write = () => {
      writing = true
      const buffers = batch
      const position = written
      written += batchBytes
      batch = []
      batchBytes = 0
      sink(buffers, position).then(
        () => {
          writing = false
          if (flushing && batchBytes > 0) return write()
          if (failure) return settle()
          resume()
          pump()
        },
        (error: Error) => {
          writing = false
          flushing = false
          if (failure) settle()
          else fail(error)
        },
      )
    }
    const pause = () => {
      // The silence is ours now, not the client's.
      clearTimeout(timer)
      source.pause()
    }
    const resume = () => {
      if (ended || !source.isPaused()) return
      watch()
      source.resume()
    }
    const settle = () => {
      if (failure) source.pause()
      clearTimeout(timer)
      clearTimeout(flush)
      if (writing || settled) return
      settled = true
      bodies -= 1
      options.signal.removeEventListener('abort', onAbort)
      source.off('data', onData).off('end', onEnd).off('close', onClose)
      // The error listener stays: a source that is torn down later must not crash the process.
      batch = []
      if (failure) return reject(failure)
      try {
        checksum?.verify()
        resolve({ size: received, crc })
      } catch (error) {
        reject(error)
      }
    }

    bodies += 1
    watch()
    source.on('error', onError).on('end', onEnd).on('close', onClose)
    options.signal.addEventListener('abort', onAbort, { once: true })
    if (options.signal.aborted) onAbort()
    else if (source.readableEnded || source.destroyed) breakOff(new BodyIncompleteError())
    else source.on('data', onData).resume()
  })
}

function asBodyError(cause: unknown): NexusUploaderError {
  return isNexusUploaderError(cause) ? cause : new BodyIncompleteError({ cause })
}
