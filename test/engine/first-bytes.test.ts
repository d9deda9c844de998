/** The first bytes are looked at once they are there, at the latest before anything is published, and never skipped. */
import { createHash } from 'node:crypto'
import { PassThrough } from 'node:stream'
import { describe, expect, it } from 'vitest'
import type { UploadEngineOptions } from '../../src/create-upload-engine.ts'
import { ProcessingError } from '../../src/errors.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { FirstBytes, UploadHooks } from '../../src/types.ts'
import { picture, program } from '../support/disguised.ts'
import { streamOf, testEngine } from '../support/engine.ts'
import { bytes, cut } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const png = 'image/png'
const protocol = 'native'

function engineOf(options: Partial<UploadEngineOptions> = {}) {
  const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 20_000, partSize: 20_000 } })
  const made = testEngine({ storage, ...options })
  const create = async (totalSize: number, mimeType = png, chunkSize?: number) => {
    const file = { fileName: 'a.png', mimeType, totalSize, chunkSize, protocol }
    return (await made.engine.create(file)).session.id
  }
  return { ...made, storage, create }
}

/** Hooks that note what they are shown, and answer as told. */
function noting(answer: (first: FirstBytes) => void = () => {}) {
  const seen: FirstBytes[] = []
  const hooks: UploadHooks = {
    onFirstBytes(_, first) {
      seen.push({ ...first, bytes: Buffer.from(first.bytes) })
      answer(first)
    },
  }
  return { seen, hooks }
}

describe('onFirstBytes', () => {
  it('is asked once, with the first 4100 bytes and what they show', async () => {
    const { seen, hooks } = noting()
    const { client, create } = engineOf({ hooks })
    const file = picture(100_000)
    const id = await create(file.length)
    for (const [index, data] of cut(file, 30_000).entries()) await client.write(id, index, data)
    await client.complete(id)
    expect(seen).toEqual([{ bytes: file.subarray(0, 4100), detected: png }])
  })

  it('is asked as soon as the bytes are there, however small the chunks and whatever their order', async () => {
    const { seen, hooks } = noting()
    const { client, create } = engineOf({ hooks })
    const file = picture(5_000)
    const id = await create(file.length)
    for (const [index, data] of [...cut(file, 1_000).entries()].reverse()) {
      expect(seen).toHaveLength(0)
      await client.write(id, index, data)
    }
    expect(seen).toEqual([{ bytes: file.subarray(0, 4100), detected: png }])
  })

  it.each([0, 1, 4099])('sees all of a file of %i bytes', async (size) => {
    const { seen, hooks } = noting()
    const { client, create } = engineOf({ hooks })
    const file = bytes(size)
    const id = await create(size)
    if (size > 0) await client.write(id, 0, file)
    await client.complete(id)
    expect(seen.map((first) => Buffer.from(first.bytes).equals(file))).toEqual([true])
  })

  it('that refuses is final: bytes and parts go, the reason stays', async () => {
    const { hooks } = noting(() => {
      throw new ProcessingError('No programs here.', { code: 'PROGRAM' })
    })
    const { client, create, engine, storage, tempDir } = engineOf({ hooks })
    const aborted: string[] = []
    engine.events.on('aborted', ({ session }) => aborted.push(session.id))
    const id = await create(100_000, png, 20_000)
    await client.write(id, 1, bytes(20_000))
    await expect(client.write(id, 0, bytes(20_000))).rejects.toMatchObject({ code: 'PROGRAM', status: 422 })
    await expect(client.write(id, 2, bytes(20_000))).rejects.toMatchObject({ code: 'PROGRAM', status: 422 })
    await expect(client.complete(id)).rejects.toMatchObject({ code: 'PROGRAM', message: 'No programs here.' })
    expect(aborted).toEqual([id])
    expect([storage.keys(), storage.openMultipartUploads()]).toEqual([[], []])
    expect(await filesBelow(`${tempDir}/staging`)).toEqual([])
  })

  it('that fails refuses the request with 503, publishes nothing, and is asked again', async () => {
    let isDown = true
    const { seen, hooks } = noting(() => {
      if (isDown) throw new TypeError('a secret of the application')
    })
    const { client, create, storage } = engineOf({ hooks })
    const file = picture(50_000)
    const id = await create(file.length)
    const failed = { code: 'FIRST_BYTES_HOOK_FAILED', status: 503, retryable: true }
    // All at once: nothing of the chunk is kept. In two: what is needed to look is kept.
    await expect(client.write(id, 0, file)).rejects.toMatchObject(failed)
    expect((await client.get(id)).chunks).toEqual([])
    await client.write(id, 0, file.subarray(0, 4_000))
    await expect(client.write(id, 1, file.subarray(4_000))).rejects.toMatchObject(failed)
    const error = await client.complete(id).catch((thrown: Error) => thrown)
    expect(error).toMatchObject(failed)
    expect((error as Error).message).not.toContain('secret')
    expect([storage.keys(), storage.openMultipartUploads()]).toEqual([[], []])
    isDown = false
    const before = seen.length
    const { key } = await client.complete(id)
    expect([seen.length - before, storage.read(key)?.equals(file)]).toEqual([1, true])
  })

  it('that never answers ends with storageTimeout', async () => {
    const hooks: UploadHooks = { onFirstBytes: () => new Promise(() => {}) }
    const { client, create } = engineOf({ hooks, storageTimeout: 100 })
    const id = await create(5_000)
    await expect(client.write(id, 0, picture(5_000))).rejects.toMatchObject({ status: 504 })
  })

  it('no part with these bytes leaves before they have passed', async () => {
    let isDown = true
    const { hooks } = noting(() => {
      if (isDown) throw new Error('down')
    })
    const { client, create, storage } = engineOf({ hooks })
    const file = picture(60_000)
    const id = await create(file.length, png, 20_000)
    const sent: number[] = []
    let release = () => {}
    const gate = new Promise<void>((resolve) => {
      release = resolve
    })
    const multipart = watching(storage.multipart, sent, gate)
    Object.defineProperty(storage, 'multipart', { value: multipart })
    for (const [index, data] of [...cut(file, 20_000).entries()].reverse()) {
      // With a checksum it is stored before anybody looks.
      const checksum = `sha256:${createHash('sha256').update(data).digest('base64')}`
      const written = client.write(id, index, data, { checksum })
      if (index > 0) await written
      else await expect(written).rejects.toMatchObject({ code: 'FIRST_BYTES_HOOK_FAILED' })
    }
    // Only now the sender, busy with the last part, looks what else there is.
    release()
    await expect.poll(async () => (await client.get(id)).sentParts).toEqual([[2, 3]])
    expect([...sent].sort()).toEqual([2, 3])
    isDown = false
    const { key } = await client.complete(id)
    expect([[...sent].sort(), storage.read(key)?.equals(file)]).toEqual([[1, 2, 3], true])
  })
})

/** Notes the numbers of the parts that are sent, and sends none before `gate`. */
function watching(multipart: MemoryStorageAdapter['multipart'], sent: number[], gate: Promise<void>) {
  if (!multipart) return multipart
  const uploadPart: typeof multipart.uploadPart = async (ref, partNumber, ...rest) => {
    sent.push(partNumber)
    await gate
    return multipart.uploadPart(ref, partNumber, ...rest)
  }
  return new Proxy(multipart, {
    get: (target, name) => {
      const value = name === 'uploadPart' ? uploadPart : Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

describe('what has passed', () => {
  it('holds after a restart', async () => {
    const first = noting()
    const tempDir = tempFolder()
    const storage = new MemoryStorageAdapter({ multipart: false })
    const before = engineOf({ hooks: first.hooks, tempDir, storage })
    const file = picture(50_000)
    const id = await before.create(file.length)
    await before.client.write(id, 0, file.subarray(0, 25_000))
    await before.engine.close()
    const second = noting()
    const after = engineOf({ hooks: second.hooks, tempDir, storage })
    await after.client.write(id, 1, file.subarray(25_000))
    await after.client.complete(id)
    expect([first.seen.length, second.seen.length]).toEqual([1, 0])
  })

  it('does not hold for a chunk that takes the place of the one that was looked at', async () => {
    const { client, create, storage, tempDir } = engineOf({ verifyMimeType: true })
    const [good, bad] = [picture(15_000), program(15_000)]
    const id = await create(30_000)
    await client.write(id, 0, good)
    await expect(client.write(id, 0, bad)).rejects.toMatchObject({ code: 'INVALID_FILE_TYPE', status: 415 })
    await expect(client.write(id, 1, bytes(15_000))).rejects.toMatchObject({ status: 415 })
    await expect(client.complete(id)).rejects.toMatchObject({ status: 415 })
    expect([storage.keys(), await filesBelow(`${tempDir}/staging`)]).toEqual([[], []])
  })

  it('is looked at again when a small chunk within the first bytes is replaced', async () => {
    const { seen, hooks } = noting()
    const { client, create } = engineOf({ hooks })
    const file = picture(6_000)
    const id = await create(file.length)
    for (const [index, data] of cut(file, 1_000).entries()) await client.write(id, index, data)
    await client.write(id, 5, bytes(1_000, 9))
    expect(seen).toHaveLength(1)
    const other = bytes(1_000, 8)
    await client.write(id, 2, other)
    expect(seen).toHaveLength(2)
    expect(
      Buffer.from(seen[1]?.bytes ?? [])
        .subarray(2_000, 3_000)
        .equals(other),
    ).toBe(true)
    await client.complete(id)
    expect(seen).toHaveLength(2)
  })

  it('is asked for also of an upload that was begun without anybody looking, unless its bytes have left', async () => {
    const tempDir = tempFolder()
    const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 20_000, partSize: 20_000 } })
    const before = engineOf({ tempDir, storage })
    const [small, large] = [await before.create(10_000), await before.create(60_000, png, 20_000)]
    await before.client.write(small, 0, program(10_000))
    for (const [index, data] of cut(program(60_000), 20_000).entries()) await before.client.write(large, index, data)
    await expect.poll(async () => (await before.client.get(large)).sentParts).not.toEqual([])
    await before.engine.close()
    const after = engineOf({ tempDir, storage, verifyMimeType: true })
    await expect(after.client.complete(small)).rejects.toMatchObject({ status: 415 })
    await expect(after.client.complete(large)).rejects.toMatchObject({ code: 'FIRST_BYTES_GONE', status: 409 })
    expect(storage.keys()).toEqual([])
  })
})

describe('a first chunk that is the whole file', () => {
  it('is refused when its beginning is there, and the hook is asked once for it', async () => {
    const { seen, hooks } = noting()
    const { client, create } = engineOf({ hooks })
    const file = picture(3_000_000)
    const id = await create(file.length)
    await client.write(id, 0, file)
    await client.complete(id)
    expect(seen).toHaveLength(1)
  })

  it('with a checksum is looked at when the checksum has matched: damage on the way is no refusal', async () => {
    const { client, create, engine } = engineOf({ verifyMimeType: true, maxChunkSize: 5_000_000 })
    const id = await create(3_000_000)
    const checksum = `crc32:${Buffer.alloc(4, 7).toString('base64')}`
    await expect(client.write(id, 0, program(3_000_000), { checksum })).rejects.toMatchObject({
      code: 'CHECKSUM_MISMATCH',
    })
    await client.write(id, 0, picture(3_000_000))
    expect((await engine.get({ uploadId: id, protocol })).state).toBe('active')
  })
})

describe('verifyMimeType', () => {
  it('looks at the type that onCreate has set', async () => {
    const hooks: UploadHooks = {
      onCreate(draft) {
        draft.mimeType = 'application/pdf'
      },
    }
    const { client, create } = engineOf({ verifyMimeType: true, hooks })
    const id = await create(5_000)
    await expect(client.write(id, 0, picture(5_000))).rejects.toMatchObject({
      message: 'The file is declared as application/pdf, but its bytes are of type image/png.',
    })
  })

  it('must be true or false', () => {
    expect(() => engineOf({ verifyMimeType: 'yes' as never })).toThrow(/verifyMimeType must be true or false/)
  })

  it('looks at appended bytes while the body is still coming in', async () => {
    // Without parts, which are a reason of their own to record what has come.
    const storage = new MemoryStorageAdapter({ multipart: false })
    const { engine, create } = engineOf({ verifyMimeType: true, storage })
    const id = await create(2_000_000)
    const body = new PassThrough({ highWaterMark: 1_000_000 })
    // One batch, as it is written to the disk.
    body.write(program(512 * 1024))
    // And then nothing, for as long as the client likes.
    await expect(engine.append({ uploadId: id, protocol, offset: 0, body })).rejects.toMatchObject({ status: 415 })
    body.destroy()
  }, 10_000)

  it('works for appended bytes of unknown length, at the end at the latest', async () => {
    const { engine, storage } = engineOf({ verifyMimeType: true })
    const { session } = await engine.create({ fileName: 'a', mimeType: png, totalSize: null, protocol })
    const ref = { uploadId: session.id, protocol }
    await engine.append({ ...ref, offset: 0, body: streamOf(program(3_000)) })
    await expect(engine.complete({ ...ref, totalSize: 3_000 })).rejects.toMatchObject({ status: 415 })
    expect(storage.keys()).toEqual([])
  })
})
