/** Parts that fail while others go on. */
import { setTimeout as wait } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { testEngine } from '../support/engine.ts'
import { bytes, cut } from '../support/random.ts'

/** In parts of 100 bytes, each of which takes a while; the first one fails once. */
function slowStorage() {
  const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 100, partSize: 100 } })
  const { multipart } = storage
  if (!multipart) throw new Error('no parts')
  const uploadPart = multipart.uploadPart.bind(multipart)
  const tried: number[] = []
  multipart.uploadPart = async (upload, partNumber, ...rest) => {
    tried.push(partNumber)
    await wait(20)
    if (partNumber === 1 && tried.filter((part) => part === 1).length === 1) throw new Error('failed once')
    return uploadPart(upload, partNumber, ...rest)
  }
  return { storage, tried }
}

it('a part that failed is told of and tried again while the client keeps sending', async () => {
  const { storage, tried } = slowStorage()
  const { engine, client } = testEngine({ storage })
  const errors: unknown[] = []
  engine.events.on('storageError', (event) => errors.push(event))
  const file = bytes(12_000)
  const id = await client.create(file.length, { chunkSize: 100 })
  for (const [index, data] of cut(file, 100).entries()) {
    await client.write(id, index, data)
    await wait(15)
  }
  expect(errors).toHaveLength(1)
  await expect.poll(async () => (await client.get(id)).sentParts).toEqual([[1, 120]])
  expect(tried.filter((part) => part === 1)).toHaveLength(2)
  const { key } = await client.complete(id)
  expect(storage.read(key)?.equals(file)).toBe(true)
})
