/** Each file-system call of each request fails once, or from then on, in every way a disk knows. */
import '../support/hook-fs.ts'

import { join } from 'node:path'
import fs from 'fs-extra'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { isNexusUploaderError } from '../../src/errors.ts'
import { survived } from '../support/fault-points.ts'
import { type Fault, faultAt, faultsFor, flushesNothing } from '../support/fs-faults.ts'
import { World } from '../support/fs-world.ts'
import { type FsCall, type Interceptor, leakedFiles, type Proceed, watchFs } from '../support/hook-fs.ts'
import { sha256 } from '../support/random.ts'
import { makeFolder } from '../support/temp-folder.ts'
import { type Scenario, scenarios } from './fs-scenarios.ts'

/** `POINT='the first chunk, call 13'` takes the points whose names have that in them, to look closer at one. */
const chosen = process.env.POINT ?? ''
/** Longest time that one request may take on a disk that fails, ms. */
const patience = 8_000

const folder = makeFolder()
let worlds = 0
const rejections: unknown[] = []
const onRejection = (error: unknown) => rejections.push(error)

beforeAll(() => {
  process.on('unhandledRejection', onRejection)
})

afterAll(async () => {
  process.off('unhandledRejection', onRejection)
  await folder.remove()
})

/** The calls of the request when nothing fails. */
async function cleanRun(scenario: Scenario): Promise<FsCall[]> {
  const calls: FsCall[] = []
  const intercept = (call: FsCall, proceed: Proceed) => {
    calls.push(call)
    return flushesNothing(call, proceed)
  }
  const sync = (call: FsCall, proceed: () => unknown) => {
    calls.push(call)
    return proceed()
  }
  const failure = await run(scenario, Object.assign(intercept, { sync }))
  if (failure !== null) throw failure
  return calls
}

/** Whether the request came to call `n`. */
async function provoke(scenario: Scenario, n: number, fault: Fault): Promise<boolean> {
  const attempt = faultAt(n, fault)
  const failure = await run(scenario, attempt.intercept)
  expect(rejections.splice(0), 'unhandled rejections').toEqual([])
  if (failure !== null) checkAnswer(failure, fault)
  return attempt.struck !== null
}

/** One world from its beginning to its end, with the fault only under the request. What the request was answered. */
async function run(scenario: Scenario, intercept: Interceptor): Promise<unknown> {
  const path = join(folder.path, `${worlds++}`)
  const world = new World(path, scenario.storage, scenario.options)
  try {
    watchFs(world.folders, flushesNothing)
    const engine = world.open()
    await scenario.prepare(world, engine)
    watchFs(world.folders, intercept)
    const failure: unknown = await inTime(scenario.act(world, engine)).then(
      () => null,
      (error: unknown) => error,
    )
    // What goes on behind an answer belongs to the request too.
    await world.close()
    watchFs(world.folders, flushesNothing)
    // A file is there as a whole or not at all.
    for (const key of await world.objects()) expect(sha256(await world.read(key))).toBe(sha256(world.file))
    await scenario.finish(world, world.open(), failure !== null)
    await world.expectNothingLeft()
    // Records that were changed last are kept open, but not behind the end of an engine.
    await world.close()
    expect((await leakedFiles()).join(), 'files that stayed open').toBe('')
    return failure
  } finally {
    await world.close()
    watchFs([])
    await fs.remove(path)
  }
}

function inTime<Result>(task: Promise<Result>): Promise<Result> {
  const late = new Promise<never>((_, reject) => {
    setTimeout(() => reject(new Error(`no answer within ${patience} ms`)), patience).unref()
  })
  return Promise.race([task, late])
}

/** The client tries again, and learns nothing about the server's disk. */
function checkAnswer(error: unknown, fault: Fault): void {
  if (!isNexusUploaderError(error)) throw error
  expect([error.status, error.retryable], `${error.stack}\n${String(error.cause)}`).toEqual([fault.status, true])
  const shown = JSON.stringify([error.message, error.details, error.stack])
  expect(shown).not.toContain(folder.path)
  expect(shown).not.toMatch(/\bE[A-Z]{2,}\b/)
}

describe('a disk that fails', () => {
  it.each(scenarios)('at any call of: $name [E01]', async (scenario) => {
    const failures: string[] = []
    for (const call of await cleanRun(scenario)) {
      for (const fault of faultsFor(call)) {
        const point = `${scenario.name}, call ${call.n} (${call.op}): ${fault.name}`
        if (!point.includes(chosen)) continue
        try {
          if (await provoke(scenario, call.n, fault)) survived('fs', point)
        } catch (error) {
          const where = call.path.replace(/^.*\/(temp|stored)\//, '')
          failures.push(`${point} ${where}: ${(error as Error).message}`)
        }
      }
    }
    expect(failures).toEqual([])
  })
})
