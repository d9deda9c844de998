/**
 * The power goes at random moments while clients upload: what is then on a real file system has everything that had been
 * acknowledged. `POWER_CUTS=1000` takes that many images; `npm run power-cuts` does.
 */
import { randomUUID } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import os from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { beforeAll, describe, expect, it, vi } from 'vitest'
import { createUploadEngine, LocalStorageAdapter } from '../../src/index.ts'
import { CrashDisk, crashDiskMissing } from '../support/crash-disk.ts'
import { measured, survived } from '../support/fault-points.ts'
import { checkPromises, type Entry, Ledger } from '../support/ledger.ts'
import { type ServerProcess, startServer } from '../support/process.ts'
import { bytes, seeded } from '../support/random.ts'

const missing = crashDiskMissing()
if (missing) console.log(`power-cuts: left out, ${missing}`)

const images = Number(process.env.POWER_CUTS ?? 30)
const seed = Number(process.env.POWER_SEED ?? Date.now() % 1_000_000)
/** A new disk after so many images: on an old one there is ever more to look at. */
const imagesPerDisk = 20
const clientCount = 4

const foldersIn = (root: string) => ({ tempDir: join(root, 'temp'), directory: join(root, 'files') })

/** In a place where the machine seems to have booted another time: after a power cut nobody of before is alive. */
function startBefore(disk: CrashDisk, durability: 'process' | 'power'): Promise<ServerProcess> {
  const bootId = join(disk.folder, 'boot-id')
  writeFileSync(bootId, `${randomUUID()}\n`)
  const command = `mount --bind '${bootId}' /proc/sys/kernel/random/boot_id && exec "$0" "$@"`
  const settings = { ...foldersIn(disk.path), config: { durability, minFreeBytes: 0 } }
  return startServer(settings, undefined, ['unshare', '-m', 'sh', '-c', command])
}

interface Clients {
  readonly url: string
  readonly ledger: Ledger
  stopped: boolean
  /** While an image is looked at, so that the disk does not fill meanwhile. */
  waiting: boolean
}

async function isOver(clients: Clients): Promise<boolean> {
  while (clients.waiting && !clients.stopped) await wait(5)
  return clients.stopped
}

/** Uploads of every kind, one after the other, until it is stopped. */
async function upload(clients: Clients, ownSeed: number): Promise<void> {
  const { url, ledger } = clients
  const random = seeded(ownSeed)
  while (!(await isOver(clients))) {
    const file = bytes(random.integer(1, 60_000), random.integer(1, 1e9))
    const kind = random.integer(0, 4)
    if (kind === 0) await ledger.single(url, file)
    else if (kind === 1) await uploadByTus(clients, file, random)
    else await uploadInChunks(clients, file, random)
    await wait(random.integer(0, 20))
  }
}

type Random = ReturnType<typeof seeded>

async function uploadByTus(clients: Clients, file: Buffer, random: Random): Promise<void> {
  const { url, ledger } = clients
  const own = await ledger.startTus(url, file)
  for (let from = 0; from < file.length && !(await isOver(clients)); ) {
    const to = Math.min(file.length, from + random.integer(1, 25_000))
    await ledger.patch(url, own, from, to)
    from = to
  }
}

async function uploadInChunks(clients: Clients, file: Buffer, random: Random): Promise<void> {
  const { url, ledger } = clients
  const declared = random.next() < 0.5
  const sizes = Array.from({ length: declared ? 1 : 8 }, () => random.integer(4_000, 20_000))
  const own = await ledger.startNative(url, file, sizes, declared)
  for (const index of random.shuffle(own.bounds.slice(1).map((_, i) => i))) {
    if (await isOver(clients)) return
    const other = Buffer.from(file.subarray(own.bounds[index], own.bounds[index + 1]).map((byte) => byte ^ 0xff))
    if (random.next() < 0.2) await ledger.chunk(url, own, index, other)
    await ledger.chunk(url, own, index)
  }
  // Some are left for whoever comes after the power cut.
  if (random.next() < 0.7 && !(await isOver(clients))) await ledger.complete(url, own)
}

interface Outcome {
  readonly promises: number
  /** Why an image does not keep what was promised. */
  readonly broken: string[]
}

/** Cuts the power `count` times while one server runs on one disk. */
async function cutPower(count: number, durability: 'process' | 'power', ownSeed: number): Promise<Outcome> {
  const random = seeded(ownSeed)
  const disk = new CrashDisk(64)
  const ledger = new Ledger()
  const broken: string[] = []
  let promises = 0
  let server: ServerProcess | undefined
  let clients: Clients | undefined
  let working: Promise<unknown> = Promise.resolve()
  try {
    server = await startBefore(disk, durability)
    const { url, pid } = server
    const own: Clients = { url, ledger, stopped: false, waiting: false }
    clients = own
    const seeds = Array.from({ length: clientCount }, () => random.integer(1, 1e9))
    working = Promise.allSettled(seeds.map((each) => upload(own, each)))
    for (let i = 0; i < count; i++) {
      await wait(random.integer(1, 60))
      const told = new Set(ledger.entries.filter((entry) => entry.acknowledged))
      const sent = [...ledger.entries]
      const image = await disk.cut(pid)
      promises += told.size
      own.waiting = true
      await disk.on(image, (path) => goOn(path, sent, told)).catch((error) => broken.push(String(error)))
      own.waiting = false
    }
    own.stopped = true
    await working
    expect(ledger.refusals).toEqual([])
  } finally {
    if (clients) clients.stopped = true
    await server?.kill()
    await working
    disk.remove()
  }
  return { promises, broken }
}

/** The machine that goes on has only just booted. */
function justBooted(): void {
  vi.spyOn(os, 'uptime').mockReturnValue(0)
  syncBuiltinESMExports()
}

async function goOn(path: string, entries: readonly Entry[], told: ReadonlySet<Entry>): Promise<void> {
  const { tempDir, directory } = foldersIn(path)
  const engine = createUploadEngine({ storage: new LocalStorageAdapter({ directory }), tempDir, minFreeBytes: 0 })
  try {
    await checkPromises(engine, directory, entries, (entry) => told.has(entry))
  } finally {
    await engine.close()
  }
}

async function manyCuts(count: number, durability: 'process' | 'power'): Promise<Outcome> {
  const all: Outcome[] = []
  for (let done = 0; done < count; done += imagesPerDisk) {
    all.push(await cutPower(Math.min(imagesPerDisk, count - done), durability, seed + done))
    if (count > imagesPerDisk * 2 && all.length % 5 === 0) console.log(`${durability}: ${done + imagesPerDisk} images`)
  }
  return {
    promises: all.reduce((sum, { promises }) => sum + promises, 0),
    broken: all.flatMap(({ broken }) => broken),
  }
}

describe.skipIf(missing)(`a power cut (seed ${seed})`, () => {
  beforeAll(justBooted)

  it('loses nothing acknowledged with durability power [D10]', { timeout: 60_000 + images * 6_000 }, async () => {
    const { promises, broken } = await manyCuts(images, 'power')
    measured('Acknowledgements looked for in images of power cuts', promises, '')
    measured('Images of power cuts that had lost one', broken.length, '')
    expect(broken).toEqual([])
    survived('power', 'crash images', images)
  })

  it('loses chunks with durability process, so these images would show it [D10]', { timeout: 300_000 }, async () => {
    const { broken } = await manyCuts(10, 'process')
    measured('Images of 10 that lost something with durability process', broken.length, '')
    expect(broken.length).toBeGreaterThan(5)
  })
})
