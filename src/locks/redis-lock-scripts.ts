/**
 * What runs inside Redis. A lock is a string with a time to live: `<fence>:<locker>:<random>`. Whoever finds it taken
 * leaves its locker's id with it, and tells the holder's locker; whoever lets go tells those that wait.
 *
 * KEYS: 1 the lock, 2 its waiting lockers (set), 3 the last fence.
 */
import { script } from '../redis/redis-commands.ts'

/**
 * ARGV: 1 locker, 2 random, 3 time to live in ms, 4 what channels begin with, 5 name of the lock in messages. Answers with
 * 1, the value and how many others wait, or with 0 and how long the holder's lease runs, ms. What this locker itself holds
 * without knowing, because an answer was lost, it takes over.
 *
 * The fence is at least the server's clock in microseconds, so that it grows also when Redis has lost its data.
 */
export const acquireScript = script(`
local value = redis.call('GET', KEYS[1])
local holder = value and (string.match(value, '^%d+:([^:]+):') or '')
if value and holder ~= ARGV[1] then
  redis.call('SADD', KEYS[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], 3 * ARGV[3])
  if holder ~= '' then redis.call('PUBLISH', ARGV[4] .. holder, 'yield ' .. ARGV[5]) end
  return {0, redis.call('PTTL', KEYS[1])}
end
local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[3]) or 0)
local fence = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
redis.call('SET', KEYS[3], fence)
value = fence .. ':' .. ARGV[1] .. ':' .. ARGV[2]
redis.call('SET', KEYS[1], value, 'PX', ARGV[3])
redis.call('SREM', KEYS[2], ARGV[1])
return {1, value, redis.call('SCARD', KEYS[2])}
`)

/** KEYS: 1 the lock. ARGV: 1 value, 2 time to live in ms. Answers with 1 if it is still held. */
export const renewScript = script(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`)

/**
 * KEYS: 1 the lock, 2 its waiting lockers. ARGV: 1 value, 2 what channels begin with, 3 name of the lock in messages, 4 this
 * locker if it will want the lock again (else empty), 5 time to live in ms. Those that wait are forgotten: who still does
 * comes again, who was killed does not.
 */
export const releaseScript = script(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
for _, locker in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  redis.call('PUBLISH', ARGV[2] .. locker, 'free ' .. ARGV[3])
end
redis.call('DEL', KEYS[2])
if ARGV[4] ~= '' then
  redis.call('SADD', KEYS[2], ARGV[4])
  redis.call('PEXPIRE', KEYS[2], 3 * ARGV[5])
end
return 1
`)

/** KEYS: 1 waiting lockers. ARGV: 1 locker. */
export const leaveScript = script(`return redis.call('SREM', KEYS[1], ARGV[1])`)

/** KEYS: 1 waiting lockers. Answers with 1 if there are any. */
export const waitingScript = script(`return redis.call('EXISTS', KEYS[1])`)
