/**
 * Several stores on one folder, each a process of its own as far as the store can tell, with every file-system call
 * of all of them put in a random order: any of them may be held between any two calls for as long as the others
 * run, or be killed there. What they saw must fit one order of calls.
 */
import { type FileHandle, mkdtemp, readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import fs from 'fs-extra'
import { describe, expect, test } from 'vitest'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import type { SessionFileSystem } from '../../src/sessions/session-file-system.ts'
import { type Call, isLinearizable, type Recorded, type State } from './linearizable.ts'
import { interceptedFs, keyOf, newRecord, randomFrom, someId } from './session-store-support.ts'

const firstSeed = Number(process.env.FIRST_SEED ?? 1)
const seeds = Number(process.env.SEEDS ?? 100)

/** Lets one file-system call of one process happen at a time. */
class Schedule {
  readonly #random: () => number
  readonly #waiting: { readonly process: number; readonly go: () => Promise<void> }[] = []
  readonly #killed = new Set<number>()
  readonly #handles = new Map<number, FileHandle[]>()
  #held: number | null = null
  #running = 0
  #over = false

  constructor(random: () => number) {
    this.#random = random
  }

  fsOf(process: number): SessionFileSystem {
    const handles: FileHandle[] = []
    this.#handles.set(process, handles)
    return interceptedFs(async (name, proceed) => {
      const result = await this.#inTurn(process, proceed)
      if (name === 'open') handles.push(result as FileHandle)
      // What a process asks synchronously after its write, the others may have been before.
      if (name === 'handle.write') await this.#inTurn(process, async () => {})
      return result
    })
  }

  /** No more order: what is still waiting happens, and so does everything that comes. */
  async end(stores: readonly FileSessionStore[]): Promise<void> {
    this.#over = true
    for (const { go } of this.#waiting.splice(0)) await go()
    await Promise.all(stores.map((store, process) => this.#killed.has(process) || store.close()))
  }

  #inTurn(process: number, proceed: () => Promise<unknown>): Promise<unknown> {
    if (this.#over && !this.#killed.has(process)) return proceed()
    return new Promise((resolve, reject) => {
      this.#waiting.push({ process, go: () => proceed().then(resolve, reject) })
    })
  }

  start(process: number, work: () => Promise<void>, failed: (error: unknown) => void): void {
    this.#running++
    void work()
      .catch(failed)
      .finally(() => {
        if (!this.#killed.has(process)) this.#running--
      })
  }

  /** Until all have ended or are killed. `mayKill`: this process, once, at a random call. */
  async run(mayKill: number | null): Promise<void> {
    await setImmediate()
    while (this.#running > 0) {
      if (this.#random() < 0.05) this.#held = this.#random() < 0.7 ? Math.floor(this.#random() * 3) : null
      const free = this.#waiting.filter(({ process }) => process !== this.#held)
      const choice = free.length > 0 ? free : this.#waiting
      const next = choice[Math.floor(this.#random() * choice.length)]
      if (next === undefined) throw new Error('nobody can go on')
      if (next.process === mayKill && !this.#killed.has(mayKill) && this.#random() < 0.03) this.#kill(mayKill)
      else {
        this.#waiting.splice(this.#waiting.indexOf(next), 1)
        await next.go()
        // What follows in that process up to its next call.
        await setImmediate()
      }
    }
  }

  #kill(process: number): void {
    this.#killed.add(process)
    this.#running--
    for (const call of this.#waiting.filter((waiting) => waiting.process === process)) {
      this.#waiting.splice(this.#waiting.indexOf(call), 1)
    }
    for (const handle of this.#handles.get(process) ?? []) void handle.close()
  }
}

class Trial {
  readonly history: Recorded[] = []
  readonly #random: () => number
  #clock = 0
  #key = 0

  constructor(random: () => number) {
    this.#random = random
  }

  /** So many versions, of which the fourth begins a second file and the seventh a third one. */
  async prepare(store: FileSessionStore, versions: number): Promise<void> {
    await this.call(store, { kind: 'create', key: 'first' })
    for (let expected = 1; expected < versions; expected++) {
      await this.call(store, { kind: 'replace', expected, key: `first${expected}` })
    }
  }

  async callSome(store: FileSessionStore, firstVersion: number, count: number, mayDelete: boolean): Promise<void> {
    let version = firstVersion
    for (let n = 0; n < count; n++) {
      const seen = await this.call(store, this.#nextCall(version, mayDelete))
      if (seen.kind === 'get') version = seen.result?.version ?? 1
      if (seen.kind === 'replace' && seen.result) version++
    }
  }

  async call(store: FileSessionStore, call: Call): Promise<Call> {
    const recorded: Recorded = { call, start: this.#clock++, end: Number.POSITIVE_INFINITY }
    this.history.push(recorded)
    await make(store, call)
    recorded.end = this.#clock++
    return call
  }

  #nextCall(version: number, mayDelete: boolean): Call {
    const choice = this.#random()
    this.#key++
    if (choice < 0.6) return { kind: 'replace', expected: version, key: `${this.#key}` }
    if (choice < 0.8 || !mayDelete) return { kind: 'get' }
    return choice < 0.9 ? { kind: 'delete' } : { kind: 'create', key: `${this.#key}` }
  }
}

async function make(store: FileSessionStore, call: Call): Promise<void> {
  if (call.kind === 'create') call.result = await store.create(newRecord({ key: call.key }))
  else if (call.kind === 'replace') {
    call.result = await store.replace(newRecord({ version: call.expected + 1, key: call.key }), call.expected)
  } else if (call.kind === 'get') call.result = stateOf(await store.get(someId))
  else {
    await store.delete(someId)
    call.result = true
  }
}

function stateOf(record: Awaited<ReturnType<FileSessionStore['get']>>): State {
  return record === null ? null : { version: record.version, key: keyOf(record) ?? '' }
}

async function runTrial(seed: number, kind: 'updates' | 'deletes' | 'kills'): Promise<void> {
  const random = randomFrom(seed)
  const directory = await mkdtemp(join(tmpdir(), 'session-order-'))
  const schedule = new Schedule(random)
  const trial = new Trial(random)
  // The smallest journals, so that every fourth change begins one anew.
  const open = (fs?: SessionFileSystem) => new FileSessionStore({ directory, journalLimit: 1, ...(fs && { fs }) })
  try {
    const versions = 1 + Math.floor(random() * 7)
    await trial.prepare(open(), versions)
    const errors: unknown[] = []
    const stores = [0, 1, 2].map((process) => open(schedule.fsOf(process)))
    for (const [process, store] of stores.entries()) {
      schedule.start(
        process,
        () => trial.callSome(store, versions, kind === 'updates' ? 7 : 6, kind !== 'updates'),
        (error) => errors.push(error),
      )
    }
    await schedule.run(kind === 'kills' ? 0 : null)
    await schedule.end(stores)
    if (errors.length > 0) throw errors[0]
    await trial.call(open(), { kind: 'get' })
    expect(isLinearizable(trial.history), JSON.stringify(trial.history)).toBe(true)
    expect(await open().countOpen()).toBe((await open().get(someId)) === null ? 0 : 1)
    await open().delete(someId)
    expect(await open().get(someId)).toBe(null)
    if (kind !== 'kills') expect(await readdir(directory)).toEqual([])
  } catch (error) {
    throw new Error(`seed ${seed} (FIRST_SEED=${seed} SEEDS=1 repeats it)`, { cause: error })
  } finally {
    await fs.remove(directory)
  }
}

describe('FileSessionStore in three processes at once', () => {
  for (const kind of ['updates', 'deletes', 'kills'] as const) {
    test(`shows one order of ${kind} however their file-system calls interleave [C02]`, {
      timeout: 3_600_000,
    }, async () => {
      for (let seed = firstSeed; seed < firstSeed + seeds; seed++) await runTrial(seed, kind)
    })
  }

  test('would notice two winners, a lost change and a revived record', () => {
    const at = (start: number, call: Call): Recorded => ({ call, start, end: start + 1.5 })
    const create: Call = { kind: 'create', key: 'a', result: true }
    const won = (key: string): Call => ({ kind: 'replace', expected: 1, key, result: true })
    const saw = (result: State): Call => ({ kind: 'get', result })
    const b = { version: 2, key: 'b' }
    expect(isLinearizable([at(0, create), at(2, won('b')), at(4, saw(b))])).toBe(true)
    expect(isLinearizable([at(0, create), at(2, won('b')), at(3, won('c'))])).toBe(false)
    expect(isLinearizable([at(0, create), at(2, won('b')), at(4, saw({ version: 1, key: 'a' }))])).toBe(false)
    expect(isLinearizable([at(0, create), at(2, { kind: 'delete', result: true }), at(4, saw(b))])).toBe(false)
  })
})
