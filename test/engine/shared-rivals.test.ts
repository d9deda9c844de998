/** Uploads that are staged in the storage, when requests bring different bytes for the same place of the file. */
import { describe, expect, it } from 'vitest'
import type { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { UploadSession } from '../../src/types.ts'
import { bytes, cut } from '../support/random.ts'
import { partSize, sharedNodes, sharedStorage } from '../support/shared-nodes.ts'
import { eventually } from '../support/tus-client.ts'

function twoNodes() {
  const { nodes, storage } = sharedNodes(2, sharedStorage())
  const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
  return { a: a.client, b: b.client, storage }
}

function latch() {
  let open = () => {}
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { open, opened }
}

/** The first part that has these bytes is under way until `arrive`; then it is stored, or its answer is lost as well. */
function slowPart({ multipart }: MemoryStorageAdapter, content: Buffer) {
  if (!multipart) throw new Error('no parts')
  const send = multipart.uploadPart.bind(multipart)
  const [begun, arrival] = [latch(), latch()]
  let fate: 'stored' | 'lost' | 'answer lost' = 'stored'
  let isHeld = false
  multipart.uploadPart = async (ref, part, body, signal) => {
    const data = Buffer.concat(await body.open().toArray())
    if (isHeld || !data.equals(content)) return send(ref, part, body, signal)
    isHeld = true
    begun.open()
    await arrival.opened
    if (fate === 'lost') throw new Error('outage')
    const sent = await send(ref, part, body, signal)
    if (fate === 'answer lost') throw new Error('outage')
    return sent
  }
  const arrive = (as: typeof fate) => {
    fate = as
    arrival.open()
  }
  return { begun: begun.opened, arrive }
}

it('a chunk that would move bytes that have left is not sent', async () => {
  const { nodes, storage, sessions } = sharedNodes(1, sharedStorage())
  const [{ client }] = nodes as [(typeof nodes)[0]]
  const id = await client.create(3 * partSize)
  const session = (await sessions.get(id)) as UploadSession
  // As it is left when a first chunk of two parts has been taken back.
  const last = { index: 1, count: 1, size: partSize, offset: 2 * partSize, loose: 0 }
  const left: UploadSession = { ...session, chunks: [last], sentParts: [[3, 3]], version: session.version + 1 }
  await sessions.replace(left, session.version)
  await expect(client.write(id, 0, bytes(partSize))).rejects.toMatchObject({ status: 409, code: 'CHUNK_CONFLICT' })
  expect(storage.openMultipartUploads()).toEqual([])
  expect((await client.get(id)).sentParts).toEqual([[3, 3]])
})

describe('two last chunks of two parts', () => {
  it.each(['fails', 'is completed'])('never make a file of both, when one %s between its parts', async (end) => {
    const { a, b, storage } = twoNodes()
    const file = bytes(3 * partSize - 5)
    const [first, last] = [file.subarray(0, partSize), file.subarray(partSize)]
    const other = bytes(last.length, 99)
    const id = await a.create(file.length, { chunkSize: partSize })
    await a.write(id, 0, first)
    const part2 = slowPart(storage, other.subarray(0, partSize))
    const part3 = slowPart(storage, other.subarray(partSize))
    const rival = b.write(id, 1, other)
    rival.catch(() => {})
    await Promise.race([part2.begun, rival])
    const isOurs = await a.write(id, 1, last).then(
      () => true,
      (error: { code?: string }) => error.code !== 'CHUNK_CONFLICT',
    )
    part2.arrive('stored')
    await part3.begun
    if (end === 'fails') {
      part3.arrive('lost')
      await rival.catch(() => {})
    }
    const object = await a.complete(id)
    part3.arrive('lost')
    expect(storage.read(object.key)?.equals(Buffer.concat([first, isOurs ? last : other]))).toBe(true)
  })
})

describe('a chunk that is a part', () => {
  it('and arrives late in the place of two smaller ones makes no file: those are asked for again', async () => {
    const { a, b, storage } = twoNodes()
    const file = bytes(3 * partSize)
    const half = partSize / 2
    const smaller = [file.subarray(partSize, partSize + half), file.subarray(partSize + half, 2 * partSize)]
    const id = await a.create(file.length)
    await a.write(id, 0, file.subarray(0, partSize))
    const other = bytes(partSize, 99)
    const part = slowPart(storage, other)
    const rival = b.write(id, 1, other)
    rival.catch(() => {})
    await part.begun
    for (const [i, chunk] of smaller.entries()) await a.write(id, i + 1, chunk)
    await a.write(id, 3, file.subarray(2 * partSize))
    await eventually(async () => expect((await a.get(id)).sentParts).toEqual([[1, 3]]))
    part.arrive('answer lost')
    await expect(rival).rejects.toMatchObject({ status: 502 })
    await expect(a.complete(id)).rejects.toMatchObject({ status: 409, missing: [[1, 2]] })
    for (const [i, chunk] of smaller.entries()) await a.write(id, i + 1, chunk)
    expect(storage.read((await b.complete(id)).key)?.equals(file)).toBe(true)
  })
})

describe('a chunk in the place of one that was taken back', () => {
  /** Chunks 1 and 2 of this size have come, and two other first ones of one part each. */
  async function withoutFirst(totalSize: number, rest: readonly Buffer[], sent: UploadSession['sentParts']) {
    const { a, b, storage } = twoNodes()
    const id = await a.create(totalSize)
    for (const [i, chunk] of rest.entries()) await a.write(id, i + 1, chunk)
    const part = slowPart(storage, bytes(partSize, 98))
    const rival = b.write(id, 0, bytes(partSize, 98))
    rival.catch(() => {})
    await part.begun
    await a.write(id, 0, bytes(partSize, 99))
    await eventually(async () => expect((await a.get(id)).sentParts).toEqual(sent))
    part.arrive('stored')
    await expect(rival).rejects.toMatchObject({ code: 'CHUNK_CONFLICT' })
    expect((await a.get(id)).chunks[0]?.index).toBe(1)
    return { a, b, storage, id }
  }

  it.each([partSize / 2, partSize / 2 + 1, partSize + 1, 2 * partSize])(
    'is refused when it would move bytes that have left (%i bytes)',
    async (size) => {
      const file = bytes(4 * partSize)
      const chunks = cut(file, partSize)
      const rest = chunks.slice(1, 3)
      const { a, b, storage, id } = await withoutFirst(file.length, rest, [[1, 3]])
      const record = await a.get(id)
      expect(record.sentParts).toEqual([[2, 3]])
      await expect(b.write(id, 0, bytes(size))).rejects.toMatchObject({ status: 409 })
      expect((await a.get(id)).chunks).toEqual(record.chunks)
      await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
      for (const index of [3, 0]) await a.write(id, index, chunks[index] as Buffer)
      expect(storage.read((await b.complete(id)).key)?.equals(file)).toBe(true)
    },
  )

  it.each([0.75, 1, 1.25])('moves the pieces behind it when it has %f of its size', async (size) => {
    const rest = [bytes(partSize / 4, 1), bytes(partSize / 4, 2)]
    const { a, b, storage, id } = await withoutFirst(3 * partSize, rest, [[1, 1]])
    const first = bytes(size * partSize, 3)
    const last = bytes((2.5 - size) * partSize, 4)
    await b.write(id, 0, first)
    await a.write(id, 3, last)
    const { key } = await a.complete(id)
    expect(storage.read(key)?.equals(Buffer.concat([first, ...rest, last]))).toBe(true)
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
  })
})
