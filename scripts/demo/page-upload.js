/**
 * Uploads of a browser over the documented routes. No DOM in here: what to show is told by `onChange`.
 *
 * Every start, resume and retry is the same walk: ask the server what is missing, send that, complete.
 */
import { abandon, progressOf, requestJson, sendChunk } from './page-requests.js'

/** What a reload costs at most is this, times the chunks under way. */
const chunkSize = 1024 * 1024
/** Over all uploads together: browsers open six connections to one server, and some are needed for questions. */
const parallelChunks = 3
const maxFailures = 8
const longestDelay = 30_000
const speedWindow = 5_000
const storagePrefix = 'nexus-uploader-demo:'

export class Upload {
  state = 'waiting'
  message = ''
  result = null
  #onChange
  #stop = new AbortController()
  #id = null
  #chunkSize = chunkSize
  #acknowledged = 0
  #underWay = new Map()
  #samples = []

  constructor(file, onChange) {
    this.file = file
    this.key = keyOf(file)
    this.#onChange = onChange
  }

  get isActive() {
    return ['waiting', 'uploading', 'pausing', 'retrying', 'finishing'].includes(this.state)
  }

  get doneBytes() {
    let bytes = this.#acknowledged
    for (const part of this.#underWay.values()) bytes += part
    return Math.min(bytes, this.file.size)
  }

  /** Bytes per second over the last moments. */
  get speed() {
    const first = this.#samples[0]
    const last = this.#samples.at(-1)
    if (!first || last.time - first.time < 300) return 0
    return Math.max(0, ((last.bytes - first.bytes) / (last.time - first.time)) * 1000)
  }

  /** Also resumes, and tries again. */
  start() {
    if (this.state === 'pausing') this.#set('uploading')
    if (this.isActive && this.state !== 'waiting') return
    this.#stop = new AbortController()
    this.#samples = []
    this.#set('uploading')
    void this.#run(this.#stop.signal)
  }

  /** Begins no more chunks. Those under way may arrive, so that nothing is sent twice. */
  pause() {
    if (this.state === 'uploading') {
      this.#set('pausing')
      return
    }
    this.#stop.abort()
    this.#set('paused')
  }

  async cancel() {
    this.#stop.abort()
    this.#set('cancelled')
    forget(this.key)
    if (this.#id) await abandon(this.#id)
  }

  async #run(signal) {
    let failures = 0
    for (;;) {
      const before = this.#acknowledged
      try {
        if (await this.#walk(signal)) return
      } catch (error) {
        if (signal.aborted) return
        failures = this.#acknowledged > before ? 1 : failures + 1
        if (!(await this.#mayGoOn(error, failures))) return
        if (this.state !== 'pausing') await this.#backOff(error, failures, signal)
      }
      if (signal.aborted) return
      if (this.state === 'pausing') {
        this.#set('paused')
        return
      }
    }
  }

  async #mayGoOn(error, failures) {
    if (!(await isReadable(this.file))) {
      this.#set('failed', 'The file cannot be read any more: it was moved or changed. Choose it again.')
      return false
    }
    const goesOn = error.passes === true && failures <= maxFailures
    if (!goesOn) this.#set('failed', error.message)
    return goesOn
  }

  async #backOff(error, failures, signal) {
    const backOff = Math.min(longestDelay, 500 * 2 ** failures) * (0.75 + Math.random() / 2)
    const delay = Math.max(backOff, (error.retryAfter ?? 0) * 1000)
    this.#set('retrying', `${error.message} Trying again in ${Math.ceil(delay / 1000)} s.`)
    await pauseFor(delay, signal)
    if (!signal.aborted) this.#set('uploading')
  }

  /** `true` when the file is stored; `false` when it was paused before everything was sent. */
  async #walk(signal) {
    const missing = await this.#open(signal)
    this.#samples = []
    if (!(await this.#sendAll(missing, signal))) return false
    this.#set('finishing')
    this.result = await requestJson('POST', '/upload/complete', { uploadId: this.#id }, signal)
    forget(this.key)
    this.#acknowledged = this.file.size
    this.#set('done')
    return true
  }

  /** Finds the upload that was begun before, or begins one; answers the chunks that are missing. */
  async #open(signal) {
    const known = recall(this.key)?.uploadId ?? this.#id
    if (known) {
      try {
        const progress = await progressOf(known, signal)
        this.#id = known
        this.#chunkSize = progress.chunkSize ?? chunkSize
        this.#acknowledged = progress.uploadedBytes
        return indexesOf(progress.missing)
      } catch (error) {
        if (!error.isGone) throw error
        forget(this.key)
      }
    }
    const { name, size, type } = this.file
    const body = { fileName: name, totalSize: size, mimeType: type || 'application/octet-stream', chunkSize }
    const { uploadId } = await requestJson('POST', '/upload/init', body, signal)
    this.#id = uploadId
    this.#chunkSize = chunkSize
    this.#acknowledged = 0
    remember(this.key, { uploadId, name, size })
    return Array.from({ length: Math.ceil(size / chunkSize) }, (_, index) => index)
  }

  async #sendAll(indexes, signal) {
    const queue = [...indexes]
    // One failure ends the other workers too; the next walk asks what is missing.
    const failed = new AbortController()
    const both = AbortSignal.any([signal, failed.signal])
    const worker = async () => {
      while (queue.length > 0 && this.state !== 'pausing') {
        const release = await takeTurn(both)
        try {
          // While we waited for our turn it may have been paused, or the last chunk taken.
          if (queue.length > 0 && this.state !== 'pausing') await this.#send(queue.shift(), both)
        } catch (error) {
          failed.abort(error)
          throw error
        } finally {
          release()
        }
      }
    }
    const results = await Promise.allSettled(Array.from({ length: parallelChunks }, worker))
    if (failed.signal.aborted) throw failed.signal.reason
    for (const result of results) if (result.status === 'rejected') throw result.reason
    return queue.length === 0
  }

  async #send(index, signal) {
    const start = index * this.#chunkSize
    const chunk = this.file.slice(start, Math.min(start + this.#chunkSize, this.file.size))
    try {
      await sendChunk(this.#id, index, chunk, signal, (bytes) => {
        this.#underWay.set(index, bytes)
        this.#moved()
      })
      this.#acknowledged += chunk.size
    } finally {
      this.#underWay.delete(index)
      this.#moved()
    }
  }

  #moved() {
    const now = performance.now()
    this.#samples.push({ time: now, bytes: this.doneBytes })
    while (now - this.#samples[0].time > speedWindow) this.#samples.shift()
    this.#onChange(this)
  }

  #set(state, message = '') {
    this.state = state
    this.message = message
    this.#onChange(this)
  }
}

// ------------------------------------------------------------------------------------ what a reload must not lose

export function keyOf({ name, size, lastModified }) {
  return `${storagePrefix}${name}:${size}:${lastModified}`
}

/** All uploads that were begun and not finished, as `[key, { uploadId, name, size }]`. */
export function rememberedUploads() {
  return storageKeys()
    .map((key) => [key, recall(key)])
    .filter(([, entry]) => entry)
}

export function forget(key) {
  withStorage((storage) => storage.removeItem(key))
}

function storageKeys() {
  return withStorage((storage) => Object.keys(storage).filter((key) => key.startsWith(storagePrefix))) ?? []
}

function remember(key, entry) {
  withStorage((storage) => storage.setItem(key, JSON.stringify(entry)))
}

function recall(key) {
  return withStorage((storage) => JSON.parse(storage.getItem(key) ?? 'null'))
}

/** Browsers may forbid or fill it; uploads work without. */
function withStorage(task) {
  try {
    return task(localStorage)
  } catch {
    return null
  }
}

// ---------------------------------------------------------------------------------------------------------- small

const waiting = []
let free = parallelChunks

/** One of the few chunks that may be under way, fairly among all uploads. Resolves with its release. */
async function takeTurn(signal) {
  if (free > 0) free--
  else await new Promise((resolve) => waiting.push(resolve))
  const release = () => {
    const next = waiting.shift()
    if (next) next()
    else free++
  }
  if (!signal.aborted) return release
  release()
  throw signal.reason
}

/** Waits, but not longer than until the network is back. */
function pauseFor(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer)
      removeEventListener('online', end)
      signal.removeEventListener('abort', end)
      resolve()
    }
    const timer = setTimeout(end, ms)
    addEventListener('online', end)
    signal.addEventListener('abort', end)
  })
}

function indexesOf(spans) {
  return spans.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, i) => first + i))
}

async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer()
    return true
  } catch {
    return false
  }
}
