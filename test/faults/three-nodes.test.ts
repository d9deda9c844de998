/** Three nodes behind a load balancer that knows nothing: every request of an upload reaches any of them. */
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { survived } from '../support/fault-points.ts'
import { Fleet, type FleetOptions, killAtRandom } from '../support/node-fleet.ts'
import { overtake, overtakersClock } from '../support/overtaken-completer.ts'
import { seeded } from '../support/random.ts'
import { describeRedis, type RedisServer, startRedis } from '../support/redis-server.ts'
import { doubleTarget, s3Target } from '../support/s3-target.ts'
import { sprayAll, uploadsOf } from '../support/sprayed-uploads.ts'
import { eventually } from '../support/tus-client.ts'

/** How long a client comes again, ms: less than a test may take. */
const patience = 30_000

describeRedis('three nodes', () => {
  let redis: RedisServer
  let fleet: Fleet
  beforeAll(async () => {
    redis = await startRedis('--appendonly', 'yes', '--appendfsync', 'always')
  })
  afterAll(() => redis.stop())

  const start = async (options: Partial<FleetOptions> = {}, isDouble = false) => {
    const target = isDouble ? await doubleTarget({ minPart: 1 }) : await s3Target({ minPart: 1 })
    fleet = await Fleet.start({ target, redis, ...options })
  }
  afterEach(async () => {
    await fleet.close()
    await fleet.target.close()
  })

  it('take every request of an upload on every wire: the right bytes, one object, one URL [C06]', async () => {
    await start()
    await sprayAll(fleet, uploadsOf(fleet, 1, { patience }))
    await fleet.epilogue()
  })

  it('lose nothing that was acknowledged when they are killed and started again [D01]', async () => {
    await start()
    let [acknowledged, outlived] = [0, 0]
    const note = () => {
      outlived = acknowledged
    }
    const killing = killAtRandom(fleet, seeded(4), note, 6)
    const onAcknowledged = () => {
      acknowledged += 1
    }
    await sprayAll(fleet, uploadsOf(fleet, 2, { onAcknowledged, patience })).finally(() => killing.stop())
    await fleet.epilogue()
    survived('kill', 'three nodes', outlived)
  })

  it('make one object when a completing one sleeps, is overtaken and wakes up [C07, G03]', async () => {
    const settingsOf = (node: number) => (node === 2 ? { clockAhead: overtakersClock } : {})
    await start({ settingsOf, source: 'test/support/measured-server.ts', ttl: 600 }, true)
    for (const request of ['ListParts', 'CompleteMultipartUpload', 'HeadObject'] as const) {
      expect(await overtake(fleet, { how: 'sleeps', wire: 'raw', request, seed: 1 })).toBe(true)
    }
    await fleet.expectNothingLeft()
  })

  it('say 503 or 423 and when to come again while Redis is away, and go on [G01]', async () => {
    await start()
    const statuses = new Set<number>()
    let acknowledged = 0
    const uploads = uploadsOf(fleet, 3, {
      patience,
      onRefused: (status) => void statuses.add(status),
      onAcknowledged: () => {
        acknowledged += 1
      },
    })
    const outage = (async () => {
      await eventually(() => expect(acknowledged).toBeGreaterThan(20), 20_000)
      await redis.kill()
      await pause(1_300)
      await redis.start()
    })()
    await sprayAll(fleet, uploads)
    await outage
    expect(statuses).toContain(503)
    expect([...statuses].filter((status) => status !== 423 && status !== 503)).toEqual([])
    await fleet.epilogue()
  })
})
