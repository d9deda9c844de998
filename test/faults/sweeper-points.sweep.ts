/** The sweeper runs, in this process and in another one, at each file-system call of a request. */
import '../support/hook-fs.ts'

import { join } from 'node:path'
import fs from 'fs-extra'
import { afterAll, describe, expect, it } from 'vitest'
import { isNexusUploaderError } from '../../src/errors.ts'
import type { SweepReport, UploadEngine } from '../../src/types.ts'
import { survived } from '../support/fault-points.ts'
import { flushesNothing } from '../support/fs-faults.ts'
import { World } from '../support/fs-world.ts'
import { watchFs } from '../support/hook-fs.ts'
import { makeFolder } from '../support/temp-folder.ts'
import { type Scenario, scenarios } from './fs-scenarios.ts'

const folder = makeFolder()
let worlds = 0

afterAll(() => folder.remove())

const minute = 60_000
const requests = scenarios.filter(({ name }) => /chunk|append|complete|init/.test(name))

interface Outcome {
  readonly calls: number
  readonly failure: unknown
}

/** One request, `idle` ms after the last one, with the sweepers at its call `n`. */
async function run(scenario: Scenario, n: number, idle: number): Promise<Outcome> {
  const path = join(folder.path, `${worlds++}`)
  let now = Date.now()
  const world = new World(path, scenario.storage, { ...scenario.options, sessionTtl: minute, clock: () => now })
  try {
    watchFs(world.folders, flushesNothing)
    const [engine, other] = [world.open(), world.open()]
    await scenario.prepare(world, engine)
    now += idle
    const { id } = world
    const sweeps: Promise<SweepReport>[] = []
    const stop = watchFs(world.folders, async (call, proceed) => {
      if (call.n === n) {
        // The own one may have to wait for this very call.
        sweeps.push(engine.sweep())
        await other.sweep()
      }
      return flushesNothing(call, proceed)
    })
    const failure: unknown = await scenario.act(world, engine).then(
      () => null,
      (error: unknown) => error,
    )
    const calls = stop()
    watchFs(world.folders, flushesNothing)
    await Promise.all(sweeps)
    // A new one, when the sweeper was before its name was looked up.
    if (world.id !== id) world.acknowledged.clear()
    if (failure === null || idle < minute) await expectToGoOn(scenario, world, engine, failure)
    else await expectGone(world, engine, failure)
    await world.close()
    return { calls, failure }
  } finally {
    await world.close()
    watchFs([])
    await fs.remove(path)
  }
}

async function expectToGoOn(scenario: Scenario, world: World, engine: UploadEngine, failure: unknown): Promise<void> {
  if (failure !== null) throw failure
  await engine.sweep()
  await scenario.finish(world, engine, false)
}

/** Too late: the sweeper was first. Then it says so, and nothing of the request counts. */
async function expectGone(world: World, engine: UploadEngine, failure: unknown): Promise<void> {
  if (!isNexusUploaderError(failure) || ![404, 410].includes(failure.status)) throw failure
  await expect(engine.get(world.ref)).rejects.toMatchObject({ status: expect.toBeOneOf([404, 410]) })
  expect(await world.objects()).toEqual([])
}

async function everyCall(scenario: Scenario, idle: number): Promise<void> {
  const failures: string[] = []
  for (let n = 1; ; n++) {
    const point = `the sweeper at call ${n} of ${scenario.name}, ${idle / minute} of its time after the last one`
    try {
      const { calls } = await run(scenario, n, idle)
      if (calls < n) break
      survived('race', point)
    } catch (error) {
      failures.push(`${point}: ${(error as Error).stack}`)
      if (n > 400) break
    }
  }
  expect(failures).toEqual([])
}

describe('the sweeper, at every file-system call of a request', () => {
  it.each(requests)('leaves a live upload alone: $name [C10]', (scenario) => everyCall(scenario, 0.9 * minute))

  // A body that breaks off, and the look-up of an open upload, are no activity.
  const lasting = requests.filter(({ name }) => !/breaks|open/.test(name))

  it.each(lasting)('takes an idle one before the request or not at all: $name [C10]', (scenario) =>
    everyCall(scenario, 1.5 * minute),
  )
})
