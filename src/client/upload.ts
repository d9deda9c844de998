import { createListeners } from './listeners.ts'
import { createPace } from './pace.ts'
import type { Platform } from './platform.ts'
import { openInBrowser } from './sources.ts'
import { createSpeedMeter } from './speed-meter.ts'
import { createTransfer } from './transfer.ts'
import { sendFromBrowser } from './transport.ts'
import type { Upload, UploadOptions, UploadProgress, UploadResult, UploadSource } from './types.ts'
import { UploadError } from './upload-error.ts'

/** Between two calls of the listeners, ms, unless the state changes. */
const notifyEvery = 100

/**
 * The upload of one file; `start` begins it.
 * @param platform where it runs; the entry for Node brings its own
 * @throws TypeError for an option that cannot be used
 */
export function createUpload(
  source: UploadSource,
  options: UploadOptions = {},
  platform: Platform = { send: sendFromBrowser, open: openInBrowser },
): Upload {
  for (const name of ['chunkSize', 'parallel', 'stallTimeout'] as const) {
    if (!((options[name] ?? 1) >= 1)) throw new TypeError(`${name} must be at least 1`)
  }
  const { signal } = options
  const pace = createPace(options, changed)
  const transfer = createTransfer(source, options, platform, pace, changed)
  const { subscribe, tell } = createListeners(options.onProgress)
  let state: UploadProgress['state'] = 'idle'
  let url: string | null = null
  let error: unknown = null
  let progress = snapshot()
  let timer: ReturnType<typeof setTimeout> | undefined
  let speedAt = createSpeedMeter()
  let promise: Promise<UploadResult> | undefined
  let resolve: (result: UploadResult) => void
  let reject: (reason: unknown) => void
  let cancel = new AbortController()
  /** What runs, to its very end. */
  let running = Promise.resolve()

  function snapshot(): UploadProgress {
    const { isCompleting, sentBytes, found, opened } = transfer.status
    const totalBytes = opened?.size ?? 0
    const isRunning = state === 'uploading'
    const speed = isRunning ? speedAt(sentBytes - found) : 0
    return {
      state: isRunning && pace.waitsFor ? 'waiting' : isRunning && isCompleting ? 'completing' : state,
      sentBytes,
      totalBytes,
      speed,
      secondsLeft: speed > 0 ? (totalBytes - sentBytes) / speed : null,
      url,
      error: error ?? pace.waitsFor,
    }
  }

  function notify(): void {
    clearTimeout(timer)
    timer = undefined
    progress = snapshot()
    tell(progress)
  }

  /** Bytes are told of every now and then, another state at once. */
  function changed(): void {
    if (snapshot().state !== progress.state) notify()
    else timer ??= setTimeout(notify, notifyEvery)
  }

  function run(): void {
    cancel = new AbortController()
    const { signal } = cancel
    error = null
    speedAt = createSpeedMeter()
    state = 'uploading'
    notify()
    // What was stopped has to come to its end first.
    running = running
      .then(() => transfer.run(signal))
      .then(
        (result) => {
          url = result.url
          end('completed', null)
          resolve(result)
        },
        (reason) => {
          if (!signal.aborted) end('failed', reason)
        },
      )
  }

  /** Nothing comes after completion; after the others `start` does. */
  function end(next: 'completed' | 'failed' | 'aborted', reason: unknown): void {
    if (state === 'completed' || state === 'aborted') return
    signal?.removeEventListener('abort', leave)
    cancel.abort()
    transfer.status.opened?.close()
    state = next
    error = reason
    notify()
    if (reason) reject?.(reason)
  }

  function leave(): void {
    end('aborted', signal?.reason)
  }

  return {
    get progress() {
      return progress
    },
    subscribe,
    start() {
      if (promise && state !== 'failed' && state !== 'aborted') return promise
      promise = new Promise((onResult, onReason) => {
        resolve = onResult
        reject = onReason
      })
      state = 'idle'
      if (signal?.aborted) leave()
      else {
        signal?.addEventListener('abort', leave)
        run()
      }
      return promise
    },
    pause() {
      if (state !== 'uploading') return
      state = 'paused'
      cancel.abort()
      notify()
    },
    resume() {
      if (state === 'paused') run()
    },
    async abort() {
      end('aborted', new UploadError('The upload was aborted.', { code: 'ABORTED' }))
      const removed = running.then(() => transfer.remove())
      // A new start waits until nothing of this one is left.
      running = removed.catch(() => {})
      await removed
    },
  }
}

/** Uploads one file; to pause it and the like there is `createUpload`. @throws UploadError; the signal's reason */
export function uploadFile(source: UploadSource, options?: UploadOptions): Promise<UploadResult> {
  return createUpload(source, options).start()
}
