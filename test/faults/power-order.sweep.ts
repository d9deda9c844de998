/**
 * The order of the system calls of a server with `durability: 'power'`: from them follows what a power cut may leave at any
 * moment. On every such remainder an engine goes on, and everything that had been acknowledged by then has to be there.
 */
import { mkdirSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { createUploadEngine, LocalStorageAdapter } from '../../src/index.ts'
import { DiskHistory, everything, nothingMore, type Selection } from '../support/disk-history.ts'
import { survived } from '../support/fault-points.ts'
import { checkPromises, type Entry, Ledger } from '../support/ledger.ts'
import { startServer } from '../support/process.ts'
import { bytes, seeded } from '../support/random.ts'
import { readTrace, straceMissing, watchFiles } from '../support/system-calls.ts'
import { tempFolder } from '../support/temp-folder.ts'

const missing = straceMissing()
if (missing) console.log(`power-order: left out, ${missing}`)

/** None of them is there before the first request. */
const foldersIn = (root: string) => ({ tempDir: join(root, 'a/temp'), directory: join(root, 'b/c/files') })

async function record(durability: 'process' | 'power', talk: (ledger: Ledger, url: string) => Promise<void>) {
  const root = tempFolder()
  const output = join(tempFolder(), 'calls')
  const ledger = new Ledger()
  const server = await startServer({ ...foldersIn(root), config: { durability } })
  const tracer = await watchFiles(server.pid, output)
  try {
    await talk(ledger, server.url)
    // The last answer may be here before strace has written that it was given. One thread gives them all: with another
    // one here, those before it are in the trace.
    await fetch(`${server.url}/upload/progress/none`).then((answer) => answer.arrayBuffer())
  } finally {
    await tracer.detach()
    await server.kill()
  }
  expect(ledger.refusals).toEqual([])
  const history = new DiskHistory(root, readTrace(output))
  for (const { port } of ledger.entries)
    expect(history.answers.get(port)?.status, 'the answer in the trace').toBeLessThan(300)
  return { ledger, history }
}

/** Goes on after a power cut at that moment. */
async function restart(
  { ledger, history }: Awaited<ReturnType<typeof record>>,
  at: number,
  selection: Selection,
): Promise<number> {
  const root = join(tempFolder(), 'crash')
  mkdirSync(root)
  history.materialize(at, root, selection)
  const { tempDir, directory } = foldersIn(root)
  const engine = createUploadEngine({ storage: new LocalStorageAdapter({ directory }), tempDir })
  const wasToldAt = ({ port }: Entry) => (history.answers.get(port)?.at ?? Number.POSITIVE_INFINITY) <= at
  try {
    return await checkPromises(engine, directory, ledger.entries, wasToldAt)
  } finally {
    await engine.close()
    await rm(root, { recursive: true })
  }
}

const other = (data: Buffer) => Buffer.from(data.map((byte) => byte ^ 0xff))

type Talk = (ledger: Ledger, url: string) => Promise<void>

const talks: Readonly<Record<string, Talk>> = {
  'chunks in order, the third one early, the second one replaced': async (ledger, url) => {
    const upload = await ledger.startNative(url, bytes(13_000, 1), [3_000], false)
    await ledger.chunk(url, upload, 0)
    await ledger.chunk(url, upload, 1, other(bytes(3_000, 9)))
    await ledger.chunk(url, upload, 3)
    await ledger.chunk(url, upload, 1)
    for (const index of [2, 4]) await ledger.chunk(url, upload, index)
    await ledger.complete(url, upload)
    await ledger.complete(url, upload)
  },
  'chunks of a declared size, backwards': async (ledger, url) => {
    const upload = await ledger.startNative(url, bytes(9_500, 2), [2_000], true)
    for (const index of [4, 3, 2, 1, 0]) await ledger.chunk(url, upload, index)
    await ledger.complete(url, upload)
  },
  'chunks of unequal sizes, of which only the order is known': async (ledger, url) => {
    const upload = await ledger.startNative(url, bytes(10_000, 3), [1_000, 4_000, 500, 2_500, 2_000], false)
    for (const index of [1, 3, 0, 2, 4]) await ledger.chunk(url, upload, index)
    await ledger.complete(url, upload)
  },
  'tus, in three pieces': async (ledger, url) => {
    const upload = await ledger.startTus(url, bytes(12_000, 4))
    for (const from of [0, 4_000, 8_000]) await ledger.patch(url, upload, from, from + 4_000)
  },
  'whole files in one request': async (ledger, url) => {
    for (const seed of [5, 6]) await ledger.single(url, bytes(4_000, seed))
  },
  'eight uploads at once, the chunks of each at once': async (ledger, url) => {
    const one = async (seed: number) => {
      const upload = await ledger.startNative(url, bytes(6_000, seed), [1_500], seed % 2 === 0)
      await Promise.all([0, 1, 2, 3].map((index) => ledger.chunk(url, upload, index)))
      await ledger.complete(url, upload)
    }
    await Promise.all([10, 11, 12, 13, 14, 15, 16, 17].map(one))
  },
  'so many chunks that the journal of the record is begun anew': async (ledger, url) => {
    const upload = await ledger.startNative(url, bytes(160 * 40, 7), [40], true)
    for (let index = 0; index < 160; index++) await ledger.chunk(url, upload, (index * 7) % 160)
    await ledger.complete(url, upload)
  },
}

describe.skipIf(missing)('durability power: what a power cut leaves', () => {
  it.each(Object.keys(talks))('keeps everything acknowledged, at every moment [D09]: %s', async (name) => {
    const run = await record('power', talks[name] as Talk)
    const { ledger, history } = run
    const random = seeded(ledger.entries.length)
    const answered = [...history.answers.values()].map(({ at }) => at)
    // Long talks repeat themselves, and take long to go on with.
    const share = ledger.entries.length > 100 ? 6 : 30
    const moments = [...random.shuffle(answered).slice(0, share), ...random.shuffle(history.moments).slice(0, share)]
    for (const at of moments) {
      const keeps = () => random.next() < 0.5
      const some = { keeps, tears: (size: number) => random.integer(0, size), blanks: () => false }
      const blank = { keeps, tears: (size: number) => random.integer(0, size), blanks: keeps }
      for (const [kind, selection] of Object.entries({ nothingMore, everything, some, blank })) {
        await restart(run, at, selection).catch((cause) => {
          throw new Error(`a power cut at line ${at} with ${kind}: ${cause.message}`, { cause })
        })
      }
    }
    survived('power', `order of calls: ${name}`, moments.length * 4)
  })

  it('and durability process does not: without a flush nothing is certain to be left [D09]', async () => {
    const run = await record('process', talks['chunks of a declared size, backwards'] as Talk)
    expect(run.history.flushes).toBe(0)
    const last = Math.max(...[...run.history.answers.values()].map(({ at }) => at))
    await restart(run, last, everything)
    await expect(restart(run, last, nothingMore)).rejects.toThrow()
  })
})
