/** The first bytes of uploads that wait in the storage: looked at on whatever node has them, before anything is a file. */
import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import type { UploadEngineOptions } from '../../src/create-upload-engine.ts'
import { StorageUnavailableError } from '../../src/errors.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { PartBody } from '../../src/types.ts'
import { picture, program } from '../support/disguised.ts'
import { orders, send, streamOf } from '../support/engine.ts'
import { bytes, cut } from '../support/random.ts'
import { partSize, sharedNodes, sharedStorage } from '../support/shared-nodes.ts'
import { eventually } from '../support/tus-client.ts'

const mimeType = 'image/png'
const protocol = 'native'
const beginning = 4100
const refusal = { status: 415, code: 'INVALID_FILE_TYPE' }

interface Draft {
  readonly totalSize: number | null
  readonly chunkSize?: number
  readonly partial?: boolean
}

function looking(options: Partial<UploadEngineOptions> = { verifyMimeType: true }, storage = sharedStorage()) {
  const shared = sharedNodes(2, storage, options)
  const nodes = shared.nodes.map(({ engine }) => ({
    create: async (draft: Draft) => {
      const { session } = await engine.create({ fileName: 'a.png', mimeType, protocol, ...draft })
      return session.id
    },
    write: (uploadId: string, index: number, data: Buffer, checksum?: string) =>
      engine.writeChunk({ uploadId, protocol, index, body: streamOf(data), checksum }),
    append: (uploadId: string, offset: number, data: Buffer) =>
      engine.append({ uploadId, protocol, offset, body: streamOf(data) }),
    compose: async (sources: string[]) => {
      const { session } = await engine.compose({ fileName: 'a.png', mimeType, protocol, sources })
      return session.id
    },
    get: (uploadId: string) => engine.get({ uploadId, protocol }),
    complete: (uploadId: string) => engine.complete({ uploadId, protocol }),
  }))
  const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
  return { ...shared, a, b }
}

type Looking = ReturnType<typeof looking>

/** Refused for good: nothing is left of it, and no node takes any more of it. */
async function expectRefused({ a, b, storage }: Looking, id: string) {
  await expect(b.write(id, 1, bytes(partSize))).rejects.toMatchObject(refusal)
  await expect(a.complete(id)).rejects.toMatchObject(refusal)
  expect(storage.keys()).toEqual([])
  await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
  expect(storage.openMultipartUploads()).toEqual([])
}

/** Parts that the storage takes only when it is told to. */
function slowParts(storage: MemoryStorageAdapter) {
  const { multipart } = storage
  if (!multipart) throw new Error('no parts')
  const send = multipart.uploadPart.bind(multipart)
  const waiting: (() => void)[] = []
  const state = { holds: 0, waiting }
  multipart.uploadPart = async (ref, partNumber, body: PartBody, signal) => {
    if (state.holds > 0) {
      state.holds -= 1
      await new Promise<void>((resolve) => waiting.push(resolve))
    }
    return send(ref, partNumber, body, signal)
  }
  return state
}

describe('a file of another type than it is declared as', () => {
  it('is refused when its first chunk is a part', async () => {
    const all = looking()
    const file = program(4 * partSize)
    const id = await all.a.create({ totalSize: file.length, chunkSize: partSize })
    await all.b.write(id, 2, file.subarray(2 * partSize, 3 * partSize))
    await expect(all.a.write(id, 0, file.subarray(0, partSize))).rejects.toMatchObject(refusal)
    await expectRefused(all, id)
  })

  it.each(orders)('is refused when its chunks are small, %s', async (order) => {
    const all = looking()
    const file = program(2 * partSize)
    const id = await all.a.create({ totalSize: file.length, chunkSize: 1000 })
    let refused = 0
    await send(order, cut(file, 1000), async (index, data) => {
      await (index % 2 ? all.a : all.b).write(id, index, data).catch((error) => {
        expect(error).toMatchObject(refusal)
        refused += 1
      })
    })
    expect(refused).toBeGreaterThan(0)
    await expectRefused(all, id)
  })

  it.each([true, false])('is refused when it is appended in one body (length known: %s)', async (known) => {
    const all = looking()
    const file = program(4 * partSize)
    const id = await all.a.create({ totalSize: known ? file.length : null })
    await expect(all.a.append(id, 0, file)).rejects.toMatchObject(refusal)
    await expect(all.b.append(id, 0, file)).rejects.toMatchObject(refusal)
    await expectRefused(all, id)
  })

  it('is refused when it is appended in small bodies', async () => {
    const all = looking()
    const file = program(2 * partSize)
    const id = await all.a.create({ totalSize: file.length })
    const at = [0, 1000, 2000, 3000, 4000]
    for (const offset of at.slice(0, -1)) await all.a.append(id, offset, file.subarray(offset, offset + 1000))
    await expect(all.b.append(id, 4000, file.subarray(4000, 5000))).rejects.toMatchObject(refusal)
    await expectRefused(all, id)
  })

  it.each([100, beginning - 1, beginning])('is refused when it has %i bytes', async (size) => {
    const all = looking()
    const id = await all.a.create({ totalSize: size })
    await expect(all.a.write(id, 0, program(size))).rejects.toMatchObject(refusal)
    await expectRefused(all, id)
  })

  it('is refused at its completion when its length was not known and it is short', async () => {
    const all = looking()
    const id = await all.a.create({ totalSize: null })
    await all.a.write(id, 0, program(3000))
    await expect(all.b.complete(id)).rejects.toMatchObject(refusal)
    await expectRefused(all, id)
  })

  it.each([1000, 3 * partSize])('is refused when it is composed of others (%i bytes each)', async (size) => {
    const all = looking()
    const file = program(2 * size)
    const sources = []
    for (const [index, data] of cut(file, size).entries()) {
      const node = index % 2 ? all.a : all.b
      const id = await node.create({ totalSize: size, partial: true })
      await node.append(id, 0, data)
      sources.push(id)
    }
    const id = await all.a.compose(sources)
    await expect(all.b.complete(id)).rejects.toMatchObject(refusal)
    await expect(all.a.complete(id)).rejects.toMatchObject(refusal)
    expect(all.storage.keys()).toEqual([])
    expect(all.storage.openMultipartUploads()).toEqual([])
  })

  it.each(['append', 'write'] as const)('is refused when parts are smaller than the beginning (%s)', async (verb) => {
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1024, partSize: 1024 } })
    const all = looking(undefined, storage)
    const file = program(20 * 1024)
    const id = await all.a.create({ totalSize: file.length, ...(verb === 'write' && { chunkSize: 1024 }) })
    const outcomes: unknown[] = []
    for (const [index, data] of cut(file, 1024).entries()) {
      const written = verb === 'write' ? all.a.write(id, index, data) : all.b.append(id, index * 1024, data)
      outcomes.push(
        await written.then(
          () => null,
          (error) => error,
        ),
      )
    }
    expect(outcomes.slice(0, 4)).toEqual([null, null, null, null])
    expect(outcomes[4]).toMatchObject(refusal)
    await expectRefused(all, id)
  })

  it('is refused when it takes the place of a beginning that has passed and was taken back', async () => {
    const all = looking()
    const { a, b, storage } = all
    const slow = slowParts(storage)
    const file = picture(3 * partSize)
    const other = Buffer.from(file)
    other[partSize - 1] = (other[partSize - 1] ?? 0) ^ 1
    const id = await a.create({ totalSize: file.length, chunkSize: partSize })
    slow.holds = 1
    const loser = b.write(id, 0, other.subarray(0, partSize))
    loser.catch(() => {})
    await eventually(async () => expect(slow.waiting).toHaveLength(1))
    await a.write(id, 0, file.subarray(0, partSize))
    slow.waiting[0]?.()
    await expect(loser).rejects.toMatchObject({ code: 'CHUNK_CONFLICT' })
    expect((await a.get(id)).chunks).toEqual([])
    // With a checksum nothing is looked at while it comes in.
    const bad = program(partSize)
    const checksum = `sha256:${createHash('sha256').update(bad).digest('base64')}`
    await expect(a.write(id, 0, bad, checksum)).rejects.toMatchObject(refusal)
    await expectRefused(all, id)
  })
})

describe('a beginning that has passed', () => {
  it('and was replaced in the storage behind the record is looked at again when it comes again', async () => {
    const all = looking()
    const { a, b, storage } = all
    const file = picture(3 * partSize)
    const id = await a.create({ totalSize: file.length, chunkSize: partSize })
    for (const [index, data] of cut(file, partSize).entries()) await a.write(id, index, data)
    const { key: fileKey, multipartId } = await a.get(id)
    const late = { path: null, size: partSize, open: () => streamOf(bytes(partSize)) }
    await storage.multipart?.uploadPart({ fileKey, multipartId: multipartId ?? '' }, 1, late)
    await expect(b.complete(id)).rejects.toMatchObject({ status: 409, missing: [[0, 0]] })
    const bad = program(partSize)
    const checksum = `sha256:${createHash('sha256').update(bad).digest('base64')}`
    await expect(a.write(id, 0, bad, checksum)).rejects.toMatchObject(refusal)
    await expectRefused(all, id)
  })
})

describe('two nodes that look at the same time', () => {
  /** `a` has begun to read the pieces, and gets them when `b` has done what it does. */
  async function meanwhile(all: Looking, file: Buffer, act: (id: string) => Promise<void>) {
    const { staging } = all.storage
    const open = staging.open.bind(staging)
    const id = await all.a.create({ totalSize: file.length, chunkSize: 1000 })
    const chunks = cut(file, 1000)
    for (const [index, data] of chunks.slice(0, 4).entries()) await all.a.write(id, index, data)
    let release: (() => void) | null = null
    staging.open = async (key, options) => {
      if (release === null) {
        await new Promise<void>((resolve) => {
          release = resolve
        })
      }
      return open(key, options)
    }
    const late = all.a.write(id, 4, chunks[4] as Buffer)
    late.catch(() => {})
    await eventually(async () => expect(release).not.toBeNull())
    await act(id)
    await eventually(async () => expect(all.storage.stagedKeys()).toEqual([]))
    ;(release as (() => void) | null)?.()
    return late
  }

  it('give the same answer when one has refused the file and removed it', async () => {
    const all = looking()
    const file = program(5000)
    const late = meanwhile(all, file, async (id) => {
      await expect(all.b.write(id, 4, file.subarray(4000))).rejects.toMatchObject(refusal)
    })
    await expect(late).rejects.toMatchObject(refusal)
  })

  it('both take the chunk when one has completed the file already', async () => {
    const all = looking()
    const file = picture(5000)
    const late = meanwhile(all, file, async (id) => {
      await all.b.write(id, 4, file.subarray(4000))
      await all.b.complete(id)
    })
    expect(await late).toMatchObject({ size: 1000, duplicate: false })
  })
})

describe('a file of the declared type', () => {
  it.each([partSize, 1000, 20_000])('passes in chunks of %i bytes, and is completed on another node', async (size) => {
    const { a, b, storage } = looking()
    const file = picture(4 * partSize + 5)
    const id = await a.create({ totalSize: file.length, chunkSize: size })
    for (const [index, data] of cut(file, size).entries()) await a.write(id, index, data)
    expect(storage.read((await b.complete(id)).key)).toEqual(file)
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
  })

  it.each([1024, partSize])('passes appended, with parts of %i bytes', async (size) => {
    const parts = new MemoryStorageAdapter({ multipart: { minPartSize: 1024, partSize: size } })
    const { a, b, storage } = looking(undefined, parts)
    const file = picture(9 * 1024 + 5)
    const id = await a.create({ totalSize: file.length })
    for (const [index, data] of cut(file, 1500).entries()) await (index % 2 ? a : b).append(id, index * 1500, data)
    expect(storage.read((await b.complete(id)).key)).toEqual(file)
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
  })

  it('is looked at once, however many nodes it comes through', async () => {
    let looks = 0
    const look = () => {
      looks += 1
    }
    const { a, b, storage } = looking({ hooks: { onFirstBytes: look } })
    const file = picture(4 * partSize)
    const id = await a.create({ totalSize: file.length, chunkSize: partSize })
    for (const [index, data] of cut(file, partSize).entries()) await (index % 2 ? a : b).write(id, index, data)
    expect(storage.read((await b.complete(id)).key)).toEqual(file)
    expect(looks).toBe(1)
  })
})

describe('a hook that fails', () => {
  it.each([partSize, 1000])('is asked again when the chunk of %i bytes comes again', async (size) => {
    let looks = 0
    const fails = () => {
      looks += 1
      if (looks === 1) throw new StorageUnavailableError()
    }
    const { a, b, storage } = looking({ hooks: { onFirstBytes: fails } })
    const file = picture(2 * partSize)
    const id = await a.create({ totalSize: file.length, chunkSize: size })
    let failed = 0
    for (const [index, data] of cut(file, size).entries()) {
      await a.write(id, index, data).catch(async (error) => {
        expect(error).toMatchObject({ status: 503 })
        failed += 1
        await b.write(id, index, data)
      })
    }
    expect([failed, looks]).toEqual([1, 2])
    expect(storage.read((await b.complete(id)).key)).toEqual(file)
  })

  it('lets the append go on where it was, and is asked again', async () => {
    let looks = 0
    const fails = () => {
      looks += 1
      if (looks === 1) throw new Error('the scanner is away')
    }
    const { a, b, storage, nodes } = looking({ hooks: { onFirstBytes: fails } })
    const file = picture(3 * partSize)
    const id = await a.create({ totalSize: file.length })
    await expect(a.append(id, 0, file)).rejects.toMatchObject({ status: 503, code: 'FIRST_BYTES_HOOK_FAILED' })
    expect(storage.keys()).toEqual([])
    const { offset } = (await nodes[1]?.engine.retrieveOffset({ uploadId: id, protocol })) ?? { offset: -1 }
    await b.append(id, offset, file.subarray(offset))
    expect(storage.read((await a.complete(id)).key)).toEqual(file)
    expect(looks).toBe(2)
  })
})

it('chunks behind one that is shorter than the declared size are received', async () => {
  const { nodes } = sharedNodes(1, sharedStorage(), { hooks: { onFirstBytes: async () => {} } })
  const [node] = nodes as [(typeof nodes)[0]]
  const id = await node.client.create(null, { chunkSize: 2048 })
  for (const [index, size] of [100, 2048, 2048, 2048].entries()) {
    expect(await node.client.write(id, index, bytes(size))).toMatchObject({ size })
  }
  await expect(node.client.complete(id)).rejects.toMatchObject({ status: 409 })
})
