import { afterAll, beforeAll, test } from 'vitest'
import { RedisLocker } from '../../src/redis.ts'
import { lockerConformance } from '../../src/testing.ts'
import {
  clientKinds,
  describeRedis,
  newPrefix,
  openClient,
  type RedisServer,
  startRedis,
} from '../support/redis-server.ts'

describeRedis.each(clientKinds)('RedisLocker with the client %s', (kind) => {
  let server: RedisServer

  beforeAll(async () => {
    server = await startRedis()
  })
  afterAll(() => server.stop())

  lockerConformance(test, async () => ({
    locker: new RedisLocker(await openClient(kind, server), { prefix: newPrefix() }),
  }))
})
