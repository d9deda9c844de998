/** Appends on disks that fail, in processes that were asleep, and beside other verbs. */
import { lutimes, open, readdir, readlink, rm, symlink, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { createUploadEngine } from '../../src/create-upload-engine.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { tempFolder } from '../support/temp-folder.ts'

const protocol = 'tus'
const sleep = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds))

afterEach(() => {
  vi.restoreAllMocks()
})

/** What `fdatasync` of a part's file does, by how often it was called before. */
async function onPartSync(action: (call: number) => Promise<void>) {
  const handle = await open('/dev/null')
  const prototype = Object.getPrototypeOf(handle) as { datasync(this: { fd: number }): Promise<void> }
  await handle.close()
  const { datasync } = prototype
  let calls = 0
  vi.spyOn(prototype, 'datasync').mockImplementation(async function (this: { fd: number }) {
    if ((await readlink(`/proc/self/fd/${this.fd}`)).includes('part-')) await action(calls++)
    return datasync.call(this)
  })
}

describe.runIf(process.platform === 'linux')('on a disk that fails', () => {
  it.each([600, 17 * 1024 * 1024])(
    'acknowledges nothing of %i bytes that could not be flushed, although the second try says so',
    async (size) => {
      const { engine } = testEngine({ durability: 'power' })
      const { session } = await engine.create({ fileName: 'a', totalSize: 2 * size, protocol })
      const ref = { uploadId: session.id, protocol }
      await onPartSync(async (call) => {
        if (call === 0) throw Object.assign(new Error('EIO'), { code: 'EIO', errno: -5, syscall: 'fdatasync' })
      })
      const body = streamOf(Buffer.alloc(size))
      await expect(engine.append({ ...ref, offset: 0, body, size })).rejects.toMatchObject({ status: 503 })
      expect((await engine.retrieveOffset(ref)).offset).toBe(0)
    },
  )

  it('is not interrupted when all of the body is there, although a newcomer waits', async () => {
    const { engine } = testEngine({ durability: 'power' })
    const { session } = await engine.create({ fileName: 'a', totalSize: 2000, protocol })
    const ref = { uploadId: session.id, protocol }
    await onPartSync(() => sleep(400))
    const body = new PassThrough()
    const first = engine.append({ ...ref, offset: 0, body, size: 2000 })
    body.end(Buffer.alloc(2000))
    await sleep(100)
    await engine.retrieveOffset(ref)
    expect(await first).toMatchObject({ offset: 2000, interrupted: false })
  })
})

it('takes in what has arrived also while the storage is slow', async () => {
  const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1024, partSize: 64 * 1024 } })
  const multipart = storage.multipart as NonNullable<typeof storage.multipart>
  const { uploadPart } = multipart
  vi.spyOn(multipart, 'uploadPart').mockImplementation(async (...part) => {
    await sleep(1500)
    return uploadPart.apply(multipart, part)
  })
  const { engine } = testEngine({ storage })
  const { session } = await engine.create({ fileName: 'a', totalSize: 4 * 2 ** 20, protocol })
  const ref = { uploadId: session.id, protocol }
  const body = new PassThrough({ highWaterMark: 2 ** 20 })
  const first = engine.append({ ...ref, offset: 0, body, size: 4 * 2 ** 20 })
  for (let i = 0; i < 12; i++) {
    body.write(Buffer.alloc(128 * 1024))
    await sleep(5)
  }
  await sleep(100)
  expect((await engine.retrieveOffset(ref)).offset).toBe(12 * 128 * 1024)
  expect(await first).toMatchObject({ interrupted: true })
})

describe('a holder that was taken for dead', () => {
  it('neither writes over what others have added meanwhile, nor takes their claim away', async () => {
    const tempDir = tempFolder()
    const storage = new MemoryStorageAdapter({ multipart: false })
    const [asleep, awake] = [testEngine({ tempDir, storage }).engine, testEngine({ tempDir, storage }).engine]
    const { session } = await asleep.create({ fileName: 'a', totalSize: 20, protocol })
    const ref = { uploadId: session.id, protocol }
    const late = new PassThrough()
    const frozen = asleep.append({ ...ref, offset: 0, body: late, size: 20 })
    frozen.catch(() => {})
    await sleep(50)
    const claims = join(tempDir, 'staging', session.id, 'claims')
    const claimsThere = async () => (await readdir(claims)).filter((name) => /^\d+-\d+$/.test(name))
    const path = join(claims, (await claimsThere())[0] as string)
    const token = await readlink(path)
    await unlink(path)
    await symlink(token.replace(/^[^.]+/, 'anothermachine'), path)
    const old = new Date(Date.now() - 6 * 60_000)
    await lutimes(path, old, old)
    await awake.append({ ...ref, offset: 0, body: streamOf(Buffer.from('BBBBBBBBBB')), size: 10 })
    const rest = new PassThrough()
    const going = awake.append({ ...ref, offset: 10, body: rest, size: 10 })
    await sleep(50)
    const now = Date.now
    vi.spyOn(Date, 'now').mockImplementation(() => now() + 10_000)
    late.end(Buffer.from('AAAAAAAAAA'))
    await expect(frozen).rejects.toMatchObject({ status: 423 })
    expect(await claimsThere()).toHaveLength(1)
    rest.end(Buffer.from('bbbbbbbbbb'))
    await going
    expect(storage.read((await awake.complete(ref)).key)?.toString()).toBe('BBBBBBBBBBbbbbbbbbbb')
  })
})

describe('beside other verbs and options', () => {
  it('refuses to add to an upload that arrives in chunks', async () => {
    const { engine } = testEngine()
    const { session } = await engine.create({ fileName: 'a', totalSize: 10, protocol })
    const ref = { uploadId: session.id, protocol }
    await engine.writeChunk({ ...ref, index: 1, body: streamOf(Buffer.from('CCCCC')), size: 5 })
    const append = engine.append({ ...ref, offset: 5, body: streamOf(Buffer.from('AAAAA')), size: 5 })
    await expect(append).rejects.toMatchObject({ code: 'CHUNKED', status: 409 })
  })

  it('completes an upload of unknown length that grew beyond what files could be when it was opened', async () => {
    const [tempDir, directory] = [tempFolder(), tempFolder()]
    const before = createUploadEngine({ storage: new LocalStorageAdapter({ directory }), tempDir, maxFileSize: 1000 })
    const { session } = await before.create({ fileName: 'a', totalSize: null, protocol })
    const ref = { uploadId: session.id, protocol }
    await before.append({ ...ref, offset: 0, body: streamOf(Buffer.alloc(900, 1)), size: 900 })
    await before.close()
    const { engine } = testEngine({ tempDir, storage: new LocalStorageAdapter({ directory }), maxFileSize: 5000 })
    await engine.append({ ...ref, offset: 900, body: streamOf(Buffer.alloc(900, 2)), size: 900, totalSize: 1800 })
    const wrong = { ...ref, checksum: 'crc32:AAAAAA==' }
    await expect(engine.complete(wrong)).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' })
    expect(await engine.complete(ref)).toMatchObject({ size: 1800 })
  })

  it('lets nobody in whom authorize answers with something that is neither true nor nothing', async () => {
    const authorize = (_action: unknown, _session: unknown, context: unknown) => context as boolean
    const { engine } = testEngine({ hooks: { authorize } })
    const { session } = await engine.create({ fileName: 'a', totalSize: 3, protocol, context: true })
    const get = (context: unknown) => engine.get({ uploadId: session.id, protocol, context })
    for (const answer of [null, 0, '', 'yes', 1, {}]) await expect(get(answer)).rejects.toMatchObject({ status: 404 })
    await expect(get(true)).resolves.toMatchObject({ id: session.id })
    await expect(get(undefined)).resolves.toMatchObject({ id: session.id })
  })
})

it('goes on where all bytes are with the storage, although the emptied folder of the upload has gone', async () => {
  const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 1024, partSize: 1024 } })
  const { engine, tempDir } = testEngine({ storage })
  const { session } = await engine.create({ fileName: 'a', totalSize: 2048, protocol })
  const ref = { uploadId: session.id, protocol }
  const sent = new Promise((resolve) => engine.events.once('part', resolve))
  await engine.append({ ...ref, offset: 0, body: streamOf(Buffer.alloc(1024, 'A')), size: 1024 })
  await sent
  await sleep(50)
  await rm(join(tempDir, 'staging', session.id), { recursive: true })
  await engine.append({ ...ref, offset: 1024, body: streamOf(Buffer.alloc(1024, 'B')), size: 1024 })
  expect((await engine.complete(ref)).size).toBe(2048)
})
