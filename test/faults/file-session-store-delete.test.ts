import { mkdtemp, readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fs from 'fs-extra'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import type { SessionFileSystem } from '../../src/sessions/session-file-system.ts'
import { encodeLine, Journal, type LineKind } from '../../src/sessions/session-journal.ts'
import { interceptedFs, keyOf, newRecord, someId } from './session-store-support.ts'

let folder: string
let directory: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'session-delete-'))
  directory = join(folder, 'sessions')
})

afterEach(() => fs.remove(folder))

// The smallest journals: version 4 begins a second file, version 7 a third one.
function open(options: { fs?: SessionFileSystem } = {}): FileSessionStore {
  return new FileSessionStore({ directory, journalLimit: 1, ...options })
}

describe('a delete that is stopped between any two calls', () => {
  /** A gate that is reached at call number `n`, and holds until it is opened. */
  function gateAt(n: number) {
    const gate = { reached: () => {}, open: () => {} }
    const reached = new Promise<void>((resolve) => Object.assign(gate, { reached: resolve }))
    const opened = new Promise<void>((resolve) => Object.assign(gate, { open: resolve }))
    let calls = 0
    const gated = interceptedFs(async (_, proceed) => {
      if (calls++ === n) {
        gate.reached()
        await opened
      }
      return proceed()
    })
    return { fs: gated, reached, open: () => gate.open() }
  }

  for (const versions of [2, 6]) {
    test(`has happened for every process or for none, and takes no later record: ${versions} versions`, async () => {
      let held = true
      let revived = 0
      for (let n = 0; held; n++) {
        const warm = open()
        await warm.create(newRecord())
        for (let version = 2; version <= versions; version++) await warm.replace(newRecord({ version }), version - 1)
        const gate = gateAt(n)
        const deleting = open({ fs: gate.fs }).delete(someId)
        held = await Promise.race([gate.reached.then(() => true), deleting.then(() => false)])
        const gone = (await open().get(someId)) === null
        expect((await warm.get(someId)) === null, `held at call ${n}`).toBe(gone)
        expect(await warm.replace(newRecord({ version: versions + 1 }), versions), `held at call ${n}`).toBe(!gone)
        expect(await open().create(newRecord({ key: 'later' })), `held at call ${n}`).toBe(gone)
        if (gone) revived++
        gate.open()
        await deleting
        expect(keyOf(await open().get(someId)), `held at call ${n}`).toBe(gone ? 'later' : null)
        expect(keyOf(await warm.get(someId)), `held at call ${n}`).toBe(gone ? 'later' : null)
        await warm.delete(someId)
      }
      expect(revived).toBeGreaterThan(3)
    })
  }
})

test('the mark of a delete counts only in the newest file, and nothing counts after it', () => {
  const line = (kind: LineKind, number: number) => encodeLine({ kind, number, nonce: `${kind}${number}`, json: '{}' })
  const fold = (...lines: Buffer[]) => {
    const journal = new Journal()
    journal.fold(Buffer.concat(lines))
    return [journal.status, journal.version, journal.successor.generation]
  }
  const sealed = [line('r', 1), line('r', 2), line('s', 2)]
  expect(fold(line('r', 1), line('d', 0), line('r', 2), line('s', 1))).toEqual(['dead', 1, 0])
  expect(fold(...sealed, line('d', 0), line('n', 1))).toEqual(['dead', 2, 0])
  expect(fold(...sealed, line('n', 1), line('d', 0), line('n', 1), line('r', 3))).toEqual(['sealed', 2, 1])
  expect(fold(...sealed, line('n', 1), line('n', 2), line('d', 1))).toEqual(['sealed', 2, 2])
  expect(fold(...sealed, line('n', 1), line('n', 2), line('d', 2), line('n', 3))).toEqual(['dead', 2, 2])
})

describe('a delete that has no room for its mark', () => {
  test('still deletes, also for a process that begins the next file meanwhile', async () => {
    const rival = open()
    await rival.create(newRecord())
    for (let version = 2; version < 7; version++) await rival.replace(newRecord({ version }), version - 1)
    const filesBefore = await readdir(join(directory, someId))
    let listings = 0
    const store = open({
      fs: interceptedFs(async (name, proceed) => {
        if (name === 'handle.write') throw Object.assign(new Error('injected'), { code: 'ENOSPC' })
        const result = await proceed()
        // The first one is for finding the record, the second one for removing its files.
        if (name === 'readdir' && ++listings === 2) await rival.replace(newRecord({ version: 7 }), 6)
        return result
      }),
    })
    await store.delete(someId)
    expect(listings).toBeGreaterThan(2)
    expect(filesBefore).toHaveLength(2)
    expect(await rival.replace(newRecord({ version: 8 }), 7)).toBe(false)
    expect(await rival.get(someId)).toBe(null)
    expect(await readdir(directory)).toEqual([])
  })
})
