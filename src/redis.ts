export type { IoRedisClient, NodeRedisClient, NodeRedisCluster, RedisClient } from './redis/redis-client.ts'
export type { RedisOptions } from './redis/redis-options.ts'
export * from './sessions/redis-session-store.ts'
