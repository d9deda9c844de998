/** Who completes an upload has it for a while, and how that ends. */
import { afterEach, describe, expect, it, vi } from 'vitest'
import { InvalidRequestError } from '../../src/errors.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { ObjectInfo, SessionRecord, StorageAdapter, UploadSession } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'
import { sharedNodes, sharedStorage } from '../support/shared-nodes.ts'
import { tempFolder } from '../support/temp-folder.ts'

const data = bytes(1_000)
const theirs = { by: 'another.1.1.0.1.00', until: Number.MAX_SAFE_INTEGER }

class Sessions extends MemorySessionStore {
  /** Called before every swap; may throw. */
  beforeReplace: (next: SessionRecord) => void = () => {}
  beforeGet: () => void = () => {}

  override async replace(next: SessionRecord, version: number) {
    this.beforeReplace(next)
    return super.replace(next, version)
  }

  override async get(id: string) {
    this.beforeGet()
    return super.get(id)
  }
}

/** A storage that answers when it is told to, and then with what it is told. */
class Slow implements StorageAdapter {
  readonly memory = new MemoryStorageAdapter({ multipart: false })
  infos: (ObjectInfo | undefined)[] = []
  started: () => void = () => {}
  go: (failure?: Error) => void = () => {}

  async upload(...object: Parameters<StorageAdapter['upload']>): Promise<string> {
    this.infos.push(object[3])
    const gate = new Promise<Error | undefined>((resolve) => {
      this.go = resolve
    })
    this.started()
    const failure = await gate
    if (failure) throw failure
    return this.memory.upload(...object)
  }
}

async function slowly(options: Parameters<typeof testEngine>[0] = {}) {
  const storage = new Slow()
  const sessions = new Sessions()
  const state = { now: 1_000_000 }
  const tempDir = tempFolder()
  const make = () => testEngine({ storage, sessions, tempDir, clock: () => state.now, uptime: () => 0, ...options })
  const { engine, client } = make()
  const id = await client.create(data.length)
  await client.write(id, 0, data)
  const record = async () => (await sessions.get(id)) as UploadSession
  const change = async (fields: Partial<UploadSession>) => {
    const current = await record()
    await sessions.replace({ ...current, ...fields, version: current.version + 1 }, current.version)
  }
  /** Resolves when the storage has been called. */
  const begin = async (complete = () => client.complete(id)) => {
    const started = new Promise<void>((resolve) => {
      storage.started = resolve
    })
    const completing = complete()
    completing.catch(() => {})
    await started
    return { completing }
  }
  return { engine, client, storage, sessions, state, id, record, change, begin, make }
}

const turn = () => new Promise((resolve) => setTimeout(resolve, 5))

afterEach(() => {
  vi.useRealTimers()
})

describe('a completion that takes long', () => {
  const fakeIntervals = () => vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })

  it('keeps the upload to itself, and lets go of it when it has ended', async () => {
    const { storage, state, begin, record } = await slowly()
    fakeIntervals()
    const idle = vi.getTimerCount()
    const { completing } = await begin()
    const lease = (await record()).completing
    expect(lease?.until).toBe(state.now + 30_000)
    for (let i = 0; i < 3; i++) {
      state.now += 10_000
      vi.advanceTimersByTime(9_999)
      await turn()
      expect((await record()).completing?.until).toBe(state.now + 20_000)
      vi.advanceTimersByTime(1)
      await turn()
      expect((await record()).completing).toEqual({ by: lease?.by, until: state.now + 30_000 })
    }
    storage.go()
    expect(await completing).toMatchObject({ size: 1_000 })
    expect(await record()).toMatchObject({ state: 'completed', completing: null })
    expect(vi.getTimerCount()).toBeLessThanOrEqual(idle + 1)
    const { version } = await record()
    vi.advanceTimersByTime(60_000)
    await turn()
    expect((await record()).version).toBe(version)
  })

  it('stops storing as soon as it learns that somebody else has the upload', async () => {
    const { storage, begin, change, record } = await slowly()
    fakeIntervals()
    const { completing } = await begin()
    await change({ completing: theirs })
    expect(storage.infos[0]?.signal?.aborted).toBe(false)
    vi.advanceTimersByTime(10_000)
    await expect(completing).rejects.toMatchObject({ code: 'UPLOAD_LOCKED', status: 423 })
    expect(storage.infos[0]?.signal?.aborted).toBe(true)
    expect(await record()).toMatchObject({ state: 'completing', completing: theirs })
    storage.go()
  })

  it('goes on when its lease cannot be renewed once', async () => {
    const { storage, sessions, begin } = await slowly()
    fakeIntervals()
    const { completing } = await begin()
    sessions.beforeReplace = () => {
      throw new Error('the store is away')
    }
    vi.advanceTimersByTime(10_000)
    await turn()
    sessions.beforeReplace = () => {}
    expect(storage.infos[0]?.signal?.aborted).toBe(false)
    storage.go()
    expect(await completing).toMatchObject({ size: 1_000 })
  })

  it('counts as activity', async () => {
    const { storage, state, begin, record } = await slowly({ sessionTtl: 50_000 })
    state.now += 40_000
    const { completing } = await begin()
    expect(await record()).toMatchObject({ updatedAt: state.now, expiresAt: state.now + 50_000 })
    storage.go()
    await completing
  })

  it('is waited for when the engine is closed', async () => {
    const { engine, storage, begin } = await slowly()
    const { completing } = await begin()
    let closed = false
    const closing = engine.close({ timeout: 5_000 }).then(() => {
      closed = true
    })
    await turn()
    expect(closed).toBe(false)
    storage.go()
    expect(await completing).toMatchObject({ size: 1_000 })
    await closing
  })

  it('is one for all who ask here', async () => {
    const { storage, client, id, begin } = await slowly()
    const { completing } = await begin()
    const others = [client.complete(id), client.complete(id)]
    await turn()
    storage.go()
    const object = await completing
    expect(await Promise.all(others)).toEqual([object, object])
    expect(storage.infos).toHaveLength(1)
  })
})

describe('a completion that fails', () => {
  const failure = new Error('outage')

  it('leaves the upload to the next one at once, also when that cannot be written down', async () => {
    const { storage, sessions, begin, record, make, id } = await slowly()
    const { completing } = await begin()
    sessions.beforeReplace = () => {
      throw new Error('the store is away')
    }
    storage.go(failure)
    await expect(completing).rejects.toMatchObject({ status: 502, cause: failure })
    sessions.beforeReplace = () => {}
    expect((await record()).state).toBe('completing')
    const other = make()
    const again = await begin(() => other.client.complete(id))
    storage.go()
    expect(await again.completing).toMatchObject({ size: 1_000 })
  })

  it('tells why, not that the sessions cannot be read either', async () => {
    const { storage, sessions, begin } = await slowly()
    const { completing } = await begin()
    sessions.beforeGet = () => {
      throw new Error('the store is away')
    }
    storage.go(failure)
    await expect(completing).rejects.toMatchObject({ status: 502, cause: failure })
    sessions.beforeGet = () => {}
  })

  it('gives back only what is its own', async () => {
    for (const fields of [{ completing: theirs }, { state: 'aborted', completing: null, open: false }] as const) {
      const { storage, begin, change, record } = await slowly()
      const { completing } = await begin()
      await change(fields)
      storage.go(failure)
      await expect(completing).rejects.toMatchObject({ status: expect.any(Number) })
      expect(await record()).toMatchObject({ state: 'completing', ...fields })
    }
  })
})

describe('a completion that finds another one at work', () => {
  it('waits for storageTimeout and then says that the upload is locked', async () => {
    let uptime = 0
    let asked = 0
    const clock = () => {
      asked += 1
      return uptime
    }
    const { client, change, id, state, storage } = await slowly({ storageTimeout: 250, uptime: clock })
    await change({ state: 'completing', completing: { by: theirs.by, until: state.now + 20_000 } })
    let ended = false
    asked = 0
    const completing = client.complete(id).finally(() => {
      ended = true
    })
    completing.catch(() => {})
    await expect.poll(() => asked).toBeGreaterThan(1)
    uptime = 249
    await new Promise((resolve) => setTimeout(resolve, 150))
    expect(ended).toBe(false)
    uptime = 250
    await expect(completing).rejects.toMatchObject({ code: 'UPLOAD_LOCKED', status: 423 })
    expect(storage.infos).toEqual([])
  })

  it('does not wait any longer when the engine is closed', async () => {
    const { engine, client, change, id, state } = await slowly()
    await change({ state: 'completing', completing: { by: theirs.by, until: state.now + 20_000 } })
    const completing = client.complete(id)
    completing.catch(() => {})
    await turn()
    await engine.close({ timeout: 1 })
    await expect(completing).rejects.toMatchObject({ status: 503 })
  })
})

describe('what cannot be removed', () => {
  it('after a completion changes nothing about the result', async () => {
    const storage = sharedStorage()
    const { nodes } = sharedNodes(1, storage)
    const { engine, client } = nodes[0] as (typeof nodes)[0]
    const warnings: string[] = []
    engine.events.on('warning', ({ code }) => warnings.push(code))
    const id = await client.create(data.length)
    await client.write(id, 0, data)
    const remove = storage.staging.remove.bind(storage.staging)
    storage.staging.remove = () => Promise.reject(new Error('outage'))
    const object = await client.complete(id)
    expect(storage.read(object.key)?.equals(data)).toBe(true)
    expect(warnings).toEqual(['CLEANUP_FAILED'])
    storage.staging.remove = remove
    expect(await client.complete(id)).toEqual(object)
  })

  it('of a file that the application has refused is removed with its record', async () => {
    let ahead = 0
    const storage = new MemoryStorageAdapter({ multipart: false })
    const reason = new InvalidRequestError('no', { code: 'UNWANTED' })
    const hooks = { onComplete: () => Promise.reject(reason) }
    const { engine, client } = testEngine({ storage, hooks, clock: () => Date.now() + ahead })
    const events: string[] = []
    engine.events.on('warning', ({ code }) => events.push(code))
    engine.events.on('aborted', () => events.push('aborted'))
    const id = await client.create(data.length)
    await client.write(id, 0, data)
    const remove = storage.remove.bind(storage)
    storage.remove = () => Promise.reject(new Error('outage'))
    await expect(client.complete(id)).rejects.toBe(reason)
    expect(events).toEqual(['CLEANUP_FAILED', 'aborted'])
    expect(storage.keys()).toHaveLength(1)
    storage.remove = remove
    ahead = 3 * 3_600_000
    await engine.sweep()
    expect(storage.keys()).toEqual([])
  })
})
