/**
 * What runs inside Redis. Each script touches one record and the three indexes, all of one slot, and all or nothing: the
 * first write is the one that Redis refuses when its memory is full.
 *
 * KEYS: 1 the record (hash), 2 expiry (sorted set: id by `expiresAt`), 3 open (hash: id → JSON of the owner), 4 owners
 * (hash: JSON of the owner → how many are open), 5 the sums of its chunks (hash: index → CRC-32).
 */
import { script } from '../redis/redis-commands.ts'

/** Owners are counted with the set of open records, so that a repetition counts nothing twice. */
const setOpen = `
local function setOpen(id, mark)
  local was = redis.call('HGET', KEYS[3], id) or ''
  if was == mark then return end
  if was ~= '' and was ~= 'null' and redis.call('HINCRBY', KEYS[4], was, -1) <= 0 then
    redis.call('HDEL', KEYS[4], was)
  end
  if mark == '' then redis.call('HDEL', KEYS[3], id) else redis.call('HSET', KEYS[3], id, mark) end
  if mark ~= '' and mark ~= 'null' then redis.call('HINCRBY', KEYS[4], mark, 1) end
end
`

/** What `changeScript` answers. */
export const outcomes = {
  foreign: -1,
  /** The stored version is another, and this writer did not write the one asked for. */
  refused: 0,
  /** Stored, now or by an earlier run. */
  stored: 1,
  /** Not stored now; whether an earlier run did cannot be seen any more. */
  unknown: 2,
  /** The version is the expected one, but not the one that the difference was made from. */
  otherBase: 3,
} as const

/**
 * ARGV: 1 id, 2 expected version (-1: must not exist), 3 next version, 4 writer, 5 writer of the version that the
 * difference builds on (empty: everything is sent), 6 expiresAt, 7 JSON of the owner if open (else empty), 8 how many
 * fields are set, 9 how many sums; then fields and values, indexes and sums, then the fields to remove.
 */
export const changeScript = script(`${setOpen}
local key, expected, writer = KEYS[1], tonumber(ARGV[2]), ARGV[4]
local stored = redis.call('HMGET', key, 'v', 'w')
local version = tonumber(string.match(stored[1] or '', '^%d+$') or '')
local writers = stored[2] or ''
if not version and redis.call('EXISTS', key) == 1 then return -1 end
if (version or -1) ~= expected then
  local behind = version and version - tonumber(ARGV[3]) or -1
  if behind < 0 then return 2 end
  for word in string.gmatch(writers, '%S+') do
    if behind == 0 then return word == writer and 1 or 0 end
    behind = behind - 1
  end
  return 2
end
if ARGV[5] ~= '' and string.match(writers, '^%S+') ~= ARGV[5] then return 3 end
local ring, count = writer, 1
for word in string.gmatch(writers, '%S+') do
  if count == 8 then break end
  ring, count = ring .. ' ' .. word, count + 1
end
redis.call('HSET', key, 'v', ARGV[3], 'w', ring)
if ARGV[5] == '' then
  redis.call('DEL', key)
  redis.call('HSET', key, 'v', ARGV[3], 'w', ring)
end
local function setAll(hash, from, to)
  for at = from, to, 1000 do redis.call('HSET', hash, unpack(ARGV, at, math.min(at + 999, to))) end
end
local last = 9 + 2 * tonumber(ARGV[8])
local lastSum = last + 2 * tonumber(ARGV[9])
setAll(key, 10, last)
setAll(KEYS[5], last + 1, lastSum)
for at = lastSum + 1, #ARGV, 1000 do redis.call('HDEL', key, unpack(ARGV, at, math.min(at + 999, #ARGV))) end
redis.call('ZADD', KEYS[2], ARGV[6], ARGV[1])
setOpen(ARGV[1], ARGV[7])
return 1
`)

/**
 * ARGV: 1 id, 2 version and 3 writer that are known already (or empty). Answers with nothing, with 1 if that is still
 * what is stored, or with all fields. A record that has gone without being deleted leaves the indexes.
 */
export const getScript = script(`${setOpen}
local stored = redis.call('HMGET', KEYS[1], 'v', 'w')
if not stored[1] and redis.call('EXISTS', KEYS[1]) == 0 then
  if redis.call('ZREM', KEYS[2], ARGV[1]) == 1 then
    setOpen(ARGV[1], '')
    redis.call('DEL', KEYS[5])
  end
  return false
end
if ARGV[2] ~= '' and stored[1] == ARGV[2] and string.match(stored[2] or '', '^%S+') == ARGV[3] then return 1 end
return redis.call('HGETALL', KEYS[1])
`)

/** ARGV: 1 id. */
export const deleteScript = script(`${setOpen}
redis.call('DEL', KEYS[1], KEYS[5])
redis.call('ZREM', KEYS[2], ARGV[1])
setOpen(ARGV[1], '')
return 1
`)

/** KEYS: 1 expiry. ARGV: 1 from, 2 to, 3 how many. Answers with ids and times in turn. */
export const expiredScript = script(`
return redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
`)

/** KEYS: 1 open, 2 owners. ARGV: 1 JSON of the owner (empty: all). */
export const countScript = script(`
if ARGV[1] == '' then return redis.call('HLEN', KEYS[1]) end
return tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0)
`)

/** KEYS: 1 the sums. ARGV: 1 index (empty: all). */
export const sumsScript = script(`
if ARGV[1] == '' then return redis.call('HGETALL', KEYS[1]) end
local sum = redis.call('HGET', KEYS[1], ARGV[1])
return sum and { ARGV[1], sum } or {}
`)
