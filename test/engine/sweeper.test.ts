import { execFile } from 'node:child_process'
import { mkdir, readdir, symlink, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { dropToken, takeToken } from '../../src/engine/processes.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const hour = 60 * 60_000

/** A clock that the test moves on. */
function movable() {
  let ahead = 0
  return { clock: () => Date.now() + ahead, advance: (milliseconds: number) => (ahead += milliseconds) }
}

describe('the sweeper', () => {
  it('keeps no process running that has nothing else to do, closed or not', async () => {
    const source = (name: string) => JSON.stringify(new URL(`../../src/${name}`, import.meta.url))
    const script = `
      import { createUploadEngine } from ${source('create-upload-engine.ts')}
      import { MemoryStorageAdapter } from ${source('storage/memory-storage.ts')}
      const engine = createUploadEngine({ storage: new MemoryStorageAdapter(), tempDir: ${JSON.stringify(tempFolder())} })
      const { session } = await engine.create({ fileName: 'a.bin', totalSize: 3 })
      await engine.sweep()
      console.log(session.state)`
    const args = ['--import', 'tsx', '--input-type=module', '-e', script]
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 15_000 })
    expect(stdout).toBe('active\n')
  })

  it('removes an upload that was idle for sessionTtl, then answers 410, and later 404', async () => {
    const { clock, advance } = movable()
    const { engine, client, tempDir } = testEngine({ clock, cleanupInterval: hour })
    const id = await client.create(300_000)
    await client.write(id, 0, bytes(100_000))
    advance(hour - 1000)
    expect((await engine.sweep()).expired).toBe(0)
    advance(2000)
    expect(await engine.sweep()).toMatchObject({ expired: 1, failed: 0 })
    expect(await filesBelow(`${tempDir}/staging`)).toEqual([])
    await expect(client.get(id)).rejects.toMatchObject({ code: 'UPLOAD_EXPIRED', status: 410 })
    await expect(client.write(id, 0, bytes(1))).rejects.toMatchObject({ status: 410 })
    advance(hour + 1000)
    expect((await engine.sweep()).forgotten).toBe(1)
    await expect(client.get(id)).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND', status: 404 })
  })

  it('counts idle time from the last chunk, not from the creation [C10]', async () => {
    const { clock, advance } = movable()
    const { engine, client } = testEngine({ clock, cleanupInterval: hour })
    const id = await client.create(500_000)
    for (let index = 0; index < 5; index++) {
      advance(hour - 1000)
      await engine.sweep()
      await client.write(id, index, bytes(100_000))
    }
    await client.complete(id)
  })

  it.each([
    ['as it is', undefined],
    ['whose bytes have left for the storage', { minPartSize: 1000, partSize: 1000 }],
  ])('counts a chunk %s that is sent once more as activity, too [C10]', async (_name, parts) => {
    const { clock, advance } = movable()
    const storage = new MemoryStorageAdapter({ multipart: parts ?? false })
    const { engine, client } = testEngine({ clock, cleanupInterval: hour, storage })
    const file = bytes(3000)
    const id = await client.create(file.length, { chunkSize: 1000 })
    for (const index of [0, 1]) await client.write(id, index, file.subarray(index * 1000, index * 1000 + 1000))
    if (parts) await expect.poll(async () => (await client.get(id)).sentParts).toEqual([[1, 2]])
    advance(hour / 2 + 1000)
    expect(await client.write(id, 0, file.subarray(0, 1000))).toMatchObject({ duplicate: true })
    advance(hour / 2 + 1000)
    expect((await engine.sweep()).expired).toBe(0)
    await client.write(id, 2, file.subarray(2000))
    expect((await client.complete(id)).size).toBe(3000)
  })

  it('does not touch an upload that a slow body is still coming for [C10]', async () => {
    const { clock, advance } = movable()
    const { engine, client } = testEngine({ clock, cleanupInterval: hour })
    for (const index of [0, 1]) {
      const id = await client.create(200_000)
      const slow = new Readable({ read() {} })
      slow.push(bytes(1000))
      const written = client.write(id, index, slow)
      await new Promise((resolve) => setTimeout(resolve, 50))
      advance(2 * hour)
      expect((await engine.sweep()).expired).toBe(0)
      slow.push(bytes(99_000))
      slow.push(null)
      await written
      await client.abort(id)
    }
  })

  it('never races a chunk: whoever is acknowledged is kept [C10]', async () => {
    for (let round = 0; round < 30; round++) {
      const { clock, advance } = movable()
      const { engine, client } = testEngine({ clock, cleanupInterval: hour })
      const id = await client.create(100)
      advance(hour + 1)
      const [written] = await Promise.allSettled([client.write(id, 0, bytes(100)), engine.sweep(), engine.sweep()])
      const state = await client.get(id).then(
        (session) => session.state,
        (error) => error.code,
      )
      expect(state).toBe(written.status === 'fulfilled' ? 'active' : 'UPLOAD_EXPIRED')
    }
  })

  it('remembers a completed upload for completedTtl, and never removes its object', async () => {
    const { clock, advance } = movable()
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { engine, client } = testEngine({ clock, storage, cleanupInterval: hour, completedTtl: 3 * hour })
    const id = await client.create(10)
    await client.write(id, 0, bytes(10))
    const { url, key } = await client.complete(id)
    advance(2.5 * hour)
    await engine.sweep()
    expect((await client.complete(id)).url).toBe(url)
    advance(hour)
    expect((await engine.sweep()).forgotten).toBe(1)
    await expect(client.complete(id)).rejects.toMatchObject({ status: 404 })
    expect(storage.read(key)).toBeDefined()
  })

  it('finds what killed processes left: folders without a record, spooled bodies, old claims', async () => {
    const { engine, tempDir, client } = testEngine({ cleanupInterval: hour })
    await client.create(1)
    const orphan = join(tempDir, 'staging', '6b6d1a3c-5b1e-4b8e-9d53-0a3a4f3f0a11')
    const young = join(tempDir, 'staging', '7b6d1a3c-5b1e-4b8e-9d53-0a3a4f3f0a12')
    for (const folder of [orphan, young]) {
      await mkdir(folder)
      await writeFile(join(folder, 'part-1'), 'x')
    }
    const spooled = join(tempDir, 'spool', 'abc.tmp')
    await writeFile(spooled, 'x')
    const old = new Date(Date.now() - hour - 1000)
    for (const path of [spooled, orphan]) await utimes(path, old, old)
    expect((await engine.sweep()).orphans).toBe(2)
    expect(await filesBelow(join(tempDir, 'staging'))).toEqual(['7b6d1a3c-5b1e-4b8e-9d53-0a3a4f3f0a12/part-1'])
    expect(await filesBelow(join(tempDir, 'spool'))).toEqual([])
  })

  it('aborts the multipart uploads of expired uploads and no other, and tries again when that fails', async () => {
    const { clock, advance } = movable()
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1000, partSize: 1000 } })
    const { multipart } = storage
    if (!multipart) throw new Error('this storage was to take parts')
    const info = { size: 1, fileName: '', mimeType: '', uploadId: 'other', metadata: {} }
    await multipart.create('uploads/of-somebody-else', info)
    const { engine, client } = testEngine({ clock, storage, cleanupInterval: hour })
    const id = await client.create(5000, { chunkSize: 1000 })
    const sent = new Promise<void>((resolve) => engine.events.once('part', () => resolve()))
    await client.write(id, 0, bytes(1000))
    await sent
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(storage.openMultipartUploads()).toHaveLength(2)
    const abort = multipart.abort.bind(multipart)
    multipart.abort = async () => {
      throw new Error('503')
    }
    advance(hour + 1)
    expect(await engine.sweep()).toMatchObject({ expired: 1, failed: 1 })
    expect(storage.openMultipartUploads()).toHaveLength(2)
    advance(hour + 1)
    expect(await engine.sweep()).toMatchObject({ forgotten: 0, failed: 1 })
    multipart.abort = abort
    expect(await engine.sweep()).toMatchObject({ forgotten: 1, failed: 0 })
    expect(storage.openMultipartUploads().map(({ fileKey }) => fileKey)).toEqual(['uploads/of-somebody-else'])
  })

  it('runs by itself every cleanupInterval', async () => {
    const { client, tempDir } = testEngine({ cleanupInterval: 50 })
    const id = await client.create(300_000)
    await client.write(id, 0, bytes(100_000))
    await new Promise((resolve) => setTimeout(resolve, 400))
    await expect(client.get(id)).rejects.toMatchObject({
      status: expect.toSatisfy((status) => [404, 410].includes(status)),
    })
    expect(await filesBelow(`${tempDir}/staging`)).toEqual([])
  })
})

describe.runIf(process.platform === 'linux')('marks of claims', () => {
  it('are used again, swept when their process is dead, and gone when the engine closes', async () => {
    const { engine, client, tempDir } = testEngine()
    const marks = () => readdir(join(tempDir, 'marks'))
    const id = await client.create(300)
    await client.write(id, 0, bytes(100))
    const [first] = await marks()
    expect(first).toBeDefined()
    await client.write(id, 1, bytes(100))
    expect(await marks()).toEqual([first])
    const dead = takeToken()
    dropToken(dead)
    await symlink(dead, join(tempDir, 'marks', 'dead'))
    await engine.sweep()
    expect(await marks()).toEqual([first])
    await engine.close()
    expect(await marks()).toEqual([])
  })
})

describe('files and folders', () => {
  it('are for the owner only: 0600 and 0700', async () => {
    const { stat } = await import('node:fs/promises')
    const tempDir = join(tempFolder(), 'made', 'here')
    const { client } = testEngine({ tempDir })
    const id = await client.create(3_000_000)
    await client.write(id, 0, bytes(1_000_000))
    await client.write(id, 2, bytes(1_000_000))
    await client.write(id, 2, bytes(1_000_000, 9))
    for (const folder of ['', 'staging', 'sessions', 'spool', 'marks', `staging/${id}`, `staging/${id}/claims`]) {
      expect((await stat(join(tempDir, folder))).mode & 0o777, folder).toBe(0o700)
    }
    for (const file of await filesBelow(tempDir)) {
      // Symbolic links have no mode.
      if (file.startsWith('marks/')) continue
      expect((await stat(join(tempDir, file))).mode & 0o777, file).toBe(0o600)
    }
  })
})
