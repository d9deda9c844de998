import { chmod, mkdir, open, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { afterEach, describe, expect, it, vi } from 'vitest'
import {
  bytesIn,
  fileBody,
  missingFolders,
  ownFolder,
  randomGeneration,
  readPieces,
  removeOthers,
  sameBytes,
  splitAt,
  writeAll,
} from '../../src/engine/staged-files.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

async function fileOf(text: string): Promise<string> {
  const path = join(tempFolder(), 'file')
  await writeFile(path, text)
  return path
}

async function textOf(stream: AsyncIterable<unknown>): Promise<string> {
  const buffers: Buffer[] = []
  for await (const data of stream) buffers.push(data as Buffer)
  return Buffer.concat(buffers).toString()
}

describe('a folder of ours', () => {
  it('is one that this user owns and not everybody may write to', async () => {
    const folder = tempFolder()
    await ownFolder(folder)
    await chmod(folder, 0o775)
    await ownFolder(folder)
    const refused = { code: 'TEMP_DIR_REFUSED', status: 503 }
    await chmod(folder, 0o702)
    await expect(ownFolder(folder)).rejects.toMatchObject(refused)
    await chmod(folder, 0o700)
    const link = join(tempFolder(), 'link')
    await symlink(folder, link)
    await expect(ownFolder(link)).rejects.toMatchObject(refused)
    await expect(ownFolder(await fileOf('x'))).rejects.toMatchObject(refused)
    vi.spyOn(process as { getuid: () => number }, 'getuid').mockReturnValue(((await stat(folder)).uid ?? 0) + 1)
    const foreign = await ownFolder(folder).catch((error) => error)
    expect(foreign).toMatchObject(refused)
    expect(foreign.cause.message).toContain(`${folder} must be a folder of the user`)
  })

  it('that is missing is told with those above it that are missing, too', async () => {
    const folder = tempFolder()
    expect(await missingFolders(folder)).toEqual([])
    const deep = join(folder, 'a', 'b')
    expect(await missingFolders(deep)).toEqual([deep, dirname(deep)])
  })

  it('keeps one file when the others are removed', async () => {
    const folder = tempFolder()
    for (const name of ['keep', 'a', 'b']) await writeFile(join(folder, name), name)
    await mkdir(join(folder, 'c'))
    expect(await removeOthers(folder, 'keep')).toBe(true)
    expect(await filesBelow(folder)).toEqual(['keep'])
    expect(await removeOthers(folder, 'keep')).toBe(false)
    expect(await removeOthers(join(folder, 'none'), 'keep')).toBe(false)
  })

  it('has the bytes that its files take on the disk, and none when it is not there', async () => {
    const folder = tempFolder()
    expect(await bytesIn(folder)).toBe(0)
    await mkdir(join(folder, 'inner'))
    await writeFile(join(folder, 'a'), Buffer.alloc(100_000, 1))
    await writeFile(join(folder, 'b'), Buffer.alloc(50_000, 1))
    const sizes = await Promise.all(['a', 'b'].map(async (name) => (await stat(join(folder, name))).blocks * 512))
    expect(await bytesIn(folder)).toBe(sizes.reduce((sum, size) => sum + size, 0))
    expect(await bytesIn(join(folder, 'none'))).toBe(0)
  })
})

it('a random generation is none of the first two, and a whole number', () => {
  for (let i = 0; i < 50; i++) {
    const generation = randomGeneration()
    expect(generation).toBeGreaterThanOrEqual(2)
    expect(Number.isSafeInteger(generation)).toBe(true)
  }
})

describe('bytes that are written', () => {
  it('are cut where parts begin', () => {
    const sizes = fc.array(fc.nat(12), { maxLength: 6 })
    fc.assert(
      fc.property(sizes, fc.nat(30), fc.integer({ min: 1, max: 9 }), (lengths, position, partSize) => {
        let value = 0
        const buffers = lengths.map((length) => Buffer.from(Array.from({ length }, () => value++ % 256)))
        const all = Buffer.concat(buffers)
        const pieces = [...splitAt(buffers, position, partSize)]
        expect(Buffer.concat(pieces.flatMap((piece) => piece.buffers)).equals(all)).toBe(true)
        let at = position
        for (const piece of pieces) {
          const size = Buffer.concat(piece.buffers).length
          expect((piece.partNumber - 1) * partSize + piece.position).toBe(at)
          expect(piece.position).toBeLessThan(partSize)
          expect(size).toBeGreaterThan(0)
          at += size
          // Each goes as far as its part does, but for the last.
          if (piece !== pieces.at(-1)) expect(at % partSize).toBe(0)
          expect(piece.position + size).toBeLessThanOrEqual(partSize)
        }
      }),
      { numRuns: 300 },
    )
  })

  it('are written whole also by a disk that takes a part of them at a time', async () => {
    const path = await fileOf('..........')
    const handle = await open(path, 'r+')
    const writev = handle.writev.bind(handle)
    const write = handle.write.bind(handle)
    vi.spyOn(handle, 'writev').mockImplementation(((buffers: Buffer[], position: number) =>
      writev([Buffer.concat(buffers).subarray(0, 2)], position)) as never)
    vi.spyOn(handle, 'write').mockImplementation(((data: Buffer, from: number, size: number, position: number) =>
      write(data, from, Math.min(size, 3), position)) as never)
    await writeAll(handle, [Buffer.from('abc'), Buffer.from('defg')], 2)
    await handle.close()
    expect(await readFile(path, 'utf8')).toBe('..abcdefg.')
  })
})

describe('pieces of files', () => {
  it('are read one after the other; one that is too short is lost', async () => {
    const path = await fileOf('0123456789')
    const read = (...pieces: [number, number][]) =>
      textOf(readPieces(pieces.map(([start, size]) => ({ path, start, size }))))
    expect(await read([2, 3], [0, 1], [9, 1], [4, 0])).toBe('23409')
    await expect(read([8, 3])).rejects.toMatchObject({ code: 'STAGING_LOST', status: 503 })
  })

  it('are compared byte for byte with a file', async () => {
    const path = await fileOf('0123456789')
    const pieces = [
      { path, start: 2, size: 3 },
      { path, start: 8, size: 2 },
    ]
    expect(await sameBytes(pieces, await fileOf('23489'))).toBe(true)
    expect(await sameBytes(pieces, await fileOf('23489 and more'))).toBe(true)
    expect(await sameBytes(pieces, await fileOf('2348'))).toBe(false)
    expect(await sameBytes(pieces, await fileOf('23488'))).toBe(false)
    expect(await sameBytes(pieces, await fileOf('13489'))).toBe(false)
    const link = join(tempFolder(), 'link')
    await symlink(path, link)
    await expect(sameBytes(pieces, link)).rejects.toMatchObject({ code: 'ELOOP' })
  })

  it('are a body that can be sent again, and one that is a whole file tells its path', async () => {
    const path = await fileOf('0123456789')
    const body = fileBody(path, 2, 5)
    expect([await textOf(body.open()), await textOf(body.open())]).toEqual(['23456', '23456'])
    expect([body.path, body.size]).toEqual([null, 5])
    expect(fileBody(path, 0, 10).path).toBe(path)
    expect(await textOf(fileBody(path, 0, 0).open())).toBe('')
  })
})
