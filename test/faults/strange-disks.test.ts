/** Disks that are full at the wrong moment, slow, two instead of one, or with a mind of their own about names. */
import '../support/hook-fs.ts'

import { mkdir, readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { setTimeout as wait } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { measured, survived } from '../support/fault-points.ts'
import { errnoError } from '../support/fs-faults.ts'
import { type FsCall, watchFs } from '../support/hook-fs.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const protocol = 'native'

afterEach(() => {
  watchFs([])
})

const isRecord = ({ path }: FsCall) => path.endsWith('.log')

describe('no room for the session record', () => {
  it.each([
    ['nothing', 0],
    ['one byte', 1],
    ['half', 0.5],
    ['all but two bytes', -2],
  ])('leaves the old record as it was, with %s of the new one on the disk [E07]', async (name, share) => {
    const { engine, client, tempDir } = testEngine()
    const chunks = cut(bytes(9_000, 3), 3_000) as [Buffer, Buffer, Buffer]
    const id = await client.create(9_000, { chunkSize: 3_000 })
    await client.write(id, 0, chunks[0])
    const sessions = join(tempDir, 'sessions')
    const before = await engine.get({ uploadId: id, protocol })
    let writes = 0
    const stop = watchFs([sessions], async (call, proceed) => {
      if (!isRecord(call) || !call.op.startsWith('handle.write')) return proceed()
      writes += 1
      const bytesThere = share < 0 ? call.size + share : share < 1 ? Math.floor(call.size * share) : share
      if (bytesThere > 0) await proceed(bytesThere)
      throw errnoError('ENOSPC', call)
    })
    await expect(client.write(id, 1, chunks[1])).rejects.toMatchObject({ status: 507, code: 'INSUFFICIENT_STORAGE' })
    expect(writes).toBeGreaterThan(0)
    // Also to a process that has never seen it before.
    const stored = await new FileSessionStore({ directory: sessions }).get(id)
    expect(stored).toEqual(before)
    expect(await engine.get({ uploadId: id, protocol })).toEqual(before)
    stop()
    await client.write(id, 1, chunks[1])
    await client.write(id, 2, chunks[2])
    expect(await client.complete(id)).toMatchObject({ size: 9_000 })
    survived('fs', `ENOSPC within the session record, after ${name}`)
  })
})

describe('a storage on another disk than tempDir', () => {
  it('gets a copy that is flushed before it has its name, in one step [E08]', async () => {
    const directory = tempFolder()
    const { client, tempDir } = testEngine({ storage: new LocalStorageAdapter({ directory }) })
    const file = bytes(300_000, 4)
    const id = await client.create(file.length)
    await client.write(id, 0, file)
    const seen: string[] = []
    const stop = watchFs([directory, tempDir], async (call, proceed) => {
      const place = call.path.startsWith(directory) ? 'stored' : 'staged'
      if (/^(rename|handle\.(sync|writev))$/.test(call.op)) seen.push(`${call.op} ${place}`)
      if (call.op === 'rename' && place === 'staged' && call.path.includes('part-')) throw errnoError('EXDEV', call)
      return proceed()
    })
    const { key } = await client.complete(id)
    stop()
    expect(sha256(await readFile(join(directory, key)))).toBe(sha256(file))
    expect(seen.filter((call) => !call.startsWith('handle.writev'))).toEqual([
      'rename staged',
      'handle.sync stored',
      'rename stored',
    ])
    expect(await filesBelow(join(directory))).toEqual([key])
    expect(await readdir(join(tempDir, 'staging'))).toEqual([])
    survived('fs', 'EXDEV at the rename of a finished file')
  })

  it('that has no room keeps the staged file, and completes when it has [E08]', async () => {
    const directory = tempFolder()
    const { client, tempDir } = testEngine({ storage: new LocalStorageAdapter({ directory }) })
    const file = bytes(300_000, 4)
    const id = await client.create(file.length)
    await client.write(id, 0, file)
    const stop = watchFs([directory, tempDir], async (call, proceed) => {
      if (call.op === 'rename' && call.path.includes('part-')) throw errnoError('EXDEV', call)
      if (call.op === 'handle.writev' && call.path.startsWith(directory)) {
        await proceed(1_000)
        throw errnoError('ENOSPC', call)
      }
      return proceed()
    })
    await expect(client.complete(id)).rejects.toMatchObject({ status: 507 })
    expect(await filesBelow(directory)).toEqual([])
    stop()
    const { key } = await client.complete(id)
    expect(sha256(await readFile(join(directory, key)))).toBe(sha256(file))
    survived('fs', 'ENOSPC in the copy to another disk')
  })

  it('that really is one, gets the file whole [E08]', async ({ skip }) => {
    const directory = join('/dev/shm', `nexus-test-${process.pid}`)
    const tempDir = tempFolder()
    await mkdir(directory, { recursive: true }).catch(() => skip())
    try {
      if ((await stat(directory)).dev === (await stat(tempDir)).dev) return skip()
      const { client } = testEngine({ tempDir, storage: new LocalStorageAdapter({ directory }) })
      const file = bytes(3_000_000, 4)
      const id = await client.create(file.length)
      await client.write(id, 0, file)
      const { key } = await client.complete(id)
      expect(sha256(await readFile(join(directory, key)))).toBe(sha256(file))
      expect(await filesBelow(directory)).toEqual([key])
      expect(await readdir(join(tempDir, 'staging'))).toEqual([])
      survived('fs', 'EXDEV between two real file systems')
    } finally {
      await import('fs-extra').then(({ default: fs }) => fs.remove(directory))
    }
  })
})

describe('a disk that takes 200 ms for each write', () => {
  it('slows the client; no more than a few batches are in memory [E09]', async () => {
    const size = 16 * 1024 * 1024
    const { engine, client, tempDir } = testEngine({ maxChunkSize: size })
    const id = await client.create(size)
    let made = 0
    let written = 0
    let ahead = 0
    const block = Buffer.alloc(64 * 1024, 7)
    // As fast as it is asked, as a socket is that is read.
    const body = new Readable({
      highWaterMark: 64 * 1024,
      read() {
        if (made === size) return void this.push(null)
        made += block.length
        ahead = Math.max(ahead, made - written)
        this.push(Buffer.from(block))
      },
    })
    const stop = watchFs([join(tempDir, 'staging')], async (call, proceed) => {
      if (call.size === 0) return proceed()
      await wait(200)
      const result = await proceed()
      written += call.size
      return result
    })
    global.gc?.()
    const before = process.memoryUsage().rss
    let peak = before
    const watcher = setInterval(() => {
      peak = Math.max(peak, process.memoryUsage().rss)
    }, 20)
    const started = Date.now()
    await engine.writeChunk({ uploadId: id, protocol, index: 0, body, size })
    const took = Date.now() - started
    clearInterval(watcher)
    stop()
    expect(written).toBe(size)
    expect(took).toBeGreaterThan((size / (1024 * 1024)) * 200)
    expect(ahead).toBeLessThan(3 * 1024 * 1024)
    expect(await client.complete(id)).toMatchObject({ size })
    measured('bytes in memory at most while a disk takes 200 ms per write', Math.round(ahead / 1024), 'KiB')
    measured('growth of RSS meanwhile', Math.round((peak - before) / 1024 / 1024), 'MiB')
    survived('fs', 'a disk with 200 ms per write')
  })
})

/** Names are kept as the disk likes them: decomposed, and without a difference between large and small letters. */
const asTheDiskLikes = (folders: string[]) => (path: string) => {
  const folder = folders.find((own) => path.startsWith(own)) ?? ''
  return folder + path.slice(folder.length).normalize('NFD').toLowerCase()
}

describe('a disk that does not tell large letters from small ones, and decomposes the others', () => {
  it('keeps uploads apart whose names differ in nothing else [E10]', async () => {
    const [directory, tempDir] = [tempFolder(), tempFolder()]
    watchFs([directory, tempDir], undefined, asTheDiskLikes([directory, tempDir]))
    const storage = new LocalStorageAdapter({ directory, baseUrl: 'https://cdn.example.com' })
    const { engine, client } = testEngine({ storage, tempDir })
    const names = ['Photo.JPG', 'photo.jpg', 'PHOTO.jpg', 'caf\u00e9.TXT', 'cafe\u0301.txt', 'Stra\u00dfe \u0130.bin']
    const stored: { key: string; url: string; file: Buffer }[] = []
    for (const [seed, fileName] of names.entries()) {
      const file = bytes(9_000, seed)
      const { session } = await engine.create({ fileName, totalSize: 9_000, protocol, resumeKey: `Key of ${fileName}` })
      for (const [index, data] of cut(file, 3_000).entries()) {
        await engine.writeChunk({ uploadId: session.id, protocol, index, body: streamOf(data) })
      }
      const again = await engine.create({ fileName, totalSize: 9_000, protocol, resumeKey: `Key of ${fileName}` })
      expect([again.session.id, again.resumed]).toEqual([session.id, true])
      stored.push({ ...(await client.complete(session.id)), file })
    }
    expect(new Set(stored.map(({ key }) => key.normalize('NFD').toLowerCase())).size).toBe(names.length)
    for (const { key, file } of stored) {
      expect(key.slice('uploads/'.length, 'uploads/'.length + 36)).toMatch(/^[0-9a-f-]{36}$/)
      expect(sha256(await readFile(join(directory, key)))).toBe(sha256(file))
    }
    survived('fs', 'a file system without case and with decomposed names')
  })

  it('lets the sweeper find every upload and every key that is over [E10]', async () => {
    const [directory, tempDir] = [tempFolder(), tempFolder()]
    watchFs([directory, tempDir], undefined, asTheDiskLikes([directory, tempDir]))
    const day = 24 * 60 * 60_000
    let now = Date.now()
    const { engine, client } = testEngine({
      ...{ tempDir, storage: new LocalStorageAdapter({ directory }), clock: () => now },
    })
    const id = (await engine.create({ fileName: 'A', totalSize: 9_000, protocol, resumeKey: 'Some Key' })).session.id
    await client.write(id, 0, bytes(3_000))
    for (let days = 0; days < 5; days++) {
      now += 2 * day
      await engine.sweep()
    }
    expect((await filesBelow(tempDir)).filter((name) => !name.startsWith('marks/'))).toEqual([])
  })
})
