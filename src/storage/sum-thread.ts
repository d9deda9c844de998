/** Sums of files, made by a thread of its own: an MD5 alone takes as much time as all else that a byte costs on its way to S3. */
import { Worker } from 'node:worker_threads'

export interface FileSums {
  /** As hex digits. */
  readonly md5: string
  /** 0 when it was not asked for. */
  readonly crc32: number
  /** Bytes that were read: fewer than were asked for when the file is shorter. */
  readonly read: number
}

export interface SummedFile {
  readonly path: string
  /** From the start of the file, bytes. */
  readonly size: number
  readonly crc32: boolean
}

type Answer = { readonly id: number } & (FileSums | { readonly message: string; readonly code: unknown })

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
  const job = jobs[0]
  if (!job) return
  try {
    const isDone = work(job)
    jobs.shift()
    if (!isDone) jobs.push(job)
    else parentPort.postMessage({ id: job.id, md5: job.hash.digest('hex'), crc32: job.crc, read: job.read })
  } catch ({ message, code }) {
    jobs.shift()
    close(job)
    parentPort.postMessage({ id: job.id, message, code })
  }
  if (jobs.length > 0) setImmediate(turn)
}

function work(job) {
  job.hash ??= createHash('md5')
  job.file ??= openSync(job.path)
  job.read ??= 0
  job.crc ??= 0
  for (const until = Math.min(job.size, job.read + 16 * 1024 * 1024); job.read < until; ) {
    const count = readSync(job.file, buffer, 0, Math.min(buffer.length, until - job.read), job.read)
    if (count === 0) return close(job)
    const bytes = buffer.subarray(0, count)
    job.hash.update(bytes)
    if (job.crc32) job.crc = crc32(bytes, job.crc)
    job.read += count
  }
  return job.read < job.size ? false : close(job)
}

function close(job) {
  const { file } = job
  job.file = undefined
  if (file !== undefined) closeSync(file)
  return true
}

function cancel(id) {
  const at = jobs.findIndex((job) => job.id === id)
  if (at >= 0) close(jobs.splice(at, 1)[0])
}
`

interface Waiting {
  resolve(sums: FileSums | null): void
  reject(error: unknown): void
}

export class SumThread {
  #worker: Worker | null = null
  #isUsable = true
  #lastId = 0
  readonly #waiting = new Map<number, Waiting>()

  /**
   * `null` where there is no thread (any more): not allowed, out of memory, closed.
   * @throws what reading the file throws, or the reason of `signal`
   */
  async sumsOf(file: SummedFile, signal: AbortSignal): Promise<FileSums | null> {
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
        worker.postMessage({ ...file, id })
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
