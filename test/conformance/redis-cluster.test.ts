/** A cluster sends every command to the node that has its key; prefixes make one or the other node have all of it. */
import { afterAll, beforeAll, describe, test } from 'vitest'
import { RedisLocker, RedisSessionStore } from '../../src/redis.ts'
import { lockerConformance, sessionStoreConformance } from '../../src/testing.ts'
import { clientKinds, describeRedis, newPrefix, openClusterClient, startRedisCluster } from '../support/redis-server.ts'

describeRedis.each(clientKinds)('A Redis cluster with the client %s', (kind) => {
  let cluster: Awaited<ReturnType<typeof startRedisCluster>>

  beforeAll(async () => {
    cluster = await startRedisCluster()
  })
  afterAll(() => cluster.stop())

  describe('RedisSessionStore', () => {
    sessionStoreConformance(
      test,
      async () => {
        const prefix = newPrefix()
        const open = async () => new RedisSessionStore(await openClusterClient(kind, cluster.ports), { prefix })
        return { store: await open(), reopen: open }
      },
      { durable: true, chunkSums: true, changes: 500 },
    )
  })

  describe('RedisLocker', () => {
    lockerConformance(
      test,
      async () => ({
        locker: new RedisLocker(await openClusterClient(kind, cluster.ports), { prefix: newPrefix() }),
      }),
      { interleavings: 20 },
    )
  })
})
