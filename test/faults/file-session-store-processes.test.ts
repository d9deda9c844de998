/** Real processes on one folder, some of them killed at any moment. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import fs from 'fs-extra'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import { nodeFileSystem } from '../../src/sessions/session-file-system.ts'
import type { UploadSession } from '../../src/types.ts'
import { newRecord, randomFrom, someId } from './session-store-support.ts'

const worker = fileURLToPath(new URL('session-store-worker.ts', import.meta.url))
const seed = Number(process.env.FIRST_SEED ?? Date.now() % 1_000_000)
const killsPerWorker = Number(process.env.KILLS ?? 12)
// So small that a new file is begun every few dozen changes.
const journalLimit = 8 * 1024

let directory: string
let started: ChildProcess[]

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'session-processes-'))
  started = []
})

afterEach(async () => {
  for (const child of started) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
  await fs.remove(directory)
})

interface Worker {
  readonly child: ChildProcess
  /** The last count it has acknowledged. */
  acknowledged: number
  /** How many it has acknowledged. */
  acks: number
  readonly firstAck: Promise<unknown>
  readonly ended: Promise<unknown>
}

function startWorker(counter: string, times: number): Worker {
  const args = ['--import', 'tsx', worker, directory, someId, counter, `${times}`, `${journalLimit}`]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  started.push(child)
  const lines = createInterface({ input: child.stdout })
  const state: Worker = { child, acknowledged: 0, acks: 0, firstAck: once(lines, 'line'), ended: once(child, 'close') }
  lines.on('line', (line) => {
    state.acknowledged = Number(line)
    state.acks++
  })
  return state
}

async function readCounters(): Promise<{ version: number; counters: Record<string, number> }> {
  const { version, metadata } = (await new FileSessionStore({ directory }).get(someId)) as UploadSession
  return { version, counters: Object.fromEntries(Object.entries(metadata).map(([name, n]) => [name, Number(n)])) }
}

async function generationsOnDisk(): Promise<number> {
  const names = await readdir(join(directory, someId))
  return Math.max(...names.map((name) => Number(name.split('.').at(-3) ?? 0)))
}

describe('FileSessionStore in several processes', () => {
  test('loses no change of 4 processes that change one record at the same time', async () => {
    await new FileSessionStore({ directory }).create(newRecord())
    const workers = ['a', 'b', 'c', 'd'].map((counter) => startWorker(counter, 300))
    await Promise.all(workers.map(({ ended }) => ended))
    expect(workers.map(({ child, acks }) => [child.exitCode, acks])).toEqual(workers.map(() => [0, 300]))
    expect(await readCounters()).toEqual({ version: 1201, counters: { a: 300, b: 300, c: 300, d: 300 } })
    expect(await generationsOnDisk()).toBeGreaterThan(10)
  })

  test('has every acknowledged change of processes that are killed at any moment', async () => {
    const random = randomFrom(seed)
    await new FileSessionStore({ directory }).create(newRecord())
    let kills = 0
    let acks = 0
    const lives = async (counter: string) => {
      for (let life = 0; life < killsPerWorker; life++) {
        const state = startWorker(counter, 1e9)
        await Promise.race([state.firstAck, state.ended])
        await sleep(random() * 80)
        state.child.kill('SIGKILL')
        await state.ended
        expect(state.child.signalCode, 'a worker ended by itself').toBe('SIGKILL')
        const stored = (await readCounters()).counters[counter] ?? 0
        // The one change that it may have stored and not acknowledged.
        expect([state.acknowledged, state.acknowledged + 1], `seed ${seed}, ${counter}`).toContain(stored)
        kills++
        acks += state.acks
      }
    }
    await Promise.all(['a', 'b', 'c'].map(lives))
    const { version, counters } = await readCounters()
    const sum = Object.values(counters).reduce((total, count) => total + count, 0)
    expect(version - 1, `seed ${seed}`).toBe(sum)
    expect(await new FileSessionStore({ directory }).countOpen()).toBe(1)
    console.info(`${acks} acknowledged changes, ${kills} kills, ${version} versions, none lost (seed ${seed})`)
  })

  test('counts what other processes open, close and delete', async () => {
    const [here, there] = [new FileSessionStore({ directory }), new FileSessionStore({ directory })]
    expect(await here.countOpen()).toBe(0)
    await there.create(newRecord({ owner: 'ann' }))
    expect([await here.countOpen(), await here.countOpen('ann')]).toEqual([1, 1])
    await there.replace(newRecord({ owner: 'ann', version: 2, open: false }), 1)
    expect([await here.countOpen(), await here.countOpen('ann')]).toEqual([0, 0])
    await there.replace(newRecord({ owner: 'bob', version: 3 }), 2)
    expect([await here.countOpen(), await here.countOpen('bob')]).toEqual([1, 1])
    await there.delete(someId)
    expect(await here.countOpen()).toBe(0)
  })

  test('does not look again at the many that have ended', async () => {
    const looked: string[] = []
    const stat = (async (path) => {
      looked.push(String(path))
      return nodeFileSystem.stat(path)
    }) as typeof nodeFileSystem.stat
    const [here, there] = [
      new FileSessionStore({ directory, fs: { ...nodeFileSystem, stat } }),
      new FileSessionStore({ directory }),
    ]
    const records = Array.from({ length: 100 }, (_, n) => newRecord({ id: someId + n, open: n < 3 }))
    await Promise.all(records.map((record) => there.create(record)))
    expect(await here.countOpen()).toBe(3)
    await there.replace(newRecord({ id: `${someId}1`, version: 2, open: false }), 1)
    looked.length = 0
    await sleep(2_100)
    expect(await here.countOpen()).toBe(2)
    expect(looked).toHaveLength(3)
  })

  test('counts thousands of records again at most two seconds later', async () => {
    const [here, there] = [new FileSessionStore({ directory }), new FileSessionStore({ directory })]
    const records = Array.from({ length: 500 }, (_, n) => newRecord({ id: someId + n }))
    await Promise.all(records.map((record) => there.create(record)))
    expect(await here.countOpen()).toBe(500)
    await here.create(newRecord())
    expect(await here.countOpen()).toBe(501)
    await there.replace(newRecord({ version: 2, open: false }), 1)
    await sleep(2_100)
    expect(await here.countOpen()).toBe(500)
  })
})
