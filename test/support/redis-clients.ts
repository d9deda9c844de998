/** Clients as an application would make them. */
import { once } from 'node:events'
import { Cluster, Redis } from 'ioredis'
import { createClient, createCluster } from 'redis'
import type { RedisClient } from '../../src/redis.ts'

export const clientKinds = ['redis', 'ioredis'] as const
export type ClientKind = (typeof clientKinds)[number]

export interface ClientSettings {
  readonly port: number
  readonly username?: string
  readonly password?: string
  readonly keyPrefix?: string
}

/** Resolves when it is connected, or has failed for the first time. */
export async function connectClient(
  kind: ClientKind,
  { port, ...settings }: ClientSettings,
): Promise<{ client: RedisClient; close: () => void }> {
  if (kind === 'ioredis') {
    const client = new Redis({ port, host: '127.0.0.1', ...settings })
    client.on('error', () => {})
    await once(client, 'ready').catch(() => {})
    return { client, close: () => client.disconnect() }
  }
  const client = createClient({ socket: { port, host: '127.0.0.1' }, ...settings })
  client.on('error', () => {})
  await Promise.race([client.connect(), once(client, 'error').catch(() => {})])
  return { client, close: () => client.isOpen && client.destroy() }
}

export async function connectCluster(
  kind: ClientKind,
  ports: readonly number[],
): Promise<{ client: RedisClient; close: () => void }> {
  if (kind === 'ioredis') {
    const client = new Cluster(ports.map((port) => ({ port, host: '127.0.0.1' })))
    client.on('error', () => {})
    await once(client, 'ready')
    return { client, close: () => client.disconnect() }
  }
  const client = createCluster({ rootNodes: ports.map((port) => ({ socket: { port, host: '127.0.0.1' } })) })
  client.on('error', () => {})
  await client.connect()
  return { client, close: () => client.isOpen && client.destroy() }
}
