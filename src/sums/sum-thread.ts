/** Sums of files, made by a thread of its own: an MD5 takes as much time as all else that a byte costs on its way. */
import { Worker } from 'node:worker_threads'

export interface Digests {
  /** In the order of the algorithms; a CRC-32 in network byte order. */
  readonly digests: readonly Uint8Array[]
  /** Bytes that were read: fewer than were asked for when a file is shorter. */
  readonly read: number
}

/** Bytes of a file. */
export interface SummedPiece {
  readonly path: string
  readonly start: number
  readonly size: number
}

export interface SumJob {
  /** One after the other. */
  readonly pieces: readonly SummedPiece[]
  /** `crc32`, or names that `createHash` knows. */
  readonly algorithms: readonly string[]
}

type Answer = { readonly id: number } & (Digests | { readonly failure: string; readonly details: object })

/** How long the thread waits for more to do, ms. It costs some 8 MiB, and an application may have many storages. */
const idleTime = 10_000

/**
 * A text, so that neither a bundler nor a loader of the application can lose the file it would be. All files are read at once, a step of
 * each at a time, so that a long one holds up no short ones; nor does one that cannot be read, as long as Node's pool has threads
 * and there are buffers left.
 */
const source = `
'use strict'
const { createHash } = require('node:crypto')
const { open } = require('node:fs/promises')
const { parentPort } = require('node:worker_threads')
const { crc32 } = require('node:zlib')

const step = 1024 * 1024
const wanted = new Set()
const buffers = []
let unused = 8
const waiting = []

parentPort.on('message', (job) => {
  if ('cancelled' in job) return wanted.delete(job.cancelled)
  wanted.add(job.id)
  run(job).then((answer) => {
    if (wanted.delete(job.id)) parentPort.postMessage({ id: job.id, ...answer })
  })
})

async function run(job) {
  try {
    const sums = job.algorithms.map((name) => (name === 'crc32' ? new Crc32() : createHash(name)))
    let read = 0
    for (const piece of job.pieces) read += await readPiece(job, piece, sums)
    return { digests: sums.map((sum) => sum.digest()), read }
  } catch ({ message, code, errno, syscall, path }) {
    return { failure: message, details: { code, errno, syscall, path } }
  }
}

async function readPiece({ id }, { path, start, size }, sums) {
  if (size === 0) return 0
  const file = await open(path)
  try {
    let read = 0
    while (read < size && wanted.has(id)) {
      const count = await readStep(file, Math.min(step, size - read), start + read, sums)
      if (count === 0) break
      read += count
    }
    return read
  } finally {
    await file.close()
  }
}

async function readStep(file, size, position, sums) {
  const buffer = await take()
  try {
    const { bytesRead } = await file.read(buffer, 0, size, position)
    for (const sum of sums) sum.update(buffer.subarray(0, bytesRead))
    return bytesRead
  } finally {
    give(buffer)
  }
}

/** The buffers go round. */
async function take() {
  if (buffers.length > 0) return buffers.pop()
  if (unused === 0) return new Promise((resolve) => waiting.push(resolve))
  const buffer = Buffer.allocUnsafeSlow(step)
  unused -= 1
  return buffer
}

function give(buffer) {
  const next = waiting.shift()
  if (next) next(buffer)
  else buffers.push(buffer)
}

class Crc32 {
  #sum = 0
  update(bytes) {
    this.#sum = crc32(bytes, this.#sum)
  }
  digest() {
    const digest = Buffer.alloc(4)
    digest.writeUInt32BE(this.#sum)
    return digest
  }
}
`

interface Waiting {
  resolve(digests: Digests | null): void
  reject(error: unknown): void
}

export class SumThread {
  #worker: Worker | null = null
  #isLost = false
  #lastId = 0
  #idle: NodeJS.Timeout | undefined
  readonly #waiting = new Map<number, Waiting>()

  /**
   * `null` where there is no thread: not allowed, or it ended by itself.
   * @throws what reading the files throws, or the reason of `signal`
   */
  async digestsOf({ pieces, algorithms }: SumJob, signal: AbortSignal): Promise<Digests | null> {
    signal.throwIfAborted()
    const worker = this.#thread()
    if (!worker) return null
    this.#lastId += 1
    const id = this.#lastId
    const giveUp = () => {
      this.#end(id)?.reject(signal.reason)
      worker.postMessage({ cancelled: id })
    }
    signal.addEventListener('abort', giveUp, { once: true })
    try {
      return await new Promise((resolve, reject) => {
        this.#waiting.set(id, { resolve, reject })
        clearTimeout(this.#idle)
        worker.ref()
        worker.postMessage({ id, pieces: pieces.map(({ path, start, size }) => ({ path, start, size })), algorithms })
      })
    } finally {
      signal.removeEventListener('abort', giveUp)
      // What cannot be posted, nobody answers.
      if (this.#waiting.has(id)) this.#end(id)
    }
  }

  /** Ends the thread; the next job begins another. Whoever still waits gets `null`. */
  async end(): Promise<void> {
    const worker = this.#worker
    this.#worker = null
    clearTimeout(this.#idle)
    for (const { resolve } of this.#waiting.values()) resolve(null)
    this.#waiting.clear()
    await worker?.terminate()
  }

  #thread(): Worker | null {
    if (this.#worker || this.#isLost || !isAllowed()) return this.#worker
    try {
      // None of the flags of the process, as a loader or a profiler: they are not for this.
      const worker = new Worker(source, { eval: true, execArgv: [], env: {}, name: 'nexus-uploader-sums' })
      worker.on('message', (answer: Answer) => this.#take(answer))
      worker.on('error', (error) => this.#lose(worker, error))
      worker.on('exit', () => this.#lose(worker))
      worker.unref()
      this.#worker = worker
    } catch (error) {
      this.#warn(error)
    }
    return this.#worker
  }

  #take(answer: Answer): void {
    const waiting = this.#end(answer.id)
    if ('failure' in answer) waiting?.reject(Object.assign(new Error(answer.failure), answer.details))
    else waiting?.resolve(answer)
  }

  #end(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id)
    this.#waiting.delete(id)
    if (this.#waiting.size === 0) {
      this.#worker?.unref()
      clearTimeout(this.#idle)
      // Not waited for: a thread whose disk hangs does not end.
      this.#idle = setTimeout(() => {
        if (this.#waiting.size === 0) void this.end()
      }, idleTime).unref()
    }
    return waiting
  }

  #lose(worker: Worker, error?: unknown): void {
    if (worker !== this.#worker) return
    void this.end()
    this.#warn(error)
  }

  /** One that ended by itself, or did not begin, would do so again: from now on whoever asks has to do it. */
  #warn(error: unknown): void {
    this.#isLost = true
    const detail = error instanceof Error ? error.message : 'it has ended'
    process.emitWarning(`The thread for sums of files is lost (${detail}): the event loop makes them from now on.`, {
      code: 'NEXUS_SUM_THREAD_LOST',
    })
  }
}

/** All of this process share it. */
export const sumThread = new SumThread()

/** With Node's permission model, a thread that has none of the process's flags could read what the process may not. */
function isAllowed(): boolean {
  const { permission } = process as { readonly permission?: unknown }
  return permission === undefined && process.env.NEXUS_UPLOADER_SUM_THREAD !== 'off'
}
