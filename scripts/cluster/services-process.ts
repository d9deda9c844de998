/** A Redis that writes every change to its disk, and an S3 double. Started by `services.ts`; ends with the demo. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { doubleTarget } from '../../test/support/s3-target.ts'
import type { Addresses } from './services.ts'

const [folder = '', what] = process.argv.slice(2)
if (!folder || !process.send) throw new Error('This is a part of the demo: npm run demo:cluster')
// The double keeps its files in the system's temp folder.
process.env.TMPDIR = folder

const port = await freePort()
const directory = join(folder, 'redis')
await mkdir(directory)
const settings = ['--appendonly', 'yes', '--appendfsync', 'everysec', '--maxmemory-policy', 'noeviction', '--save', '']
const place = ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', directory]
const redis = spawn('redis-server', [...place, ...settings], { stdio: ['ignore', 'ignore', 'inherit'], detached: true })
process.once('exit', () => redis.kill('SIGKILL'))
redis.once('exit', (code, signal) => {
  console.error(`redis-server ended with ${signal ?? code}`)
  process.exit(1)
})
// The demo was killed: nobody else is left to clean up.
process.on('disconnect', async () => {
  redis.removeAllListeners('exit').kill('SIGKILL')
  // The other processes end now too, and until then some still write.
  await sleep(1_000)
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
  process.exit(1)
})
// Ctrl+C reaches every process of the terminal; the demo decides when this one ends.
for (const name of ['SIGINT', 'SIGHUP'] as const) process.on(name, () => {})

const double = what === 'redis' ? null : await doubleTarget({ store: 'disk' })
await untilReachable()
process.once('message', async () => {
  await double?.close()
  process.exit(0)
})
const addresses: Addresses = {
  redisUrl: `redis://127.0.0.1:${port}`,
  redisPid: redis.pid ?? 0,
  s3: double && {
    name: 'an S3 double',
    endpoint: double.endpoint,
    region: double.region,
    accessKeyId: double.accessKeyId,
    secretAccessKey: double.secretAccessKey,
    bucket: double.bucket,
  },
}
process.send(addresses)

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  return typeof address === 'object' && address !== null ? address.port : 0
}

async function untilReachable(): Promise<void> {
  for (let attempt = 0; attempt < 1_000; attempt++) {
    const socket = connect(port, '127.0.0.1')
    const reached = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'error').then(() => false),
    ]).catch(() => false)
    socket.destroy()
    if (reached) return
    await sleep(20)
  }
  throw new Error(`no Redis came up on port ${port}`)
}
