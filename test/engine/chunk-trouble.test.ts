/** Chunks in `tempDir` whose record, sum or file is lost or changed while they come in. */
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { Claims } from '../../src/engine/claims.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { SessionRecord, UploadSession } from '../../src/types.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'

const protocol = 'native'

/** A store that may lose a request, or its answer; or that lets something else happen. */
class Sessions extends MemorySessionStore {
  beforeReplace: (next: SessionRecord) => unknown = () => {}
  afterReplace: (next: SessionRecord) => unknown = () => {}
  beforeGet: () => unknown = () => {}

  override async replace(next: SessionRecord, version: number) {
    await this.beforeReplace(next)
    const done = await super.replace(next, version)
    await this.afterReplace(next)
    return done
  }

  override async get(id: string) {
    await this.beforeGet()
    return super.get(id)
  }
}

const away = () => {
  throw new Error('the store is away')
}

async function world(totalSize: number | null, more: object = {}, options: Parameters<typeof testEngine>[0] = {}) {
  const sessions = new Sessions()
  const { engine, client, tempDir, storage } = testEngine({ sessions, ...options })
  const { id } = (await engine.create({ fileName: 'a', totalSize, protocol, ...more })).session
  const warnings: string[] = []
  engine.events.on('warning', ({ code }) => warnings.push(code))
  const folder = join(tempDir, 'staging', id)
  return {
    ...{ engine, client, sessions, id, folder, tempDir, warnings, storage: storage as MemoryStorageAdapter },
    write: (index: number, body: Buffer | PassThrough) => client.write(id, index, body),
    record: async () => (await sessions.get(id)) as UploadSession,
    matches: (index: number, body: Buffer) =>
      engine.matchesChunk({ uploadId: id, index, protocol, body: streamOf(body) }),
    /** Files of the staging, without parts, sums and claims. */
    extras: async () => (await readdir(folder)).filter((name) => !/^(part-\d+|sums|claims)$/.test(name)).sort(),
  }
}

describe('a chunk that is replaced', () => {
  it('is not taken for the one before it when the answer of the session store was lost', async () => {
    const { write, matches, sessions, client, id } = await world(2_000, { chunkSize: 1_000, recognizable: true })
    const [first, second] = [bytes(1_000, 1), bytes(1_000, 2)]
    await write(0, first)
    expect(await matches(0, first)).toBe(true)
    sessions.afterReplace = away
    await expect(write(0, second)).rejects.toMatchObject({ status: 503 })
    sessions.afterReplace = () => {}
    expect(await matches(0, first)).toBe(false)
    expect(await write(0, second)).toMatchObject({ duplicate: true })
    expect(await matches(0, second)).toBe(true)
    await write(1, first)
    await client.complete(id)
    expect([await matches(0, first), await matches(0, second)]).toEqual([false, true])
  })

  it('leaves no file of what it replaced, and no unnamed one', async () => {
    const { write, extras, record, client, id, storage } = await world(3_000)
    for (const seed of [1, 2, 3, 4]) {
      expect(await write(1, bytes(1_000, seed))).toMatchObject({ duplicate: false })
      const { loose } = (await record()).chunks[0] ?? {}
      expect(await extras()).toEqual([`chunk-1-${loose}`])
    }
    expect(await write(1, bytes(1_000, 4))).toMatchObject({ duplicate: true })
    expect(await extras()).toHaveLength(1)
    await write(0, bytes(1_000, 5))
    await write(2, bytes(1_000, 6))
    const file = Buffer.concat([5, 4, 6].map((seed) => bytes(1_000, seed)))
    expect(storage.read((await client.complete(id)).key)?.equals(file)).toBe(true)
  })
})

describe('a chunk whose record could not be stored', () => {
  it('leaves no file when the record certainly does not name it', async () => {
    const { write, extras, sessions, record } = await world(3_000)
    sessions.beforeReplace = away
    await expect(write(1, bytes(1_000))).rejects.toMatchObject({ status: 503 })
    sessions.beforeReplace = () => {}
    expect((await record()).chunks).toEqual([])
    expect(await extras()).toEqual([])
  })

  it('leaves its file when the record names it, or cannot be read', async () => {
    const named = await world(3_000)
    named.sessions.afterReplace = away
    await expect(named.write(1, bytes(1_000))).rejects.toMatchObject({ status: 503 })
    named.sessions.afterReplace = () => {}
    expect((await named.record()).chunks).toMatchObject([{ index: 1, size: 1_000 }])
    expect(await named.extras()).toHaveLength(1)
    expect(await named.write(1, bytes(1_000))).toMatchObject({ duplicate: true })
    const unknown = await world(3_000)
    unknown.sessions.beforeReplace = () => {
      unknown.sessions.beforeGet = away
      away()
    }
    await expect(unknown.write(1, bytes(1_000))).rejects.toMatchObject({ status: 503 })
    unknown.sessions.beforeGet = () => {}
    unknown.sessions.beforeReplace = () => {}
    expect(await unknown.extras()).toHaveLength(1)
    expect(await unknown.write(1, bytes(1_000, 9))).toMatchObject({ duplicate: false })
  })

  it('because its upload has gone is told that', async () => {
    const { write, sessions, id } = await world(3_000)
    const body = new PassThrough()
    const writing = write(0, body)
    writing.catch(() => {})
    body.write(bytes(500))
    await new Promise((resolve) => setTimeout(resolve, 20))
    await sessions.delete(id)
    body.end()
    await expect(writing).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND', status: 404 })
  })
})

describe('a part file that is lost', () => {
  it('is not begun anew under the next chunk', async () => {
    const { write, folder, record } = await world(3_000, { chunkSize: 1_000 })
    await write(0, bytes(1_000))
    await rm(join(folder, 'part-1'))
    await expect(write(1, bytes(1_000))).rejects.toMatchObject({ code: 'STAGING_LOST', status: 503, retryable: true })
    expect((await record()).chunks).toMatchObject([{ index: 0, count: 1 }])
    expect(await readdir(folder)).not.toContain('part-1')
  })

  it('of an upload that was aborted meanwhile is not what the client hears of', async () => {
    const { write, folder, client, id, sessions } = await world(3_000, { chunkSize: 1_000 })
    await write(0, bytes(1_000))
    await rm(join(folder, 'part-1'))
    let gets = 0
    // After the writer has looked, and before it asks why its bytes are lost.
    sessions.beforeGet = async () => {
      gets += 1
      if (gets !== 3) return
      sessions.beforeGet = () => {}
      await client.abort(id)
    }
    await expect(write(1, bytes(1_000))).rejects.toMatchObject({ code: 'UPLOAD_ABORTED', status: 410 })
  })

  it('with the whole folder is made anew for an upload that has no bytes there', async () => {
    const { write, folder, client, id, storage } = await world(2_000, { chunkSize: 1_000 })
    await write(0, bytes(1_000, 1))
    await rm(folder, { recursive: true })
    await expect(write(1, bytes(1_000, 2))).rejects.toMatchObject({ code: 'STAGING_LOST' })
    const empty = await world(1_000)
    await rm(empty.folder, { recursive: true, force: true })
    await empty.write(0, bytes(1_000))
    expect((await empty.client.complete(empty.id)).size).toBe(1_000)
    await client.abort(id)
    expect(storage.keys()).toEqual([])
  })
})

describe('a chunk that comes again', () => {
  it('keeps the upload from expiring', async () => {
    let now = 1_000_000
    const { write, record } = await world(2_000, { chunkSize: 1_000 }, { clock: () => now, sessionTtl: 60_000 })
    await write(0, bytes(1_000))
    now += 50_000
    expect(await write(0, bytes(1_000))).toMatchObject({ duplicate: true })
    expect(await record()).toMatchObject({ updatedAt: now, expiresAt: now + 60_000 })
  })

  it('also when its part has left', async () => {
    let now = 1_000_000
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1_000, partSize: 1_000 } })
    const options = { clock: () => now, sessionTtl: 60_000, storage }
    const { write, record } = await world(2_000, { chunkSize: 1_000 }, options)
    await write(0, bytes(1_000))
    await expect.poll(async () => (await record()).sentParts).toEqual([[1, 1]])
    now += 50_000
    expect(await write(0, bytes(1_000))).toMatchObject({ duplicate: true, size: 1_000 })
    expect(await record()).toMatchObject({ updatedAt: now, expiresAt: now + 60_000 })
    await expect(write(0, bytes(999))).rejects.toMatchObject({ status: expect.any(Number) })
    await expect(write(0, bytes(1_000, 5))).rejects.toMatchObject({ code: 'CHUNK_CONFLICT', status: 409 })
  })
})

describe('chunks that find their place', () => {
  /** Chunk 1 waits for chunk 0. */
  const waiting = async () => {
    const at = await world(3_000)
    await at.write(1, bytes(1_000, 1))
    return at
  }

  it('and cannot be moved there now are a warning, not the failure of the chunk that showed it', async () => {
    const { write, folder, warnings, extras } = await waiting()
    const [name = ''] = await extras()
    await rm(join(folder, name))
    expect(await write(0, bytes(1_000))).toMatchObject({ size: 1_000 })
    await expect.poll(() => warnings).toEqual(['SETTLE_FAILED'])
  })

  it('and whose upload has gone meanwhile are nothing to warn of', async () => {
    const { write, sessions, id, warnings } = await waiting()
    sessions.afterReplace = () => sessions.delete(id)
    await write(0, bytes(1_000)).catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 40))
    expect(warnings).toEqual([])
  })

  it('are moved also when nothing is sent before the end', async () => {
    const { write, extras, record } = await waiting()
    await write(0, bytes(1_000))
    await expect.poll(async () => (await record()).chunks).toMatchObject([{ index: 0, count: 2, offset: 0, loose: 0 }])
    await expect.poll(extras).toEqual([])
  })

  it('wait there when another process is at it, and the chunk counts all the same', async () => {
    const { write, folder, record, extras, client, id, storage } = await world(2_000, { chunkSize: 1_000 })
    const claim = await new Claims(() => join(folder, 'claims'))
      .claim(id, { start: 1_500, end: 1_501 })
      .catch(() => null)
    expect(claim).toBeNull()
    await write(0, bytes(1_000, 1))
    const held = await new Claims(() => join(folder, 'claims')).claim(id, { start: 1_500, end: 1_501 })
    expect(held).not.toBeNull()
    expect(await write(1, bytes(1_000, 2))).toMatchObject({ size: 1_000, duplicate: false })
    expect((await record()).chunks).toMatchObject([{ index: 0 }, { index: 1, offset: null }])
    expect(await extras()).toHaveLength(1)
    await held?.release()
    const file = Buffer.concat([bytes(1_000, 1), bytes(1_000, 2)])
    expect(storage.read((await client.complete(id)).key)?.equals(file)).toBe(true)
  })
})
