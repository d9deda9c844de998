/** Waits that end. */
import {
  fromFileSystemError,
  isNexusUploaderError,
  type NexusUploaderError,
  StorageError,
  StorageUnavailableError,
} from '../errors.ts'

/**
 * The promise's result, or an error as soon as the signal aborts: a hook or an adapter that ignores the signal
 * cannot hold a request for ever. What the promise does afterwards is no longer looked at.
 */
export function withDeadline<Result>(promise: Promise<Result>, signal: AbortSignal): Promise<Result> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(deadlineError(signal.reason))
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

function deadlineError(reason: unknown): Error {
  if (isNexusUploaderError(reason)) return reason
  if ((reason as { name?: unknown } | null)?.name === 'TimeoutError') {
    return new StorageError('The storage took too long. Nothing was lost; try again.', {
      code: 'STORAGE_TIMEOUT',
      status: 504,
      cause: reason,
    })
  }
  return new StorageUnavailableError(undefined, { cause: reason })
}

/** `AbortSignal.any` would leave something behind in a long-lived signal with every chunk; this does not. */
export function follow(signal: AbortSignal | undefined, controller: AbortController): () => void {
  const onAbort = () => controller.abort(signal?.reason)
  if (signal?.aborted) onAbort()
  signal?.addEventListener('abort', onAbort, { once: true })
  return () => signal?.removeEventListener('abort', onAbort)
}

/**
 * Gives the task a signal that aborts with `signal`, or after `time` ms. An `AbortSignal.timeout` within an `AbortSignal.any`
 * would not do: Node 20 lets the garbage collector have it, and it never aborts.
 */
export async function within<Result>(
  signal: AbortSignal,
  time: number,
  task: (limit: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const stop = new AbortController()
  const unlink = follow(signal, stop)
  const late = () => stop.abort(new DOMException('That took too long.', 'TimeoutError'))
  const timer = setTimeout(late, time).unref()
  try {
    return await task(stop.signal)
  } catch (error) {
    // What the task has left behind ends with it.
    stop.abort(error)
    throw error
  } finally {
    clearTimeout(timer)
    unlink()
  }
}

/** A call that ends with the signal, or when it has taken too long, also when it looks at neither. */
export function inTime<Result>(
  signal: AbortSignal,
  time: number,
  call: (limit: AbortSignal) => Promise<Result>,
): Promise<Result> {
  return within(signal, time, (limit) => withDeadline(call(limit), limit))
}

/** A storage call that ends with the engine, or when it has taken too long. */
export async function bounded<Result>(
  { closing, options }: { readonly closing: AbortSignal; readonly options: { readonly storageTimeout: number } },
  call: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  try {
    return await inTime(closing, options.storageTimeout, call)
  } catch (error) {
    throw asStorageError(error)
  }
}

/** What an adapter throws, whatever it is, is the storage's failure: nothing is lost and a retry may work. */
export function asStorageError(cause: unknown): NexusUploaderError {
  if (isNexusUploaderError(cause)) return cause
  const errno = (cause as { errno?: unknown } | null)?.errno
  return typeof errno === 'number' ? fromFileSystemError(cause) : new StorageError(undefined, { cause })
}

/** Lets tasks of the same key run one after the other, in this process. */
export class Turns {
  readonly #last = new Map<string, Promise<unknown>>()

  async take<Result>(key: string, task: () => Promise<Result>): Promise<Result> {
    const running = (this.#last.get(key) ?? Promise.resolve()).then(task)
    const settled = running.catch(() => {})
    this.#last.set(key, settled)
    try {
      return await running
    } finally {
      if (this.#last.get(key) === settled) this.#last.delete(key)
    }
  }
}
