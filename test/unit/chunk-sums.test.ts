import { existsSync, readdirSync, readlinkSync } from 'node:fs'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { ChunkSums } from '../../src/engine/chunk-sums.ts'
import { sumOf, sumsOf } from '../../src/engine/known-sums.ts'
import { uploadRecord } from '../support/records.ts'

const id = 'u'.repeat(22)
let folder = ''
let sums: ChunkSums

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chunk-sums-'))
  sums = new ChunkSums((uploadId) => join(folder, uploadId), true)
})

afterEach(() => rm(folder, { recursive: true, force: true }))

it('a sum is found by index and size, alone and among all', async () => {
  await sums.write(id, 2, 300, 0xfedcba98)
  await sums.write(id, 0, 100, 7)
  expect(await sums.read(id, 2, 300)).toBe(0xfedcba98)
  expect(await sums.read(id, 0, 100)).toBe(7)
  const all = await sums.all(id)
  expect([all(0, 100), all(2, 300)]).toEqual([7, 0xfedcba98])
})

it('a sum of another size, of a chunk that was left out and of one behind the end is not known', async () => {
  await sums.write(id, 2, 300, 5)
  const all = await sums.all(id)
  for (const [index, size] of [
    [2, 301],
    [1, 300],
    [3, 300],
    [1000, 300],
  ] as const) {
    expect(await sums.read(id, index, size), `${index}`).toBeNull()
    expect(all(index, size), `${index}`).toBeNull()
  }
})

it('a sum that was written in part is not known', async () => {
  await writeFile(join(folder, id), Buffer.alloc(15))
  const all = await sums.all(id)
  expect([await sums.read(id, 0, 0), all(0, 0)]).toEqual([0, 0])
  expect([await sums.read(id, 1, 0), all(1, 0)]).toEqual([null, null])
})

it('of an upload without sums none is known; a disk that fails is told', async () => {
  expect(await sums.read(id, 0, 1)).toBeNull()
  expect((await sums.all(id))(0, 1)).toBeNull()
  const broken = new ChunkSums(() => join(folder, 'x'.repeat(300)), false)
  await expect(broken.read(id, 0, 1)).rejects.toMatchObject({ code: 'ENAMETOOLONG' })
  await expect(broken.all(id)).rejects.toMatchObject({ code: 'ENAMETOOLONG' })
})

it('a sum replaces the one of the same chunk, and the file is for nobody else', async () => {
  await sums.write(id, 1, 300, 5)
  await sums.write(id, 1, 2 ** 32 + 9, 6)
  expect(await sums.read(id, 1, 300)).toBeNull()
  expect(await sums.read(id, 1, 2 ** 32 + 9)).toBe(6)
  const { mode, size } = await stat(join(folder, id))
  expect(mode & 0o777).toBe(0o600)
  expect(size).toBe(16)
})

it('sums are taken from where the bytes of the upload wait', async () => {
  await sums.write(id, 1, 300, 5)
  const stored = new Map([[1, 6]])
  const chunkSums = {
    read: async (_: string, index?: number) => (index === undefined || index === 1 ? stored : new Map()),
  }
  const parts = { staging: { sums }, options: { sessions: { chunkSums } } } as unknown as Parameters<typeof sumOf>[0]
  const onDisk = uploadRecord({ id })
  const inStorage = uploadRecord({ id, staged: 'storage' })
  expect(await sumOf(parts, onDisk, 1, 300)).toBe(5)
  expect(await sumOf(parts, onDisk, 2, 300)).toBeNull()
  expect(await sumOf(parts, inStorage, 1, 300)).toBe(6)
  expect(await sumOf(parts, inStorage, 2, 300)).toBeNull()
  const [ofDisk, ofStorage] = [await sumsOf(parts, onDisk), await sumsOf(parts, inStorage)]
  expect([ofDisk(1, 300), ofDisk(0, 300)]).toEqual([5, null])
  expect([ofStorage(1, 300), ofStorage(0, 300)]).toEqual([6, null])

  const without = { ...parts, options: { sessions: {} } } as unknown as Parameters<typeof sumOf>[0]
  expect(await sumOf(without, inStorage, 1, 300)).toBeNull()
  expect((await sumsOf(without, inStorage))(1, 300)).toBeNull()
})

it.skipIf(!existsSync('/proc/self/fd'))('no file stays open', async () => {
  for (let i = 0; i < 5; i++) {
    await sums.write(id, i, 300, 5)
    await sums.read(id, i, 300)
  }
  const links = readdirSync('/proc/self/fd').map((name) => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`)
    } catch {
      return ''
    }
  })
  expect(links.filter((path) => path.startsWith(folder))).toEqual([])
})
