/** Redis as a cache throws records away when its memory is full; whoever set it up may not know that we mind. */
import type { RedisClient, RedisConnection } from '../redis/redis-client.ts'

const looked = new WeakSet<object>()

/** Warns once for each client. Who may not ask for the settings gets no warning. */
export async function warnAboutEviction(client: RedisClient, connection: RedisConnection, key: string): Promise<void> {
  if (looked.has(client)) return
  looked.add(client)
  try {
    const reply = await connection.send(['CONFIG', 'GET', 'maxmemory-policy'], key, new AbortController().signal)
    const policy = /"((?:allkeys|volatile)-[a-z]+)"/.exec(
      JSON.stringify(reply instanceof Map ? [...reply] : reply),
    )?.[1]
    if (policy === undefined) return
    const message =
      `Redis has the maxmemory-policy ${policy}: when its memory is full, it may throw uploads away. ` +
      'Set maxmemory-policy noeviction; uploads get 503 then until there is room again.'
    process.emitWarning(message, { code: 'NEXUS_REDIS_EVICTION' })
  } catch {
    // CONFIG is forbidden on many managed servers.
  }
}
