/** What the nodes share: Redis and S3. In a process of their own, so that killing nodes does not touch them. */
import type { ChildProcess } from 'node:child_process'
import { spawnSync } from 'node:child_process'
import type { S3Target } from '../../test/support/s3-target.ts'
import { s3Target } from '../../test/support/s3-target.ts'
import { end, failureOf, firstMessage, forkSource } from './child.ts'

export type Bucket = Omit<S3Target, 'double' | 'close'>

export interface Services {
  readonly redisUrl: string
  readonly redisPid: number
  readonly s3: Bucket
  /** Whether it is a server that was there before. */
  readonly isReal: boolean
  /** Rejects when one of them ends. */
  readonly failed: Promise<never>
  stop(): Promise<void>
}

export const redisIsMissing = `redis-server is not on the PATH, and a cluster needs Redis. Install it:

  Debian, Ubuntu   apt-get install redis-server
  Fedora           dnf install valkey-compat-redis
  macOS            brew install redis
`

export function hasRedis(): boolean {
  return spawnSync('redis-server', ['--version']).status === 0
}

export async function startServices(folder: string, signal: AbortSignal): Promise<Services> {
  const { S3_ENDPOINT, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY } = process.env
  const real = S3_ENDPOINT && S3_ACCESS_KEY_ID && S3_SECRET_ACCESS_KEY ? await s3Target() : null
  let child: ChildProcess | null = null
  const stop = async () => {
    const running = child
    if (running) await end(running, () => running.connected && running.send('stop', () => {}), 5_000)
    await real?.close()
  }
  try {
    child = forkSource('scripts/cluster/services-process.ts', [folder, real ? 'redis' : 'redis and s3'])
    const failed = failureOf(child)
    failed.catch(() => {})
    const { redisUrl, redisPid, s3 } = (await firstMessage(child, signal)) as Addresses
    const bucket = real ?? s3
    if (!bucket) throw new Error('There is no S3.')
    return { redisUrl, redisPid, s3: bucket, isReal: real !== null, failed, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

export interface Addresses {
  readonly redisUrl: string
  readonly redisPid: number
  readonly s3: Bucket | null
}
