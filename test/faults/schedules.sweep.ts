/**
 * Calls at the same time, with every call of theirs to the session store, to the storage and to the file system put in a
 * random order: any of them may be held for as long as the others run. Two engines on one folder stand for two processes.
 * Whatever the order, what was acknowledged is there, and there is one object of it or none.
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { setImmediate, setTimeout as wait } from 'node:timers/promises'
import fc from 'fast-check'
import fs from 'fs-extra'
import { describe, expect, it, vi } from 'vitest'
import { createUploadEngine } from '../../src/create-upload-engine.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { SessionStore, StorageAdapter, UploadEngine, UploadSession } from '../../src/types.ts'
import { engineClient } from '../support/engine.ts'
import { survived } from '../support/fault-points.ts'
import { bytes, seeded } from '../support/random.ts'
import { filesBelow, makeFolder } from '../support/temp-folder.ts'

const seed = Number(process.env.FC_SEED ?? Date.now() % 2 ** 31)
const runs = Number(process.env.FC_RUNS ?? 30)
const hour = 60 * 60_000

/** Where every call waits for its turn; open while there is no schedule. */
const gate = vi.hoisted(() => {
  const gate = {
    pass: null as ((name: string) => Promise<unknown>) | null,
    /** Calls that have had their turn and are with the disk. */
    running: 0,
    async counted<Result>(call: () => Promise<Result>): Promise<Result> {
      gate.running += 1
      try {
        return await call()
      } finally {
        gate.running -= 1
      }
    },
  }
  return gate
})

vi.mock('node:fs/promises', async (load) => {
  const real = await load<typeof import('node:fs/promises')>()
  const names = ['link', 'unlink', 'rename', 'mkdir', 'symlink', 'readlink', 'lstat', 'stat', 'truncate'] as const
  const calls = names.map((name) => {
    const call = real[name] as (...args: unknown[]) => Promise<unknown>
    const gated = async (...args: unknown[]) => {
      await gate.pass?.(name)
      return gate.counted(() => call(...args))
    }
    return [name, gated]
  })
  const open = async (...args: Parameters<typeof real.open>) => {
    await gate.pass?.('open')
    const handle = await gate.counted(() => real.open(...args))
    for (const name of ['write', 'writev', 'read', 'datasync', 'sync', 'close'] as const) {
      const call = (handle[name] as (...args: unknown[]) => Promise<unknown>).bind(handle)
      Object.assign(handle, { [name]: (...more: unknown[]) => gate.counted(() => call(...more)) })
    }
    return handle
  }
  return { ...real, ...Object.fromEntries(calls), open }
})

/**
 * Until everybody waits for a turn, or for the time to pass: else whoever is first at the gate goes through, and the order is
 * always the one of the real calls.
 */
async function quiet(): Promise<void> {
  for (let turn = 0; turn < 4; turn = gate.running > 0 ? 0 : turn + 1) await setImmediate()
}

/** The object with each of its calls in the schedule. */
function gatedCalls<Target extends object>(target: Target, names: readonly (keyof Target & string)[]): Target {
  const calls = names.map((name) => {
    const call = (target[name] as (...args: unknown[]) => Promise<unknown>).bind(target)
    const before = async (...args: unknown[]) => {
      await gate.pass?.(name)
      const result = await call(...args)
      await gate.pass?.(`${name} answered`)
      return result
    }
    return [name, before]
  })
  return Object.assign(Object.create(target), Object.fromEntries(calls)) as Target
}

type StorageKind = 'local disk' | 'memory' | 'memory in parts'

class Stage {
  readonly kind: StorageKind
  readonly folder = makeFolder()
  readonly tempDir = join(this.folder.path, 'temp')
  readonly objectsDir = join(this.folder.path, 'objects')
  readonly memory: MemoryStorageAdapter
  readonly engines: readonly [UploadEngine, UploadEngine]
  readonly clients: readonly [ReturnType<typeof engineClient>, ReturnType<typeof engineClient>]
  readonly #sessions = new MemorySessionStore()
  readonly #holds: number
  #ahead = 0

  /** @param holds seed of who is held when */
  constructor(kind: StorageKind, holds: number) {
    this.kind = kind
    this.#holds = holds
    this.memory = new MemoryStorageAdapter({
      multipart: kind === 'memory' ? false : { minPartSize: 100, partSize: 100 },
    })
    this.engines = [this.#open(), this.#open()]
    this.clients = [engineClient(this.engines[0]), engineClient(this.engines[1])]
  }

  #open(): UploadEngine {
    const sessions: SessionStore = gatedCalls(this.#sessions, ['get', 'replace', 'delete'])
    return createUploadEngine({
      storage: this.#storage(),
      sessions: Object.assign(sessions, {
        create: this.#sessions.create.bind(this.#sessions),
        countOpen: this.#sessions.countOpen.bind(this.#sessions),
        listExpired: this.#sessions.listExpired.bind(this.#sessions),
      }),
      tempDir: this.tempDir,
      clock: () => Date.now() + this.#ahead,
      maxFileSize: 10_000,
    })
  }

  #storage(): StorageAdapter {
    if (this.kind === 'local disk') {
      const local = new LocalStorageAdapter({ directory: this.objectsDir })
      return {
        upload: local.upload.bind(local),
        remove: local.remove.bind(local),
        adoptFile: async (...args) => {
          await gate.pass?.('adoptFile')
          const url = await local.adoptFile(...args)
          await gate.pass?.('adoptFile answered')
          return url
        },
      }
    }
    const { memory } = this
    const multipart =
      memory.multipart && gatedCalls(memory.multipart, ['create', 'uploadPart', 'listParts', 'complete', 'abort'])
    return {
      upload: async (...args) => {
        await gate.pass?.('upload')
        const url = await memory.upload(...args)
        await gate.pass?.('upload answered')
        return url
      },
      remove: memory.remove.bind(memory),
      ...(multipart && { multipart }),
    }
  }

  advance(milliseconds: number): void {
    this.#ahead += milliseconds
  }

  async objects(): Promise<Buffer[]> {
    if (this.kind !== 'local disk') return this.memory.keys().map((key) => this.memory.read(key) ?? Buffer.alloc(0))
    const keys = (await filesBelow(this.objectsDir)).filter((name) => name.startsWith('uploads/'))
    return Promise.all(keys.map((key) => fs.readFile(join(this.objectsDir, key))))
  }

  record(id: string): Promise<UploadSession | null> {
    return this.#sessions.get(id) as Promise<UploadSession | null>
  }

  /** The calls at once, in the order of the schedule; then everything behind their backs comes to its end. */
  async run<Result>(scheduler: fc.Scheduler, calls: readonly (() => Promise<Result>)[]) {
    // Now and then somebody is held for so long that the others come to their ends.
    const random = seeded(this.#holds)
    gate.pass = async (name) => {
      const turns = random.next() < 0.04 ? 40 : 1
      for (let turn = 0; turn < turns; turn++) await scheduler.schedule(Promise.resolve(), name)
    }
    try {
      return await scheduler.waitFor(Promise.allSettled(calls.map((call) => call())))
    } finally {
      gate.pass = null
      await scheduler.waitIdle()
      for (let i = 0; i < 3; i++) {
        await wait(1)
        await scheduler.waitIdle()
      }
    }
  }

  async requireNothingLeft(): Promise<void> {
    for (let round = 0; round < 3; round++) {
      this.advance(1.1 * hour)
      for (const engine of this.engines) await engine.sweep()
    }
    expect(await readdir(join(this.tempDir, 'staging'))).toEqual([])
    expect(this.memory.openMultipartUploads()).toEqual([])
  }

  async end(): Promise<void> {
    gate.pass = null
    for (const engine of this.engines) await engine.close({ timeout: 1_000 })
    await this.folder.remove()
  }
}

const act = async (turn: () => Promise<unknown>) => {
  await quiet()
  await turn()
}

type Play = (stage: Stage, scheduler: fc.Scheduler) => Promise<void>

function inEveryOrder(kind: StorageKind, name: string, play: Play, { row = 'C02', numRuns = runs } = {}) {
  it(`${name} on ${kind} (FC_SEED=${seed}) [${row}]`, async () => {
    const property = fc.asyncProperty(fc.scheduler({ act }), fc.nat(), async (scheduler, holds) => {
      const stage = new Stage(kind, holds)
      try {
        await play(stage, scheduler)
        await stage.requireNothingLeft()
      } finally {
        await stage.end()
      }
    })
    await fc.assert(property, { numRuns, seed, endOnFailure: true })
    survived('race', `${name} on ${kind}`, numRuns)
  })
}

const codeOf = (result: PromiseSettledResult<unknown> | undefined) =>
  result?.status === 'rejected' ? (result.reason as { status?: number }).status : 200

const isOneOf = (object: Buffer | undefined, candidates: readonly Buffer[]) =>
  candidates.some((candidate) => object?.equals(candidate))

/** The bytes of an object that must be made now, from whichever process. */
async function completed(stage: Stage, id: string): Promise<Buffer> {
  const { size } = await stage.clients[1].complete(id)
  const objects = await stage.objects()
  expect(objects).toHaveLength(1)
  expect(objects[0]?.length).toBe(size)
  return objects[0] as Buffer
}

const file = bytes(300, 1)
const piece = (index: number, from = file) => from.subarray(index * 100, index * 100 + 100)

for (const kind of ['local disk', 'memory', 'memory in parts'] as const) {
  for (const declared of [true, false]) {
    const more = declared ? { chunkSize: 100 } : {}
    const how = declared ? 'of a declared size' : 'of any size'

    describe(`chunks ${how} at once`, () => {
      inEveryOrder(
        kind,
        `one chunk ${how} from two processes, with different bytes, is one of the two`,
        async (stage, s) => {
          const [a, b] = stage.clients
          const id = await a.create(300, more)
          const other = bytes(300, 2)
          const results = await stage.run(s, [
            () => a.write(id, 0, piece(0)),
            () => b.write(id, 0, piece(0, other)),
            () => b.write(id, 0, piece(0)),
          ])
          for (const result of results) expect([200, 409]).toContain(codeOf(result))
          expect(results.map(codeOf)).toContain(200)
          for (const index of [1, 2]) await a.write(id, index, piece(index))
          const made = await completed(stage, id)
          const rest = file.subarray(100)
          expect(isOneOf(made, [file, Buffer.concat([piece(0, other), rest])])).toBe(true)
          if (codeOf(results[1]) !== 200) expect(made.equals(file)).toBe(true)
        },
      )

      inEveryOrder(kind, `neighbouring chunks ${how}, out of order and some twice, all arrive`, async (stage, s) => {
        const [a, b] = stage.clients
        const id = await a.create(300, more)
        const results = await stage.run(s, [
          () => a.write(id, 2, piece(2)),
          () => b.write(id, 1, piece(1)),
          () => a.write(id, 0, piece(0)),
          () => a.write(id, 1, piece(1)),
        ])
        expect(results.map(codeOf)).toEqual([200, 200, 200, 200])
        expect((await completed(stage, id)).equals(file)).toBe(true)
      })

      inEveryOrder(kind, `the last chunk ${how} and two completions end in one object`, async (stage, s) => {
        const [a, b] = stage.clients
        const id = await a.create(300, more)
        for (const index of [0, 1]) await b.write(id, index, piece(index))
        const [chunk, ...completions] = await stage.run<unknown>(s, [
          () => a.write(id, 2, piece(2)),
          () => a.complete(id),
          () => b.complete(id),
        ])
        expect(codeOf(chunk)).toBe(200)
        for (const result of completions) expect([200, 409]).toContain(codeOf(result))
        expect((await completed(stage, id)).equals(file)).toBe(true)
      })

      inEveryOrder(
        kind,
        `a chunk ${how} that would replace another while the upload completes is in or refused`,
        async (stage, s) => {
          const [a, b] = stage.clients
          const id = await a.create(300, more)
          for (const index of [0, 1, 2]) await a.write(id, index, piece(index))
          const other = bytes(300, 2)
          const [chunk, first] = await stage.run<unknown>(s, [
            () => a.write(id, 1, piece(1, other)),
            () => a.complete(id),
            () => b.complete(id),
          ])
          expect([200, 409]).toContain(codeOf(chunk))
          expect(codeOf(first)).toBe(200)
          const replaced = Buffer.concat([piece(0), piece(1, other), piece(2)])
          expect((await completed(stage, id)).equals(codeOf(chunk) === 200 ? replaced : file)).toBe(true)
        },
      )
    })
  }

  describe('a chunk that waits for its place', () => {
    inEveryOrder(kind, 'and is replaced while it is moved there, has the bytes that came last', async (stage, s) => {
      const [a, b] = stage.clients
      const id = await a.create(300)
      const other = bytes(300, 2)
      await a.write(id, 1, piece(1))
      const [first, replacing] = await stage.run(s, [
        () => a.write(id, 0, piece(0)),
        () => b.write(id, 1, piece(1, other)),
        () => b.write(id, 2, piece(2)),
      ])
      expect(codeOf(first)).toBe(200)
      expect(kind === 'memory in parts' ? [200, 409] : [200]).toContain(codeOf(replacing))
      const replaced = Buffer.concat([piece(0), piece(1, other), piece(2)])
      expect((await completed(stage, id)).equals(codeOf(replacing) === 200 ? replaced : file)).toBe(true)
    })
  })

  describe('an upload that is given up', () => {
    const rivals: Play = async (stage, s) => {
      const [a, b] = stage.clients
      const id = await a.create(300, { chunkSize: 100 })
      for (const index of [0, 1]) await a.write(id, index, piece(index))
      const [, completion, abort] = await stage.run<unknown>(s, [
        () => a.write(id, 2, piece(2)),
        () => b.complete(id),
        () => a.abort(id),
      ])
      expect([200, 409, 423]).toContain(codeOf(abort))
      expect([200, 409, 410, 423]).toContain(codeOf(completion))
      const objects = await stage.objects()
      expect(objects).toHaveLength(codeOf(completion) === 200 ? 1 : 0)
      if (codeOf(completion) === 200) expect(objects[0]?.equals(file)).toBe(true)
      if (codeOf(abort) === 200) expect((await stage.record(id))?.state).toBe('aborted')
      expect(codeOf(abort) === 200 && codeOf(completion) === 200).toBe(false)
    }
    inEveryOrder(kind, 'while it completes and a chunk comes is an object or nothing', rivals, {
      row: 'C04',
      numRuns: 11 * runs,
    })

    inEveryOrder(
      kind,
      'by the sweepers of both processes is given up for good, or has its chunk',
      async (stage, s) => {
        const [a, b] = stage.clients
        const id = await a.create(300, { chunkSize: 100 })
        await a.write(id, 0, piece(0))
        stage.advance(1.1 * hour)
        const [chunk] = await stage.run<unknown>(s, [
          () => b.write(id, 1, piece(1)),
          () => stage.engines[0].sweep(),
          () => stage.engines[1].sweep(),
        ])
        expect([200, 410]).toContain(codeOf(chunk))
        expect((await stage.record(id))?.state).toBe(codeOf(chunk) === 200 ? 'active' : 'expired')
        if (codeOf(chunk) !== 200) return
        await a.write(id, 2, piece(2))
        expect((await completed(stage, id)).equals(file)).toBe(true)
      },
      { row: 'C02, C10' },
    )

    inEveryOrder(
      kind,
      'by a sweeper while it completes is an object or given up, never both',
      async (stage, s) => {
        const [a, b] = stage.clients
        const id = await a.create(300, { chunkSize: 100 })
        for (const index of [0, 1, 2]) await a.write(id, index, piece(index))
        stage.advance(1.1 * hour)
        const [completion] = await stage.run<unknown>(s, [
          () => b.complete(id),
          () => stage.engines[0].sweep(),
          () => stage.engines[1].sweep(),
        ])
        expect([200, 410]).toContain(codeOf(completion))
        expect((await stage.record(id))?.state).toBe(codeOf(completion) === 200 ? 'completed' : 'expired')
        const objects = await stage.objects()
        expect(objects).toHaveLength(codeOf(completion) === 200 ? 1 : 0)
        if (codeOf(completion) === 200) expect(objects[0]?.equals(file)).toBe(true)
      },
      { row: 'C02, C10' },
    )
  })

  describe('bytes at the end of an upload', () => {
    const append = (stage: Stage, n: 0 | 1, uploadId: string, offset: number, data: Buffer) =>
      stage.engines[n].append({ uploadId, protocol: 'native', offset, body: Readable.from([data]), size: data.length })

    inEveryOrder(kind, 'from two writers are those of one', async (stage, s) => {
      const id = await stage.clients[0].create(300)
      await append(stage, 0, id, 0, piece(0))
      const other = bytes(300, 2)
      const results = await stage.run(s, [
        () => append(stage, 0, id, 100, piece(1)),
        () => append(stage, 1, id, 100, piece(1, other)),
      ])
      expect(results.map(codeOf).filter((code) => code === 200)).toHaveLength(1)
      for (const result of results) expect([200, 409, 423]).toContain(codeOf(result))
      const mine = codeOf(results[0]) === 200
      await append(stage, 1, id, 200, piece(2))
      const expected = mine ? file : Buffer.concat([piece(0), piece(1, other), piece(2)])
      expect((await completed(stage, id)).equals(expected)).toBe(true)
    })

    inEveryOrder(kind, 'are counted by whoever asks for the offset, as far as they have come', async (stage, s) => {
      const id = await stage.clients[0].create(300)
      await append(stage, 0, id, 0, piece(0))
      const [appended, asked] = await stage.run<unknown>(s, [
        () => append(stage, 0, id, 100, file.subarray(100)),
        () => stage.engines[1].retrieveOffset({ uploadId: id, protocol: 'native' }),
      ])
      expect([200, 423]).toContain(codeOf(asked))
      const end = (await stage.record(id))?.chunks[0]?.size ?? 0
      if (codeOf(appended) === 200) expect(end).toBe((appended as { value: { offset: number } }).value.offset)
      if (asked?.status === 'fulfilled') expect((asked.value as { offset: number }).offset).toBeLessThanOrEqual(end)
      if (end < 300) await append(stage, 1, id, end, file.subarray(end))
      expect((await completed(stage, id)).equals(file)).toBe(true)
    })
  })
}
