import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import fs from 'fs-extra'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { LocalStorageError } from '../../src/errors.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { infoOf, makeSandbox, stageBytes, storeBytes, tree } from '../support/local-sandbox.ts'

let sandbox: string
let directory: string
let adapter: LocalStorageAdapter
let cleanup: () => Promise<void>

beforeEach(async () => {
  const made = await makeSandbox()
  sandbox = made.folder
  directory = made.directory
  cleanup = made.remove
  adapter = new LocalStorageAdapter({ directory })
})
afterEach(() => cleanup())

const store = (key: string, bytes?: string | Buffer, size?: number | null) => storeBytes(adapter, key, bytes, size)
const stage = (bytes: string | Buffer, folder = adapter.stagingDir) => stageBytes(folder, bytes)

describe('keys that lead elsewhere', () => {
  const hostile = [
    '',
    '/',
    '.',
    '..',
    '../evil',
    'a/../../evil',
    'a/../b',
    'a/./b',
    'a//b',
    'a/',
    '/etc/evil',
    '//server/share',
    '..\\evil',
    'a\\..\\..\\evil',
    'C:\\evil',
    'C:/evil',
    'c:evil',
    'a\0b',
    'a/\0/../../evil',
    '.nexus-uploader',
    '.nexus-uploader/x',
    '.NEXUS-Uploader/x',
    '.nexus-uploader-x',
    'lone-\ud800-surrogate',
  ]

  test.each(hostile.map((key) => [key]))(
    '%j is refused by upload, adoptFile and remove, and makes nothing',
    async (key) => {
      const staged = await stage('bytes', sandbox)
      const before = await tree(sandbox)
      await expect(store(key)).rejects.toMatchObject({ name: 'LocalStorageError', code: 'INVALID_KEY', status: 500 })
      await expect(adapter.adoptFile(key, staged, infoOf(5))).rejects.toMatchObject({ code: 'INVALID_KEY' })
      await expect(adapter.remove(key)).rejects.toMatchObject({ code: 'INVALID_KEY' })
      expect(await tree(sandbox)).toEqual(before)
    },
  )

  describe('through symbolic links', () => {
    beforeEach(async () => {
      await mkdir(join(sandbox, 'outside'))
      await writeFile(join(sandbox, 'outside', 'secret'), 'secret')
      await mkdir(join(directory, 'folder'), { recursive: true })
      await mkdir(adapter.stagingDir)
      await symlink(join(sandbox, 'outside'), join(directory, 'link'))
      await symlink(join(sandbox, 'nowhere'), join(directory, 'dangling'))
      await symlink(join(sandbox, 'outside', 'secret'), join(directory, 'secret'))
      await symlink(adapter.stagingDir, join(directory, 'staging'))
      await symlink(join(directory, 'folder'), join(directory, 'inner'))
    })

    test.each([['link/x'], ['link/a/b/x'], ['link/secret'], ['staging/x']])('%s is refused', async (key) => {
      const staged = await stage('bytes', sandbox)
      const before = await tree(sandbox)
      await expect(store(key)).rejects.toMatchObject({ code: 'INVALID_KEY' })
      await expect(adapter.adoptFile(key, staged, infoOf(5))).rejects.toMatchObject({ code: 'INVALID_KEY' })
      expect(await tree(sandbox)).toEqual(before)
    })

    test('a folder that becomes a link after it was used is refused, and used again when it is a folder', async () => {
      await store('used/a')
      await store('used/b')
      await fs.remove(join(directory, 'used'))
      await symlink(join(sandbox, 'outside'), join(directory, 'used'))
      await expect(store('used/c')).rejects.toMatchObject({ code: 'INVALID_KEY' })
      expect(await readdir(join(sandbox, 'outside'))).toEqual(['secret'])
      await fs.remove(join(directory, 'used'))
      await store('used/d')
      expect(await readdir(join(directory, 'used'))).toEqual(['d'])
    })

    test('a directory that is a link to another place now is used there', async () => {
      const places = ['blue', 'green'].map((name) => join(sandbox, name))
      for (const place of places) await mkdir(join(place, 'folder'), { recursive: true })
      const link = join(sandbox, 'current')
      await symlink(places[0] ?? '', link)
      const switched = new LocalStorageAdapter({ directory: link })
      await storeBytes(switched, 'folder/a')
      await fs.remove(link)
      await symlink(places[1] ?? '', link)
      await storeBytes(switched, 'folder/b')
      expect(await Promise.all(places.map((place) => readdir(join(place, 'folder'))))).toEqual([['a'], ['b']])
    })

    test('a link back into the place where the directory was before leads out of it now', async () => {
      const [before, now] = ['before', 'now'].map((name) => join(sandbox, name)) as [string, string]
      await mkdir(join(before, 'folder'), { recursive: true })
      await mkdir(now)
      const link = join(sandbox, 'current')
      await symlink(before, link)
      const switched = new LocalStorageAdapter({ directory: link })
      await storeBytes(switched, 'folder/a')
      await fs.remove(link)
      await symlink(now, link)
      await symlink(join(before, 'folder'), join(now, 'folder'))
      await expect(storeBytes(switched, 'folder/b')).rejects.toMatchObject({ code: 'INVALID_KEY' })
      expect(await readdir(join(before, 'folder'))).toEqual(['a'])
    })

    test('remove does not follow a link out of the folder', async () => {
      await expect(adapter.remove('link/secret')).rejects.toMatchObject({ code: 'INVALID_KEY' })
      expect(await readFile(join(sandbox, 'outside', 'secret'), 'utf8')).toBe('secret')
    })

    test('remove does not reach into the staging folder', async () => {
      const staged = await stage('bytes')
      await expect(adapter.remove(`staging/${staged.split('/').at(-1)}`)).rejects.toMatchObject({ code: 'INVALID_KEY' })
      expect(await readFile(staged, 'utf8')).toBe('bytes')
    })

    test('nothing is made where a dangling link points', async () => {
      await expect(store('dangling/x')).rejects.toBeInstanceOf(LocalStorageError)
      expect(await tree(sandbox)).not.toContain('/nowhere/')
    })

    test('a link under the key itself is replaced, what it points to is left alone', async () => {
      await store('secret', 'new')
      expect(await readFile(join(directory, 'secret'), 'utf8')).toBe('new')
      expect(await readFile(join(sandbox, 'outside', 'secret'), 'utf8')).toBe('secret')
    })

    test('a link that stays inside is followed', async () => {
      await store('inner/x', 'new')
      expect(await readFile(join(directory, 'folder', 'x'), 'utf8')).toBe('new')
    })

    test('a staging folder that is a link out of the directory is refused', async () => {
      await fs.remove(adapter.stagingDir)
      await symlink(join(sandbox, 'outside'), adapter.stagingDir)
      await expect(store('x')).rejects.toMatchObject({ code: 'INVALID_KEY' })
      expect(await readdir(join(sandbox, 'outside'))).toEqual(['secret'])
    })
  })

  test('10 000 strange keys make nothing outside the folder', { timeout: 300_000 }, async () => {
    const outside = join(sandbox, 'outside')
    await mkdir(outside)
    await mkdir(directory)
    const before = await tree(outside)
    const pieces = [
      '..',
      '.',
      '/',
      '\\',
      '\0',
      'link',
      'a',
      'B',
      '.nexus-uploader',
      '%2e%2e',
      '%2F',
      '~',
      'C:',
      ':',
      '…',
      '\ud800',
      '\u202e',
      ' ',
    ]
    const key = fc.oneof(
      { weight: 3, arbitrary: fc.array(fc.constantFrom(...pieces), { maxLength: 8 }).map((parts) => parts.join('')) },
      { weight: 1, arbitrary: fc.array(fc.constantFrom(...pieces), { maxLength: 6 }).map((parts) => parts.join('/')) },
      { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 40 }) },
    )
    let stored = 0
    await fc.assert(
      fc.asyncProperty(key, async (strange) => {
        // An earlier key may have replaced the link by a file.
        await symlink(outside, join(directory, 'link')).catch(() => {})
        const url = await store(strange).catch((error) => {
          expect(error).toBeInstanceOf(LocalStorageError)
          return null
        })
        if (url !== null) {
          stored++
          expect(decodeURIComponent(url)).toBe(`/${strange}`)
          expect(await readFile(join(directory, strange), 'utf8')).toBe('bytes')
        }
        expect(await readdir(sandbox)).toEqual(['outside', 'served'])
        expect(await readdir(outside)).toEqual(before)
      }),
      { numRuns: 10_000 },
    )
    expect(stored).toBeGreaterThan(100)
    expect(await readdir(adapter.stagingDir)).toEqual([])
  })
})
