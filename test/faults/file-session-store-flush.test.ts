import { constants } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import fs from 'fs-extra'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import type { SessionFileSystem } from '../../src/sessions/session-file-system.ts'
import { interceptedFs, newRecord, someId } from './session-store-support.ts'

let folder: string
let directory: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'session-flush-'))
  directory = join(folder, 'made', 'when', 'missing')
})

afterEach(() => fs.remove(folder))

/** Knows which files and folders a power cut could still take back. */
class Unflushed {
  readonly paths = new Set<string>()
  readonly #pathOf = new WeakMap<object, string>()
  readonly fs: SessionFileSystem
  flushes = 0

  constructor() {
    this.fs = interceptedFs(async (name, proceed, args, target) => {
      const result = await proceed()
      this.#note(name, args.map(String), result, this.#pathOf.get(target) ?? '')
      return result
    })
  }

  #note(name: string, [first = '', second = '']: string[], result: unknown, file: string): void {
    if (name === 'open') this.#pathOf.set(result as object, first)
    const makes = name === 'open' && (Number(second) & constants.O_CREAT) !== 0
    if (makes || name === 'rmdir' || name === 'mkdir') this.paths.add(dirname(first))
    // Of a chain of folders `mkdir` tells the first one that it made.
    if (typeof result === 'string') {
      for (let path = dirname(first); path.length >= result.length; path = dirname(path)) this.paths.add(dirname(path))
    }
    if (name === 'rename') this.paths.delete(first)
    if (name === 'rename') this.paths.add(dirname(second))
    if (name === 'handle.write') this.paths.add(file)
    if (name === 'handle.sync' || name === 'handle.datasync') {
      this.paths.delete(file)
      this.flushes++
    }
  }
}

describe("durability 'power'", () => {
  const open = (unflushed: Unflushed) =>
    new FileSessionStore({ directory, durability: 'power', fs: unflushed.fs, journalLimit: 1 })

  test('acknowledges nothing that is not flushed: files, and the folders that name them', async () => {
    const unflushed = new Unflushed()
    const store = open(unflushed)
    for (let round = 0; round < 2; round++) {
      expect(await store.create(newRecord())).toBe(true)
      expect([...unflushed.paths]).toEqual([])
      for (let version = 2; version < 12; version++) {
        expect(await store.replace(newRecord({ version }), version - 1)).toBe(true)
        expect([...unflushed.paths], `version ${version}`).toEqual([])
      }
      await store.delete(someId)
      expect([...unflushed.paths]).toEqual([])
    }
  })

  test('writes anew what a failed flush has cast off, before anybody is told of it', async () => {
    let failing = false
    const written: Buffer[] = []
    const fs = interceptedFs(async (name, proceed, args) => {
      if (name === 'handle.write') written.push(Buffer.from(args[0] as Buffer))
      if (name !== 'handle.datasync' || !failing) return proceed()
      failing = false
      throw Object.assign(new Error('EIO'), { code: 'EIO' })
    })
    const store = new FileSessionStore({ directory, durability: 'power', fs })
    await store.create(newRecord())
    const whole = Buffer.concat(written).toString()
    failing = true
    await expect(store.replace(newRecord({ version: 2 }), 1)).rejects.toMatchObject({ status: 503 })
    written.length = 0
    expect(await store.get(someId)).toMatchObject({ version: 2 })
    expect(Buffer.concat(written).toString()).toMatch(/"version":2,.*\n$/s)
    expect(Buffer.concat(written).toString().startsWith(whole), 'all of the file').toBe(true)
    written.length = 0
    await store.get(someId)
    expect(written).toEqual([])
  })

  test('shows no change of another process that is not flushed', async () => {
    const [careless, unflushed] = [new FileSessionStore({ directory }), new Unflushed()]
    const careful = open(unflushed)
    await careless.create(newRecord())
    const flushesOf = async (call: Promise<unknown>) => {
      const before = unflushed.flushes
      await call
      return unflushed.flushes - before
    }
    await careful.get('unknown-unknown-unknown')
    expect(await flushesOf(careful.get(someId))).toBe(1)
    await careless.replace(newRecord({ version: 2 }), 1)
    expect(await flushesOf(careful.get(someId))).toBe(1)
    expect(await flushesOf(careful.get(someId))).toBe(0)
    await careless.replace(newRecord({ version: 3 }), 2)
    expect(await flushesOf(careful.replace(newRecord({ version: 3 }), 2))).toBe(1)
  })
})
