import { chmod, mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { TempFolder } from '../../src/engine/temp-folder.ts'
import { tempFolder } from '../support/temp-folder.ts'

const refused = { code: 'TEMP_DIR_REFUSED', status: 503 }
let now = 1_000

beforeEach(() => {
  vi.spyOn(performance, 'now').mockImplementation(() => now)
})

afterEach(() => {
  vi.restoreAllMocks()
})

function made() {
  const path = join(tempFolder(), 'a', 'temp')
  const inner = ['staging', 'spool'].map((name) => join(path, name))
  const folder = new TempFolder(path, inner, true)
  const later = () => {
    now += 200
    return folder.ready()
  }
  return { path, inner, folder, later }
}

describe('tempDir', () => {
  it('is made with all that is in it, for nobody else', async () => {
    const { path, inner, folder } = made()
    await folder.ready()
    for (const each of [path, ...inner]) expect((await stat(each)).mode & 0o777).toBe(0o700)
    expect((await readdir(path)).sort()).toEqual(['spool', 'staging'])
  })

  it('is looked at again after 200 ms, and no sooner', async () => {
    const { path, inner, folder, later } = made()
    await folder.ready()
    await rm(path, { recursive: true })
    now += 199
    await folder.ready()
    await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' })
    now += 1
    await folder.ready()
    for (const each of inner) expect((await stat(each)).isDirectory()).toBe(true)
    await rm(inner[1] ?? '', { recursive: true })
    await later()
    expect((await stat(inner[1] ?? '')).isDirectory()).toBe(true)
  })

  it('that was refused is looked at again at once', async () => {
    const { path, folder, later } = made()
    await folder.ready()
    await chmod(path, 0o702)
    await expect(later()).rejects.toMatchObject(refused)
    await expect(folder.ready()).rejects.toMatchObject(refused)
    await chmod(path, 0o700)
    await folder.ready()
  })

  it('is not taken from others, nor is what is in it', async () => {
    const { path, inner, folder } = made()
    await mkdir(path, { recursive: true })
    await writeFile(inner[0] ?? '', 'no folder')
    await expect(folder.ready()).rejects.toThrow()
    await rm(inner[0] ?? '')
    await mkdir(inner[0] ?? '')
    await chmod(inner[0] ?? '', 0o777)
    await expect(folder.ready()).rejects.toMatchObject(refused)
    await chmod(inner[0] ?? '', 0o700)
    await folder.ready()
  })

  it('is made once by all who come at once', async () => {
    const { path, folder } = made()
    await Promise.all([folder.ready(), folder.ready(), folder.ready()])
    expect((await stat(path)).isDirectory()).toBe(true)
  })

  it('that is moved away is made again, and what comes back in its place is taken', async () => {
    const { path, folder, later } = made()
    await folder.ready()
    const away = join(dirname(path), 'away')
    await rename(path, away)
    await later()
    await writeFile(join(path, 'new'), '')
    await rm(path, { recursive: true })
    await rename(away, path)
    await writeFile(join(path, 'old'), '')
    await later()
    expect((await readdir(path)).sort()).toEqual(['old', 'spool', 'staging'])
  })
})
