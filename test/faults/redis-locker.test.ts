/** Several nodes on one Redis, some of them killed, deaf or cut off. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { type RedisLock, RedisLocker, type RedisLockerOptions, RedisSessionStore } from '../../src/redis.ts'
import { losingProxy } from '../support/losing-proxy.ts'
import {
  type ClientKind,
  clientKinds,
  describeRedis,
  newPrefix,
  openClient,
  type RedisServer,
  startRedis,
} from '../support/redis-server.ts'
import { eventually, everythingOf, failureOf, unavailable } from './redis-support.ts'
import { newRecord } from './session-store-support.ts'

const worker = fileURLToPath(new URL('redis-lock-worker.ts', import.meta.url))

describeRedis.each(clientKinds)('RedisLocker with the client %s', (kind: ClientKind) => {
  let server: RedisServer
  let prefix: string
  const lockers: RedisLocker[] = []
  const children: ChildProcess[] = []

  beforeAll(async () => {
    server = await startRedis()
  })
  afterAll(() => server.stop())
  beforeEach(() => {
    prefix = newPrefix()
  })
  afterEach(async () => {
    for (const child of children.splice(0)) child.kill('SIGKILL')
    await Promise.all(lockers.splice(0).map((locker) => locker.close()))
  })

  async function node(options: RedisLockerOptions = {}): Promise<RedisLocker> {
    const locker = new RedisLocker(await openClient(kind, server), { prefix, ...options })
    lockers.push(locker)
    return locker
  }

  function request(onReleaseRequested: () => void = () => {}, signal = new AbortController().signal) {
    return { signal, onReleaseRequested }
  }

  async function startHolder(ttl: number) {
    const child = fork(worker, [kind, `${server.port}`, prefix, `${ttl}`], { execArgv: ['--import', 'tsx'] })
    children.push(child)
    const events: string[] = []
    let fence = 0
    child.on('message', (message: { event: string; fence?: number }) => {
      events.push(message.event)
      fence = message.fence ?? fence
    })
    await eventually(() => expect(events).toContain('held'))
    return { child, events, fence }
  }

  const keysOf = async (kind: string) => [
    'none',
    ...((await server.command('KEYS', `{${prefix}}:${kind}:*`)) as string[]),
  ]

  const calls = async (name: string) => {
    const text = String(await server.command('INFO', 'commandstats'))
    return Number(new RegExp(`^cmdstat_${name}:calls=(\\d+)`, 'm').exec(text)?.[1] ?? 0)
  }

  test('has one holder among nodes; the holder is asked once, by a message, and the next one has the lock at once', async () => {
    const nodes = await Promise.all([node(), node(), node()])
    let holding = 0
    const waits: number[] = []
    for (let round = 0; round < 60; round++) {
      let asked = 0
      let ask = () => {}
      const request0 = new Promise<void>((resolve) => {
        ask = resolve
      })
      const holder = await nodes[round % 3]?.acquire('upload', {
        ...request(() => {
          asked += 1
          ask()
        }),
      })
      holding += 1
      const newcomers = [1, 2].map(async (n) => {
        const lock = await nodes[(round + n) % 3]?.acquire('upload', request())
        expect(holding).toBe(0)
        holding += 1
        await pause(1)
        holding -= 1
        await lock?.release()
      })
      const start = performance.now()
      await request0
      await pause(2)
      expect(asked).toBe(1)
      holding -= 1
      await holder?.release()
      await Promise.all(newcomers)
      waits.push(performance.now() - start)
      expect(asked).toBe(1)
    }
    waits.sort((a, b) => a - b)
    console.info(
      `${kind}: from request to third holder ${waits[30]?.toFixed(1)} ms, worst ${waits.at(-1)?.toFixed(1)} ms`,
    )
    expect(waits[30]).toBeLessThan(100)
  })

  test('fences grow from lease to lease, on every node, also when Redis has lost everything', async () => {
    const nodes = await Promise.all([node(), node()])
    let last = 0
    for (let n = 0; n < 20; n++) {
      if (n === 10) await server.command('FLUSHALL')
      const lock = await nodes[n % 2]?.acquire(`upload-${n % 3}`, request())
      expect(lock?.fence).toBeGreaterThan(last)
      last = lock?.fence ?? 0
      await lock?.release()
    }
  })

  test('waits without sending anything but the renewals of the holder', async () => {
    const [holder, waiter] = [await node({ ttl: 3_000 }), await node({ ttl: 3_000 })]
    const held = await holder.acquire('upload', request())
    const waiting = Array.from({ length: 50 }, () => waiter.acquire('upload', request()))
    await pause(200)
    const before = await calls('evalsha')
    const cpu = process.cpuUsage()
    await pause(1_500)
    const { user, system } = process.cpuUsage(cpu)
    expect((await calls('evalsha')) - before).toBeLessThanOrEqual(3)
    expect((user + system) / 1000).toBeLessThan(200)
    await held.release()
    for (const lock of waiting) await (await lock).release()
  })

  test('a lock is held for many times its ttl as long as its node lives', async () => {
    const [holder, other] = [await node({ ttl: 200 }), await node({ ttl: 200 })]
    const lock = await holder.acquire('upload', request())
    const late = other.acquire(
      'upload',
      request(() => {}, AbortSignal.timeout(1_500)),
    )
    await expect(late).rejects.toThrow(expect.objectContaining({ name: 'TimeoutError' }))
    expect(lock.lost.aborted).toBe(false)
    await lock.release()
    await (await other.acquire('upload', request())).release()
  })

  test('the lock of a killed node ends with its ttl, and its waiter has it then', async () => {
    const { child, fence } = await startHolder(1_500)
    const waiter = await node({ ttl: 1_500 })
    const waiting = waiter.acquire('upload', request())
    await pause(100)
    child.kill('SIGKILL')
    const start = performance.now()
    const lock = await waiting
    const time = performance.now() - start
    expect(time).toBeGreaterThan(900)
    expect(time).toBeLessThan(2_000)
    expect(lock.fence).toBeGreaterThan(fence)
    await lock.release()
  })

  test('a node whose event loop stood still for longer than the ttl learns that it has lost the lock, and frees nothing', async () => {
    const { child, events, fence } = await startHolder(600)
    const other = await node({ ttl: 600 })
    child.send({ block: 2_000 })
    await pause(50)
    const lock = await other.acquire('upload', request())
    expect(lock.fence).toBeGreaterThan(fence)
    await eventually(() => expect(events).toContain('lost'))
    child.send('release')
    await pause(200)
    expect(lock.lost.aborted).toBe(false)
    const third = await node()
    const stolen = third.acquire(
      'upload',
      request(() => {}, AbortSignal.timeout(300)),
    )
    await expect(stolen).rejects.toThrow(expect.objectContaining({ name: 'TimeoutError' }))
    await lock.release()
  })

  test('a stopped node does not keep others waiting for longer than its ttl', async () => {
    const { child, events } = await startHolder(600)
    const other = await node({ ttl: 600 })
    child.kill('SIGSTOP')
    const lock = await other.acquire('upload', request())
    child.kill('SIGCONT')
    await eventually(() => expect(events).toContain('lost'))
    expect(lock.lost.aborted).toBe(false)
    await lock.release()
  })

  test('a lock that is gone from Redis is lost, and so is one that cannot be renewed', async () => {
    const holder = await node({ ttl: 600, commandTimeout: 300 })
    const [first, second] = [await holder.acquire('first', request()), await holder.acquire('second', request())]
    await server.command('FLUSHALL')
    await eventually(() => expect([first.lost.aborted, second.lost.aborted]).toEqual([true, true]))
    await Promise.all([first.release(), second.release()])
    const third = await holder.acquire('first', request())
    server.signal('SIGSTOP')
    const start = performance.now()
    await eventually(() => expect(third.lost.aborted).toBe(true))
    expect(performance.now() - start).toBeLessThan(1_000)
    await third.release()
    expect(await failureOf(holder.acquire('first', request()))).toMatchObject(unavailable)
    server.signal('SIGCONT')
    await eventually(async () => (await holder.acquire('first', request())).release())
  })

  test('messages come again after their connection was cut, and a request that was missed is made up for', async () => {
    const [holder, waiter] = [await node(), await node()]
    let asked = 0
    const lock = await holder.acquire(
      'upload',
      request(() => asked++),
    )
    // Both are connected for messages by now.
    await (await waiter.acquire('other', request())).release()
    await eventually(async () => expect(await server.command('PUBSUB', 'CHANNELS', '*locker*')).toHaveLength(2))
    await server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
    const waiting = waiter.acquire('upload', request())
    await eventually(() => expect(asked).toBe(1))
    await eventually(async () => expect(await server.command('PUBSUB', 'CHANNELS', '*locker*')).toHaveLength(2))
    const start = performance.now()
    await lock.release()
    await (await waiting).release()
    expect(performance.now() - start).toBeLessThan(1_000)
  })

  test('a holder that was cut off while another node asked is asked when it is back', async () => {
    const proxy = await losingProxy(server.port)
    // So long that the waiter does not ask again by itself.
    const holder = new RedisLocker(await openClient(kind, proxy), { prefix, ttl: 60_000 })
    lockers.push(holder)
    const waiter = await node({ ttl: 60_000 })
    await (await waiter.acquire('first', request())).release()
    let asked = 0
    const lock = await holder.acquire(
      'upload',
      request(() => asked++),
    )
    await eventually(async () => expect(await server.command('PUBSUB', 'CHANNELS', `*${prefix}*`)).toHaveLength(2))
    let waiting: Promise<RedisLock> | undefined
    proxy.loseNextAnswer(async () => {
      await eventually(async () => expect(await server.command('PUBSUB', 'CHANNELS', `*${prefix}*`)).toHaveLength(1))
      waiting = waiter.acquire('upload', request())
      await eventually(async () => expect(await server.command('EXISTS', ...(await keysOf('w')))).toBe(1))
    })
    await (await holder.acquire('other', request())).release()
    await eventually(() => expect(asked).toBe(1))
    await lock.release()
    await (await waiting)?.release()
  })

  test('a release frees nothing that has gone to another node unnoticed', async () => {
    const [first, second, third] = await Promise.all([node(), node(), node()])
    const stale = await first.acquire('upload', request())
    await server.command('FLUSHALL')
    const lock = await second.acquire('upload', request())
    expect(stale.lost.aborted).toBe(false)
    await stale.release()
    const stolen = third.acquire(
      'upload',
      request(() => {}, AbortSignal.timeout(300)),
    )
    await expect(stolen).rejects.toThrow(expect.objectContaining({ name: 'TimeoutError' }))
    await lock.release()
  })

  test('goes on after Redis was killed and started empty', async () => {
    const own = await startRedis()
    const locker = new RedisLocker(await openClient(kind, own), { prefix, ttl: 500, commandTimeout: 300 })
    const lock = await locker.acquire('upload', request())
    const waiting = failureOf(locker.acquire('other', request()).then((other) => other.release()))
    await waiting
    await own.kill()
    await eventually(() => expect(lock.lost.aborted).toBe(true))
    await lock.release()
    expect(await failureOf(locker.acquire('upload', request()))).toMatchObject(unavailable)
    await own.start()
    await eventually(async () => (await locker.acquire('upload', request())).release())
    await locker.close()
    await own.stop()
  })

  test('nodes that all have waiters take turns', async () => {
    const nodes = await Promise.all([node(), node()])
    for (const locker of nodes) await (await locker.acquire('first', request())).release()
    await eventually(async () => expect(await server.command('PUBSUB', 'CHANNELS', `*${prefix}*`)).toHaveLength(2))
    const order: number[] = []
    const visit = async (n: number) => {
      let ask = () => {}
      const asked = new Promise<void>((resolve) => {
        ask = resolve
      })
      const lock = await nodes[n]?.acquire(
        'upload',
        request(() => ask()),
      )
      order.push(n)
      await asked
      // Ending the work takes a moment.
      await pause(3)
      await lock?.release()
    }
    const visits = Promise.all(Array.from({ length: 40 }, (_, n) => visit(n % 2)))
    await eventually(() => expect(order).toHaveLength(40))
    void nodes[0]
      ?.acquire(
        'upload',
        request(() => {}, AbortSignal.timeout(500)),
      )
      .catch(() => {})
    await visits
    const longest = order
      .join('')
      .match(/(0+|1+)/g)
      ?.reduce((max, run) => Math.max(max, run.length), 0)
    expect(order).toHaveLength(40)
    expect(longest, order.join('')).toBeLessThanOrEqual(4)
  })

  test('many nodes, many keys, random patience: one holder at a time, and nobody is forgotten', async () => {
    const nodes = await Promise.all(Array.from({ length: 4 }, () => node({ ttl: 2_000 })))
    const holders = new Map<string, number>()
    let served = 0
    let refused = 0
    const visit = async (n: number) => {
      const key = `upload-${n % 3}`
      await pause(Math.random() * 60)
      let ask = () => {}
      const asked = new Promise<void>((resolve) => {
        ask = resolve
      })
      const signal = n % 5 === 0 ? AbortSignal.timeout(Math.ceil(Math.random() * 40)) : new AbortController().signal
      const lock = await nodes[n % 4]
        ?.acquire(
          key,
          request(() => ask(), signal),
        )
        .catch(() => null)
      if (!lock) {
        refused += 1
        return
      }
      expect(holders.get(key) ?? 0).toBe(0)
      holders.set(key, 1)
      await Promise.race([asked, pause(Math.random() * 3)])
      expect(lock.lost.aborted).toBe(false)
      holders.set(key, 0)
      served += 1
      await lock.release()
    }
    await Promise.all(Array.from({ length: 300 }, (_, n) => visit(n)))
    expect(served + refused).toBe(300)
    expect(refused).toBeLessThanOrEqual(60)
    await eventually(async () => expect(await server.command('KEYS', `{${prefix}}:[lw]:*`)).toEqual([]))
  })

  test('close gives back what is held, refuses who waits, ends the connection for messages, and leaves no timer', async () => {
    const [closing, other] = [await node(), await node()]
    const held = await closing.acquire('upload', request())
    const waiting = failureOf(closing.acquire('upload', request()))
    await eventually(async () => expect(await server.command('PUBSUB', 'CHANNELS', `*${prefix}*`)).toHaveLength(1))
    await closing.close()
    expect(await waiting).toMatchObject({ code: 'CLOSING', status: 503 })
    expect(await failureOf(closing.acquire('more', request()))).toMatchObject({ code: 'CLOSING', status: 503 })
    expect(held.lost.aborted).toBe(true)
    await eventually(async () => expect(await server.command('PUBSUB', 'CHANNELS', `*${prefix}*`)).toEqual([]))
    await (await other.acquire('upload', request())).release()
    await held.release()
  })

  test('a process with a locker ends by itself after close', async () => {
    const { child } = await startHolder(1_000)
    const exited = once(child, 'exit')
    child.send('close')
    expect(await Promise.race([exited, pause(3_000)])).toEqual([0, null])
  })

  test('works with a client that puts a prefix before every key itself', async () => {
    const open = async () =>
      new RedisLocker(await openClient(kind, { port: server.port, keyPrefix: 'app:' }), { prefix })
    const [holder, waiter] = [await open(), await open()]
    lockers.push(holder, waiter)
    let asked = 0
    const lock = await holder.acquire(
      'upload',
      request(() => asked++),
    )
    const waiting = waiter.acquire('upload', request())
    await eventually(() => expect(asked).toBe(1))
    await lock.release()
    await (await waiting).release()
  })

  test('needs no more of Redis, together with a session store, than the commands that the guide names', async () => {
    const guide = await readFile(new URL('../../docs/redis.md', import.meta.url), 'utf8')
    const [, access = ''] = /\n- \*\*Access\*\*([\s\S]*?)\n- /.exec(guide) ?? []
    const commands = [...access.matchAll(/`([A-Z]+)`/g)].map(([, name = '']) => `+${name.toLowerCase()}`)
    expect(commands.length).toBeGreaterThan(20)
    // What the clients do when they connect.
    const connecting = ['+hello', '+auth', '+client', '+info', '+ping', '+select']
    const [key, channel] = [`~{${prefix}}:*`, `&{${prefix}}:*`]
    await server.command('ACL', 'SETUSER', prefix, 'on', '>word', key, channel, ...connecting, ...commands)
    const client = await openClient(kind, { port: server.port, username: prefix, password: 'word' })
    const [holder, waiter] = [
      new RedisLocker(client, { prefix, ttl: 300 }),
      new RedisLocker(client, { prefix, ttl: 300 }),
    ]
    lockers.push(holder, waiter)
    let asked = 0
    const lock = await holder.acquire(
      'upload',
      request(() => asked++),
    )
    const waiting = waiter.acquire('upload', request())
    await eventually(() => expect(asked).toBe(1))
    await pause(400)
    expect(lock.lost.aborted).toBe(false)
    await lock.release()
    await (await waiting).release()
    const store = new RedisSessionStore(client, { prefix })
    const run = (index: number) => ({ index, count: 1, size: 1, offset: 0, loose: 0 })
    await store.create(newRecord({ owner: 'ann', expiresAt: 1, chunks: [run(0), run(2)] }))
    await store.replace(newRecord({ owner: 'bob', expiresAt: 1, version: 2, chunks: [run(0)] }), 1)
    expect([await store.countOpen(), await store.countOpen('bob')]).toEqual([1, 1])
    for await (const id of store.listExpired(1)) await store.delete(id)
    expect(await store.get(newRecord().id)).toBeNull()
  })

  test('shows no secret and no client', async () => {
    const locker = await node()
    expect(everythingOf(locker)).not.toMatch(/127\.0\.0\.1|password/)
    for (const ttl of [0, 99, 1.5, Number.NaN, 2 ** 31]) {
      const client = await openClient(kind, server)
      expect(() => new RedisLocker(client, { ttl })).toThrow(TypeError)
    }
  })
})
