/** A real Redis for tests: on a free port of 127.0.0.1, in a folder of its own, ended by its process id. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { afterAll, afterEach, describe } from 'vitest'
import type { RedisClient } from '../../src/redis.ts'
import { type ClientKind, type ClientSettings, connectClient, connectCluster } from './redis-clients.ts'
import { makeFolder } from './temp-folder.ts'

export { type ClientKind, clientKinds } from './redis-clients.ts'

const isInstalled = spawnSync('redis-server', ['--version']).status === 0
if (!isInstalled) {
  const reason = 'redis-server is not on the PATH (Debian, Ubuntu: apt-get install redis-server)'
  if (process.env.CI) throw new Error(`${reason}: the tests with Redis cannot run`)
  console.warn(`The tests with Redis are skipped: ${reason}.`)
}

/** `describe`, skipped where there is no Redis. In CI there must be one. */
export const describeRedis = isInstalled ? describe : describe.skip

export interface RedisServer {
  readonly port: number
  readonly pid: number
  /** Kills it at once. */
  kill(): Promise<void>
  /** Starts it again on the same port and folder, after `kill`. */
  start(): Promise<void>
  stop(): Promise<void>
  signal(name: NodeJS.Signals): void
  /** Runs a command over a connection of its own; an error for an answer rejects. */
  command(...args: string[]): Promise<unknown>
  /** The same with the password that `requirepass` was set to. */
  commandWith(password: string, ...args: string[]): Promise<unknown>
}

const servers = new Set<ChildProcess>()
const clients = new Set<() => void>()

afterEach(() => {
  for (const close of clients) close()
  clients.clear()
})
afterAll(() => {
  for (const child of servers) child.kill('SIGKILL')
})

/** `settings` as on the command line: `'--appendonly', 'yes'`. */
export async function startRedis(...settings: string[]): Promise<RedisServer> {
  const folder = makeFolder()
  const port = await freePort()
  let child: ChildProcess | undefined
  const server: RedisServer = {
    port,
    get pid() {
      return child?.pid ?? 0
    },
    async start() {
      if (child && child.exitCode === null && child.signalCode === null) return
      const args = ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', folder.path, '--save', '']
      args.push('--logfile', join(folder.path, 'redis.log'), '--enable-debug-command', 'yes', ...settings)
      child = spawn('redis-server', args, { stdio: 'ignore' })
      servers.add(child)
      await untilReachable(port)
    },
    async kill() {
      if (!child || child.exitCode !== null || child.signalCode !== null) return
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
      servers.delete(child)
    },
    async stop() {
      await server.kill()
      await folder.remove()
    },
    signal: (name) => void child?.kill(name),
    command: (...args) => call({}, args),
    commandWith: (password, ...args) => call({ password }, args),
  }
  const call = async (more: { password?: string }, [name = '', ...args]: string[]) => {
    // Without its check at the start, which a busy Redis refuses.
    const settings = { retryStrategy: () => null, commandTimeout: 5_000, enableReadyCheck: false }
    const client = new Redis({ port, host: '127.0.0.1', ...settings, ...more })
    client.on('error', () => {})
    try {
      return await client.call(name, args)
    } finally {
      client.disconnect()
    }
  }
  await server.start()
  return server
}

/** A connected client, closed after the test. */
export async function openClient(kind: ClientKind, settings: ClientSettings): Promise<RedisClient> {
  const { client, close } = await connectClient(kind, settings)
  clients.add(close)
  return client
}

let prefixes = 0
/** A part of the keys that no other test uses. */
export function newPrefix(): string {
  prefixes += 1
  return `test-${process.pid}-${prefixes}`
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  return typeof address === 'object' && address !== null ? address.port : 0
}

async function untilReachable(port: number): Promise<void> {
  for (let attempt = 0; attempt < 400; attempt++) {
    const socket = connect(port, '127.0.0.1')
    const reached = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'error').then(() => false),
    ]).catch(() => false)
    socket.destroy()
    if (reached) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  throw new Error(`no Redis came up on port ${port}`)
}

/** A cluster of two: each has half of the slots. */
export async function startRedisCluster(): Promise<{ readonly ports: readonly number[]; stop(): Promise<void> }> {
  const start = async () =>
    startRedis('--cluster-enabled', 'yes', '--cluster-port', `${await freePort()}`, '--cluster-node-timeout', '2000')
  const [first, second] = [await start(), await start()]
  await first.command('CLUSTER', 'ADDSLOTSRANGE', '0', '8191')
  await second.command('CLUSTER', 'ADDSLOTSRANGE', '8192', '16383')
  await first.command('CLUSTER', 'SET-CONFIG-EPOCH', '1')
  await second.command('CLUSTER', 'SET-CONFIG-EPOCH', '2')
  const bus = /@(\d+)/.exec(String(await second.command('CLUSTER', 'NODES')))?.[1] ?? ''
  await first.command('CLUSTER', 'MEET', '127.0.0.1', `${second.port}`, bus)
  const isOk = async (server: RedisServer) =>
    String(await server.command('CLUSTER', 'INFO')).includes('cluster_state:ok') &&
    String(await server.command('CLUSTER', 'INFO')).includes('cluster_known_nodes:2')
  for (let attempt = 0; attempt < 400 && !((await isOk(first)) && (await isOk(second))); attempt++) {
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  return {
    ports: [first.port, second.port],
    async stop() {
      await first.stop()
      await second.stop()
    },
  }
}

/** A connected client for a cluster, closed after the test. */
export async function openClusterClient(kind: ClientKind, ports: readonly number[]): Promise<RedisClient> {
  const { client, close } = await connectCluster(kind, ports)
  clients.add(close)
  return client
}
