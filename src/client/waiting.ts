/** Gives some work a controller of its own, which follows `signal` while the work lasts. */
export async function within<Result>(
  signal: AbortSignal,
  work: (own: AbortController) => Promise<Result>,
): Promise<Result> {
  const own = new AbortController()
  const follow = () => own.abort(signal.reason)
  signal.addEventListener('abort', follow)
  if (signal.aborted) follow()
  return work(own).finally(() => signal.removeEventListener('abort', follow))
}

/** Waits for something, but not beyond the signal. @throws the signal's reason when it aborts */
export function orAborted<Value>(value: Promise<Value>, signal: AbortSignal): Promise<Value> {
  return within(signal, async ({ signal }) => {
    const aborted = new Promise<never>((_, reject) => {
      signal.onabort = () => reject(signal.reason)
      if (signal.aborted) reject(signal.reason)
    })
    return Promise.race([value, aborted])
  })
}
