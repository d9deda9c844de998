/** A process ends at each of its file-system calls; the next one finds everything that was acknowledged, whole. */
import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { join } from 'node:path'
import fs from 'fs-extra'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { allChunks } from '../../src/engine/chunk-map.ts'
import { parallel } from '../support/engine.ts'
import { survived } from '../support/fault-points.ts'
import { age } from '../support/fs-world.ts'
import { sha256 } from '../support/random.ts'
import { filesBelow, makeFolder } from '../support/temp-folder.ts'
import type { Job, Told } from './crash-worker.ts'
import {
  type Ack,
  chunkBytes,
  chunkSize,
  engineOn,
  fileBytes,
  fileSize,
  goOn,
  type Workload,
  workloads,
} from './crash-workloads.ts'

const { buildSync } = createRequire(import.meta.url)('esbuild') as typeof import('esbuild')
const folder = makeFolder()
const worker = join(folder.path, 'worker.cjs')
/** `FULL=1` begins crashed recoveries at more of the points. */
const full = process.env.FULL !== undefined
const protocol = 'native'
const day = 24 * 60 * 60_000
let runs = 0

beforeAll(() => {
  buildSync({
    entryPoints: [join(import.meta.dirname, 'crash-worker.ts')],
    outfile: worker,
    ...{ bundle: true, platform: 'node', format: 'cjs', target: 'node20', ignoreAnnotations: true },
    external: ['@aws-sdk/*'],
  })
})

afterAll(() => folder.remove())

type End = NonNullable<Job['end']>

/** Runs the job in a process of its own; what it told before it ended. */
function run(job: Job): Promise<{ told: Told[]; killed: boolean }> {
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [worker, JSON.stringify(job)], { timeout: 60_000 }, (error, stdout, stderr) => {
      const killed = error?.signal === 'SIGKILL'
      if (error && !killed) return reject(new Error(`the process failed: ${stderr || error.message}`))
      const lines = stdout.split('\n').filter((line) => line.endsWith('}'))
      resolve({ told: lines.map((line) => JSON.parse(line) as Told), killed })
    })
  })
}

interface Crashed {
  readonly job: Job
  readonly acks: Ack[]
  readonly killed: boolean
}

function newFolders(): Job['folders'] {
  const path = join(folder.path, `${runs++}`)
  return { tempDir: join(path, 'temp'), directory: join(path, 'stored') }
}

const acksIn = (told: readonly Told[]) => told.flatMap((line) => ('ack' in line ? [line.ack] : []))
const idIn = (acks: readonly Ack[]) => acks.find(({ what }) => what === 'created')?.id ?? ''

async function crash(workload: number, end: End): Promise<Crashed> {
  const job = { folders: newFolders(), workload, end }
  const { told, killed } = await run(job)
  return { job, acks: acksIn(told), killed }
}

/** Another process that goes on and is killed as well. */
async function crashAgain(before: Crashed, end: End): Promise<Crashed> {
  const job = { ...before.job, goOn: idIn(before.acks), end }
  const { told, killed } = await run(job)
  return { job, acks: [...before.acks, ...acksIn(told)], killed }
}

/** A new process on the same folders: what was acknowledged is there, the rest can be sent, and one file comes of it. */
async function expectRecovery({ job, acks }: Crashed): Promise<void> {
  const workload = workloads[job.workload] as Workload
  const { folders } = job
  // Also now, before anybody has gone on: a file is there as a whole or not at all.
  await expectWholeFiles(folders, acks)
  const engine = engineOn(folders, workload.storage)
  const more: Ack[] = []
  const life = { engine, folders, storage: workload.storage, id: idIn(acks), say: (ack: Ack) => void more.push(ack) }
  try {
    if (life.id !== '') await expectAcknowledged(engine, life.id, acks)
    await goOn(workload, life)
  } finally {
    await engine.close()
  }
  const urls = new Set([...acks, ...more].flatMap(({ url }) => url ?? []))
  const isAborted = more.every(({ what }) => what !== 'completed')
  if (isAborted) expect([workload.name, [...urls]]).toEqual(['abort', []])
  else expect(urls.size).toBe(1)
  await expectNothingElse(workload, folders, isAborted ? 0 : 1, acks)
  survived(
    'kill',
    `${runs} ${JSON.stringify(job.end)}`,
    acks.filter(({ what }) => what === 'chunk' || what === 'appended').length,
  )
  await fs.remove(join(folders.tempDir, '..'))
}

async function expectAcknowledged(engine: ReturnType<typeof engineOn>, uploadId: string, acks: readonly Ack[]) {
  if (acks.some(({ what }) => what === 'aborted')) {
    await expect(engine.get({ uploadId, protocol })).rejects.toMatchObject({ status: 410 })
    return
  }
  const session = await engine.get({ uploadId, protocol }).catch((error: { status?: number }) => {
    // Killed while it was aborting, and before it could say so.
    if (error.status === 410 && acks.every(({ what }) => what !== 'completed' && what !== 'swept')) return null
    throw error
  })
  if (session === null) return
  const sizes = new Map(allChunks(session.chunks).map(({ index, size }) => [index, size]))
  for (const { what, index = 0, offset = 0 } of acks) {
    if (what === 'chunk') expect(sizes.get(index), `acknowledged chunk ${index}`).toBe(chunkSize)
    if (what === 'appended') expect(sizes.get(0), 'acknowledged bytes').toBeGreaterThanOrEqual(offset)
    if (what === 'completed') expect(session.state).toBe('completed')
  }
}

/** The files in the storage are the ones that may be there, and the temporary folder empties by itself. */
async function expectNothingElse(workload: Workload, folders: Job['folders'], count: number, acks: readonly Ack[]) {
  const keys = await expectWholeFiles(folders, acks)
  expect(keys).toHaveLength(count)
  for (const days of [100, 200, 300, 400]) {
    await age(folders.tempDir, days * day)
    const later = engineOn(folders, workload.storage, () => Date.now() + days * day)
    await later.sweep()
    await later.close()
  }
  expect(await filesBelow(folders.tempDir)).toEqual([])
  expect(await storedIn(folders)).toEqual(keys)
  const multipart = await readdir(join(folders.directory, '.multipart')).catch(() => [])
  expect(multipart.filter((name) => !name.endsWith('.closed'))).toEqual([])
}

async function storedIn({ directory }: Job['folders']): Promise<string[]> {
  return (await filesBelow(directory)).filter((name) => name.startsWith('uploads/'))
}

async function expectWholeFiles(folders: Job['folders'], acks: readonly Ack[]): Promise<string[]> {
  const keys = await storedIn(folders)
  for (const key of keys) {
    const found = await readFile(join(folders.directory, key))
    expect(filesFor(acks).map(sha256), 'the stored bytes').toContain(sha256(found))
  }
  return keys
}

/** Chunk 1 may have been replaced: for certain when that was acknowledged, perhaps when it was about to be. */
function filesFor(acks: readonly Ack[]): Buffer[] {
  const first = fileBytes()
  const other = Buffer.concat([
    first.subarray(0, chunkSize),
    chunkBytes(1, 'other'),
    first.subarray(2 * chunkSize, fileSize),
  ])
  const variants = acks.flatMap(({ what, index, variant }) => (what === 'chunk' && index === 1 ? [variant] : []))
  return variants.includes('other') ? [other] : [first, other]
}

/** The calls of the workload when nothing happens to it. */
async function callsOf(workload: number): Promise<{ op: string; size: number }[]> {
  const { told } = await run({ folders: newFolders(), workload })
  expect(told.at(-1)).toEqual({ ended: true })
  return told.flatMap((line) => ('call' in line ? [line.call] : []))
}

/** All points, two at a time; every failure is told, not only the first. */
async function sweep<Point>(
  points: readonly Point[],
  nameOf: (point: Point) => string,
  probe: (point: Point) => Promise<boolean>,
) {
  const failures: string[] = []
  await parallel(Math.min(2, cpus().length), points, async (point) => {
    try {
      if (await probe(point)) survived('crash', nameOf(point))
    } catch (error) {
      failures.push(`${nameOf(point)}: ${(error as Error).message}`)
    }
  })
  expect(failures).toEqual([])
}

const named = workloads.map((workload, number) => ({ name: workload.name, number }))
const nameOf = (workload: string) => (end: End) =>
  `${workload}: ${end.when} call ${end.call}${end.torn === undefined ? '' : `, ${end.torn} bytes of it`}`

describe('a process that ends', () => {
  it.each(named)('before or after any call of: $name [D01]', async ({ name, number }) => {
    const calls = await callsOf(number)
    const points = calls.flatMap((_, i): End[] => [
      { call: i + 1, when: 'before' },
      { call: i + 1, when: 'after' },
    ])
    await sweep(points, nameOf(name), async (end) => {
      const crashed = await crash(number, end)
      await expectRecovery(crashed)
      return crashed.killed
    })
  })

  it.each(named)('in the middle of any write of: $name [D02]', async ({ name, number }) => {
    const writes = (await callsOf(number)).map(({ size }, i) => ({ size, call: i + 1 })).filter(({ size }) => size > 0)
    const points = writes.flatMap(({ size, call }) => {
      const lengths = [...new Set([0, 1, Math.floor(size / 2), size - 1])].filter((torn) => torn < size)
      return lengths.map((torn): End => ({ call, when: 'after', torn }))
    })
    await sweep(points, nameOf(name), async (end) => {
      const crashed = await crash(number, end)
      await expectRecovery(crashed)
      return crashed.killed
    })
  })

  it.each(named)('again and again while it recovers, after: $name [D03]', async ({ name, number }) => {
    const total = (await callsOf(number)).length
    const every = full ? 5 : Math.ceil(total / 6)
    const points: [End, End, End][] = []
    for (let first = 2; first <= total; first += every) {
      for (const second of [3, 10, 18, 27, 38, 50]) {
        const third = (first * 7 + second * 3) % 45
        points.push([
          { call: first, when: first % 2 ? 'before' : 'after' },
          { call: second, when: 'after' },
          { call: third + 1, when: 'after' },
        ])
      }
    }
    const naming = (ends: readonly End[]) => ends.map(nameOf(name)).join(', then ')
    await sweep(points, naming, async ([first, second, third]) => {
      const once = await crash(number, first)
      const twice = await crashAgain(once, second)
      const thrice = await crashAgain(twice, third)
      await expectRecovery(thrice)
      return once.killed && twice.killed
    })
  })
})
