/** Many callers at once: what they see, what they wait for, and what it costs. */
import { setTimeout as wait } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { ProcessingError } from '../../src/errors.ts'
import { MemoryLocker } from '../../src/locks/memory-locker.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { UploadHooks } from '../../src/types.ts'
import { parallel, testEngine } from '../support/engine.ts'
import { nativeClient } from '../support/native-client.ts'
import { bytes, cut, seeded, sha256 } from '../support/random.ts'
import { testServer } from '../support/server.ts'

const storages = {
  'in one part': () => new MemoryStorageAdapter({ multipart: false }),
  'in parts': () => new MemoryStorageAdapter({ multipart: { minPartSize: 50_000, partSize: 50_000 } }),
}

describe.each(Object.entries(storages))('progress that is asked for all the time, %s', (_name, makeStorage) => {
  it.each([true, false])('only grows, and ends at the whole (chunk size declared: %s) [C03]', async (declared) => {
    const storage = makeStorage()
    const { url } = await testServer({ storage })
    const client = nativeClient(url)
    const file = bytes(1_000_000 - 7)
    const chunks = cut(file, 10_000)
    const id = await client.start(file.length, declared ? { chunkSize: 10_000 } : {})
    let over = false
    const poll = async () => {
      const seen: number[] = []
      for (; !over; await wait(1)) {
        const { uploadedChunks, uploadedBytes } = (await client.progress(id)).body
        expect(uploadedBytes).toBeLessThanOrEqual(file.length)
        seen.push(uploadedChunks)
      }
      return seen
    }
    const polling = Promise.all([poll(), poll()])
    const order = seeded(3).shuffle([...chunks.keys()])
    await Promise.all(order.map((index) => client.raw(id, index, chunks[index] as Buffer)))
    over = true
    for (const seen of await polling) {
      expect(seen).toEqual([...seen].sort((a, b) => a - b))
      expect(seen.every((count) => count <= 100)).toBe(true)
    }
    const whole = { uploadedChunks: 100, totalChunks: 100, uploadedBytes: file.length }
    expect((await client.progress(id)).body).toMatchObject(whole)
    const { body } = await client.complete(id)
    expect(sha256(storage.read(body.key) ?? '')).toBe(sha256(file))
  })

  it('never goes back for one who asks again and again [C03]', async () => {
    const { client } = testEngine({ storage: makeStorage() })
    const chunks = cut(bytes(1_000_000), 10_000)
    const id = await client.create(1_000_000)
    const seen: number[] = []
    let over = false
    const polling = (async () => {
      for (; !over; await wait(1)) seen.push((await client.get(id)).chunks.reduce((sum, { count }) => sum + count, 0))
    })()
    const order = seeded(4).shuffle([...chunks.keys()])
    await parallel(8, order, (index) => client.write(id, index, chunks[index] as Buffer))
    over = true
    await polling
    expect(new Set(seen).size).toBeGreaterThan(3)
    expect(seen).toEqual([...seen].sort((a, b) => a - b))
    expect(seen.every((count) => count <= 100)).toBe(true)
  })
})

describe('an onComplete that hangs', () => {
  it('is given up, asked again with the same upload, and what it says in the end changes nothing [C05]', async () => {
    const calls: string[] = []
    let giveUp = (_error: Error) => {}
    const hooks: UploadHooks = {
      onComplete(session) {
        calls.push(session.id)
        if (calls.length > 1) return
        return new Promise((_resolve, reject) => {
          giveUp = reject
        })
      },
    }
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { client } = testEngine({ storage, hooks, storageTimeout: 200 })
    const file = bytes(1000)
    const id = await client.create(file.length)
    await client.write(id, 0, file)
    await expect(client.complete(id)).rejects.toMatchObject({ status: 504, retryable: true })
    expect(await client.get(id)).toMatchObject({ state: 'active', object: { size: 1000 } })
    const { key, url } = await client.complete(id)
    giveUp(new ProcessingError('The file is refused after all.'))
    await wait(50)
    expect(calls).toEqual([id, id])
    expect((await client.complete(id)).url).toBe(url)
    expect(storage.read(key)?.equals(file)).toBe(true)
    expect(storage.keys()).toEqual([key])
  })

  it('does not keep others from the upload for longer than itself, nor makes them call it too [C05]', async () => {
    let calls = 0
    const hooks: UploadHooks = {
      async onComplete() {
        calls += 1
        await wait(300)
      },
    }
    const storage = new MemoryStorageAdapter({ multipart: false })
    const a = testEngine({ storage, hooks })
    const b = testEngine({ storage, hooks, tempDir: a.tempDir })
    const id = await a.client.create(1000)
    await a.client.write(id, 0, bytes(1000))
    const results = await Promise.all([a.client.complete(id), b.client.complete(id), a.client.complete(id)])
    expect(new Set(results.map(({ url }) => url)).size).toBe(1)
    expect(calls).toBe(1)
  })
})

describe('500 requests that wait for one upload', () => {
  async function crowd() {
    const locker = new MemoryLocker()
    const { engine, client } = testEngine({ locker })
    const id = await client.create(1000)
    const holder = await locker.acquire(id, { signal: new AbortController().signal, onReleaseRequested: () => {} })
    const answered: number[] = []
    const ask = (n: number) =>
      engine.retrieveOffset({ uploadId: id, protocol: 'native' }).then(
        () => {
          answered.push(n)
          return 200
        },
        (error: { status: number }) => error.status,
      )
    return { holder, answered, ask: () => Array.from({ length: 500 }, (_, n) => ask(n)) }
  }

  it('cost next to nothing while they wait, and all hear that it is locked [C09]', async () => {
    const { ask, holder } = await crowd()
    const waiting = ask()
    await wait(500)
    const [before, start] = [process.cpuUsage(), performance.now()]
    await wait(600)
    const { user, system } = process.cpuUsage(before)
    const share = (user + system) / 1000 / (performance.now() - start)
    expect(new Set(await Promise.all(waiting))).toEqual(new Set([423]))
    await holder.release()
    expect(share).toBeLessThan(0.05)
  })

  it('are served in the order in which they came [C09]', async () => {
    const { ask, holder, answered } = await crowd()
    const waiting = ask()
    await wait(100)
    expect(answered).toEqual([])
    await holder.release()
    const statuses = await Promise.all(waiting)
    expect(statuses.every((status) => status === 200 || status === 423)).toBe(true)
    expect(answered.length).toBeGreaterThan(0)
    expect(answered).toEqual([...answered].sort((a, b) => a - b))
    expect(answered.length).toBe(statuses.filter((status) => status === 200).length)
  })
})
