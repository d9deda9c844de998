/** Clocks are set, by hand and by daemons, and machines sleep: no upload that somebody is sending may pay for it. */
import { utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { testEngine } from '../support/engine.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const hour = 60 * 60_000
const years = 10 * 365 * 24 * hour

/** A wall clock that can be set, beside a time that only passes. */
function clocks() {
  let [passed, set] = [0, 0]
  const warnings: string[] = []
  return {
    clock: () => 1_800_000_000_000 + passed + set,
    uptime: () => passed,
    pass: (milliseconds: number) => (passed += milliseconds),
    jump: (milliseconds: number) => (set += milliseconds),
    warnings,
  }
}

function engineWith(time: ReturnType<typeof clocks>, options: Parameters<typeof testEngine>[0] = {}) {
  const made = testEngine({ ...time, cleanupInterval: hour, ...options })
  made.engine.events.on('warning', ({ code }) => time.warnings.push(code))
  return made
}

describe.each([
  ['an hour', 1.5 * hour],
  ['ten years', years],
])('a clock that goes %s forward', (_name, jump) => {
  it('expires no upload that was used within sessionTtl, and every one that was not [C11]', async () => {
    const time = clocks()
    const { engine, client } = engineWith(time)
    const idle = await client.create(100)
    time.pass(hour / 2)
    const live = await client.create(200)
    await client.write(live, 0, bytes(100))
    time.jump(jump)
    expect(await engine.sweep()).toMatchObject({ expired: 0, failed: 0 })
    expect(time.warnings).toEqual(['CLOCK_JUMPED'])
    time.pass(hour / 2)
    expect((await engine.sweep()).expired).toBe(1)
    await expect(client.get(idle)).rejects.toMatchObject({ status: 410 })
    await client.write(live, 1, bytes(100))
    expect((await client.complete(live)).size).toBe(200)
    expect(time.warnings).toEqual(['CLOCK_JUMPED'])
  })

  it('gives an idle upload one sessionTtl and no more [C11]', async () => {
    const time = clocks()
    const { engine, client, tempDir } = engineWith(time)
    const id = await client.create(200)
    await client.write(id, 0, bytes(100))
    time.jump(jump)
    await engine.sweep()
    time.pass(hour - 1)
    expect((await engine.sweep()).expired).toBe(0)
    const late = await client.create(200)
    time.pass(2)
    expect((await engine.sweep()).expired).toBe(1)
    expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
    await expect(client.get(id)).rejects.toMatchObject({ status: 410 })
    time.pass(hour)
    expect((await engine.sweep()).expired).toBe(1)
    await expect(client.get(late)).rejects.toMatchObject({ status: 410 })
  })

  it('lets results be asked for again, and leaves a body alone that has just been received [C11]', async () => {
    const time = clocks()
    const { engine, client, tempDir } = engineWith(time)
    const id = await client.create(0)
    const { url } = await client.complete(id)
    const spooled = join(tempDir, 'spool', 'abc.tmp')
    await writeFile(spooled, 'x')
    time.jump(jump)
    // The file's own time is of the clock before the jump.
    const before = new Date(Date.now() - jump)
    await utimes(spooled, before, before)
    expect(await engine.sweep()).toMatchObject({ forgotten: 0, orphans: 0 })
    expect((await client.complete(id)).url).toBe(url)
    expect(await filesBelow(join(tempDir, 'spool'))).toEqual(['abc.tmp'])
  })

  it('and back again is as if it had not [C11]', async () => {
    const time = clocks()
    const { engine, client } = engineWith(time)
    const id = await client.create(200)
    time.jump(jump)
    expect((await engine.sweep()).expired).toBe(0)
    time.jump(-jump)
    time.pass(hour - 1)
    expect((await engine.sweep()).expired).toBe(0)
    await client.write(id, 0, bytes(100))
    time.pass(hour + 1)
    expect((await engine.sweep()).expired).toBe(1)
  })
})

describe.each([
  ['an hour', -1.5 * hour],
  ['ten years', -years],
])('a clock that goes %s back', (_name, jump) => {
  it('removes nothing, and uploads go on [C11]', async () => {
    const time = clocks()
    const { engine, client, tempDir } = engineWith(time)
    const file = bytes(200)
    const id = await client.create(200)
    await client.write(id, 0, file.subarray(0, 100))
    const spooled = join(tempDir, 'spool', 'abc.tmp')
    await writeFile(spooled, 'x')
    const ahead = new Date(Date.now() - jump)
    await utimes(spooled, ahead, ahead)
    time.jump(jump)
    expect(await engine.sweep()).toEqual({ expired: 0, forgotten: 0, orphans: 0, failed: 0 })
    await client.write(id, 1, file.subarray(100))
    expect((await client.get(id)).expiresAt).toBe(time.clock() + hour)
    await client.complete(id)
    time.pass(hour + 1)
    expect((await engine.sweep()).forgotten).toBe(1)
  })

  it('does not keep an upload in the hands of a completer that died before [C11]', async () => {
    const time = clocks()
    const sessions = new MemorySessionStore()
    const { engine, client } = engineWith(time, { sessions })
    const held = async () => {
      const id = await client.create(100)
      await client.write(id, 0, bytes(100))
      const record = await client.get(id)
      const completing = { by: 'somewhere-else.1.1.0.1', until: time.clock() - jump + 30_000 }
      const next = { ...record, version: record.version + 1, state: 'completing', completing } as const
      await sessions.replace(next, record.version)
      return id
    }
    const [toComplete, toAbort, toExpire] = [await held(), await held(), await held()]
    expect((await client.complete(toComplete)).size).toBe(100)
    await client.abort(toAbort)
    time.pass(hour + 1)
    expect((await engine.sweep()).expired).toBe(1)
    await expect(client.get(toExpire)).rejects.toMatchObject({ status: 410 })
  })

  it('does not keep parts that failed before from being sent again [C11]', async () => {
    const time = clocks()
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1000, partSize: 1000 } })
    const { multipart } = storage
    if (!multipart) throw new Error('this storage was to take parts')
    const uploadPart = multipart.uploadPart.bind(multipart)
    let sent = 0
    multipart.uploadPart = async (...args) => {
      sent += 1
      if (sent === 1) throw new Error('503')
      return uploadPart(...args)
    }
    const { engine, client } = engineWith(time, { storage })
    const file = bytes(3000)
    const [first, ...others] = cut(file, 1000)
    const failed = new Promise<void>((resolve) => engine.events.once('storageError', () => resolve()))
    const id = await client.create(file.length, { chunkSize: 1000 })
    await client.write(id, 0, first as Buffer)
    await failed
    time.jump(jump)
    time.pass(5_000)
    for (const [index, data] of others.entries()) await client.write(id, index + 1, data)
    await expect.poll(async () => (await client.get(id)).sentParts).toEqual([[1, 3]])
    expect(sha256(storage.read((await client.complete(id)).key) ?? '')).toBe(sha256(file))
  })
})

it('a clock that is set in small steps, or runs a little fast, does not move the end of an idle upload [C11]', async () => {
  const time = clocks()
  const { engine, client } = engineWith(time, { tempDir: tempFolder() })
  await client.create(100)
  for (let minute = 0; minute < 59; minute++) {
    time.jump(100)
    time.pass(60_000)
    expect((await engine.sweep()).expired).toBe(0)
  }
  time.pass(60_000)
  expect((await engine.sweep()).expired).toBe(1)
  expect(time.warnings).toEqual([])
})
