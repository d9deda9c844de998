import { afterAll, beforeAll, test } from 'vitest'
import { RedisSessionStore } from '../../src/redis.ts'
import { sessionStoreConformance } from '../../src/testing.ts'
import {
  clientKinds,
  describeRedis,
  newPrefix,
  openClient,
  type RedisServer,
  startRedis,
} from '../support/redis-server.ts'

describeRedis.each(clientKinds)('RedisSessionStore with the client %s', (kind) => {
  let server: RedisServer

  beforeAll(async () => {
    server = await startRedis()
  })
  afterAll(() => server.stop())

  sessionStoreConformance(
    test,
    async () => {
      const prefix = newPrefix()
      const open = async () => new RedisSessionStore(await openClient(kind, server), { prefix })
      return { store: await open(), reopen: open }
    },
    { durable: true, chunkSums: true },
  )
})
