/** What a release has written, the next one goes on with; what a newer one has written is refused and left alone. */
import { cp, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { encodeLine } from '../../src/sessions/session-journal.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { SessionRecord, UploadSession } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'
import { bodyOf, type FixtureIds, fixtureBytes, fixtureTime } from '../support/temp-folder-fixture.ts'

const fixture = join(import.meta.dirname, '../fixtures/temp-folder-format-1')
const ids = JSON.parse(await readFile(join(fixture, 'uploads.json'), 'utf8')) as FixtureIds
const protocol = 'native'
const minute = 60_000
const year = 365 * 24 * 60 * minute

async function opened(time = fixtureTime + minute) {
  const tempDir = tempFolder()
  await cp(fixture, tempDir, { recursive: true })
  const storage = new MemoryStorageAdapter({ multipart: false })
  let now = time
  const engine = testEngine({ tempDir, storage, clock: () => now }).engine
  return { tempDir, storage, engine, later: (by: number) => (now += by) }
}

describe('a temp folder of format 1', () => {
  it('goes on: each upload is finished with exactly its bytes [D08, I05]', async () => {
    const { engine, storage } = await opened()
    const write = (uploadId: string, index: number, data: Buffer) =>
      engine.writeChunk({ uploadId, index, protocol, body: bodyOf(data) })
    const read = async (uploadId: string, of = protocol) => {
      const { key } = await engine.complete({ uploadId, protocol: of })
      return storage.read(key)
    }
    await write(ids.declared, 1, fixtureBytes(600, 1).subarray(200, 400))
    expect(await read(ids.declared)).toEqual(fixtureBytes(600, 1))
    await write(ids.loose, 1, fixtureBytes(500, 2).subarray(100, 300))
    expect(await read(ids.loose)).toEqual(fixtureBytes(500, 2))
    const append = { uploadId: ids.appended, protocol: 'tus' }
    await engine.append({ ...append, offset: 250, body: bodyOf(fixtureBytes(400, 3).subarray(250)) })
    expect(await read(ids.appended, 'tus')).toEqual(fixtureBytes(400, 3))
  })

  it('is remembered: results, refusals, resume keys, and what was sent with a file', async () => {
    const { engine } = await opened()
    expect((await engine.complete({ uploadId: ids.completed, protocol })).size).toBe(50)
    const again = { uploadId: ids.completed, protocol, index: 0 }
    expect(await engine.matchesChunk({ ...again, body: bodyOf(fixtureBytes(50, 4)) })).toBe(true)
    await expect(engine.complete({ uploadId: ids.refused, protocol })).rejects.toMatchObject({ status: 415 })
    const found = await engine.find({ resumeKey: 'a key', protocol })
    expect(found?.session).toMatchObject({ id: ids.declared, metadata: { from: 'somewhere' } })
    expect((await engine.get({ uploadId: ids.appended, protocol: 'tus' })).wire).toEqual({ metadata: 'a YQ==' })
  })

  it('is swept when its time is over, and nothing of it stays', async () => {
    const { engine, tempDir, later } = await opened()
    later(year)
    expect((await engine.sweep()).expired).toBe(3)
    // The records, then the resume key, which is remembered for longer.
    for (let n = 0; n < 3; n++) {
      later(year)
      await engine.sweep()
    }
    expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
    expect(await filesBelow(join(tempDir, 'sessions'))).toEqual([])
  })
})

/** Rewrites the record as if another release had. */
async function rewrite(
  tempDir: string,
  id: string,
  format: unknown,
): Promise<{ path: string; restore(): Promise<void> }> {
  const folder = join(tempDir, 'sessions', id)
  const [name = '', ...others] = await readdir(folder)
  expect(others).toEqual([])
  const path = join(folder, name)
  const before = await readFile(path)
  const start = before.lastIndexOf(0x1e)
  const text = before.subarray(start + 1).toString()
  const json = text.slice(text.indexOf('{'), text.lastIndexOf('}') + 1)
  const [, kind = '', number = '', nonce = ''] = text.split(' ')
  const record = { ...JSON.parse(json), format }
  const line = encodeLine({ kind: kind as 'r', number: Number(number), nonce, json: JSON.stringify(record) })
  await writeFile(path, Buffer.concat([before.subarray(0, start), line]))
  return { path, restore: () => writeFile(path, before) }
}

describe.each([
  ['of a newer release', 2, 'STATE_NEWER'],
  ['of a much newer release', 1_000_000, 'STATE_NEWER'],
  ['of a format that never was', 0, 'STATE_UNREADABLE'],
  ['of a format below zero', -1, 'STATE_UNREADABLE'],
  ['of a format that is no number', 'two', 'STATE_UNREADABLE'],
  ['of half a format', 1.5, 'STATE_UNREADABLE'],
  ['of no format', undefined, 'STATE_UNREADABLE'],
])('a record %s', (_, format, code) => {
  it('is a 503 for every verb, is never swept, keeps its bytes, and goes on when it is readable again [D08]', async () => {
    const { engine, storage, tempDir, later } = await opened()
    const { path, restore } = await rewrite(tempDir, ids.declared, format)
    const content = await readFile(path)
    const ref = { uploadId: ids.declared, protocol }
    const body = () => bodyOf(fixtureBytes(600, 1).subarray(200, 400))
    for (const call of [
      () => engine.get(ref),
      () => engine.retrieveOffset(ref),
      () => engine.writeChunk({ ...ref, index: 1, body: body() }),
      () => engine.append({ ...ref, offset: 0, body: body() }),
      () => engine.complete(ref),
      () => engine.abort(ref),
      () => engine.find({ resumeKey: 'a key', protocol }),
    ]) {
      await expect(call()).rejects.toMatchObject({ code, status: 503, retryable: true })
    }
    later(year)
    await engine.sweep()
    await engine.sweep()
    expect(await readFile(path)).toEqual(content)
    expect(await filesBelow(join(tempDir, 'staging', ids.declared))).toEqual(['part-1'])
    later(-year)
    await restore()
    await engine.writeChunk({ ...ref, index: 1, body: body() })
    const { key } = await engine.complete(ref)
    expect(storage.read(key)).toEqual(fixtureBytes(600, 1))
  })
})

it('a record of a newer release in any session store is not swept [D08]', async () => {
  const sessions = new MemorySessionStore()
  let now = Date.now()
  const { engine, client } = testEngine({ sessions, clock: () => now })
  const id = await client.create(5)
  await client.write(id, 0, Buffer.from('hello'))
  await client.complete(id)
  const record = (await sessions.get(id)) as UploadSession
  const newer = { ...record, format: 2, version: record.version + 1 } as unknown as SessionRecord
  await sessions.replace(newer, record.version)
  now += year
  expect(await engine.sweep()).toMatchObject({ expired: 0, forgotten: 0 })
  expect(await sessions.get(id)).toMatchObject({ format: 2 })
})
