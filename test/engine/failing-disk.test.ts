/** What sweeps of `test/faults` found: single calls of a disk that fails, and what must become of the request. */
import '../support/hook-fs.ts'

import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { errnoError, flushesNothing } from '../support/fs-faults.ts'
import { age } from '../support/fs-world.ts'
import { type FsCall, leakedFiles, watchFs } from '../support/hook-fs.ts'
import { tempFolder } from '../support/temp-folder.ts'

type Code = Parameters<typeof errnoError>[0]

const protocol = 'tus'
const data = Buffer.from('0123456789')

afterEach(() => {
  watchFs([])
})

/** Refuses the calls that `is` says, until the returned function is called. */
function refuse(folder: string, code: Code, is: (call: FsCall) => boolean): () => void {
  return watchFs([folder], (call, proceed) => {
    if (is(call)) throw errnoError(code, call)
    return flushesNothing(call, proceed)
  })
}

async function anUpload(options: Parameters<typeof testEngine>[0] = {}) {
  const { engine, tempDir } = testEngine(options)
  const { session } = await engine.create({ fileName: 'a', totalSize: 20, protocol })
  const ref = { uploadId: session.id, protocol }
  const append = (offset: number) => engine.append({ ...ref, offset, body: streamOf(data), size: data.length })
  return { engine, tempDir, ref, append }
}

describe('a disk without room', () => {
  it('for the folders of the server is told as that, not as an outage [E01]', async () => {
    const tempDir = tempFolder()
    const { engine } = testEngine({ tempDir })
    const lift = refuse(tempDir, 'ENOSPC', ({ op, path }) => op === 'mkdir' && path.endsWith('spool'))
    await expect(engine.create({ fileName: 'a', totalSize: 20, protocol })).rejects.toMatchObject({ status: 507 })
    lift()
    await engine.create({ fileName: 'a', totalSize: 20, protocol })
  })
})

describe('a disk that fails', () => {
  it('at one body that is left over does not keep the sweeper from the rest [E01]', async () => {
    const { engine, tempDir } = await anUpload()
    const orphan = join(tempDir, 'staging', '3f0c8f2e-8a53-4b6e-9d1c-0a4f5d6e7b8c')
    const bodies = ['a.tmp', 'b.tmp'].map((name) => join(tempDir, 'spool', name))
    await mkdir(orphan)
    for (const body of bodies) await writeFile(body, 'x')
    await age(tempDir, 3 * 60 * 60_000)
    const lift = refuse(tempDir, 'EIO', ({ op, path }) => op === 'unlink' && path === bodies[0])
    expect(await engine.sweep()).toMatchObject({ failed: 1 })
    expect(await readdir(join(tempDir, 'spool'))).toEqual(['a.tmp'])
    expect(await readdir(join(tempDir, 'staging'))).not.toContain(basename(orphan))
    lift()
    expect(await engine.sweep()).toMatchObject({ failed: 0, orphans: 1 })
    expect(await readdir(join(tempDir, 'spool'))).toEqual([])
  })

  it('under the lock of an upload is an outage to who asks for its offset [E01]', async () => {
    const { engine, tempDir, ref, append } = await anUpload()
    await append(0)
    const lift = refuse(tempDir, 'EIO', ({ op }) => op === 'symlink' || op === 'link')
    await expect(engine.retrieveOffset(ref)).rejects.toMatchObject({ status: 503 })
    await expect(append(10)).rejects.toMatchObject({ status: 503 })
    lift()
    expect((await engine.retrieveOffset(ref)).offset).toBe(10)
  })

  it('while a lock is taken does not leave it locked [E01]', async () => {
    const { engine, tempDir, ref, append } = await anUpload()
    await append(0)
    const lift = refuse(tempDir, 'EIO', ({ path }) => path.endsWith('requested'))
    await expect(engine.retrieveOffset(ref)).rejects.toMatchObject({ status: 503 })
    lift()
    expect((await append(10)).offset).toBe(20)
  })

  it('at the folder of the first append is an outage [E01]', async () => {
    const { tempDir, append } = await anUpload()
    const lift = refuse(tempDir, 'EIO', ({ op, path }) => op === 'mkdir' && path.endsWith('claims'))
    await expect(append(0)).rejects.toMatchObject({ status: 503 })
    lift()
    expect((await append(0)).offset).toBe(10)
  })

  it('at the flush of a new name leaves no file open [E01]', async () => {
    const { tempDir, append } = await anUpload({ durability: 'power' })
    await leakedFiles()
    const open = watchFs([tempDir], (call, proceed) => {
      if (call.op === 'handle.sync' && /staging\/[^/]+$/.test(call.path)) throw errnoError('EIO', call)
      return flushesNothing(call, proceed)
    })
    await expect(append(0)).rejects.toMatchObject({ status: 503 })
    expect(await leakedFiles()).toEqual([])
    open()
  })

  it('after a record was stored is an outage, not somebody else at work [E01]', async () => {
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1, partSize: 5 } })
    const { tempDir, append } = await anUpload({ durability: 'power', storage })
    let once = true
    const lift = refuse(tempDir, 'EIO', ({ op, path }) => {
      if (!once || op !== 'handle.datasync' || !path.endsWith('.log')) return false
      once = false
      return true
    })
    await expect(append(0)).rejects.toMatchObject({ status: 503 })
    lift()
  })

  it('under a body that waits for its place is an outage, not the fault of the client [E01]', async () => {
    const { engine, tempDir } = testEngine()
    const { session } = await engine.create({ fileName: 'a', totalSize: 20, protocol })
    const inSpool = (ops: RegExp) => (call: FsCall) => call.path.includes('/spool/') && ops.test(call.op)
    let lift = refuse(tempDir, 'ENOSPC', inSpool(/^open$/))
    await expect(engine.spool(streamOf(data), { maxSize: 10 })).rejects.toMatchObject({ status: 507 })
    lift()
    const spooled = await engine.spool(streamOf(data), { maxSize: 10 })
    lift = refuse(tempDir, 'EIO', inSpool(/read$/))
    const chunk = { uploadId: session.id, protocol, index: 0, body: spooled.open() }
    await expect(engine.writeChunk(chunk)).rejects.toMatchObject({ status: 503, code: 'STORAGE_UNAVAILABLE' })
    lift()
    await engine.writeChunk({ ...chunk, body: spooled.open() })
    const codes: string[] = []
    engine.events.on('warning', ({ code }) => codes.push(code))
    refuse(tempDir, 'EIO', inSpool(/^(lstat|unlink)$/))
    // The chunk is stored: that its copy stays for a while is no reason to refuse it.
    await spooled.discard()
    expect(codes).toEqual(['CLEANUP_FAILED'])
  })

  it('because a file is in use is an outage, also when the object is put in place [E01]', async () => {
    const directory = tempFolder()
    const { engine, append, ref } = await anUpload({ storage: new LocalStorageAdapter({ directory }) })
    await append(0)
    await append(10)
    const lift = refuse(directory, 'EBUSY', ({ op }) => op === 'rename')
    await expect(engine.complete(ref)).rejects.toMatchObject({ status: 503 })
    lift()
    expect(await engine.complete(ref)).toMatchObject({ size: 20 })
  })
})
