/** Chunks that find their place late are moved there, whatever else happens to them meanwhile. */
import { readdir, readFile, readlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Claims } from '../../src/engine/claims.ts'
import type { EngineParts } from '../../src/engine/engine-options.ts'
import { SessionUpdates } from '../../src/engine/session-updates.ts'
import { Settler } from '../../src/engine/settler.ts'
import { Staging } from '../../src/engine/staging.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import type { ChunkRun, UploadSession } from '../../src/types.ts'
import { uploadRecord } from '../support/records.ts'
import { tempFolder } from '../support/temp-folder.ts'

const id = 'u'.repeat(22)
const { signal } = new AbortController()

/** Settled, in a file of its own, or where a guess put it. */
const chunk = (index: number, size: number, offset: number | null, loose = 0): ChunkRun => ({
  ...{ index, count: 1, size, offset, loose },
})

/** Parts have 10 bytes; the files of the staging are given by name. */
async function world(chunks: readonly ChunkRun[], files: Record<string, string>, fields: Partial<UploadSession> = {}) {
  const store = new MemorySessionStore()
  await store.create(uploadRecord({ id, totalSize: 30, chunks: [...chunks], ...fields }))
  const staging = new Staging({ tempDir: tempFolder(), durability: 'process' })
  await staging.prepare()
  await staging.createFolder(id)
  const folder = staging.folderOf(id)
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text)
  const claims = new Claims(() => staging.claimsOf(id))
  const state = { uptime: () => 0 }
  const sessions = new SessionUpdates(store)
  const parts = { sessions, staging, claims, uptime: () => state.uptime() } as unknown as EngineParts
  return {
    ...{ settler: new Settler(parts), staging, claims, state, store },
    record: async () => (await store.get(id)) as UploadSession,
    change: (fields: Partial<UploadSession>) => sessions.update(id, (current) => ({ ...current, ...fields })),
    text: (name: string) => readFile(join(folder, name), 'latin1'),
    names: async () => (await readdir(folder)).filter((name) => name !== 'claims').sort(),
    /** Nobody has a claim on any byte. */
    isFree: async () => {
      const claim = await claims.claim(id, { start: 0, end: 1_000 })
      await claim?.release()
      return claim !== null
    },
  }
}

/** Lets something happen right after the first call of a method. */
function onceAfter<Name extends string>(
  target: Record<Name, (...args: never[]) => unknown>,
  name: Name,
  then: () => unknown,
) {
  const original = target[name].bind(target)
  target[name] = (async (...args: never[]) => {
    target[name] = original
    const result = await original(...args)
    await then()
    return result
  }) as never
}

describe('a chunk in a file of its own', () => {
  it('is moved to its place, across parts, and its file goes', async () => {
    const { settler, record, text, names, isFree } = await world([chunk(0, 4, 0), chunk(1, 8, null, 1)], {
      ...{ 'part-1': 'aaaa', 'chunk-1-1': 'bbbbbbcc' },
    })
    await settler.settle(id)
    expect((await record()).chunks).toEqual([chunk(0, 4, 0), chunk(1, 8, 4)])
    expect([await text('part-1'), await text('part-2')]).toEqual(['aaaabbbbbb', 'cc'])
    expect(await names()).toEqual(['part-1', 'part-2'])
    expect(await isFree()).toBe(true)
  })

  it('waits while its place is not known', async () => {
    const { settler, record, names } = await world([chunk(1, 8, null, 1)], { 'chunk-1-1': 'bbbbbbbb' })
    await settler.settle(id)
    expect((await record()).chunks).toEqual([chunk(1, 8, null, 1)])
    expect(await names()).toEqual(['chunk-1-1'])
  })

  it('waits while somebody else is at its place, and those behind it do not', async () => {
    const { settler, record, claims, names, text } = await world(
      [chunk(0, 4, 0), chunk(1, 4, null, 1), chunk(2, 4, null, 1)],
      { 'part-1': 'aaaa', 'chunk-1-1': 'bbbb', 'chunk-2-1': 'cccc' },
    )
    const other = await claims.claim(id, { start: 7, end: 8 })
    await settler.settle(id)
    expect((await record()).chunks).toEqual([chunk(0, 4, 0), chunk(1, 4, null, 1), chunk(2, 4, 8)])
    expect(await names()).toEqual(['chunk-1-1', 'part-1', 'part-2'])
    await other?.release()
    await settler.settle(id)
    expect((await record()).chunks).toEqual([{ ...chunk(0, 4, 0), count: 3 }])
    expect([await text('part-1'), await text('part-2')]).toEqual(['aaaabbbbcc', 'cc'])
  })

  it('is tried again when another one has moved', async () => {
    const { settler, record, claims } = await world([chunk(0, 4, 0), chunk(1, 4, null, 1), chunk(2, 4, null, 1)], {
      ...{ 'part-1': 'aaaa', 'chunk-1-1': 'bbbb', 'chunk-2-1': 'cccc' },
    })
    const claim = claims.claim.bind(claims)
    claims.claim = async () => {
      claims.claim = claim
      return null
    }
    await settler.settle(id)
    expect((await record()).chunks).toEqual([{ ...chunk(0, 4, 0), count: 3 }])
  })

  it('does not overwrite one that lies at its place by a wrong guess and is still read', async () => {
    const { settler, record, claims, text, isFree } = await world(
      [chunk(0, 4, 0), chunk(1, 4, null, 1), chunk(2, 4, 6)],
      { 'part-1': 'aaaa--cccc', 'chunk-1-1': 'bbbb' },
    )
    const reader = await claims.claim(id, { start: 9, end: 10 })
    await settler.settle(id)
    expect((await record()).chunks).toEqual([chunk(0, 4, 0), chunk(1, 4, null, 1), chunk(2, 4, 6)])
    expect(await text('part-1')).toBe('aaaa--cccc')
    await reader?.release()
    expect(await isFree()).toBe(true)
    await settler.settle(id)
    expect((await record()).chunks).toEqual([{ ...chunk(0, 4, 0), count: 3 }])
    expect([await text('part-1'), await text('part-2')]).toEqual(['aaaabbbbcc', 'cc'])
  })

  it('that is replaced before it is copied is not copied', async () => {
    const { settler, record, claims, change, text, names, isFree } = await world([chunk(0, 4, null, 1)], {
      'chunk-0-7': 'new!',
    })
    onceAfter(claims, 'claim', () => change({ chunks: [chunk(0, 4, null, 7)] }))
    await settler.settle(id)
    expect((await record()).chunks).toEqual([chunk(0, 4, 0)])
    expect(await text('part-1')).toBe('new!')
    expect(await names()).toEqual(['part-1'])
    expect(await isFree()).toBe(true)
  })

  it('that is replaced while it is copied leaves its place to what replaced it', async () => {
    const { settler, record, staging, change, text, names } = await world([chunk(0, 6, null, 1)], {
      ...{ 'chunk-0-1': 'old!!!', 'chunk-0-7': 'new!' },
    })
    onceAfter(staging, 'copy', () => change({ chunks: [chunk(0, 4, null, 7)] }))
    await settler.settle(id)
    expect((await record()).chunks).toEqual([chunk(0, 4, 0)])
    expect((await text('part-1')).slice(0, 4)).toBe('new!')
    expect(await names()).toEqual(['part-1'])
  })

  it('of an upload that goes away while it is copied says so', async () => {
    const { settler, staging, store, names } = await world([chunk(0, 4, null, 1)], { 'chunk-0-1': 'aaaa' })
    onceAfter(staging, 'copy', () => store.delete(id))
    await expect(settler.settle(id)).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND' })
    expect(await names()).toContain('chunk-0-1')
  })

  it('that is taken back while it is copied is left alone', async () => {
    const { settler, staging, change, record } = await world([chunk(0, 4, null, 1)], { 'chunk-0-1': 'aaaa' })
    onceAfter(staging, 'copy', () => change({ chunks: [] }))
    await settler.settle(id)
    expect((await record()).chunks).toEqual([])
  })

  it.runIf(process.platform === 'linux')('leaves no file open', async () => {
    const at = await world([chunk(0, 4, null, 1), chunk(1, 8, 8)], {
      'chunk-0-1': 'aaaa',
      'part-1': '--------bb',
      'part-2': 'bbbbcc',
    })
    await at.settler.settle(id)
    const open = await Promise.all(
      (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')),
    )
    expect(open.filter((path) => path.startsWith(at.staging.root))).toEqual([])
  })

  it('whose file is lost is an error, and nothing stays claimed', async () => {
    const { settler, record, isFree } = await world([chunk(0, 4, null, 1)], {})
    await expect(settler.settle(id)).rejects.toMatchObject({ code: 'ENOENT' })
    expect((await record()).chunks).toEqual([chunk(0, 4, null, 1)])
    expect(await isFree()).toBe(true)
  })

  it('is not put into a new part file when the one that holds acknowledged bytes is lost', async () => {
    const { settler, names, isFree } = await world([chunk(0, 4, 0), chunk(1, 4, null, 1)], { 'chunk-1-1': 'bbbb' })
    await expect(settler.settle(id)).rejects.toMatchObject({ code: 'STAGING_LOST', status: 503 })
    expect(await names()).toEqual(['chunk-1-1'])
    expect(await isFree()).toBe(true)
  })
})

describe('a chunk where a wrong guess put it', () => {
  /** It lies at 8, and belongs to 4. */
  const guessed = () => world([chunk(0, 4, 0), chunk(1, 8, 8)], { 'part-1': 'aaaa----bb', 'part-2': 'bbbbcc' })

  it('is moved to where it belongs, across parts', async () => {
    const { settler, record, text, names, isFree } = await guessed()
    await settler.settle(id)
    expect((await record()).chunks).toEqual([chunk(0, 4, 0), chunk(1, 8, 4)])
    expect((await text('part-1')) + (await text('part-2')).slice(0, 2)).toBe('aaaabbbbbbcc')
    expect(await names()).toEqual(['part-1', 'part-2'])
    expect(await isFree()).toBe(true)
  })

  it('waits while somebody else reads it', async () => {
    const { settler, record, claims, names } = await guessed()
    const reader = await claims.claim(id, { start: 15, end: 16 })
    await settler.settle(id)
    expect((await record()).chunks).toEqual([chunk(0, 4, 0), chunk(1, 8, 8)])
    expect(await names()).toEqual(['part-1', 'part-2'])
    await reader?.release()
  })

  it('that is replaced before it is copied is not copied', async () => {
    const { settler, record, claims, change, text, names } = await guessed()
    onceAfter(claims, 'claim', () => change({ chunks: [chunk(0, 4, 0), chunk(1, 6, 4)] }))
    await settler.settle(id)
    expect((await record()).chunks).toEqual([chunk(0, 4, 0), chunk(1, 6, 4)])
    expect(await text('part-1')).toBe('aaaa----bb')
    expect(await names()).toEqual(['part-1', 'part-2'])
  })

  it('that is replaced while it is copied leaves no copy', async () => {
    const { settler, record, staging, change, names, isFree } = await guessed()
    onceAfter(staging, 'nameLoose', () => change({ chunks: [chunk(0, 4, 0), chunk(1, 6, 4)] }))
    await settler.settle(id)
    expect((await record()).chunks).toEqual([chunk(0, 4, 0), chunk(1, 6, 4)])
    expect(await names()).toEqual(['part-1', 'part-2'])
    expect(await isFree()).toBe(true)
  })

  it('that somebody else has moved, or replaced by one of another size, is looked at anew', async () => {
    const moved = await guessed()
    onceAfter(moved.claims, 'claim', async () => {
      await writeFile(join(moved.staging.folderOf(id), 'part-1'), 'aaaabbbbbb')
      await writeFile(join(moved.staging.folderOf(id), 'part-2'), 'cc')
      await moved.change({ chunks: [chunk(0, 4, 0), chunk(1, 8, 4)] })
    })
    await moved.settler.settle(id)
    expect((await moved.text('part-1')) + (await moved.text('part-2'))).toBe('aaaabbbbbbcc')
    expect((await moved.record()).chunks).toEqual([chunk(0, 4, 0), chunk(1, 8, 4)])
    for (const name of ['claim', 'copy'] as const) {
      const { settler, record, claims, staging, change, text, names } = await guessed()
      onceAfter({ claim: claims, copy: staging }[name] as never, name, () =>
        change({ chunks: [chunk(0, 4, 0), chunk(1, 6, 8)] }),
      )
      await settler.settle(id)
      expect((await record()).chunks).toEqual([chunk(0, 4, 0), chunk(1, 6, 4)])
      expect((await text('part-1')).slice(0, 10)).toBe('aaaabbbbbb')
      expect(await names()).toEqual(['part-1', 'part-2'])
    }
  })

  it('that was taken back meanwhile is left alone', async () => {
    for (const name of ['claim', 'nameLoose'] as const) {
      const { settler, record, claims, staging, change, isFree } = await guessed()
      const target = { claim: claims, nameLoose: staging }[name]
      onceAfter(target as never, name, () => change({ chunks: [chunk(0, 4, 0)] }))
      await settler.settle(id)
      expect((await record()).chunks).toEqual([chunk(0, 4, 0)])
      expect(await isFree()).toBe(true)
    }
  })

  it('never gets the name of the first body that came for it', async () => {
    const { settler, staging, names } = await guessed()
    let seen: string[] = []
    onceAfter(staging, 'nameLoose', async () => {
      seen = await names()
    })
    await settler.settle(id)
    expect(seen.filter((name) => name.startsWith('chunk-1-'))).toHaveLength(1)
    expect(seen).not.toContain('chunk-1-1')
  })

  it('whose bytes are lost leaves neither a claim nor a file', async () => {
    const { settler, names, isFree } = await world([chunk(0, 4, 0), chunk(1, 8, 8)], { 'part-1': 'aaaa----bb' })
    await expect(settler.settle(id)).rejects.toMatchObject({ code: 'ENOENT' })
    expect(await names()).toEqual(['part-1'])
    expect(await isFree()).toBe(true)
  })
})

describe('settling', () => {
  const loose = (fields: Partial<UploadSession> = {}) => world([chunk(0, 4, null, 1)], { 'chunk-0-1': 'aaaa' }, fields)

  it('is for uploads that go on, or are being completed', async () => {
    const object = { url: 'u', key: 'k', size: 30 }
    for (const fields of [{ state: 'aborted' }, { state: 'expired' }, { state: 'completed' }, { object }] as const) {
      const { settler, names } = await loose(fields)
      await settler.settle(id)
      expect(await names()).toEqual(['chunk-0-1'])
    }
    const { settler, names } = await loose({ state: 'completing' })
    await settler.settle(id)
    expect(await names()).toEqual(['part-1'])
  })

  it('of an upload that has gone says so', async () => {
    const { settler, store } = await loose()
    await store.delete(id)
    await expect(settler.settle(id)).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND' })
    await expect(settler.settleAll(id, 0, signal)).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND' })
  })

  it('is done by one at a time, and what came in meanwhile is looked for again', async () => {
    const { settler, staging, record, change } = await loose()
    let copies = 0
    let under = 0
    const copy = staging.copy.bind(staging)
    staging.copy = async (...args) => {
      copies += 1
      under += 1
      expect(under).toBe(1)
      await new Promise((resolve) => setTimeout(resolve, 20))
      await copy(...args)
      under -= 1
    }
    const all = Promise.all([settler.settle(id), settler.settle(id), settler.settle(id)])
    await settler.idle()
    expect((await record()).chunks).toEqual([chunk(0, 4, 0)])
    await all
    expect(copies).toBe(1)
    await writeFile(staging.loosePath(id, 1, 1), 'bbbb')
    await change({ chunks: [chunk(0, 4, 0), chunk(1, 4, null, 1)] })
    await settler.settle(id)
    expect(copies).toBe(2)
  })

  it('that failed for one is tried again for who waited', async () => {
    const { settler, staging, record } = await loose()
    const copy = staging.copy.bind(staging)
    const failure = new Error('failure')
    staging.copy = async () => {
      staging.copy = copy
      await new Promise((resolve) => setTimeout(resolve, 10))
      throw failure
    }
    const [first, second] = await Promise.allSettled([settler.settle(id), settler.settle(id)])
    expect([first, second.status]).toMatchObject([{ reason: failure }, 'fulfilled'])
    expect((await record()).chunks).toEqual([chunk(0, 4, 0)])
  })

  it('everything makes who is at work here let go', async () => {
    const { settler, claims } = await loose()
    const writer = await claims.claim(id, { start: 0, end: 10 }, () => void writer?.release())
    const session = await settler.settleAll(id, 5_000, signal)
    expect(session.chunks).toEqual([chunk(0, 4, 0)])
  })

  it('everything waits as long as one has patience, and not at all when there is nothing to wait for', async () => {
    const { settler, claims, state } = await loose()
    let asked = 0
    const other = await claims.claim(id, { start: 0, end: 10 }, () => {
      asked += 1
    })
    const times = [1_000, 1_099, 1_100]
    state.uptime = () => times.shift() ?? Number.NaN
    expect((await settler.settleAll(id, 100, signal)).chunks).toEqual([chunk(0, 4, null, 1)])
    expect([times, asked]).toEqual([[], 1])
    await other?.release()
    times.push(2_000)
    expect((await settler.settleAll(id, 100, signal)).chunks).toEqual([chunk(0, 4, 0)])
  })

  it('everything ends when the completion is given up', async () => {
    const { settler, claims } = await loose()
    const other = await claims.claim(id, { start: 0, end: 10 })
    const stop = new AbortController()
    const settling = settler.settleAll(id, 5_000, stop.signal)
    setTimeout(() => stop.abort(), 10)
    await expect(settling).rejects.toMatchObject({ name: 'AbortError' })
    await other?.release()
  })
})
