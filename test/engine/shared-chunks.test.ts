/** Chunks of one upload on nodes that share sessions and storage, and no disk. */
import { createHash } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { type engineClient, orders, parallel, send } from '../support/engine.ts'
import { bytes, cut, seeded } from '../support/random.ts'
import { lose, partSize, sharedNodes, sharedStorage } from '../support/shared-nodes.ts'
import { eventually } from '../support/tus-client.ts'

const protocol = 'native'

describe('chunks that go to any node', () => {
  const cases = orders.flatMap((order) =>
    [partSize, 3000, 20_000].flatMap((size) => [true, false].map((declared) => [order, size, declared] as const)),
  )

  it.each(cases)('become one file, %s, %i bytes each, size declared: %s', async (order, size, declared) => {
    const { nodes, storage } = sharedNodes(3, sharedStorage())
    const random = seeded(size)
    const file = bytes(100_001, size)
    const chunks = cut(file, size)
    const id = await nodes[0]?.client.create(file.length, declared ? { chunkSize: size } : {})
    const any = () => nodes[random.integer(0, 2)]?.client as ReturnType<typeof engineClient>
    await send(order, chunks, async (index, data) => {
      expect(await any().write(id as string, index, data)).toMatchObject({ size: data.length, duplicate: false })
    })
    const object = await any().complete(id as string)
    expect(storage.read(object.key)).toEqual(file)
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
    expect(storage.openMultipartUploads()).toEqual([])
    for (const { tempDir } of nodes) {
      await eventually(async () => expect(readdirSync(join(tempDir, 'spool'))).toEqual([]))
      expect(readdirSync(join(tempDir, 'staging'))).toEqual([])
    }
  })

  it.each([0, 1, partSize - 1, partSize, partSize + 1])('a file of %i bytes, in one chunk', async (size) => {
    const { nodes, storage } = sharedNodes(2, sharedStorage())
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const file = bytes(size)
    const id = await a.client.create(size)
    if (size > 0) await a.client.write(id, 0, file)
    const object = await b.client.complete(id)
    expect(object.size).toBe(size)
    expect(storage.read(object.key)).toEqual(file)
    expect(storage.stagedKeys()).toEqual([])
  })

  it('a chunk as large as a part goes straight into it, and the record stays small', async () => {
    const { nodes, storage } = sharedNodes(2, sharedStorage())
    const file = bytes(50 * partSize + 7)
    const id = (await nodes[0]?.client.create(file.length, { chunkSize: partSize })) ?? ''
    await parallel(4, [...cut(file, partSize).entries()], async ([index, data]) => {
      await nodes[index % 2]?.client.write(id, index, data)
      expect(storage.stagedKeys()).toEqual([])
    })
    const session = await nodes[1]?.client.get(id)
    expect(session?.sentParts).toEqual([[1, 51]])
    expect(session?.chunks).toEqual([
      { index: 0, count: 50, size: partSize, offset: 0, loose: 0 },
      { index: 50, count: 1, size: 7, offset: 50 * partSize, loose: 0 },
    ])
  })

  it('a last chunk of two parts is a piece that becomes both of them', async () => {
    const { nodes, storage } = sharedNodes(1, sharedStorage())
    const [node] = nodes as [(typeof nodes)[0]]
    const file = bytes(3 * partSize - 5)
    const id = await node.client.create(file.length, { chunkSize: partSize })
    await node.client.write(id, 0, file.subarray(0, partSize))
    await node.client.write(id, 1, file.subarray(partSize))
    await eventually(async () => expect((await node.client.get(id)).sentParts).toEqual([[1, 3]]))
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
    expect(storage.read((await node.client.complete(id)).key)).toEqual(file)
  })

  it('pieces become a part as soon as it is whole, and are removed', async () => {
    const { nodes, storage } = sharedNodes(2, sharedStorage())
    const size = partSize / 4
    const file = bytes(10 * size)
    const id = (await nodes[0]?.client.create(file.length, { chunkSize: size })) ?? ''
    const chunks = cut(file, size)
    for (const index of [0, 1, 2]) await nodes[index % 2]?.client.write(id, index, chunks[index] as Buffer)
    expect(storage.stagedKeys()).toHaveLength(3)
    expect((await nodes[0]?.client.get(id))?.chunks).toHaveLength(3)
    await nodes[1]?.client.write(id, 3, chunks[3] as Buffer)
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
    expect((await nodes[0]?.client.get(id))?.chunks).toEqual([{ index: 0, count: 4, size, offset: 0, loose: 0 }])
    expect((await nodes[0]?.client.get(id))?.sentParts).toEqual([[1, 1]])
  })

  it('with a checksum of the whole file nothing is a part before all of it was verified', async () => {
    const { nodes, storage } = sharedNodes(2, sharedStorage())
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const file = bytes(5 * partSize)
    const sum = (data: Buffer) => `sha256:${createHash('sha256').update(data).digest('base64')}`
    const [good, bad] = await Promise.all(
      [sum(file), sum(file.subarray(1))].map((checksum) =>
        a.client.create(file.length, { chunkSize: partSize, checksum }),
      ),
    )
    for (const id of [good, bad] as [string, string]) {
      for (const [index, data] of cut(file, partSize).entries()) await a.client.write(id, index, data)
    }
    expect(storage.stagedKeys()).toHaveLength(10)
    expect(storage.openMultipartUploads()).toEqual([])
    const object = await b.client.complete(good as string)
    expect(storage.read(object.key)).toEqual(file)
    expect(object.checksum).toBe(sum(file))
    await expect(b.client.complete(bad as string)).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' })
    expect(storage.openMultipartUploads()).toEqual([])
  })
})

describe('a chunk that comes again', () => {
  it.each([partSize, 1000])('is a duplicate on every node, or a conflict (%i bytes)', async (size) => {
    const { nodes, storage } = sharedNodes(2, sharedStorage())
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const file = bytes(4 * partSize)
    const chunk = file.subarray(0, size)
    const id = await a.client.create(file.length, { chunkSize: size })
    expect(await a.client.write(id, 0, chunk)).toMatchObject({ duplicate: false })
    expect(await b.client.write(id, 0, chunk)).toMatchObject({ duplicate: true })
    const other = Buffer.from(chunk)
    other[size - 1] = (other[size - 1] ?? 0) ^ 1
    await expect(b.client.write(id, 0, other)).rejects.toMatchObject({ status: 409, code: 'CHUNK_CONFLICT' })
    expect((await b.client.get(id)).chunks).toMatchObject([{ index: 0, count: 1 }])
    for (const [index, data] of cut(file, size).entries()) await b.client.write(id, index, data)
    expect(storage.read((await a.client.complete(id)).key)).toEqual(file)
  })

  it.each([partSize, 1000])('at the same time on all nodes counts once (%i bytes)', async (size) => {
    const { nodes, storage } = sharedNodes(3, sharedStorage())
    const file = bytes(4 * partSize)
    const id = (await nodes[0]?.client.create(file.length, { chunkSize: size })) ?? ''
    for (const [index, data] of cut(file, size).entries()) {
      const written = await Promise.all(nodes.map(({ client }) => client.write(id, index, data)))
      expect(written.filter(({ duplicate }) => !duplicate)).toHaveLength(1)
    }
    expect(storage.read((await nodes[0]?.client.complete(id))?.key ?? '')).toEqual(file)
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
  })

  it('with other bytes at the same time: never does a file hold what was refused', async () => {
    for (let round = 0; round < 20; round++) {
      const { nodes, storage } = sharedNodes(2, sharedStorage())
      const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
      const file = bytes(3 * partSize)
      const other = bytes(partSize, round + 100)
      const id = await a.client.create(file.length, { chunkSize: partSize })
      for (const index of [1, 2]) {
        await a.client.write(id, index, file.subarray(index * partSize, (index + 1) * partSize))
      }
      const rivals = [file.subarray(0, partSize), other]
      const results = await Promise.allSettled([
        a.client.write(id, 0, rivals[0] as Buffer),
        b.client.write(id, 0, other),
      ])
      const winner = results.findIndex(({ status }) => status === 'fulfilled')
      const session = await a.client.get(id)
      // Either the record has the winner's, or nobody's, and then the client is told what is missing.
      if (session.chunks.some(({ index }) => index === 0)) {
        const object = await b.client.complete(id)
        expect(storage.read(object.key)?.subarray(0, partSize)).toEqual(rivals[winner])
        continue
      }
      await expect(b.client.complete(id)).rejects.toMatchObject({ status: 409, missing: [[0, 0]] })
      await a.client.write(id, 0, file.subarray(0, partSize))
      expect(storage.read((await b.client.complete(id)).key)).toEqual(file)
    }
  })

  it('with other bytes, which the storage takes in after the chunk counts: they are never in a file', async () => {
    const { nodes, storage } = sharedNodes(2, sharedStorage())
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const file = bytes(3 * partSize + 5)
    const id = await a.client.create(file.length, { chunkSize: partSize })
    for (const [index, data] of cut(file, partSize).entries()) await a.client.write(id, index, data)
    // Of a request that was given up, and of a node that has died since.
    const { key: fileKey, multipartId } = await a.client.get(id)
    const other = bytes(partSize, 77)
    const ref = { fileKey, multipartId: multipartId ?? '' }
    await storage.multipart?.uploadPart(ref, 2, { path: null, size: partSize, open: () => Readable.from([other]) })
    await expect(b.client.complete(id)).rejects.toMatchObject({ status: 409, missing: [[1, 1]] })
    expect(storage.keys()).toEqual([])
    await a.client.write(id, 1, file.subarray(partSize, 2 * partSize))
    expect(storage.read((await b.client.complete(id)).key)).toEqual(file)
  })

  it('is never replaced by a longer one that is refused', async () => {
    const { nodes, storage } = sharedNodes(2, sharedStorage())
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const file = bytes(3 * partSize - 5)
    const chunks = cut(file, partSize)
    const id = await a.client.create(file.length, { chunkSize: partSize })
    for (const index of [0, 2]) await a.client.write(id, index, chunks[index] as Buffer)
    // It may carry what the last one would, but that has come already.
    const longer = bytes(2 * partSize - 5, 99)
    await expect(b.client.write(id, 1, longer)).rejects.toMatchObject({ code: 'CHUNK_OVERLAP' })
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
    expect(storage.openMultipartUploads()[0]?.parts.map(({ partNumber }) => partNumber)).toEqual([1, 3])
    await b.client.write(id, 1, chunks[1] as Buffer)
    expect(storage.read((await b.client.complete(id)).key)).toEqual(file)
  })

  it('whose part arrives when a longer one counts is refused, and both are asked for again', async () => {
    const { nodes, storage } = sharedNodes(2, sharedStorage())
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const file = bytes(3 * partSize - 5)
    const chunks = cut(file, partSize)
    const id = await a.client.create(file.length, { chunkSize: partSize })
    await a.client.write(id, 0, chunks[0] as Buffer)
    const { multipart } = storage
    const sendPart = multipart?.uploadPart.bind(multipart)
    if (!multipart || !sendPart) throw new Error('no parts')
    multipart.uploadPart = async (...call) => {
      multipart.uploadPart = sendPart
      await b.client.write(id, 1, bytes(2 * partSize - 5, 99))
      await eventually(async () => expect((await b.client.get(id)).sentParts).toEqual([[1, 3]]))
      return sendPart(...call)
    }
    await expect(a.client.write(id, 2, chunks[2] as Buffer)).rejects.toMatchObject({ code: 'CHUNK_OVERLAP' })
    expect((await a.client.get(id)).sentParts).toEqual([[1, 1]])
    for (const [index, data] of chunks.entries()) await b.client.write(id, index, data)
    expect(storage.read((await b.client.complete(id)).key)).toEqual(file)
  })

  it('is recognised on every node, also after the end, and listed with its sum', async () => {
    const { nodes, sessions } = sharedNodes(2, sharedStorage())
    const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
    const file = bytes(2 * partSize)
    const { session } = await a.engine.create({
      ...{ fileName: 'a', totalSize: file.length, chunkSize: partSize, protocol, recognizable: true },
    })
    const ref = { uploadId: session.id, protocol }
    const chunks = cut(file, partSize)
    const written = await a.client.write(session.id, 0, chunks[0] as Buffer)
    await b.client.write(session.id, 1, chunks[1] as Buffer)
    const listed = await b.engine.listChunks(ref)
    expect(listed.chunks).toMatchObject([{ index: 0, crc32: written.crc32 }, { index: 1 }])
    expect(listed.chunks[1]?.crc32).not.toBeNull()
    await b.client.complete(session.id)
    const same = await a.engine.matchesChunk({ ...ref, index: 0, body: Readable.from([chunks[0]]) })
    const different = await b.engine.matchesChunk({ ...ref, index: 0, body: Readable.from([chunks[1]]) })
    expect([same, different]).toEqual([true, false])
    expect(sessions.summed).toBe(1)
  })
})

describe('a node that is lost with its disk', () => {
  it.each([partSize, 3000])('takes nothing acknowledged with it (%i bytes)', async (size) => {
    const shared = sharedNodes(1, sharedStorage())
    const { storage } = shared
    const file = bytes(20 * partSize + 3)
    const chunks = cut(file, size)
    const id = (await shared.nodes[0]?.client.create(file.length, { chunkSize: size })) ?? ''
    const acknowledged = new Set<number>()
    for (let node = shared.nodes[0]; acknowledged.size < chunks.length; node = shared.add()) {
      const client = node?.client as ReturnType<typeof engineClient>
      const todo = [...chunks.keys()].filter((index) => !acknowledged.has(index)).slice(0, 9)
      const sending = parallel(3, todo, async (index) => {
        await client.write(id, index, chunks[index] as Buffer).then(
          () => acknowledged.add(index),
          () => {},
        )
      })
      await new Promise((resolve) => setTimeout(resolve, 5))
      if (node) await lose(node)
      await sending
    }
    const last = shared.add()
    expect(storage.read((await last.client.complete(id)).key)).toEqual(file)
    expect(storage.stagedKeys()).toEqual([])
  })
})
