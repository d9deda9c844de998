/** Random histories of chunked uploads, given to the model and to the engine. */
import { setTimeout as wait } from 'node:timers/promises'
import fc from 'fast-check'
import { expect } from 'vitest'
import { receivedBytes, receivedIndexes } from '../../src/engine/chunk-map.ts'
import { bytes } from './random.ts'
import { hour, limits, UploadModel, type Verdict } from './upload-model.ts'
import { type SystemKind, UploadSystem } from './upload-system.ts'

interface Tracked {
  readonly id: string
  readonly model: UploadModel
  readonly file: Buffer
  /** How the file is meant to be cut. */
  readonly cut: number
}

export class World {
  readonly uploads: Tracked[] = []
}

type Step = (world: World, system: UploadSystem) => Promise<void>

class Command implements fc.AsyncCommand<World, UploadSystem, true> {
  readonly #name: string
  readonly #needsUpload: boolean
  readonly run: Step

  constructor(name: string, run: Step, needsUpload = true) {
    this.#name = name
    this.run = run
    this.#needsUpload = needsUpload
  }

  async check(world: Readonly<World>): Promise<boolean> {
    return !this.#needsUpload || world.uploads.length > 0
  }

  toString(): string {
    return this.#name
  }
}

const statusOf = (error: { status?: number }): number => {
  if (error.status === undefined) throw error
  return error.status
}

/** The newest mostly: the older ones have often ended. */
const pick = (world: World, n: number) => world.uploads.at(-1 - (n % world.uploads.length)) as Tracked
const which = fc.constantFrom(0, 0, 0, 0, 1, 2)

const sizes = fc.constantFrom(null, 0, 1, 99, 100, 101, 150, 250, 399, 400, 1000)
const kinds = fc.constantFrom('right', 'right', 'right', 'again', 'again', 'other', 'short', 'long', 'empty', 'random')

const create = fc
  .record({ total: sizes, chunkSize: fc.constantFrom(null, null, 40, 100, 151), cut: fc.constantFrom(40, 100, 150) })
  .map(
    ({ total, chunkSize, cut }) =>
      new Command(
        `create(${total}, ${chunkSize}, ${cut})`,
        async (world, system) => {
          const made = await system.client
            .create(total, chunkSize === null ? {} : { chunkSize })
            .catch((error) => statusOf(error))
          if (chunkSize !== null && chunkSize > limits.maxChunkSize) {
            expect(made).toBe(400)
            return
          }
          expect(made).toEqual(expect.any(String))
          const file = bytes(total ?? 500, world.uploads.length + 1)
          const model = new UploadModel(total, chunkSize, system.now())
          world.uploads.push({ id: String(made), model, file, cut: chunkSize ?? cut })
        },
        false,
      ),
  )

function dataOf({ file, cut, model }: Tracked, index: number, kind: string, seed: number): Buffer {
  const right = file.subarray(Math.max(0, index) * cut, Math.max(0, index) * cut + cut)
  if (kind === 'again') return model.chunks.get(index) ?? right
  if (kind === 'right') return right
  if (kind === 'other') return bytes(right.length, seed + 100)
  if (kind === 'short') return right.subarray(0, Math.max(0, right.length - 1))
  if (kind === 'long') return Buffer.concat([right, bytes(1 + (seed % 60), seed)])
  return kind === 'empty' ? Buffer.alloc(0) : bytes(1 + (seed % 150), seed)
}

async function sendChunk(upload: Tracked, index: number, data: Buffer, system: UploadSystem): Promise<void> {
  const { model, id } = upload
  const expected = model.chunk(index, data)
  const isAnnounced = data.length % 4 === 0
  const writing = system.client.write(id, index, data, isAnnounced ? { size: data.length } : {})
  const answer: Verdict = await writing.then(
    ({ duplicate, size }) => {
      expect(size).toBe(data.length)
      return duplicate ? 'same' : 'stored'
    },
    (error) => statusOf(error),
  )
  const allowed: Verdict[] = [expected]
  const isOther = expected !== 'same' && model.chunks.has(index)
  // Its part may have left for the storage by now.
  if (isOther && system.kind === 'memory in parts') allowed.push(409)
  if (system.kind === 'memory alone') {
    // What is recorded there does not change.
    if (isOther) allowed.splice(0, 1, 409, ...(expected === 'stored' ? [] : [expected]))
    if (system.trouble.when !== 'never' && Number(answer) >= 500) return
  }
  // The staged file is, or may be, the storage's by now.
  if (system.kind === 'local disk' && (expected === 'same' ? model.lent : model.given)) allowed.push(409)
  expect(allowed, `chunk ${index}`).toContain(answer)
  if (answer === 'stored' || answer === 'same') model.accept(index, data, system.now())
}

const chunk = fc
  .record({
    n: which,
    index: fc.constantFrom(0, 0, 1, 1, 2, 3, 4, 7, -1, 1.5, 29, 30),
    kind: kinds,
    seed: fc.nat(999),
  })
  .map(
    ({ n, index, kind, seed }) =>
      new Command(`chunk(${n}, ${index}, ${kind}, ${seed})`, async (world, system) => {
        const upload = pick(world, n)
        await sendChunk(upload, index, dataOf(upload, index, kind, seed), system)
      }),
  )

const fill = fc.record({ n: which, reversed: fc.boolean() }).map(
  ({ n, reversed }) =>
    new Command(`fill(${n}, ${reversed})`, async (world, system) => {
      const upload = pick(world, n)
      const indexes = Array.from({ length: Math.ceil(upload.file.length / upload.cut) }, (_, index) => index)
      for (const index of reversed ? indexes.reverse() : indexes) {
        if (!upload.model.chunks.has(index)) await sendChunk(upload, index, dataOf(upload, index, 'right', 0), system)
      }
    }),
)

async function completeIt(world: World, system: UploadSystem, n: number): Promise<void> {
  const { model, id } = pick(world, n)
  const expected = model.complete()
  const wasActive = model.state === 'active'
  const answer = await system.client.complete(id).catch((error) => statusOf(error))
  if (expected === 200 && wasActive) {
    model.touchedAt = system.now()
    model.total = model.bytes.length
  }
  if (expected === 200 && wasActive && system.trouble.when !== 'never') {
    expect(answer).toBeGreaterThanOrEqual(500)
    model.lent ||= system.trouble.when === 'after'
    model.given = true
    return
  }
  if (expected !== 200) {
    expect(answer).toBe(expected)
    return
  }
  expect(answer).toMatchObject({ url: model.url ?? expect.any(String), size: model.bytes.length })
  if (typeof answer === 'number' || !wasActive) return
  model.url = answer.url
  model.end('completed', system.now())
  expect((await system.objects()).get(answer.key)?.equals(model.bytes), 'the bytes of the object').toBe(true)
}

async function requireSame(world: World, system: UploadSystem, n: number): Promise<void> {
  const { model, id } = pick(world, n)
  const session = await system.client.get(id).catch((error) => statusOf(error))
  if (typeof session === 'number' || model.access !== 200) {
    expect(session).toBe(model.access)
    return
  }
  expect(session.state).toBe(model.state)
  expect(receivedBytes(session.chunks)).toBe(model.bytes.length)
  const indexes = receivedIndexes(session.chunks).flatMap(([first, last]) =>
    Array.from({ length: last - first + 1 }, (_, i) => first + i),
  )
  expect(indexes).toEqual([...model.chunks.keys()].sort((a, b) => a - b))
}

const complete = which.map((n) => new Command(`complete(${n})`, (world, system) => completeIt(world, system, n)))
const progress = which.map((n) => new Command(`progress(${n})`, (world, system) => requireSame(world, system, n)))

const abort = which.map(
  (n) =>
    new Command(`abort(${n})`, async (world, system) => {
      const { model, id } = pick(world, n)
      const answer = await system.client.abort(id).then(
        () => 200,
        (error) => statusOf(error),
      )
      expect(answer).toBe(model.abort())
      if (answer === 200 && model.state === 'active') model.end('aborted', system.now())
    }),
)

/** While parts are on their way in the background, nobody is idle. */
async function statusAfterSweep(system: UploadSystem, id: string): Promise<number> {
  for (let attempt = 0; ; attempt++) {
    const status = await system.client.get(id).then(
      ({ state }) => (state === 'active' ? 200 : 201),
      (error) => statusOf(error),
    )
    if (status !== 200 || attempt === 200) return status
    await wait(10)
    await system.engine.sweep()
  }
}

const sweep = fc.constantFrom(0, 0, 0.3 * hour, 0.6 * hour, 1.1 * hour).map(
  (time) =>
    new Command(
      `sweep after ${time / hour} h`,
      async (world, system) => {
        system.advance(time)
        await system.engine.sweep()
        for (const { model, id } of world.uploads) {
          const due = model.due(system.now())
          if (due === null) continue
          const status = await statusAfterSweep(system, id)
          // What could not be taken out of the storage is still remembered.
          if (due === 'gone' && status !== 404) expect(system.trouble.when).not.toBe('never')
          else {
            expect(status).toBe(due === 'gone' ? 404 : 410)
            model.end(due, system.now())
          }
        }
      },
      false,
    ),
)

const restart = fc
  .constantFrom('close' as const, 'leave' as const)
  .map((how) => new Command(`restart(${how})`, (_world, system) => system.restart(how), false))

const trouble = fc.constantFrom('never' as const, 'never' as const, 'before' as const, 'after' as const).map(
  (when) =>
    new Command(
      `trouble(${when})`,
      async (_world, system) => {
        system.trouble.when = when
      },
      false,
    ),
)

/** What goes on behind the callers' backs, parts on their way for one, gets somewhere. */
const rest = fc.constant(new Command('rest', () => wait(10), false))

/** @param maxCommands of one history */
export function histories(maxCommands: number) {
  const often = [create, create, chunk, chunk, chunk, chunk, chunk, chunk, chunk, chunk, fill, fill, fill]
  const seldom = [complete, complete, progress, abort, sweep, restart, restart, trouble, rest, rest]
  return fc.commands([...often, ...seldom], { maxCommands, size: 'max' })
}

/** One history; then no acknowledged byte is missing, and nothing else is there. */
export async function runHistory(kind: SystemKind, commands: Iterable<fc.AsyncCommand<World, UploadSystem, true>>) {
  const system = new UploadSystem(kind)
  const world = new World()
  try {
    await fc.asyncModelRun(() => ({ model: world, real: system }), commands)
    await requireInvariants(world, system)
  } finally {
    await system.end()
  }
}

async function requireInvariants(world: World, system: UploadSystem): Promise<void> {
  system.trouble.when = 'never'
  for (const n of world.uploads.keys()) {
    await requireSame(world, system, n)
    await completeIt(world, system, n)
  }
  const objects = await system.objects()
  const made = world.uploads.filter(({ model }) => model.url !== null)
  const lent = world.uploads.filter(({ model }) => model.url === null && model.lent)
  expect(objects.size).toBeGreaterThanOrEqual(made.length)
  expect(objects.size).toBeLessThanOrEqual(made.length + lent.length)
  await system.requireClean()
  expect([...(await system.objects()).keys()].sort()).toEqual([...objects.keys()].sort())
}
