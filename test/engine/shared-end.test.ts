/** How uploads end that are staged in the storage, what they leave behind, and who may stage there at all. */
import { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { createUploadEngine } from '../../src/create-upload-engine.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { MultipartStorage, PartBody, StagingStorage, StorageAdapter } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'
import { bytes, cut } from '../support/random.ts'
import { partSize, SharedSessionStore, sharedNodes, sharedStorage } from '../support/shared-nodes.ts'
import { tempFolder } from '../support/temp-folder.ts'
import { eventually } from '../support/tus-client.ts'

const hour = 60 * 60_000
const bodyOf = (data: Buffer): PartBody => ({ size: data.length, path: null, open: () => Readable.from([data]) })

/** The storage with some of its methods replaced. */
function altered(storage: MemoryStorageAdapter, staging: Partial<StagingStorage>, more: object = {}): StorageAdapter {
  const own = storage.staging
  return {
    upload: (...object) => storage.upload(...object),
    remove: (key) => storage.remove(key),
    ...(storage.multipart && { multipart: storage.multipart }),
    staging: {
      put: (...args) => own.put(...args),
      open: (...args) => own.open(...args),
      remove: (...args) => own.remove(...args),
      list: (...args) => own.list(...args),
      ...staging,
    },
    ...more,
  }
}

describe('an upload that ends', () => {
  it.each(['append', 'chunk'] as const)(
    'while its multipart upload is opened for %s gets nothing more',
    async (how) => {
      const { nodes, storage } = sharedNodes(2, sharedStorage())
      const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
      const multipart = storage.multipart as MultipartStorage
      const { create, uploadPart } = multipart
      const sent: string[] = []
      multipart.uploadPart = (...args) => {
        sent.push(args[0].multipartId)
        return uploadPart.apply(multipart, args)
      }
      const id = await a.client.create(3 * partSize, how === 'chunk' ? { chunkSize: partSize } : {})
      multipart.create = async (...args) => {
        const multipartId = await create.apply(multipart, args)
        await b.client.abort(id)
        return multipartId
      }
      const body = Readable.from([bytes(how === 'chunk' ? partSize : 3 * partSize)])
      const sending =
        how === 'chunk'
          ? a.client.write(id, 0, body)
          : a.engine.append({ uploadId: id, protocol: 'native', offset: 0, body })
      await expect(sending).rejects.toMatchObject({ status: 410, code: 'UPLOAD_ABORTED' })
      expect(sent).toEqual([])
      expect(storage.openMultipartUploads()).toEqual([])
    },
  )

  it.each([partSize, 3000])('by abort on another node leaves nothing (%i bytes)', async (size) => {
    const { nodes, storage } = sharedNodes(2, sharedStorage())
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const id = await a.client.create(10 * partSize, { chunkSize: size })
    for (const index of [0, 1, 2, 3]) await a.client.write(id, index, bytes(size, index))
    await b.client.abort(id)
    await eventually(async () => expect([storage.stagedKeys(), storage.openMultipartUploads()]).toEqual([[], []]))
    await expect(a.client.write(id, 4, bytes(size))).rejects.toMatchObject({ status: 410 })
    expect(storage.stagedKeys()).toEqual([])
  })

  it('is not near for an upload whose client sends a chunk once more', async () => {
    let ahead = 0
    const { nodes } = sharedNodes(2, sharedStorage(), { clock: () => Date.now() + ahead })
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const id = await a.client.create(10 * partSize, { chunkSize: partSize })
    await a.client.write(id, 0, bytes(partSize, 0))
    ahead = hour - 60_000
    expect(await b.client.write(id, 0, bytes(partSize, 0))).toMatchObject({ duplicate: true })
    ahead = hour + 60_000
    expect(await a.engine.sweep()).toMatchObject({ expired: 0 })
    await b.client.write(id, 1, bytes(partSize, 1))
  })

  it('by expiry on another node leaves nothing, and its sums go with its record', async () => {
    let ahead = 0
    const { nodes, storage, sessions } = sharedNodes(2, sharedStorage(), { clock: () => Date.now() + ahead })
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const id = await a.client.create(10 * partSize, { chunkSize: 3000 })
    for (const index of [0, 1, 2, 3, 4]) await a.client.write(id, index, bytes(3000, index))
    ahead = 2 * hour
    expect(await b.engine.sweep()).toMatchObject({ expired: 1, failed: 0 })
    expect([storage.stagedKeys(), storage.openMultipartUploads()]).toEqual([[], []])
    ahead = 4 * hour
    expect(await a.engine.sweep()).toMatchObject({ forgotten: 1 })
    expect(sessions.summed).toBe(0)
  })

  it('while a chunk is on its way refuses the chunk, and its piece is removed', async () => {
    const memory = sharedStorage()
    let arrived = () => {}
    const arrival = new Promise<void>((resolve) => {
      arrived = resolve
    })
    let goOn = () => {}
    const gate = new Promise<void>((resolve) => {
      goOn = resolve
    })
    const storage = altered(memory, {
      put: async (...args) => {
        arrived()
        await gate
        await memory.staging.put(...args)
      },
    })
    const { nodes } = sharedNodes(2, storage)
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const id = await a.client.create(10 * partSize, { chunkSize: 1000 })
    const writing = a.client.write(id, 0, bytes(1000)).catch((error) => error)
    await arrival
    await b.client.abort(id)
    goOn()
    expect(await writing).toMatchObject({ status: 410 })
    await eventually(async () => expect(memory.stagedKeys()).toEqual([]))
  })

  it('with strays of writers that died takes those of its own with it, and no others', async () => {
    const { nodes, storage } = sharedNodes(1, sharedStorage())
    const [node] = nodes as [(typeof nodes)[0]]
    const id = await node.client.create(1000)
    await node.client.write(id, 0, bytes(1000))
    await storage.staging.put(`${id}/stray`, bodyOf(bytes(10)))
    await storage.staging.put(`${id}0/other`, bodyOf(bytes(10)))
    await node.client.complete(id)
    expect(storage.stagedKeys()).toEqual([`${id}0/other`])
  })
})

describe('the sweeper', () => {
  it('removes old pieces of uploads that nobody knows, and only those', async () => {
    let ahead = 0
    const { nodes, storage } = sharedNodes(1, sharedStorage(), {
      clock: () => Date.now() + ahead,
      sessionTtl: 10 * hour,
    })
    const [node] = nodes as [(typeof nodes)[0]]
    const id = await node.client.create(1000)
    await node.client.write(id, 0, bytes(500))
    const [known] = storage.stagedKeys()
    await storage.staging.put('11111111-1111-4111-8111-111111111111/abc', bodyOf(bytes(10)))
    const foreign = ['not ours', 'sessions/abc', '11111111-1111-4111-8111-111111111111/Report.pdf', 'photos/2024/a.jpg']
    for (const key of foreign) await storage.staging.put(key, bodyOf(bytes(10)))
    expect(await node.engine.sweep()).toMatchObject({ orphans: 0 })
    ahead = 9 * hour
    expect(await node.engine.sweep()).toMatchObject({ orphans: 0 })
    await node.client.write(id, 1, bytes(100))
    ahead = 11 * hour
    expect(await node.engine.sweep()).toMatchObject({ orphans: 1, expired: 0 })
    expect(storage.stagedKeys()).toEqual([known, ...foreign, expect.stringContaining(id)])
  })

  it('of one node leaves to another what that is at already', async () => {
    let ahead = 0
    const memory = sharedStorage()
    let goOn = () => {}
    const gate = new Promise<void>((resolve) => {
      goOn = resolve
    })
    let lists = 0
    const storage = altered(memory, {
      list: async function* (prefix) {
        lists += 1
        await gate
        yield* memory.staging.list(prefix)
      },
    })
    const { nodes } = sharedNodes(2, storage, { clock: () => Date.now() + ahead })
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    await a.client.create(1000)
    ahead = 2 * hour
    const first = a.engine.sweep()
    await eventually(async () => expect(lists).toBe(1))
    expect(await b.engine.sweep()).toMatchObject({ expired: 0, failed: 0 })
    expect(lists).toBe(1)
    goOn()
    expect(await first).toMatchObject({ expired: 1 })
  })
})

describe('a storage in trouble', () => {
  it('a piece that cannot be stored is not acknowledged, and the same chunk later is', async () => {
    const memory = sharedStorage()
    let failures = 2
    const storage = altered(memory, {
      put: async (...args) => {
        if (failures-- > 0) throw new Error('503')
        await memory.staging.put(...args)
      },
    })
    const { nodes } = sharedNodes(1, storage)
    const [node] = nodes as [(typeof nodes)[0]]
    const data = bytes(1000)
    const id = await node.client.create(1000)
    for (let i = 0; i < 2; i++) {
      await expect(node.client.write(id, 0, data)).rejects.toMatchObject({ status: 502, retryable: true })
      expect((await node.client.get(id)).chunks).toEqual([])
    }
    await node.client.write(id, 0, data)
    expect(memory.read((await node.client.complete(id)).key)).toEqual(data)
  })

  it('a read that breaks off is resumed where it was', async () => {
    const memory = sharedStorage()
    const ranges: unknown[] = []
    const storage = altered(memory, {
      open: async (key, options = {}) => {
        ranges.push(options.range)
        const whole = await memory.staging.open(key, options)
        if (ranges.length > 2) return whole
        const [data] = (await whole.toArray()) as Buffer[]
        return Readable.from(
          (async function* () {
            yield data?.subarray(0, 100)
            throw new Error('the connection broke')
          })(),
        )
      },
    })
    const { nodes } = sharedNodes(1, storage)
    const [node] = nodes as [(typeof nodes)[0]]
    const file = bytes(1000)
    const id = await node.client.create(1000)
    await node.client.write(id, 0, file)
    expect(memory.read((await node.client.complete(id)).key)).toEqual(file)
    expect(ranges).toEqual([0, 100, 200].map((start) => ({ start, end: 1000 })))
  })

  it('a part that could not be made when it was whole is made by whoever completes', async () => {
    const memory = sharedStorage()
    let down = true
    const multipart = memory.multipart
    const broken = Object.create(multipart ?? null, {
      uploadPart: {
        value: async (...args: Parameters<NonNullable<typeof multipart>['uploadPart']>) => {
          if (down) throw new Error('503')
          await multipart?.uploadPart(...args)
        },
      },
      create: { value: (...args: Parameters<NonNullable<typeof multipart>['create']>) => multipart?.create(...args) },
      listParts: {
        value: (...args: Parameters<NonNullable<typeof multipart>['listParts']>) => multipart?.listParts(...args),
      },
      complete: {
        value: (...args: Parameters<NonNullable<typeof multipart>['complete']>) => multipart?.complete(...args),
      },
    })
    const { nodes } = sharedNodes(2, altered(memory, {}, { multipart: broken }))
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const file = bytes(3 * partSize)
    const id = await a.client.create(file.length, { chunkSize: partSize / 4 })
    for (const [index, data] of cut(file, partSize / 4).entries()) await a.client.write(id, index, data)
    await expect(b.client.complete(id)).rejects.toMatchObject({ status: 502 })
    expect(memory.stagedKeys()).toHaveLength(12)
    down = false
    expect(memory.read((await b.client.complete(id)).key)).toEqual(file)
    await eventually(async () => expect(memory.stagedKeys()).toEqual([]))
  })

  it('a session store whose answer is lost leaves the piece that it may have recorded', async () => {
    const { nodes, storage, sessions } = sharedNodes(1, sharedStorage())
    const [node] = nodes as [(typeof nodes)[0]]
    const data = bytes(1000)
    const id = await node.client.create(1000)
    sessions.beforeReplace = () => {
      throw new Error('the answer was lost')
    }
    await expect(node.client.write(id, 0, data)).rejects.toMatchObject({ status: 503 })
    sessions.beforeReplace = () => {}
    expect(storage.stagedKeys()).toHaveLength(1)
    await node.client.write(id, 0, data)
    expect(storage.read((await node.client.complete(id)).key)).toEqual(data)
    expect(storage.stagedKeys()).toEqual([])
  })
})

describe('the option staging', () => {
  const make = (options: object) => createUploadEngine({ storage: sharedStorage(), tempDir: tempFolder(), ...options })

  it('is storage when sessions are shared and everything is there, else disk', async () => {
    const staged = async (options: object) => {
      const { engine } = testEngine({ storage: sharedStorage(), ...options })
      return (await engine.create({ fileName: 'a', totalSize: 1, protocol: 'native' })).session.staged
    }
    expect(await staged({ sessions: new SharedSessionStore() })).toBe('storage')
    expect(await staged({ sessions: new SharedSessionStore(), staging: 'disk' })).toBeUndefined()
    expect(await staged({ sessions: new MemorySessionStore() })).toBeUndefined()
    expect(await staged({})).toBeUndefined()
    const storage = new MemoryStorageAdapter({ multipart: false })
    expect(await staged({ sessions: new SharedSessionStore(), storage })).toBeUndefined()
  })

  it('refuses what cannot be', () => {
    expect(() => make({ staging: 'storage' })).toThrow(/session store with `chunkSums`/)
    const storage = new MemoryStorageAdapter({ multipart: false })
    expect(() => make({ staging: 'storage', sessions: new SharedSessionStore(), storage })).toThrow(/`multipart`/)
    expect(() => make({ staging: 'tape' })).toThrow(TypeError)
  })

  it('warns once when sessions are shared and disks may not be', async () => {
    const warnings = async (options: object) => {
      const engine = make(options)
      const codes: string[] = []
      engine.events.on('warning', ({ code }) => codes.push(code))
      await new Promise((resolve) => setTimeout(resolve, 20))
      await engine.close()
      return codes
    }
    const storage = new MemoryStorageAdapter({ multipart: false })
    expect(await warnings({ sessions: new SharedSessionStore(), storage })).toEqual(['STAGING_NOT_SHARED'])
    expect(await warnings({ sessions: new SharedSessionStore(), storage, staging: 'disk' })).toEqual([])
    expect(await warnings({ sessions: new SharedSessionStore() })).toEqual([])
    expect(await warnings({})).toEqual([])
  })

  it('gives parts the size of the largest chunk where it can, and of the declared one', async () => {
    const { engine } = testEngine({ storage: sharedStorage(), sessions: new SharedSessionStore(), maxChunkSize: 6000 })
    const planned = async (more: object) =>
      (await engine.create({ fileName: 'a', totalSize: 100_000, protocol: 'native', ...more })).session.partSize
    expect(await planned({})).toBe(6000)
    expect(await planned({ chunkSize: 5000 })).toBe(5000)
    expect(await planned({ chunkSize: 1000 })).toBe(6000)
    expect(await planned({ totalSize: 100_000_000 })).toBe(10_000)
  })
})
