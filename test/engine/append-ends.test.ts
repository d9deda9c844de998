/** Appends to an upload whose length becomes known late, while the storage loses its answers. */
import { PassThrough } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { receivedBytes } from '../../src/engine/chunk-map.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { MultipartStorage, UploadEngine } from '../../src/types.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'
import { SharedLocker, SharedSessionStore } from '../support/shared-nodes.ts'
import { eventually } from '../support/tus-client.ts'

const protocol = 'ietf'
const hour = 60 * 60_000

function world(staging: 'disk' | 'storage') {
  const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 100, partSize: 100 } })
  const multipart = storage.multipart as MultipartStorage
  const shared = staging === 'storage' && { sessions: new SharedSessionStore(), locker: new SharedLocker(), staging }
  const clock = { ahead: 0 }
  const { engine } = testEngine({
    ...{ storage, maxFileSize: 100_000, clock: () => Date.now() + clock.ahead },
    ...(shared || {}),
  })
  return { storage, multipart, engine, clock, ...appender(engine) }
}

function appender(engine: UploadEngine) {
  return {
    create: async () => (await engine.create({ fileName: 'a', totalSize: null, protocol })).session.id,
    append: (uploadId: string, offset: number, body: Buffer | PassThrough, more: object = {}) =>
      engine.append({ uploadId, protocol, offset, body: streamOf(body), ...more }),
    offset: async (uploadId: string) => (await engine.retrieveOffset({ uploadId, protocol })).offset,
    complete: (uploadId: string) => engine.complete({ uploadId, protocol }),
    get: (uploadId: string) => engine.get({ uploadId, protocol }),
  }
}

/** The next call does its work, and nobody learns of it. */
function loseNextAnswer(multipart: MultipartStorage): void {
  const uploadPart = multipart.uploadPart.bind(multipart)
  multipart.uploadPart = async (...args) => {
    multipart.uploadPart = uploadPart
    await uploadPart(...args)
    throw new Error('the answer is lost')
  }
}

it('a part behind the end, of which nobody has learned, is left out', async () => {
  const { create, append, offset, complete, storage, multipart } = world('storage')
  const id = await create()
  const file = bytes(100, 1)
  await append(id, 0, file, { size: 100 })
  loseNextAnswer(multipart)
  await expect(append(id, 100, bytes(150, 2), { size: 150 })).rejects.toMatchObject({ status: 502 })
  expect(storage.openMultipartUploads()[0]?.parts).toHaveLength(2)
  expect(await offset(id)).toBe(100)
  await append(id, 100, Buffer.alloc(0), { size: 0, totalSize: 100 })
  expect(storage.read((await complete(id)).key)).toEqual(file)
})

it('the multipart upload of a file that has become a single part is aborted in the end', async () => {
  const { create, append, offset, complete, get, storage, multipart, engine, clock } = world('storage')
  const id = await create()
  const file = bytes(100, 1)
  loseNextAnswer(multipart)
  await expect(append(id, 0, file)).rejects.toMatchObject({ status: 502 })
  expect(await offset(id)).toBe(0)
  await append(id, 0, file, { size: 100, totalSize: 100 })
  expect(storage.read((await complete(id)).key)).toEqual(file)
  for (let round = 0; round < 3; round++) {
    clock.ahead += 30 * hour
    await engine.sweep()
  }
  await expect(get(id)).rejects.toMatchObject({ status: 404 })
  expect(storage.openMultipartUploads()).toEqual([])
})

it.each(['disk', 'storage'] as const)(
  'bytes that a completion has cut off are not acknowledged: staged on %s',
  async (staging) => {
    const { create, append, complete, get, storage, multipart } = world(staging)
    const id = await create()
    const file = bytes(250, 1)
    await append(id, 0, file.subarray(0, 210), { size: 210 })
    await eventually(async () => expect((await get(id)).sentParts).toEqual([[1, 2]]))
    const line = new PassThrough()
    const appending = expect(append(id, 210, line)).rejects.toMatchObject({ retryable: true })
    line.write(file.subarray(210, 230))
    // On a disk, what comes slowly counts from time to time: with the next bytes at the latest.
    await pause(600)
    line.write(file.subarray(230))
    const counted = staging === 'disk' ? 250 : 210
    await eventually(async () => expect(receivedBytes((await get(id)).chunks)).toBe(counted))
    if (staging === 'disk') line.write(bytes(30, 3))
    await eventually(async () => expect(line.readableLength).toBe(0))
    const finish = multipart.complete.bind(multipart)
    multipart.complete = async () => {
      throw new Error('the storage is out of order')
    }
    await expect(complete(id)).rejects.toMatchObject({ status: 502 })
    multipart.complete = finish
    line.end()
    await appending
    const { key, size } = await complete(id)
    expect(size).toBe(counted)
    expect(storage.read(key)).toEqual(file.subarray(0, counted))
  },
)
