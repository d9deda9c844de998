import { chmod, mkdtemp, type open as openFile, rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { JournalHandles } from '../../src/sessions/journal-handles.ts'
import { isOnLocalDisk, nodeFileSystem } from '../../src/sessions/session-file-system.ts'

type Handle = Awaited<ReturnType<typeof openFile>>

const fs = { ...nodeFileSystem, statfs: async () => ({ type: 0xef53 }) } as unknown as typeof nodeFileSystem

let folder: string
let handles: JournalHandles
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'handles-'))
  handles = new JournalHandles(fs, { maxFiles: 2 })
  await handles.allowFor(folder)
})
afterEach(async () => {
  vi.useRealTimers()
  await handles.close()
  await rm(folder, { recursive: true })
})

async function kept(name: string): Promise<{ path: string; handle: Handle }> {
  const path = join(folder, name)
  const handle = await fs.open(path, 'a+')
  expect(handles.keep(path, { handle })).toBe(true)
  return { path, handle }
}

const isClosed = ({ handle }: { handle: Handle }) => handle.fd === -1

describe.skipIf(process.platform !== 'linux')('JournalHandles', () => {
  it('keeps none below a folder of a network, wherever that is', async () => {
    const [ext4, nfs] = [0xef53, 0x6969]
    for (const far of ['/', '/srv', '/srv/scratch', '/srv/scratch/sessions']) {
      const statfs = async (path: string) => ({ type: path === far ? nfs : ext4 })
      const mixed = { ...nodeFileSystem, statfs } as unknown as typeof nodeFileSystem
      expect(await isOnLocalDisk(mixed, '/srv/scratch/sessions'), far).toBe(false)
      expect(await isOnLocalDisk(mixed, '/mnt/sessions'), far).toBe(far !== '/')
    }
  })

  it('closes the file that was kept for a path when another one is', async () => {
    const [first, second] = [await kept('a'), await kept('a')]
    expect([isClosed(first), isClosed(second)]).toEqual([true, false])
    expect(handles.take(second.path)?.handle).toBe(second.handle)
    await second.handle.close()
  })

  it('closes the one that was used longest ago, never one that is taken', async () => {
    const [first, second] = [await kept('a'), await kept('b')]
    const taken = handles.take(second.path)
    const [third, fourth] = [await kept('c'), await kept('d')]
    expect([first, second, third, fourth].map(isClosed)).toEqual([true, false, false, false])
    expect(taken && handles.keep(second.path, taken)).toBe(true)
    expect([second, third, fourth].map(isClosed)).toEqual([false, true, false])
  })

  it('gives nobody a file that is no longer at its path', async () => {
    const file = await kept('a')
    await rename(file.path, join(folder, 'b'))
    expect(handles.lengthAt(file.path)).toBe(null)
    expect(isClosed(file)).toBe(true)
    expect(handles.take(file.path)).toBe(undefined)
  })

  it('gives nobody a file whose owner has changed who may open it', async () => {
    const file = await kept('a')
    await chmod(file.path, 0)
    expect(handles.take(file.path)).toBe(undefined)
    expect(isClosed(file)).toBe(true)
  })

  it('knows a file by its new name', async () => {
    const file = await kept('a')
    await file.handle.write('abc')
    await rename(file.path, join(folder, 'b'))
    handles.rename(file.path, join(folder, 'b'))
    expect([handles.lengthAt(join(folder, 'b')), handles.lengthAt(file.path)]).toEqual([3, null])
  })

  it('closes each file that was not used for the idle time, and no other', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    const first = await kept('a')
    vi.advanceTimersByTime(4_000)
    const second = await kept('b')
    vi.advanceTimersByTime(1_000)
    expect([first, second].map(isClosed)).toEqual([true, false])
    vi.advanceTimersByTime(4_999)
    expect(isClosed(second)).toBe(false)
    vi.advanceTimersByTime(1)
    expect(isClosed(second)).toBe(true)
    expect(vi.getTimerCount()).toBe(0)
  })

  it('waits for the files that are being closed', async () => {
    const file = await kept('a')
    void handles.release(file.path)
    expect(await handles.makeRoom()).toBe(true)
    expect(await handles.makeRoom()).toBe(false)
    expect(isClosed(file)).toBe(true)
  })
})
