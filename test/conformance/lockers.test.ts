import { getEventListeners } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, it, test } from 'vitest'
import { MemoryLocker } from '../../src/locks/memory-locker.ts'
import { lockerConformance } from '../../src/testing/locker-conformance.ts'

describe('MemoryLocker', () => {
  lockerConformance(test, () => ({ locker: new MemoryLocker() }))

  const request = (signal = new AbortController().signal) => ({ signal, onReleaseRequested: () => {} })

  it('is not shared with other machines', () => {
    expect(new MemoryLocker().shared).toBe(false)
  })

  it('waits without a timer or anything else that keeps the process alive', async () => {
    const locker = new MemoryLocker()
    const before = process.getActiveResourcesInfo().length
    const holder = await locker.acquire('upload', request())
    const waiters = Array.from({ length: 100 }, () => locker.acquire('upload', request()))
    await new Promise((resolve) => setImmediate(resolve))
    expect(process.getActiveResourcesInfo().length).toBeLessThanOrEqual(before)
    await holder.release()
    for (const waiter of waiters) await (await waiter).release()
  })

  it('asks a holder only once it knows that it holds, also when both came in one callback', async () => {
    const locker = new MemoryLocker()
    const events: string[] = []
    const visit = async (name: string) => {
      const { signal } = new AbortController()
      const lock = await locker.acquire('upload', { signal, onReleaseRequested: () => events.push(`${name} asked`) })
      events.push(`${name} held`)
      setImmediate(() => void lock.release())
    }
    // In a bare callback of the event loop, `nextTick` comes before promises.
    const visits = await new Promise<Promise<void>[]>((resolve) => {
      setImmediate(() => resolve([visit('first'), visit('second')]))
    })
    await Promise.all(visits)
    expect(events).toEqual(['first held', 'first asked', 'second held'])
  })

  it('leaves a holder in peace when the newcomer gives up at once', async () => {
    const locker = new MemoryLocker()
    let asked = 0
    const { signal } = new AbortController()
    const holder = await locker.acquire('upload', { signal, onReleaseRequested: () => asked++ })
    const leaver = new AbortController()
    const left = locker.acquire('upload', request(leaver.signal)).catch((reason: unknown) => reason)
    leaver.abort('enough')
    expect(await left).toBe('enough')
    await new Promise((resolve) => setImmediate(resolve))
    expect(asked).toBe(0)
    const waiter = locker.acquire('upload', request())
    await new Promise((resolve) => setImmediate(resolve))
    expect(asked).toBe(1)
    await holder.release()
    await (await waiter).release()
  })

  it('listens to a signal only while it waits', async () => {
    const locker = new MemoryLocker()
    const { signal } = new AbortController()
    const listeners = () => getEventListeners(signal, 'abort').length
    const holder = await locker.acquire('upload', request(signal))
    expect(listeners()).toBe(0)
    const waiters = [locker.acquire('upload', request(signal)), locker.acquire('upload', request(signal))]
    expect(listeners()).toBe(2)
    await holder.release()
    expect(listeners()).toBe(1)
    for (const waiter of waiters) await (await waiter).release()
    expect(listeners()).toBe(0)
  })

  it('keeps nothing of a key that nobody holds or waits for', async () => {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const heap = () => {
      collect()
      return process.memoryUsage().heapUsed
    }
    const locker = new MemoryLocker()
    const before = heap()
    // 10 000 keys of 8 KiB: 80 MB if they stayed.
    for (let n = 0; n < 10_000; n++) {
      const key = String(n).padEnd(8192, '.')
      const holder = await locker.acquire(key, request())
      const leaver = new AbortController()
      const left = locker.acquire(key, request(leaver.signal)).catch((reason: unknown) => reason)
      const waiter = locker.acquire(key, request())
      leaver.abort(key.length)
      expect(await left).toBe(8192)
      await holder.release()
      await (await waiter).release()
    }
    expect(heap() - before).toBeLessThan(20_000_000)
    // Reachable until here, whatever the optimizer thinks.
    expect(locker.shared).toBe(false)
  })
})
