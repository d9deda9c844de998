/** Chunks that come again when their upload takes no more data. */
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'

const protocol = 'native'

async function stored(recognizable: boolean, options: Parameters<typeof testEngine>[0] = {}) {
  const { engine, client, tempDir } = testEngine(options)
  const file = { fileName: 'a', totalSize: 25_000, chunkSize: 10_000, protocol, recognizable }
  const { session } = await engine.create(file)
  const data = bytes(25_000)
  const matches = (index: number, body: Buffer, size?: number) =>
    engine.matchesChunk({ uploadId: session.id, index, protocol, body: streamOf(body), size })
  for (const index of [0, 1]) await client.write(session.id, index, data.subarray(index * 10_000, (index + 1) * 10_000))
  return { engine, client, tempDir, id: session.id, data, matches, last: data.subarray(20_000) }
}

describe('matchesChunk', () => {
  it('knows the bytes of a chunk before and after the upload is complete, whatever the storage', async () => {
    for (const storage of [
      new MemoryStorageAdapter({ multipart: false }),
      new MemoryStorageAdapter({ multipart: { partSize: 8 * 1024 } }),
    ]) {
      const { client, id, data, matches, last } = await stored(true, { storage })
      const first = data.subarray(0, 10_000)
      expect(await matches(0, first)).toBe(true)
      expect(await matches(2, last)).toBe(false)
      await client.write(id, 2, last)
      await client.complete(id)
      expect(await matches(0, first)).toBe(true)
      expect(await matches(2, last)).toBe(true)
      const other = Buffer.from(first)
      other[5_000] = (other[5_000] ?? 0) ^ 1
      expect(await matches(0, other)).toBe(false)
      expect(await matches(0, first.subarray(1))).toBe(false)
      expect(await matches(0, Buffer.concat([first, first]))).toBe(false)
      expect(await matches(0, first, 9_999)).toBe(false)
      expect(await matches(3, first)).toBe(false)
    }
  })

  it('answers nothing about a body that breaks off', async () => {
    const { engine, id } = await stored(true)
    const body = new PassThrough()
    const matching = engine.matchesChunk({ uploadId: id, index: 0, protocol, body })
    body.write(bytes(5_000))
    body.destroy()
    await expect(matching).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
  })

  it('knows a chunk by the bytes that stayed when several came for it at the same time', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { engine, client } = testEngine({ storage })
    for (let round = 0; round < 60; round++) {
      const file = { fileName: 'a', totalSize: 3000, chunkSize: 3000, protocol, recognizable: true }
      const { id, key } = (await engine.create(file)).session
      const variants = [1, 2, 3].map((seed) => bytes(3000, 10 * round + seed))
      await Promise.all(variants.map((variant) => client.write(id, 0, variant)))
      await client.complete(id)
      const kept = storage.read(key) ?? Buffer.alloc(0)
      for (const variant of variants) {
        const body = streamOf(variant)
        expect(await engine.matchesChunk({ uploadId: id, index: 0, protocol, body })).toBe(variant.equals(kept))
      }
    }
  })

  it('knows a chunk by what replaced it', async () => {
    const { client, id, data, matches } = await stored(true)
    const other = bytes(10_000, 77)
    await client.write(id, 0, other)
    expect(await matches(0, other)).toBe(true)
    expect(await matches(0, data.subarray(0, 10_000))).toBe(false)
  })

  it('knows a chunk that was sent again after its sum had been lost with a killed process', async () => {
    const { client, tempDir, id, data, matches } = await stored(true)
    const first = data.subarray(0, 10_000)
    await rm(join(tempDir, 'staging', id, 'sums'))
    expect(await matches(0, first)).toBe(false)
    expect(await client.write(id, 0, first)).toMatchObject({ duplicate: true })
    expect(await matches(0, first)).toBe(true)
  })

  it('knows nothing of an upload that was not made recognizable, and leaves nothing of it', async () => {
    const { client, id, data, matches, last, tempDir } = await stored(false)
    await client.write(id, 2, last)
    await client.complete(id)
    expect(await matches(0, data.subarray(0, 10_000))).toBe(false)
    expect(await readdir(join(tempDir, 'staging'))).toEqual([])
  })

  it('keeps the sums alone, and those go with the record', async () => {
    let ahead = 0
    const { engine, client, id, last, tempDir } = await stored(true, { clock: () => Date.now() + ahead })
    await client.write(id, 2, last)
    await client.complete(id)
    expect(await readdir(join(tempDir, 'staging', id))).toEqual(['sums'])
    expect(await engine.sweep()).toMatchObject({ orphans: 0 })
    expect(await readdir(join(tempDir, 'staging', id))).toEqual(['sums'])
    ahead = 2 * 60 * 60_000
    await engine.sweep()
    expect(await readdir(join(tempDir, 'staging'))).toEqual([])
  })

  it('is not for strangers', async () => {
    const { engine } = testEngine()
    const { session } = await engine.create({ fileName: 'a', totalSize: 1, protocol, owner: 'ann', recognizable: true })
    const request = { uploadId: session.id, index: 0, protocol, owner: 'bob', body: streamOf(bytes(1)) }
    await expect(engine.matchesChunk(request)).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND' })
  })
})

describe('a chunk whose size was told', () => {
  it('counts only with that size', async () => {
    const { engine } = testEngine()
    const { session } = await engine.create({ fileName: 'a', totalSize: 100, chunkSize: 40, protocol })
    const write = (size: number, told: number) =>
      engine.writeChunk({ uploadId: session.id, index: 1, protocol, body: streamOf(bytes(size)), size: told })
    // By the declared sizes alone, the second chunk may have 40 bytes or all of the rest.
    await expect(write(40, 60)).rejects.toMatchObject({ code: 'CHUNK_SIZE_MISMATCH', status: 400 })
    expect((await engine.get({ uploadId: session.id, protocol })).chunks).toEqual([])
    expect(await write(60, 60)).toMatchObject({ size: 60 })
  })
})

describe('an upload that `onCreate` has renamed', () => {
  it('is found again by the name that the client gives it', async () => {
    let count = 0
    const onCreate = (draft: { fileName: string }) => {
      count += 1
      draft.fileName = `renamed-${count}`
    }
    const { engine } = testEngine({ hooks: { onCreate } })
    const request = { fileName: 'a', totalSize: 10, protocol, resumeKey: 'key' }
    const first = await engine.create(request)
    expect(await engine.create(request)).toMatchObject({ resumed: true, session: { id: first.session.id } })
    expect(await engine.create({ ...request, fileName: 'b' })).toMatchObject({ resumed: false })
    expect(count).toBe(2)
  })
})
