/** What a server does with files, each as: what was before, the one request that is looked at, and how it goes on. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { crc32 } from 'node:zlib'
import { expect } from 'vitest'
import type { UploadEngineOptions } from '../../src/create-upload-engine.ts'
import type { UploadEngine } from '../../src/types.ts'
import { streamOf } from '../support/engine.ts'
import { age, chunkSize, fileSize, protocol, type StorageKind, type World } from '../support/fs-world.ts'
import { bytes } from '../support/random.ts'

export interface Scenario {
  readonly name: string
  readonly storage: StorageKind
  readonly options?: Partial<UploadEngineOptions>
  prepare(world: World, engine: UploadEngine): Promise<void>
  /** The request. A rejection is what its client is told. */
  act(world: World, engine: UploadEngine): Promise<unknown>
  /** After the request, whatever became of it: the state is right, and the upload can be finished. */
  finish(world: World, engine: UploadEngine, failed: boolean): Promise<void>
}

const declared = { chunkSize }

async function sendAndComplete(world: World, engine: UploadEngine): Promise<void> {
  await world.sendRest(engine)
  await world.complete(engine)
}

function write(name: string, index: number, before: readonly number[], more: object, storage: StorageKind): Scenario {
  return {
    ...{ name, storage, finish: sendAndComplete },
    async prepare(world, engine) {
      await world.create(engine, more)
      for (const earlier of before) await world.write(engine, earlier)
    },
    act: (world, engine) => world.write(engine, index),
  }
}

const other = bytes(chunkSize, 99)

function overwrite(name: string, more: object, storage: StorageKind): Scenario {
  return {
    ...{ name, storage },
    async prepare(world, engine) {
      await world.create(engine, more)
      for (const index of [0, 1]) await world.write(engine, index)
    },
    act: (world, engine) => world.write(engine, 1, other),
    async finish(world, engine, failed) {
      await world.sendRest(engine)
      const [first, , last] = world.chunks as [Buffer, Buffer, Buffer]
      const replaced = Buffer.concat([first, other, last])
      await world.complete(engine, failed ? [world.file, replaced] : [replaced])
    },
  }
}

function complete(name: string, storage: StorageKind, more: object = declared): Scenario {
  return {
    ...{ name, storage, finish: (world, engine) => world.complete(engine) },
    async prepare(world, engine) {
      await world.create(engine, more)
      // Backwards: what was not declared is still to be put in its place.
      for (const index of [2, 1, 0]) await world.write(engine, index)
    },
    act: (world, engine) => engine.complete(world.ref),
  }
}

function append(name: string, storage: StorageKind, before: number): Scenario {
  return {
    ...{ name, storage },
    async prepare(world, engine) {
      await world.create(engine)
      if (before > 0) await world.append(engine, 0, before)
    },
    act: (world, engine) => world.append(engine, before, 3_500),
    async finish(world, engine, failed) {
      const { offset } = await engine.retrieveOffset(world.ref)
      expect(offset).toBeGreaterThanOrEqual(world.offset)
      if (failed) expect([before, before + 3_500]).toContain(offset)
      await world.append(engine, offset, fileSize - offset)
      await world.complete(engine)
    },
  }
}

const creation = { ...declared, resumeKey: 'the same file' }

const init: Scenario = {
  ...{ name: 'init', storage: 'local', prepare: async () => {} },
  act: (world, engine) => world.create(engine, creation),
  async finish(world, engine) {
    await world.create(engine, creation)
    await sendAndComplete(world, engine)
  },
}

const initAgain: Scenario = {
  ...init,
  name: 'init of an upload that is open',
  async prepare(world, engine) {
    await world.create(engine, creation)
    await world.write(engine, 0)
  },
}

const progress: Scenario = {
  ...{ name: 'progress', storage: 'local', finish: sendAndComplete },
  async prepare(world) {
    const before = world.open()
    await world.create(before, declared)
    await world.write(before, 1)
  },
  act: (world, engine) => engine.get(world.ref),
}

const offset: Scenario = {
  ...append('offset', 'local', 2_000),
  act: (world, engine) => engine.retrieveOffset(world.ref),
  async finish(world, engine) {
    expect((await engine.retrieveOffset(world.ref)).offset).toBe(2_000)
    await world.append(engine, 2_000, fileSize - 2_000)
    await world.complete(engine)
  },
}

function abort(storage: StorageKind): Scenario {
  return {
    ...{ name: `abort of an upload to ${storage}`, storage },
    async prepare(world, engine) {
      await world.create(engine)
      for (const index of [0, 2]) await world.write(engine, index)
    },
    act: (world, engine) => engine.abort(world.ref),
    async finish(world, engine, failed) {
      const gone = await engine.get(world.ref).catch((error: { status?: unknown }) => error.status)
      if (!failed) expect(gone).toBe(410)
      if (gone !== 410) await world.received(engine)
      await engine.abort(world.ref)
      await expect(engine.get(world.ref)).rejects.toMatchObject({ status: 410 })
      expect(await world.objects()).toEqual([])
    },
  }
}

const spool: Scenario = {
  ...write('a chunk whose index comes after its bytes', 1, [0], {}, 'local'),
  async act(world, engine) {
    const spooled = await engine.spool(streamOf(world.chunks[1] as Buffer), { maxSize: chunkSize })
    try {
      await engine.writeChunk({ ...world.ref, index: 1, body: spooled.open(), size: spooled.size })
      world.acknowledged.add(1)
    } finally {
      await spooled.discard()
    }
  },
}

const brokenOff: Scenario = {
  ...write('a chunk whose connection breaks', 1, [0], declared, 'local'),
  async act(world, engine) {
    const body = new Readable({ read() {} })
    body.push(world.chunks[1]?.subarray(0, 1_000))
    const written = engine.writeChunk({ ...world.ref, index: 1, body })
    setImmediate(() => body.destroy(new Error('reset')))
    await expect(written).rejects.toMatchObject({ status: expect.any(Number) })
  },
}

const hour = 60 * 60_000

/** A live upload beside one that was idle for too long, an orphaned folder, and leftovers in the spool. */
const sweep: Scenario = {
  ...{ name: 'sweep', storage: 'local', options: { sessionTtl: 2 * hour, cleanupInterval: 500 * hour } },
  async prepare(world) {
    const longAgo = world.open({ clock: () => Date.now() - 3 * hour })
    for (const key of ['idle 1', 'idle 2']) {
      await world.create(longAgo, { resumeKey: key })
      await world.write(longAgo, 0)
    }
    await longAgo.abort(world.ref)
    const orphan = join(world.tempDir, 'staging', '3f0c8f2e-8a53-4b6e-9d1c-0a4f5d6e7b8c')
    await mkdir(orphan)
    for (const path of [join(orphan, 'part-1'), join(world.tempDir, 'spool', 'a.tmp')]) await writeFile(path, 'x')
    await age(world.tempDir, 3 * hour)
    world.acknowledged.clear()
    const now = world.open()
    await world.create(now)
    for (const index of [0, 2]) await world.write(now, index)
  },
  act: (_world, engine) => engine.sweep(),
  finish: sendAndComplete,
}

const composed: Scenario = {
  ...{ name: 'complete of a concatenation', storage: 'local' },
  async prepare(world, engine) {
    const sources: string[] = []
    for (const piece of [world.file.subarray(0, 4_000), world.file.subarray(4_000)]) {
      await world.create(engine, { totalSize: piece.length, partial: true })
      await engine.append({ ...world.ref, offset: 0, body: streamOf(piece), size: piece.length })
      sources.push(world.id)
    }
    world.id = (await engine.compose({ fileName: 'file.bin', protocol, sources })).session.id
  },
  act: (world, engine) => engine.complete(world.ref),
  finish: (world, engine) => world.complete(engine),
}

const crc = Buffer.alloc(4)
crc.writeUInt32BE(crc32(bytes(fileSize, 5)))
const checksum = `crc32:${crc.toString('base64')}`

const recognizable = { ...declared, recognizable: true }

export const scenarios: readonly Scenario[] = [
  init,
  initAgain,
  progress,
  offset,
  write('the first chunk', 0, [], declared, 'local'),
  write('a chunk in its place', 1, [0], declared, 'local'),
  write('a chunk that is ahead of its place', 2, [0], {}, 'local'),
  write('a chunk before the first one', 1, [], {}, 'local'),
  write('the chunk that others wait for', 0, [1, 2], {}, 'local'),
  write('a chunk that completes parts', 1, [0], declared, 'parts'),
  write('a chunk with a sum', 1, [0], recognizable, 'local'),
  write('the same chunk again', 1, [0, 1], declared, 'local'),
  write('the same chunk again, with a sum', 1, [0, 1], recognizable, 'local'),
  overwrite('other bytes for a chunk', declared, 'local'),
  overwrite('other bytes for a chunk with a sum', { recognizable: true }, 'memory'),
  spool,
  brokenOff,
  append('the first append', 'local', 0),
  append('an append', 'local', 2_000),
  append('an append that completes parts', 'parts', 2_500),
  complete('complete by rename', 'local'),
  complete('complete by rename, with a checksum', 'local', { ...declared, checksum }),
  complete('complete through a stream', 'plain', {}),
  complete('complete into memory', 'memory'),
  complete('complete in parts', 'parts', {}),
  composed,
  abort('local'),
  abort('parts'),
  sweep,
]
