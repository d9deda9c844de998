/** What may be added to which upload, and what is answered otherwise. */
import { PassThrough, Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { streamOf, testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'

const protocol = 'tus'

function appending(options: object = {}) {
  const { engine, client } = testEngine(options)
  return {
    ...{ engine, client },
    create: async (totalSize: number | null, more: object = {}) =>
      (await engine.create({ fileName: 'a.bin', totalSize, protocol, ...more })).session.id,
    append: (uploadId: string, offset: number, body: Buffer | Readable, more: object = {}) =>
      engine.append({ uploadId, protocol, offset, body: streamOf(body), ...more }),
    complete: (uploadId: string) => engine.complete({ uploadId, protocol }),
    get: (uploadId: string) => engine.get({ uploadId, protocol }),
  }
}

describe('the offset of an append', () => {
  it('is the end of the upload; otherwise both are told', async () => {
    const { create, append } = appending()
    const id = await create(20)
    for (const offset of [1, -1]) {
      await expect(append(id, offset, bytes(1))).rejects.toMatchObject({ code: 'OFFSET_MISMATCH', status: 409 })
    }
    await append(id, 0, bytes(10))
    for (const offset of [0, 9, 11]) {
      await expect(append(id, offset, bytes(1))).rejects.toMatchObject({ code: 'OFFSET_MISMATCH' })
    }
    expect(await append(id, 10, bytes(10))).toMatchObject({ offset: 20, size: 10, interrupted: false })
  })

  it('does not exist in an upload that arrives in chunks', async () => {
    const { engine, append } = appending()
    const chunked = async (index: number) => {
      const { session } = await engine.create({ fileName: 'a', totalSize: 30, chunkSize: 10, protocol })
      await engine.writeChunk({ uploadId: session.id, protocol, index, body: streamOf(bytes(10)) })
      return session.id
    }
    await expect(append(await chunked(1), 10, bytes(1))).rejects.toMatchObject({ code: 'CHUNKED', status: 409 })
    await expect(append(await chunked(1), 0, bytes(1))).rejects.toMatchObject({ code: 'CHUNKED' })
  })
})

describe('the length of an upload', () => {
  it('may come with an append, and is the same from then on', async () => {
    const { create, append, get } = appending({ maxFileSize: 100 })
    const id = await create(null)
    await append(id, 0, bytes(10))
    for (const totalSize of [9, 10.5, Number.NaN, 2 ** 53]) {
      const refused = append(id, 10, bytes(1), { totalSize })
      await expect(refused).rejects.toMatchObject({ code: 'INCONSISTENT_LENGTH', status: 400 })
    }
    await expect(append(id, 10, bytes(1), { totalSize: 101 })).rejects.toMatchObject({
      ...{ code: 'FILE_SIZE_EXCEEDED', status: 413, details: { limit: 100 } },
    })
    expect((await get(id)).totalSize).toBeNull()
    await append(id, 10, bytes(1), { totalSize: 20 })
    expect((await get(id)).totalSize).toBe(20)
    await append(id, 11, bytes(1), { totalSize: 20 })
    await expect(append(id, 12, bytes(1), { totalSize: 21 })).rejects.toMatchObject({
      ...{ code: 'INCONSISTENT_LENGTH', message: expect.stringContaining('another length already') },
    })
  })

  it('may be what has arrived already', async () => {
    const { create, append, complete } = appending()
    const id = await create(null)
    await append(id, 0, bytes(10))
    await append(id, 10, Buffer.alloc(0), { totalSize: 10, size: 0 })
    expect((await complete(id)).size).toBe(10)
  })

  it('is not exceeded, neither by what the request tells nor by what it sends', async () => {
    const { create, append, get } = appending({ maxFileSize: 100 })
    const id = await create(20)
    await append(id, 0, bytes(10))
    const told = append(id, 10, bytes(11), { size: 11 })
    await expect(told).rejects.toMatchObject({
      ...{ code: 'FILE_SIZE_EXCEEDED', status: 413, details: { limit: 20 } },
      message: 'There are more bytes than the length declared for the upload.',
    })
    await expect(append(id, 10, bytes(11))).rejects.toMatchObject({ code: 'FILE_SIZE_EXCEEDED' })
    expect((await get(id)).state).toBe('active')
    const open = await create(null)
    await expect(append(open, 0, bytes(101), { size: 101 })).rejects.toMatchObject({
      ...{ code: 'FILE_SIZE_EXCEEDED', details: { limit: 100 }, message: expect.not.stringContaining('declared') },
    })
    expect(await append(open, 0, bytes(100), { size: 100 })).toMatchObject({ offset: 100 })
  })
})

describe('an upload that takes no more', () => {
  it('answers the last append once more when it is complete, but takes no bytes', async () => {
    const { create, append, complete } = appending()
    const id = await create(10)
    await append(id, 0, bytes(10))
    await complete(id)
    for (const more of [{ size: 0 }, {}]) {
      expect(await append(id, 10, Buffer.alloc(0), more)).toMatchObject({ offset: 10, size: 0, interrupted: false })
    }
    await expect(append(id, 10, bytes(1), { size: 1 })).rejects.toMatchObject({ code: 'FILE_SIZE_EXCEEDED' })
    await expect(append(id, 10, bytes(1))).rejects.toMatchObject({ code: 'FILE_SIZE_EXCEEDED' })
    await expect(append(id, 9, Buffer.alloc(0), { size: 0 })).rejects.toMatchObject({ code: 'OFFSET_MISMATCH' })
  })

  it('says so when it was aborted, or is made of others', async () => {
    const { engine, create, append } = appending()
    const id = await create(10)
    await engine.abort({ uploadId: id, protocol })
    await expect(append(id, 0, bytes(1))).rejects.toMatchObject({ code: 'UPLOAD_ABORTED', status: 410 })
    const partial = await create(10, { partial: true })
    await append(partial, 0, bytes(10))
    const { session } = await engine.compose({ fileName: 'b', protocol, sources: [partial] })
    await expect(append(session.id, 10, bytes(1))).rejects.toMatchObject({ code: 'COMPOSED', status: 409 })
  })

  it('that is aborted while bytes come in tells that, and not what became of its files', async () => {
    const { engine, create, append } = appending()
    const id = await create(2_000_000)
    const body = new PassThrough()
    body.write(bytes(100_000))
    const running = append(id, 0, body)
    running.catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 50))
    const aborting = engine.abort({ uploadId: id, protocol })
    await expect(running).rejects.toMatchObject({ code: 'UPLOAD_ABORTED' })
    await aborting
  })
})

it('a checksum that nobody can read is refused before the body is', async () => {
  const { create, append, get } = appending()
  const id = await create(10)
  const body = Readable.from([bytes(10)])
  await expect(append(id, 0, body, { checksum: 'md6:x' })).rejects.toMatchObject({
    code: 'INVALID_CHECKSUM',
    status: 400,
  })
  expect(body.readableDidRead).toBe(false)
  expect((await get(id)).chunks).toEqual([])
})
