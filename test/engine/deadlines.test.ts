/** Deadlines hold whatever the garbage collector does: Node 20 lets it have an `AbortSignal.timeout` within an `AbortSignal.any`. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { oneAtATime } from '../../src/engine/sweep-turn.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { Locker, MultipartStorage } from '../../src/types.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'
import { SharedSessionStore } from '../support/shared-nodes.ts'

const never = () => new Promise<never>(() => {})
const multipart = { minPartSize: 100, partSize: 100 }
let collecting: ReturnType<typeof setInterval>

beforeAll(() => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  collecting = setInterval(collect, 20)
})
afterAll(() => clearInterval(collecting))

const storages: Readonly<Record<string, () => MemoryStorageAdapter>> = {
  'the whole file': () => Object.assign(new MemoryStorageAdapter({ multipart: false }), { upload: never }),
  'a file that is adopted': () => Object.assign(new MemoryStorageAdapter({ multipart: false }), { adoptFile: never }),
  'a part': () => stuckAt('uploadPart'),
  'the list of parts': () => stuckAt('listParts'),
  'the end of a multipart upload': () => stuckAt('complete'),
}

/** For ever, and deaf to signals. */
function stuckAt(call: keyof MultipartStorage): MemoryStorageAdapter {
  const storage = new MemoryStorageAdapter({ multipart })
  Object.assign(storage.multipart ?? {}, { [call]: never })
  return storage
}

describe('a storage that is stuck', () => {
  it.each(Object.keys(storages))('with %s is waited for until its time is over', async (what) => {
    const storage = storages[what]?.() as MemoryStorageAdapter
    const { client } = testEngine({ storage, storageTimeout: 300 })
    const id = await client.create(350)
    await client.write(id, 0, bytes(350))
    await expect(client.complete(id)).rejects.toMatchObject({ retryable: true, status: 504 })
  })

  it('with an object of pieces is waited for until its time is over', async () => {
    const storage = Object.assign(new MemoryStorageAdapter({ multipart }), { upload: never })
    const sessions = new SharedSessionStore()
    const { client } = testEngine({ storage, sessions, storageTimeout: 300, staging: 'storage' })
    const id = await client.create(50)
    await client.write(id, 0, bytes(50))
    await expect(client.complete(id)).rejects.toMatchObject({ retryable: true, status: 504 })
  })
})

it.each(['onFirstBytes', 'onComplete'] as const)(
  'a hook that is stuck is waited for until its time is over: %s',
  async (hook) => {
    const { client } = testEngine({ storageTimeout: 300, hooks: { [hook]: never } })
    const id = await client.create(50)
    const failing =
      hook === 'onComplete'
        ? client.write(id, 0, bytes(50)).then(() => client.complete(id))
        : client.write(id, 0, bytes(50))
    await expect(failing).rejects.toMatchObject({ retryable: true })
  },
)

describe('a lock that nobody gives', () => {
  const waiting: Locker = {
    shared: true,
    acquire: (_key, { signal }) =>
      new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason))),
  }

  it('keeps an append waiting for as long as clients do', async () => {
    const sessions = new SharedSessionStore()
    const { engine } = testEngine({ locker: waiting, sessions })
    const protocol = 'tus'
    const uploadId = (await engine.create({ fileName: 'a', totalSize: 10, protocol })).session.id
    const appending = engine.append({ uploadId, protocol, offset: 0, body: streamOf(bytes(10)) })
    await expect(appending).rejects.toMatchObject({ status: 423 })
  })

  it('leaves the sweep to others', async () => {
    const closing = new AbortController()
    const parts = { options: { locker: waiting }, closing: closing.signal }
    let ran = false
    await oneAtATime(parts as never, async () => {
      ran = true
    })
    expect(ran).toBe(false)
  })
})
