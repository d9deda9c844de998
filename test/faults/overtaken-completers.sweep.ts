/** A node of three that stops in the middle of a completion, at every request to S3, is overtaken by another, and comes back. */
import { afterAll, beforeAll, expect, it } from 'vitest'
import { survived } from '../support/fault-points.ts'
import { Fleet } from '../support/node-fleet.ts'
import { completionRequests, overtake, overtakersClock } from '../support/overtaken-completer.ts'
import { describeRedis, type RedisServer, startRedis } from '../support/redis-server.ts'
import { doubleTarget } from '../support/s3-target.ts'
import { endings } from '../support/unfinished-uploads.ts'

const stops = (['sleeps', 'dies'] as const).flatMap((how) =>
  completionRequests.map((request) => [how, request] as const),
)

describeRedis('three nodes', () => {
  let redis: RedisServer
  beforeAll(async () => {
    redis = await startRedis()
  })
  afterAll(() => redis.stop())

  it.each(stops)(
    'make one object when a completing one %s at %s, is overtaken and comes back [C07, G03, D01]',
    async (how, request) => {
      const settingsOf = (node: number) => (node === 2 ? { clockAhead: overtakersClock } : {})
      const target = await doubleTarget({ minPart: 1 })
      const source = 'test/support/measured-server.ts'
      const fleet = await Fleet.start({ target, redis, settingsOf, source, ttl: 600 })
      try {
        let stopped = 0
        for (const [i, wire] of endings.entries()) {
          for (const seed of how === 'dies' ? [3 * i + (i % 3)] : [2 * i, 2 * i + 1]) {
            if (!(await overtake(fleet, { how, wire, request, seed }))) continue
            stopped += 1
            survived('race', `three nodes: ${wire}, ${how} at ${request} ${seed}`)
          }
        }
        expect(stopped).toBeGreaterThan(0)
        await fleet.epilogue()
      } finally {
        await fleet.close()
        await fleet.target.close()
      }
    },
  )
})
