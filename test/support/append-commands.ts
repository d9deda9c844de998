/** Random histories of uploads that grow at their end (tus, IETF), given to a model and to the engine. The model is a buffer. */
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import fc from 'fast-check'
import { expect } from 'vitest'
import { bytes } from './random.ts'
import { type SystemKind, UploadSystem } from './upload-system.ts'

const protocol = 'native'
const largest = 2000

interface Growing {
  readonly id: string
  total: number | null
  bytes: Buffer
  state: 'active' | 'completed' | 'aborted'
}

type Step = (uploads: Growing[], system: UploadSystem) => Promise<void>
type AppendCommand = fc.AsyncCommand<Growing[], UploadSystem, true>

const command = (name: string, run: Step, needsUpload = true): AppendCommand => ({
  check: async (uploads) => !needsUpload || uploads.length > 0,
  run,
  toString: () => name,
})
const pick = (uploads: Growing[], n: number) => uploads[n % uploads.length] as Growing

const create = fc.constantFrom(null, 0, 1, 99, 100, 350, 1000).map((total) =>
  command(
    `create(${total})`,
    async (uploads, system) => {
      uploads.push({ id: await system.client.create(total), total, bytes: Buffer.alloc(0), state: 'active' })
    },
    false,
  ),
)

/** How the body goes wrong, if it does. */
type How = 'whole' | 'no length' | 'breaks off' | 'right checksum' | 'wrong checksum'

function bodyOf(data: Buffer, how: How): Readable {
  const half = data.subarray(0, data.length / 2)
  if (how !== 'breaks off') return Readable.from([half, data.subarray(half.length)], { objectMode: false })
  const torn = new Readable({ read() {} })
  torn.push(half)
  setTimeout(() => torn.destroy(new Error('the line is dead')), 2)
  return torn
}

async function append(upload: Growing, system: UploadSystem, offset: number, data: Buffer, how: How): Promise<void> {
  const checksum = createHash('sha256')
    .update(how === 'wrong checksum' ? 'another' : data)
    .digest('base64')
  const answer = await system.engine
    .append({
      uploadId: upload.id,
      protocol,
      offset,
      body: bodyOf(data, how),
      ...(how !== 'no length' && { size: data.length }),
      ...(how.endsWith('checksum') && { checksum: `sha256:${checksum}` }),
    })
    .catch((error: { status?: number }) => error.status ?? 0)
  const before = upload.bytes
  if (upload.state === 'aborted') return expect(answer).toBe(410)
  if (offset !== before.length) return expect(answer).toBe(409)
  const room = upload.state === 'completed' ? 0 : (upload.total ?? largest) - before.length
  const isRefused = system.kind === 'memory alone' && system.trouble.when !== 'never' && Number(answer) >= 500
  if (isRefused) expect(upload.state).toBe('active')
  else if (data.length > room) expect([400, 409, 413]).toContain(answer)
  else if (how === 'wrong checksum' && upload.state === 'active') expect(answer).toBe(422)
  else if (how !== 'breaks off') {
    if (upload.state === 'active') upload.bytes = Buffer.concat([before, data])
    expect(answer).toMatchObject({ offset: upload.bytes.length, size: data.length, interrupted: false })
  }
  await requireOffset(upload, system, before, data)
}

/** What is there is what was acknowledged, and of a body that was not only its beginning. */
async function requireOffset(
  upload: Growing,
  system: UploadSystem,
  before: Buffer = upload.bytes,
  sent: Buffer = Buffer.alloc(0),
) {
  const { offset } = await system.engine.retrieveOffset({ uploadId: upload.id, protocol })
  expect(offset).toBeGreaterThanOrEqual(upload.bytes.length)
  expect(offset).toBeLessThanOrEqual(Math.max(upload.bytes.length, before.length + sent.length))
  upload.bytes = Buffer.concat([before, sent]).subarray(0, offset)
}

const grow = fc
  .record({
    n: fc.nat(2),
    size: fc.constantFrom(0, 1, 50, 99, 100, 101, 250, 700),
    shift: fc.constantFrom(0, 0, 0, 0, 0, 1, -1, 100),
    how: fc.constantFrom<How>('whole', 'whole', 'no length', 'breaks off', 'right checksum', 'wrong checksum'),
    seed: fc.nat(999),
  })
  .map(({ n, size, shift, how, seed }) =>
    command(`append(${n}, ${size} bytes at ${shift}, ${how}, ${seed})`, async (uploads, system) => {
      const upload = pick(uploads, n)
      const rest = upload.total === null ? size : Math.min(size, upload.total - upload.bytes.length)
      const data = bytes(seed % 5 === 0 ? size : rest, seed)
      await append(upload, system, Math.max(0, upload.bytes.length + shift), data, how)
    }),
  )

const ask = fc.nat(2).map((n) =>
  command(`offset(${n})`, async (uploads, system) => {
    const upload = pick(uploads, n)
    if (upload.state !== 'aborted') return requireOffset(upload, system)
    const asked = system.engine.retrieveOffset({ uploadId: upload.id, protocol })
    await expect(asked).rejects.toMatchObject({ status: 410 })
  }),
)

async function completeIt(upload: Growing, system: UploadSystem): Promise<void> {
  const answer = await system.client.complete(upload.id).catch((error: { status?: number }) => error.status ?? 0)
  if (upload.state === 'aborted') return expect(answer).toBe(410)
  const isWhole = upload.bytes.length === (upload.total ?? upload.bytes.length)
  if (upload.state === 'active' && isWhole && system.trouble.when === 'before') {
    upload.total = upload.bytes.length
    return expect(answer).toBe(502)
  }
  if (!isWhole) return expect(answer).toBe(409)
  expect(answer).toMatchObject({ size: upload.bytes.length })
  if (typeof answer === 'number') return
  upload.total = upload.bytes.length
  upload.state = 'completed'
  expect((await system.objects()).get(answer.key)?.equals(upload.bytes), 'the bytes of the object').toBe(true)
}

const complete = fc
  .nat(2)
  .map((n) => command(`complete(${n})`, (uploads, system) => completeIt(pick(uploads, n), system)))

const abort = fc.nat(2).map((n) =>
  command(`abort(${n})`, async (uploads, system) => {
    const upload = pick(uploads, n)
    const aborted = system.client.abort(upload.id)
    if (upload.state === 'completed') return expect(aborted).rejects.toMatchObject({ status: 409 })
    await aborted
    upload.state = 'aborted'
  }),
)

const restart = fc
  .constantFrom('close' as const, 'leave' as const)
  .map((how) => command(`restart(${how})`, (_uploads, system) => system.restart(how), false))

const trouble = fc.constantFrom('never' as const, 'before' as const).map((when) =>
  command(
    `trouble(${when})`,
    async (_uploads, system) => {
      system.trouble.when = when
    },
    false,
  ),
)

/** @param maxCommands of one history */
export function appendHistories(maxCommands: number) {
  const each = [create, grow, grow, grow, grow, ask, complete, abort, restart, trouble]
  return fc.commands(each, { maxCommands, size: 'max' })
}

export async function runAppendHistory(kind: SystemKind, commands: Iterable<AppendCommand>): Promise<void> {
  const system = new UploadSystem(kind)
  const uploads: Growing[] = []
  try {
    await fc.asyncModelRun(() => ({ model: uploads, real: system }), commands)
    system.trouble.when = 'never'
    for (const upload of uploads) await completeIt(upload, system)
    const completed = uploads.filter(({ state }) => state === 'completed')
    expect((await system.objects()).size).toBe(completed.length)
    await system.requireClean()
  } finally {
    await system.end()
  }
}
