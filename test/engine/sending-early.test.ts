/** Parts leave for the storage while the rest of the file is still coming. */
import { expect, it } from 'vitest'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'

const parts = { minPartSize: 1_000, partSize: 1_000 }

it('chunks that find their place late leave without waiting for another one', async () => {
  const { client } = testEngine({ storage: new MemoryStorageAdapter({ multipart: parts }) })
  const id = await client.create(3_500)
  for (const index of [2, 1]) await client.write(id, index, bytes(1_000, index))
  expect((await client.get(id)).sentParts).toEqual([])
  await client.write(id, 0, bytes(1_000))
  await expect.poll(async () => (await client.get(id)).sentParts).toEqual([[1, 3]])
})

it('no part leaves before the checksum of the whole file has been verified', async () => {
  const { client, storage } = testEngine({ storage: new MemoryStorageAdapter({ multipart: parts }) })
  const id = await client.create(3_500, { chunkSize: 1_000, checksum: 'crc32:AAAAAA==' })
  for (const index of [0, 1]) await client.write(id, index, bytes(1_000, index))
  await client.write(id, 2, bytes(1_500))
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect((await client.get(id)).sentParts).toEqual([])
  await expect(client.complete(id)).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH', status: 422 })
  expect(await client.get(id)).toMatchObject({ state: 'active', sentParts: [], multipartId: null })
  expect((storage as MemoryStorageAdapter).keys()).toEqual([])
})
