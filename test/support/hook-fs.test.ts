import './hook-fs.ts'

import { createReadStream, fstatSync, statSync } from 'node:fs'
import { mkdir, open, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fs from 'fs-extra'
import { afterEach, expect, it } from 'vitest'
import { type FsCall, type Proceed, watchFs } from './hook-fs.ts'
import { tempFolder } from './temp-folder.ts'

afterEach(() => {
  watchFs([])
})

/** The calls below the folder while `work` runs. */
async function callsOf(folder: string, work: () => Promise<unknown>): Promise<string[]> {
  const calls: string[] = []
  const stop = watchFs([folder], (call, proceed) => {
    calls.push(call.op)
    return proceed()
  })
  await work()
  expect(stop()).toBe(calls.length)
  return calls
}

it('sees open files, streams and fs-extra, and each call of a recursive removal', async () => {
  const folder = tempFolder()
  const path = join(folder, 'a', 'b')
  expect(await callsOf(folder, () => fs.ensureDir(join(folder, 'a')))).toEqual(['mkdir'])
  const written = await callsOf(folder, async () => {
    const handle = await open(path, 'w')
    await handle.writev([Buffer.from('ab'), Buffer.from('cd')], 0)
    await handle.sync()
    await handle.close()
  })
  expect(written).toEqual(['open', 'handle.writev', 'handle.sync', 'handle.close'])
  const read = await callsOf(folder, async () => {
    for await (const data of createReadStream(path)) expect(String(data)).toBe('abcd')
  })
  expect(read).toEqual(['open', 'handle.read', 'handle.read', 'handle.close'])
  const removed = await callsOf(folder, () => fs.remove(join(folder, 'a')))
  expect(removed).toEqual(['lstat', 'readdir', 'lstat', 'unlink', 'rmdir'])
  expect(await fs.pathExists(join(folder, 'a'))).toBe(false)
})

it('sees synchronous looks at paths and open files, and refuses them, for who asks for it', async () => {
  const path = join(tempFolder(), 'a')
  const calls: string[] = []
  const sync = (call: FsCall, proceed: () => unknown) => {
    calls.push(`${call.n} ${call.op}`)
    if (call.n === 3) throw new Error('no')
    return proceed()
  }
  watchFs(
    [path],
    Object.assign((_call: FsCall, proceed: Proceed) => proceed(), { sync }),
  )
  const handle = await open(path, 'w')
  expect(fstatSync(handle.fd).isFile()).toBe(true)
  expect(() => statSync(path)).toThrow('no')
  watchFs([path])
  expect(statSync(path).ino).toBe(fstatSync(handle.fd).ino)
  await handle.close()
  expect(calls).toEqual(['2 handle.statSync', '3 statSync'])
})

it('sees nothing of other folders', async () => {
  const [watched, other] = [tempFolder(), tempFolder()]
  expect(await callsOf(watched, () => writeFile(join(other, 'a'), 'a'))).toEqual([])
  expect(await callsOf(join(watched, 'a'), () => mkdir(join(watched, 'ab')))).toEqual([])
})

it.each([
  [
    'write',
    (path: string) => open(path, 'w').then((file) => file.write(Buffer.from('-abcd'), 1).finally(() => file.close())),
  ],
  [
    'writev',
    (path: string) =>
      open(path, 'w').then((file) => file.writev([Buffer.from('ab'), Buffer.from('cd')]).finally(() => file.close())),
  ],
])('cuts a %s short, and says so as the disk does', async (_, write) => {
  const path = join(tempFolder(), 'a')
  watchFs([path], ({ size }, proceed) => (size === 0 ? proceed() : proceed(3)))
  expect(await write(path)).toMatchObject({ bytesWritten: 3 })
  expect(await readFile(path, 'utf8')).toBe('abc')
})

it('refuses a call without making it', async () => {
  const path = join(tempFolder(), 'a')
  const refused = Object.assign(new Error('no'), { code: 'EIO' })
  watchFs([path], ({ op }, proceed) => (op === 'open' ? Promise.reject(refused) : proceed()))
  await expect(writeFile(path, 'a')).resolves.toBeUndefined()
  await expect(open(path, 'r')).rejects.toBe(refused)
})
