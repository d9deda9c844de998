/** What can happen to three nodes, their Redis and each other while uploads on every wire go through all of them. */
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { measured, survived } from '../support/fault-points.ts'
import type { Costs } from '../support/measured-server.ts'
import { Fleet, type FleetOptions, killAtRandom } from '../support/node-fleet.ts'
import { seeded, sha256 } from '../support/random.ts'
import { describeRedis, type RedisServer, startRedis } from '../support/redis-server.ts'
import { expectBounded, halfDone, password, troubles } from '../support/redis-trouble.ts'
import { s3Target } from '../support/s3-target.ts'
import { type Sprayed, spray, sprayAll, UploadLost, uploadsOf, wires } from '../support/sprayed-uploads.ts'
import { eventually } from '../support/tus-client.ts'

/** Each is an upload on one wire. */
const seeds = Number(process.env.NODE_SEEDS ?? 104)
const perFleet = 2 * wires.length
const batches = Array.from({ length: Math.ceil(seeds / perFleet) }, (_, i) => i + 1)

let fleet: Fleet
afterEach(async () => {
  await fleet?.close()
  await fleet?.target.close()
})

async function start(options: Omit<FleetOptions, 'target'>): Promise<Fleet> {
  fleet = await Fleet.start({ target: await s3Target({ minPart: 1 }), ...options })
  return fleet
}

/** S3 takes its time, so that more happens while it is asked. */
function slowDown({ target }: Fleet): void {
  for (const op of ['UploadPart', 'PutObject', 'GetObject', 'CompleteMultipartUpload', 'ListParts', 'DeleteObjects']) {
    target.double?.fail(op, { status: 'ok', delayMs: 15, times: Number.POSITIVE_INFINITY })
  }
}

describeRedis('three nodes', () => {
  let redis: RedisServer
  beforeAll(async () => {
    redis = await startRedis()
  })
  afterAll(() => redis.stop())

  it.each(batches)(
    'lose no acknowledged chunk or offset when any of them are killed at any time (batch %i) [D01, I01]',
    async (batch) => {
      slowDown(await start({ redis }))
      const acknowledged = new Map<string, number>()
      const outlived = new Map<string, number>()
      const killing = killAtRandom(fleet, seeded(batch), () => {
        for (const [name, count] of acknowledged) outlived.set(name, count)
      })
      const uploads = [...uploadsOf(fleet, 2 * batch), ...uploadsOf(fleet, 2 * batch + 1)].map((upload) => ({
        ...upload,
        onAcknowledged: () => void acknowledged.set(upload.name, (acknowledged.get(upload.name) ?? 0) + 1),
      }))
      await sprayAll(fleet, uploads).finally(() => killing.stop())
      await fleet.epilogue()
      expect(await killing.stop()).toBeGreaterThan(0)
      for (const [name, count] of outlived) survived('kill', `three nodes: ${name}`, count)
    },
  )
})

describeRedis('three nodes whose Redis', () => {
  it.each([1, 2])(
    'is killed and comes back with its log lose nothing, and say so meanwhile (seed %i) [G01]',
    async (seed) => {
      const own = await startRedis('--appendonly', 'yes', '--appendfsync', 'always')
      try {
        slowDown(await start({ redis: own }))
        const refusals = new Map<number, number>()
        const onRefused = (status: number) => void refusals.set(status, (refusals.get(status) ?? 0) + 1)
        const random = seeded(seed)
        let isOver = false
        const trouble = async () => {
          for (let round = 0; round < 4 && !isOver; round++) {
            await pause(random.integer(100, 500))
            await own.kill()
            await pause(random.integer(100, 1_500))
            await own.start()
          }
        }
        const troubled = trouble()
        await sprayAll(fleet, uploadsOf(fleet, 900 + seed, { onRefused })).finally(() => {
          isOver = true
        })
        await troubled
        expect(refusals.get(503)).toBeGreaterThan(0)
        expect([...refusals.keys()].filter((status) => ![423, 503].includes(status))).toEqual([])
        await fleet.epilogue()
        survived('redis', `three nodes: killed with AOF, seed ${seed}`)
      } finally {
        await own.stop()
      }
    },
  )

  it.each([1, 2])('comes back empty answer 404, and no file has a hole (seed %i) [G01, G04]', async (seed) => {
    const own = await startRedis()
    try {
      slowDown(await start({ redis: own }))
      let acknowledged = 0
      let lost = 0
      const onAcknowledged = () => {
        acknowledged += 1
      }
      const emptied = (async () => {
        await eventually(() => expect(acknowledged).toBeGreaterThan(30 * seed), 30_000)
        await own.kill()
        await pause(200)
        await own.start()
      })()
      /** As clients do that were told that there is no such upload, or nothing of a file. */
      const persist = async (upload: Sprayed): Promise<string[]> => {
        const urls = await spray(upload).catch((error) => {
          if (!(error instanceof UploadLost)) throw error
          lost += 1
          return []
        })
        return urls.length > 0 ? urls : persist(upload)
      }
      const uploads = uploadsOf(fleet, 800 + seed, { onAcknowledged })
      const results = await Promise.allSettled(uploads.map(persist))
      for (const result of results) if (result.status === 'rejected') throw result.reason
      await emptied
      expect(lost).toBeGreaterThan(0)
      for (const { name, file } of uploads) {
        const keys = await fleet.filesNamed(name)
        expect(keys.length, name).toBeGreaterThan(0)
        for (const key of keys) expect(sha256(await fleet.read(key)), key).toBe(sha256(file))
      }
      survived('redis', `three nodes: comes back empty, seed ${seed}`)
    } finally {
      await own.stop()
    }
  })

  it.each(troubles)(
    'is in trouble ($name) answer in time, tell no secret, keep nothing waiting and go on [G02, G05, G06]',
    async ({ name, begin, end }) => {
      const own = await startRedis('--requirepass', password)
      try {
        const source = 'test/support/measured-server.ts'
        await start({ redis: { port: own.port, password }, source })
        const costs = () => Promise.all(fleet.servers.map((server) => server.ask('costs') as Promise<Costs>))
        const uploads = await halfDone(fleet)
        await uploads.burst(4)
        const before = await costs()
        await begin(own)
        try {
          // A second one finds what the first has left waiting.
          for (const times of [8, 8]) expectBounded(await uploads.burst(times), 10_000)
        } finally {
          await end(own)
        }
        await uploads.check()
        await own.commandWith(password, 'CONFIG', 'RESETSTAT')
        await pause(300)
        const stats = String(await own.commandWith(password, 'INFO', 'commandstats'))
        const late = Number(/cmdstat_evalsha:calls=(\d+)/.exec(stats)?.[1] ?? 0)
        expect(late, `commands that nobody waits for: ${stats}`).toBeLessThan(10)
        await uploads.finish()
        const after = await costs()
        const growth = Math.max(...after.map(({ heap }, i) => heap - (before[i]?.heap ?? 0)))
        measured(`heap growth of a node while its Redis is in trouble (${name})`, Math.round(growth / 1024), 'KiB')
        expect(growth).toBeLessThan(8 * 1024 * 1024)
        expect(fleet.output).not.toContain('word-of')
        await fleet.epilogue()
        survived('redis', `three nodes: ${name}`)
      } finally {
        await own.stop()
      }
    },
  )
})
