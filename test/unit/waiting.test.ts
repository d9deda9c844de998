import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { asStorageError, bounded, follow, Turns, withDeadline, within } from '../../src/engine/waiting.ts'
import { InvalidRequestError, StorageError, StorageUnavailableError } from '../../src/errors.ts'

const never = new Promise<string>(() => {})
const timedOut = () => new DOMException('late', 'TimeoutError')

describe('a limit', () => {
  it('aborts what a failed task has left behind, and nothing after a task that has worked', async () => {
    const { signal } = new AbortController()
    const limits: AbortSignal[] = []
    const failure = new Error('failure')
    const failing = within(signal, 60_000, async (limit) => {
      limits.push(limit)
      throw failure
    })
    await expect(failing).rejects.toBe(failure)
    expect(limits[0]?.reason).toBe(failure)
    expect(await within(signal, 5, async (limit) => limits.push(limit))).toBe(2)
    await sleep(20)
    expect(limits[1]?.aborted).toBe(false)
  })
})

describe('a wait with a deadline', () => {
  it('ends with the result, or with the failure', async () => {
    const { signal } = new AbortController()
    await expect(withDeadline(Promise.resolve(7), signal)).resolves.toBe(7)
    const failure = new Error('failure')
    await expect(withDeadline(Promise.reject(failure), signal)).rejects.toBe(failure)
  })

  it('ends with the signal, also with one that was aborted before', async () => {
    const controller = new AbortController()
    const waiting = withDeadline(never, controller.signal)
    controller.abort()
    await expect(waiting).rejects.toBeInstanceOf(StorageUnavailableError)
    await expect(withDeadline(never, AbortSignal.abort())).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' })
  })

  it('tells why: an error of ours as it is, a time that is over as 504', async () => {
    const ours = new InvalidRequestError('no')
    await expect(withDeadline(never, AbortSignal.abort(ours))).rejects.toBe(ours)
    const late = withDeadline(never, AbortSignal.abort(timedOut()))
    await expect(late).rejects.toMatchObject({ code: 'STORAGE_TIMEOUT', status: 504, cause: { name: 'TimeoutError' } })
    const nothing = withDeadline(never, AbortSignal.abort(null))
    await expect(nothing).rejects.toBeInstanceOf(StorageUnavailableError)
  })

  it('leaves no listener behind, however it ends', async () => {
    const controller = new AbortController()
    let listeners = 0
    const { signal } = controller
    const add = signal.addEventListener.bind(signal)
    const remove = signal.removeEventListener.bind(signal)
    Object.assign(signal, {
      addEventListener: (...args: Parameters<typeof add>) => {
        listeners += 1
        add(...args)
      },
      removeEventListener: (...args: Parameters<typeof remove>) => {
        listeners -= 1
        remove(...args)
      },
    })
    await withDeadline(Promise.resolve(), signal)
    await withDeadline(Promise.reject(new Error('failure')), signal).catch(() => {})
    await sleep(0)
    expect(listeners).toBe(0)
    follow(signal, new AbortController())()
    expect(listeners).toBe(0)
  })
})

describe('a controller that follows a signal', () => {
  it('is aborted with it and its reason, also when that was earlier', () => {
    const source = new AbortController()
    const follower = new AbortController()
    follow(source.signal, follower)
    expect(follower.signal.aborted).toBe(false)
    source.abort('why')
    expect(follower.signal.reason).toBe('why')
    const late = new AbortController()
    follow(source.signal, late)
    expect(late.signal.reason).toBe('why')
  })

  it('does not follow any more once it is unlinked, and follows nothing without a signal', () => {
    const source = new AbortController()
    const follower = new AbortController()
    follow(source.signal, follower)()
    source.abort()
    expect(follower.signal.aborted).toBe(false)
    follow(undefined, follower)()
    expect(follower.signal.aborted).toBe(false)
  })
})

describe('a storage call', () => {
  const open = new AbortController().signal
  const options = { storageTimeout: 60_000 }

  it('gives its result, and what it throws is the storage’s failure', async () => {
    await expect(bounded({ closing: open, options }, async () => 7)).resolves.toBe(7)
    const cause = new Error('strange')
    const failing = bounded({ closing: open, options }, () => Promise.reject(cause))
    await expect(failing).rejects.toMatchObject({ code: 'STORAGE_FAILED', cause })
  })

  it('that takes too long is ended, told so, and answered with 504', async () => {
    let told: AbortSignal | null = null
    const late = bounded({ closing: open, options: { storageTimeout: 20 } }, (signal) => {
      told = signal
      return never
    })
    await expect(late).rejects.toMatchObject({ code: 'STORAGE_TIMEOUT', status: 504 })
    expect(told).toMatchObject({ aborted: true, reason: { name: 'TimeoutError' } })
  })

  it('ends with the engine', async () => {
    const closing = new AbortController()
    const call = bounded({ closing: closing.signal, options }, () => never)
    closing.abort()
    await expect(call).rejects.toBeInstanceOf(StorageUnavailableError)
  })

  it('that has ended is not told of what comes later', async () => {
    const closing = new AbortController()
    const told: AbortSignal[] = []
    await bounded({ closing: closing.signal, options: { storageTimeout: 10 } }, async (signal) => told.push(signal))
    await sleep(30)
    closing.abort()
    expect(told.map(({ aborted }) => aborted)).toEqual([false])
  })

  it('tells errors of ours as they are, those of the file system by their kind, others as a storage error', () => {
    const ours = new InvalidRequestError('no')
    expect(asStorageError(ours)).toBe(ours)
    const full = Object.assign(new Error('full'), { errno: -28, code: 'ENOSPC' })
    expect(asStorageError(full)).toMatchObject({ status: 507 })
    expect(asStorageError(Object.assign(new Error('full'), { code: 'ENOSPC' }))).toMatchObject({
      code: 'STORAGE_FAILED',
    })
    for (const strange of [null, undefined, 'text']) expect(asStorageError(strange)).toBeInstanceOf(StorageError)
  })
})

describe('turns', () => {
  it('of one key come one after the other, also behind one that failed; other keys do not wait', async () => {
    const turns = new Turns()
    const order: string[] = []
    let release: () => void = () => {}
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    const first = turns.take('a', async () => {
      order.push('first begins')
      await held
      order.push('first ends')
      throw new Error('failure')
    })
    const second = turns.take('a', async () => order.push('second'))
    await turns.take('b', async () => order.push('other'))
    await sleep(5)
    expect(order).toEqual(['first begins', 'other'])
    const third = turns.take('a', async () => order.push('third'))
    release()
    await expect(first).rejects.toThrow('failure')
    await Promise.all([second, third])
    expect(order).toEqual(['first begins', 'other', 'first ends', 'second', 'third'])
    await expect(turns.take('a', async () => 7)).resolves.toBe(7)
  })
})
