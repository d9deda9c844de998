/**
 * Holds a lock in a process of its own, tells what happens to it, and can be made deaf.
 * Arguments: kind of client, port, prefix, ttl. Messages: `{ block: ms }`, `release`, `close`.
 */
import { RedisLocker } from '../../src/redis.ts'
import { type ClientKind, connectClient } from '../support/redis-clients.ts'

const [kind = 'redis', port = '0', prefix = '', ttl = '1000'] = process.argv.slice(2)
const { client, close } = await connectClient(kind as ClientKind, { port: Number(port) })
const locker = new RedisLocker(client, { prefix, ttl: Number(ttl) })
const tell = (message: object) => process.send?.(message)
const { signal } = new AbortController()
const lock = await locker.acquire('upload', { signal, onReleaseRequested: () => tell({ event: 'asked' }) })
lock.lost.addEventListener('abort', () => tell({ event: 'lost' }))
tell({ event: 'held', fence: lock.fence })

process.on('message', async (message: { block: number } | 'release' | 'close') => {
  if (message === 'release') await lock.release()
  else if (message === 'close') {
    await locker.close()
    close()
    process.disconnect?.()
  } else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, message.block)
})
