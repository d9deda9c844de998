/** Appends to one upload on nodes that share sessions, locks and storage, and no disk. */
import { createHash } from 'node:crypto'
import { PassThrough, type Readable } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import type { UploadEngine, UploadSession } from '../../src/types.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { bytes, seeded } from '../support/random.ts'
import { lose, partSize, SharedLocker, sharedNodes, sharedStorage } from '../support/shared-nodes.ts'
import { eventually } from '../support/tus-client.ts'

const protocol = 'tus'

function appender(engine: UploadEngine) {
  return {
    create: async (totalSize: number | null, more: object = {}) =>
      (await engine.create({ fileName: 'a.bin', totalSize, protocol, ...more })).session.id,
    append: (uploadId: string, offset: number, body: Buffer | Readable, more: object = {}) =>
      engine.append({ uploadId, protocol, offset, body: streamOf(body), ...more }),
    offset: async (uploadId: string) => (await engine.retrieveOffset({ uploadId, protocol })).offset,
    complete: (uploadId: string, more: object = {}) => engine.complete({ uploadId, protocol, ...more }),
    get: (uploadId: string) => engine.get({ uploadId, protocol }),
  }
}

function nodes(count = 2) {
  const shared = sharedNodes(count, sharedStorage(), { maxFileSize: 16 * 1024 * 1024 })
  const clients = shared.nodes.map(({ engine }) => appender(engine))
  const [a, b] = clients as [ReturnType<typeof appender>, ReturnType<typeof appender>]
  return { ...shared, clients, a, b }
}

describe('appends that go to any node', () => {
  it.each([1, 2, 3, 4, 5, 6])('become one file, with bodies that break off (seed %i)', async (seed) => {
    const { clients, storage, a, b } = nodes(3)
    const random = seeded(seed)
    const file = bytes(12 * partSize + random.integer(0, partSize), seed)
    const isLate = seed % 2 === 0
    const id = await a.create(isLate ? null : file.length)
    const any = () => clients[random.integer(0, 2)] ?? a
    for (let at = 0; at < file.length; ) {
      expect(await any().offset(id)).toBe(at)
      const size = Math.min(random.integer(1, 3 * partSize), file.length - at)
      if (random.next() < 0.4) {
        const body = new PassThrough()
        const running = any().append(id, at, body)
        body.write(file.subarray(at, at + size))
        await pause(random.integer(0, 20))
        body.destroy(new Error('the line is dead'))
        await expect(running).rejects.toMatchObject({ code: 'BODY_INCOMPLETE' })
        const kept = await any().offset(id)
        expect(kept - at).toBeGreaterThanOrEqual(0)
        expect(kept - at).toBeLessThanOrEqual(size)
        at = kept
      } else {
        expect(await any().append(id, at, file.subarray(at, at + size))).toMatchObject({ offset: at + size, size })
        at += size
      }
    }
    // Of what has left there is one chunk, and nothing is left of the pieces.
    const session = await b.get(id)
    expect(session.chunks.filter(({ loose }) => loose === 0)).toHaveLength(1)
    const object = await b.complete(id, isLate ? { totalSize: file.length } : {})
    expect(storage.read(object.key)).toEqual(file)
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
    expect(storage.openMultipartUploads()).toEqual([])
  })

  it('take one long body part by part, and the record tells how far it is', async () => {
    const { a, storage } = nodes()
    const file = bytes(10 * partSize + 5)
    const id = await a.create(file.length)
    const offsets: number[] = []
    const done = await a.append(id, 0, file, { size: file.length, onProgress: (at: number) => offsets.push(at) })
    expect(done).toMatchObject({ offset: file.length, interrupted: false })
    expect(offsets).toEqual([...Array.from({ length: 10 }, (_, i) => (i + 1) * partSize), file.length])
    expect(storage.stagedKeys()).toEqual([])
    const session = await a.get(id)
    expect([session.sentParts, session.chunks]).toEqual([
      [[1, 11]],
      [{ index: 0, count: 1, size: file.length, offset: 0, loose: 0 }],
    ])
  })

  it('a node that asks where the upload is gets what has come over the line of another', async () => {
    const { a, b, storage } = nodes()
    const file = bytes(4 * partSize)
    const id = await a.create(file.length)
    const body = new PassThrough()
    const running = a.append(id, 0, body, { size: file.length })
    body.write(file.subarray(0, partSize + 100))
    await pause(50)
    expect(await b.offset(id)).toBe(partSize + 100)
    expect(await running).toMatchObject({ offset: partSize + 100, interrupted: true })
    await b.append(id, partSize + 100, file.subarray(partSize + 100))
    expect(storage.read((await a.complete(id)).key)).toEqual(file)
  })

  it('of two writers whom no lock keeps apart one counts, and the other is told', async () => {
    const { nodes: all, storage, sessions } = sharedNodes(1, sharedStorage(), { maxFileSize: 16 * 1024 * 1024 })
    const [first] = all as [(typeof all)[0]]
    // A node that lost its lock without noticing.
    const alone = testEngine({ storage, sessions, locker: new SharedLocker(), staging: 'storage' })
    const [a, b] = [appender(first.engine), appender(alone.engine)]
    const file = bytes(3 * partSize)
    const id = await a.create(file.length)
    const body = new PassThrough()
    const running = a.append(id, 0, body).catch((error) => error)
    body.write(bytes(500, 9))
    await pause(20)
    await b.append(id, 0, file.subarray(0, 100))
    body.end()
    expect(await running).toMatchObject({ code: 'UPLOAD_LOCKED' })
    expect(await b.offset(id)).toBe(100)
    await b.append(id, 100, file.subarray(100))
    expect(storage.read((await b.complete(id)).key)).toEqual(file)
  })

  it('many small ones make few pieces', async () => {
    const { clients, a, b, storage } = nodes()
    const file = bytes(partSize + 100)
    const id = await a.create(file.length)
    for (let at = 0, i = 0; at < file.length; at += 40, i++) {
      await clients[i % 2]?.append(id, at, file.subarray(at, at + 40))
      expect((await b.get(id)).chunks.length).toBeLessThan(36)
    }
    expect(storage.read((await b.complete(id)).key)).toEqual(file)
    await eventually(async () => expect(storage.stagedKeys()).toEqual([]))
  })

  it('with a checksum count whole or not at all', async () => {
    const { a, b, storage } = nodes()
    const file = bytes(5 * partSize + 9)
    const id = await a.create(file.length)
    const sum = (data: Buffer) => `sha1:${createHash('sha1').update(data).digest('base64')}`
    const [first, rest] = [file.subarray(0, 2 * partSize + 1), file.subarray(2 * partSize + 1)]
    await expect(a.append(id, 0, first, { checksum: sum(rest) })).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' })
    await expect(a.append(id, 0, first, { checksum: () => sum(rest) })).rejects.toMatchObject({
      code: 'CHECKSUM_MISMATCH',
    })
    expect(await b.offset(id)).toBe(0)
    expect(storage.stagedKeys()).toEqual([])
    await b.append(id, 0, first, { checksum: sum(first) })
    await a.append(id, first.length, rest, { checksum: () => sum(rest) })
    expect(storage.read((await b.complete(id)).key)).toEqual(file)
  })

  it('are one upload on many partial ones, each on another node', async () => {
    const { clients, a, b, nodes: all, storage } = nodes(3)
    const [first] = all as [(typeof all)[0]]
    const file = bytes(7 * partSize + 77)
    const cuts = [0, 100, 3 * partSize, 3 * partSize + 1, file.length]
    const sources: string[] = []
    for (const [i, start] of cuts.slice(0, -1).entries()) {
      const data = file.subarray(start, cuts[i + 1])
      const half = Math.floor(data.length / 2)
      const id = (await clients[i % 3]?.create(data.length, { partial: true })) ?? ''
      await clients[(i + 1) % 3]?.append(id, 0, data.subarray(0, half))
      await clients[(i + 2) % 3]?.append(id, half, data.subarray(half))
      sources.push(id)
    }
    for (const checksum of [undefined, `sha256:${createHash('sha256').update(file).digest('base64')}`]) {
      const { session } = await (all[1] ?? first).engine.compose({
        ...{ fileName: `f${checksum}`, protocol, sources, checksum },
      })
      expect(storage.read((await b.complete(session.id)).key)).toEqual(file)
    }
    // The partial uploads may be pieces of other uploads too.
    expect(storage.stagedKeys().length).toBeGreaterThan(4)
    for (const uploadId of sources) await first.engine.abort({ uploadId, protocol })
    expect(storage.stagedKeys()).toEqual([])
    await expect(a.offset(sources[0] ?? '')).rejects.toMatchObject({ status: 410 })
  })

  it('go on when a node is lost with its disk in the middle of a body', async () => {
    const shared = sharedNodes(1, sharedStorage())
    const file = bytes(8 * partSize)
    let node = shared.nodes[0] as (typeof shared.nodes)[0]
    const id = await appender(node.engine).create(file.length)
    for (let at = 0, rounds = 0; at < file.length; rounds++) {
      const body = new PassThrough()
      const running = appender(node.engine).append(id, at, body, { size: file.length - at })
      body.write(file.subarray(at, at + 3 * partSize + rounds))
      // So long do bytes of a slow line wait for more.
      await pause(700)
      const ended = running.catch(() => {})
      await lose(node)
      await ended
      node = shared.add()
      const kept = await appender(node.engine).offset(id)
      // Whole parts that had come were recorded while the body came in.
      expect(kept).toBeGreaterThanOrEqual(Math.min(at + 2 * partSize, file.length))
      at = kept
      expect(rounds).toBeLessThan(20)
    }
    const object = await appender(node.engine).complete(id)
    expect(shared.storage.read(object.key)).toEqual(file)
  })
})

it('pieces that became something else while they were gathered are not cut from the record', async () => {
  const { a, storage, sessions } = nodes()
  const file = bytes(partSize, 3)
  const id = await a.create(10 * partSize)
  for (let at = 0; at < 320; at += 10) await a.append(id, at, file.subarray(at, at + 10))
  expect((await a.get(id)).chunks).toHaveLength(32)
  const { staging } = storage
  const put = staging.put.bind(staging)
  // As a completion leaves it that failed after it had made a part of them.
  staging.put = async (...given) => {
    staging.put = put
    const current = (await sessions.get(id)) as UploadSession
    const chunks = [{ index: 0, count: 1, size: 320, offset: 0, loose: 0 }]
    await sessions.replace({ ...current, chunks, version: current.version + 1 }, current.version)
    return put(...given)
  }
  await expect(a.append(id, 320, file.subarray(320, 330))).rejects.toMatchObject({ status: 503 })
  expect(await a.offset(id)).toBe(320)
})
