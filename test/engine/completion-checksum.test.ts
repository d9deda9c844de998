/** The checksum of a whole file is not believed but verified, also by a completion that goes on with what an earlier one left. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { closeSync, constants, openSync } from 'node:fs'
import { readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { type engineClient, testEngine } from '../support/engine.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'

const file = bytes(150_000)
const chunks = cut(file, 50_000)
const of = (data: Buffer) => `sha256:${Buffer.from(sha256(data), 'hex').toString('base64')}`
const wrong = of(bytes(1))

/** An upload of three parts with this checksum; its first completion failed when `sent` of them were in the storage. */
async function halfStored(checksum?: string, asked?: string, sent = 2) {
  const storage = new MemoryStorageAdapter({
    multipart: { minPartSize: 50_000, maxPartSize: 1_000_000, maxParts: 100, partSize: 50_000 },
  })
  const multipart = storage.multipart as NonNullable<typeof storage.multipart>
  const { client } = testEngine({ storage })
  const id = await client.create(file.length, { chunkSize: 50_000, ...(checksum !== undefined && { checksum }) })
  for (const [index, chunk] of chunks.entries()) await client.write(id, index, chunk)
  const { uploadPart } = multipart
  multipart.uploadPart = async (...part) => {
    if (part[1] > sent) throw new Error('outage')
    return uploadPart.apply(multipart, part)
  }
  await expect(client.complete(id, asked)).rejects.toMatchObject({ status: 502 })
  multipart.uploadPart = uploadPart
  return { client, id, storage }
}

async function whole(client: ReturnType<typeof engineClient>, checksum?: string) {
  const id = await client.create(file.length, checksum === undefined ? {} : { checksum })
  await client.write(id, 0, file)
  return id
}

describe('once parts have left for the storage', () => {
  it('another checksum than the verified one is refused', async () => {
    const { client, id } = await halfStored(of(file))
    await expect(client.complete(id, wrong)).rejects.toMatchObject({ code: 'CHECKSUM_TOO_LATE' })
    expect(await client.complete(id)).toMatchObject({ checksum: of(file) })
  })

  it('the checksum that was verified is not asked for again', async () => {
    const { client, id } = await halfStored(of(file), `md5:${md5(file)}`)
    expect(await client.complete(id, `md5:${md5(file)}`)).toMatchObject({ checksum: `md5:${md5(file)}` })
  })

  it('the checksum of the creation is still good when the completion had come with another', async () => {
    const { client, id } = await halfStored(of(file), `md5:${md5(file)}`)
    expect(await client.complete(id)).toMatchObject({ checksum: of(file) })
  })

  it('no chunk is replaced any more, also of parts that are still here', async () => {
    const { client, id, storage } = await halfStored(of(file))
    await expect(client.write(id, 2, bytes(50_000, 9))).rejects.toMatchObject({ code: 'CHUNK_CONFLICT' })
    expect(await client.write(id, 2, chunks[2] as Buffer)).toMatchObject({ duplicate: true })
    const { key } = await client.complete(id)
    expect(sha256(storage.read(key) ?? '')).toBe(sha256(file))
  })
})

it('a chunk that was replaced after the checksum had been verified is verified again', async () => {
  const { client, id } = await halfStored(of(file), undefined, 0)
  await client.write(id, 2, bytes(50_000, 9))
  await expect(client.complete(id)).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' })
  await client.write(id, 2, chunks[2] as Buffer)
  expect(await client.complete(id)).toMatchObject({ checksum: of(file) })
})

it('a file that was given away by a completion which then failed has no other checksum than the verified one', async () => {
  class Failing extends LocalStorageAdapter {
    failures = 1
    override async adoptFile(...file: Parameters<LocalStorageAdapter['adoptFile']>) {
      const url = await super.adoptFile(...file)
      if (this.failures-- > 0) throw new Error('the answer was lost')
      return url
    }
  }
  const { client } = testEngine({ storage: new Failing({ directory: tempFolder() }) })
  const id = await whole(client)
  await expect(client.complete(id, of(file))).rejects.toMatchObject({ status: 502 })
  await expect(client.complete(id, wrong)).rejects.toMatchObject({ code: 'CHECKSUM_TOO_LATE' })
  expect(await client.complete(id, of(file))).toMatchObject({ checksum: of(file) })
})

it('a checksum at the completion does not replace the one at the creation', async () => {
  const { client, storage } = testEngine()
  const id = await whole(client, wrong)
  await expect(client.complete(id, of(file))).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' })
  expect((storage as MemoryStorageAdapter).keys()).toEqual([])
})

/** More than 1 MiB is read by a thread. */
describe.each([600_000, 3_000_000])('the checksum of %i bytes in several parts', (size) => {
  const content = bytes(size, 5)
  const partSize = size / 3
  const parts = { minPartSize: partSize, maxPartSize: partSize, maxParts: 9, partSize }

  async function received() {
    const storage = new MemoryStorageAdapter({ multipart: parts })
    const { client, tempDir } = testEngine({ storage })
    const id = await client.create(size, { chunkSize: partSize, checksum: of(content) })
    for (const [index, chunk] of cut(content, partSize).entries()) await client.write(id, index, chunk)
    const pathOf = (part: number) => join(tempDir, 'staging', id, `part-${part}`)
    return { client, storage, id, pathOf }
  }

  it('is found right, and a byte that changed on the disk is found', async () => {
    const { client, storage, id, pathOf } = await received()
    const part = await readFile(pathOf(2))
    await writeFile(
      pathOf(2),
      Buffer.concat([part.subarray(0, -1), Buffer.from([part[partSize - 1] ?? 0]).map((byte) => byte ^ 1)]),
    )
    await expect(client.complete(id)).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH', retryable: false })
    expect(storage.keys()).toEqual([])
    await writeFile(pathOf(2), part)
    const { key } = await client.complete(id)
    expect(storage.read(key)?.equals(content)).toBe(true)
  })

  it('cannot be told of parts that are missing or too short', async () => {
    const { client, storage, id, pathOf } = await received()
    const part = await readFile(pathOf(2))
    await truncate(pathOf(2), partSize - 1)
    await expect(client.complete(id)).rejects.toMatchObject({ status: 503, code: 'STAGING_LOST' })
    await rm(pathOf(2))
    await expect(client.complete(id)).rejects.toMatchObject({ status: 503, code: 'STORAGE_UNAVAILABLE' })
    await writeFile(pathOf(2), part)
    const { key } = await client.complete(id)
    expect(storage.read(key)?.equals(content)).toBe(true)
  })
})

it('a completion that cannot read what it has to check ends with the engine', async () => {
  const [size, partSize] = [3_000_000, 1_000_000]
  const storage = new MemoryStorageAdapter({
    multipart: { minPartSize: partSize, maxPartSize: size, maxParts: 9, partSize },
  })
  const { client, engine, tempDir } = testEngine({ storage })
  const content = bytes(size, 6)
  const id = await client.create(size, { chunkSize: partSize, checksum: of(content) })
  for (const [index, chunk] of cut(content, partSize).entries()) await client.write(id, index, chunk)
  const path = join(tempDir, 'staging', id, 'part-2')
  await rm(path)
  execFileSync('mkfifo', [path])
  const completing = client.complete(id)
  completing.catch(() => {})
  await pause(100)
  const closing = engine.close({ timeout: 0 })
  try {
    const ended = Promise.race([completing, pause(5_000)])
    await expect(ended).rejects.toMatchObject({ status: 503, code: 'CLOSING' })
  } finally {
    // Or nothing of this process could end.
    closeSync(openSync(path, constants.O_RDWR))
  }
  await closing
})

function md5(data: Buffer): string {
  return createHash('md5').update(data).digest('base64')
}
