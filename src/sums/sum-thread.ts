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

type Answer = { readonly id: number } & (Digests | { readonly message: string; readonly code: unknown })

/**
 * A text, so that neither a bundler nor a loader of the application can lose the file it would be. Reads in one go, as nobody else
 * waits in this thread; what is long lets the others go first after every 16 MiB.
 */
const source = `
'use strict'
const { closeSync, openSync, readSync } = require('node:fs')
const { createHash } = require('node:crypto')
const { parentPort } = require('node:worker_threads')
const { crc32 } = require('node:zlib')

const buffer = Buffer.allocUnsafeSlow(512 * 1024)
const jobs = []

parentPort.on('message', (job) => {
  if ('cancelled' in job) return cancel(job.cancelled)
  jobs.push(job)
  if (jobs.length === 1) setImmediate(turn)
})

function turn() {
  const job = jobs.shift()
  if (!job) return
  try {
    if (work(job)) {
      close(job)
      parentPort.postMessage({ id: job.id, digests: job.sums.map((sum) => sum.digest()), read: job.read })
    } else jobs.push(job)
  } catch ({ message, code }) {
    close(job)
    parentPort.postMessage({ id: job.id, message, code })
  }
  if (jobs.length > 0) setImmediate(turn)
}

/** Whether all is done. */
function work(job) {
  job.sums ??= job.algorithms.map((name) => (name === 'crc32' ? new Crc32() : createHash(name)))
  job.read ??= 0
  for (const until = job.read + 16 * 1024 * 1024; job.read < until; ) {
    const [piece] = job.pieces
    if (!piece) return true
    job.file ??= openSync(piece.path)
    const count = readSync(job.file, buffer, 0, Math.min(buffer.length, piece.size), piece.start)
    if (count < 1 && piece.size > 0) return true
    for (const sum of job.sums) sum.update(buffer.subarray(0, count))
    job.read += count
    piece.start += count
    piece.size -= count
    if (piece.size > 0) continue
    close(job)
    job.pieces.shift()
  }
  return job.pieces.length === 0
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

function close(job) {
  const { file } = job
  job.file = undefined
  if (file !== undefined) closeSync(file)
}

function cancel(id) {
  const at = jobs.findIndex((job) => job.id === id)
  if (at >= 0) close(jobs.splice(at, 1)[0])
}
`

interface Waiting {
  resolve(digests: Digests | null): void
  reject(error: unknown): void
}

export class SumThread {
  #worker: Worker | null = null
  #isUsable = true
  #lastId = 0
  readonly #waiting = new Map<number, Waiting>()

  /**
   * `null` where there is no thread (any more): not allowed, out of memory, closed.
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
        worker.ref()
        worker.postMessage({ id, pieces, algorithms })
      })
    } finally {
      signal.removeEventListener('abort', giveUp)
    }
  }

  async close(): Promise<void> {
    const worker = this.#worker
    this.#lose()
    await worker?.terminate()
  }

  #thread(): Worker | null {
    if (this.#worker || !this.#isUsable) return this.#worker
    try {
      // None of the flags of the process, as a loader or a profiler: they are not for this.
      const worker = new Worker(source, { eval: true, execArgv: [], env: {}, name: 'nexus-uploader-sums' })
      worker.on('message', (answer: Answer) => this.#take(answer))
      worker.on('error', () => this.#lose())
      worker.on('exit', () => this.#lose())
      worker.unref()
      this.#worker = worker
    } catch {
      this.#isUsable = false
    }
    return this.#worker
  }

  #take(answer: Answer): void {
    const waiting = this.#end(answer.id)
    if ('message' in answer) waiting?.reject(Object.assign(new Error(answer.message), { code: answer.code }))
    else waiting?.resolve(answer)
  }

  #end(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id)
    this.#waiting.delete(id)
    if (this.#waiting.size === 0) this.#worker?.unref()
    return waiting
  }

  /** A thread that ended by itself would end again: from now on whoever asks has to do it. */
  #lose(): void {
    this.#isUsable = false
    this.#worker = null
    for (const { resolve } of this.#waiting.values()) resolve(null)
    this.#waiting.clear()
  }
}
