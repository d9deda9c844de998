/** What whoever set up Redis or its nodes may not know that we mind. */
import type { RedisClient, RedisConnection } from '../redis/redis-client.ts'

const looked = new WeakSet<object>()
/** Clocks that differ by less cost nothing but an upload's last seconds, ms. */
const toleratedSkew = 5_000

/** Looks once for each client. Who may not ask gets no warning. */
export async function checkRedis(client: RedisClient, connection: RedisConnection, key: string): Promise<void> {
  if (looked.has(client)) return
  looked.add(client)
  const send = (...command: string[]) => connection.send(command, key, new AbortController().signal)
  // CONFIG is forbidden on many managed servers.
  await warnAboutEviction(send).catch(() => {})
  await warnAboutClock(send).catch(() => {})
}

type Send = (...command: string[]) => Promise<unknown>

/** Redis as a cache throws records away when its memory is full. */
async function warnAboutEviction(send: Send): Promise<void> {
  const reply = await send('CONFIG', 'GET', 'maxmemory-policy')
  const text = JSON.stringify(reply instanceof Map ? [...reply] : reply)
  const policy = /"((?:allkeys|volatile)-[a-z]+)"/.exec(text)?.[1]
  if (policy === undefined) return
  const message =
    `Redis has the maxmemory-policy ${policy}: when its memory is full, it may throw uploads away. ` +
    'Set maxmemory-policy noeviction; uploads get 503 then until there is room again.'
  process.emitWarning(message, { code: 'NEXUS_REDIS_EVICTION' })
}

/** Records expire by the clock of the node that looks. One that is ahead would end other nodes' uploads early. */
async function warnAboutClock(send: Send): Promise<void> {
  const before = Date.now()
  const reply = await send('TIME')
  const after = Date.now()
  const [seconds, microseconds] = Array.isArray(reply) ? reply.map(Number) : []
  const time = (seconds ?? Number.NaN) * 1000 + (microseconds ?? 0) / 1000
  const skew = before > time ? before - time : Math.max(0, time - after)
  if (!(skew > toleratedSkew + (after - before))) return
  const message =
    `The clock of this machine is ${Math.round(skew / 1000)} s ${before > time ? 'ahead of' : 'behind'} that of Redis. ` +
    'Uploads expire by the clock: run NTP on every node.'
  process.emitWarning(message, { code: 'NEXUS_CLOCK_SKEW' })
}
