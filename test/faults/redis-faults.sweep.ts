/** Every request of an upload × everything that can happen to Redis, on one server with its own `tempDir`. */
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { RedisLocker, RedisSessionStore } from '../../src/redis.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { survived } from '../support/fault-points.ts'
import { losingProxy } from '../support/losing-proxy.ts'
import { type Answer, nativeClient } from '../support/native-client.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import {
  clientKinds,
  describeRedis,
  newPrefix,
  openClient,
  type RedisServer,
  startRedis,
} from '../support/redis-server.ts'
import { testServer } from '../support/server.ts'
import { eventually } from './redis-support.ts'

const chunkSize = 20_000
const file = bytes(3 * chunkSize + 5, 9)
const chunks = cut(file, chunkSize)
const secret = 'word-of-the-operator'

interface Bench {
  readonly redis: RedisServer
  readonly record: string
}

interface Fault {
  readonly name: string
  begin(bench: Bench): Promise<unknown> | unknown
  end(bench: Bench): Promise<unknown> | unknown
  /** Reading works, writing does not. */
  readonly readable?: boolean
}

let kept: unknown
const faults: readonly Fault[] = [
  { name: 'killed', begin: ({ redis }) => redis.kill(), end: ({ redis }) => redis.start() },
  { name: 'stopped', begin: ({ redis }) => redis.signal('SIGSTOP'), end: ({ redis }) => redis.signal('SIGCONT') },
  {
    name: 'CLIENT PAUSE',
    begin: ({ redis }) => redis.command('CLIENT', 'PAUSE', '1500', 'ALL'),
    end: () => pause(1_600),
  },
  {
    name: 'DEBUG SLEEP',
    begin: async ({ redis }) => {
      void redis.command('DEBUG', 'SLEEP', '1.5').catch(() => {})
      await pause(50)
    },
    end: () => pause(1_600),
  },
  {
    name: 'OOM',
    begin: ({ redis }) => redis.command('CONFIG', 'SET', 'maxmemory', '1'),
    end: ({ redis }) => redis.command('CONFIG', 'SET', 'maxmemory', '0'),
    readable: true,
  },
  {
    name: 'READONLY',
    begin: ({ redis }) => redis.command('REPLICAOF', '127.0.0.1', '1'),
    end: ({ redis }) => redis.command('REPLICAOF', 'NO', 'ONE'),
    readable: true,
  },
  {
    name: 'NOPERM',
    begin: ({ redis }) => redis.command('ACL', 'SETUSER', 'default', '-eval', '-evalsha'),
    end: ({ redis }) => redis.command('ACL', 'SETUSER', 'default', '+@all'),
  },
  {
    name: 'connections killed and NOAUTH',
    begin: async ({ redis }) => {
      await redis.command('CONFIG', 'SET', 'requirepass', secret)
      await redis.command('CLIENT', 'KILL', 'TYPE', 'normal').catch(() => {})
    },
    end: ({ redis }) => redis.commandWith(secret, 'CONFIG', 'SET', 'requirepass', ''),
  },
  {
    name: 'WRONGTYPE',
    begin: async ({ redis, record }) => {
      await redis.command('RENAME', record, `${record}-aside`).catch(() => {})
      await redis.command('SET', record, 'something else')
    },
    end: async ({ redis, record }) => {
      await redis.command('DEL', record)
      await redis.command('RENAME', `${record}-aside`, record).catch(() => {})
    },
  },
  {
    name: 'a damaged field',
    begin: async ({ redis, record }) => {
      kept = await redis.command('HGET', record, 't')
      await redis.command('HSET', record, 't', '{"version":', 'v', '999999')
    },
    end: async ({ redis, record }) => {
      const version = JSON.parse(String(kept)).version
      await redis.command('HSET', record, 't', String(kept), 'v', String(version))
    },
  },
  {
    name: 'a busy script',
    begin: async ({ redis }) => {
      await redis.command('CONFIG', 'SET', 'busy-reply-threshold', '10')
      void redis.command('EVAL', "while true do redis.call('GET', 'x') end", '0').catch(() => {})
      await pause(60)
    },
    end: async ({ redis }) => {
      await redis.command('SCRIPT', 'KILL').catch(() => {})
    },
  },
  { name: 'SCRIPT FLUSH', begin: ({ redis }) => redis.command('SCRIPT', 'FLUSH'), end: () => {} },
]

/** As every client does after a 503. */
async function patiently(ask: () => Promise<Answer>): Promise<Answer> {
  for (let tries = 0; tries < 20; tries++) {
    const answer = await ask()
    if (answer.status !== 503) return answer
    await pause(100)
  }
  return ask()
}

const requests = ['init', 'chunk', 'complete', 'progress', 'abort'] as const
type Request = (typeof requests)[number]

describeRedis.each(clientKinds)('with the client %s, while Redis is in trouble', (kind) => {
  let redis: RedisServer

  beforeAll(async () => {
    redis = await startRedis('--appendonly', 'yes', '--appendfsync', 'always')
  })
  afterAll(() => redis.stop())
  afterEach(() => redis.start())

  async function bench(port: number) {
    const prefix = newPrefix()
    const client = await openClient(kind, { port })
    const storage = new MemoryStorageAdapter({ multipart: false })
    const server = await testServer({
      ...{ storage, maxChunkSize: 100_000 },
      sessions: new RedisSessionStore(client, { prefix, commandTimeout: 400 }),
      locker: new RedisLocker(client, { prefix, commandTimeout: 400 }),
    })
    const native = nativeClient(server.url)
    const id = await native.start(file.length, { chunkSize })
    for (const index of [0, 1]) expect((await native.raw(id, index, chunks[index] as Buffer)).status).toBe(200)
    const finish = async () => {
      for (const index of [2, 3]) {
        expect((await patiently(() => native.raw(id, index, chunks[index] as Buffer))).status).toBe(200)
      }
      const done = await patiently(() => native.complete(id))
      expect(done.status, done.text).toBe(200)
      expect(sha256(storage.read(done.body.key) as Buffer)).toBe(sha256(file))
      expect((await native.complete(id)).body.url).toBe(done.body.url)
    }
    return { native, server, storage, id, finish, record: `{${prefix}}:s:${id}` }
  }

  const ask: Readonly<Record<Request, (native: ReturnType<typeof nativeClient>, id: string) => Promise<Answer>>> = {
    init: (native) => native.init({ fileName: 'a', totalSize: 5, mimeType: 'a/b' }),
    chunk: (native, id) => native.raw(id, 2, chunks[2] as Buffer),
    complete: (native, id) => native.complete(id),
    progress: (native, id) => native.progress(id),
    abort: (native, id) => native.abort(id),
  }
  /** When nothing is wrong. */
  const usual: Readonly<Record<Request, number>> = { init: 200, chunk: 200, complete: 409, progress: 200, abort: 204 }

  it.each(faults.flatMap((fault) => requests.map((request) => [fault.name, request, fault] as const)))(
    '%s, %s: 503 in time or done, nothing lost, no secret told [G01, G02, G05, G06]',
    async (_, request, fault) => {
      const { native, server, id, finish, record } = await bench(redis.port)
      await fault.begin({ redis, record })
      let answer: Answer
      const start = performance.now()
      try {
        answer = await ask[request](native, id)
        expect(performance.now() - start).toBeLessThan(10_000)
      } finally {
        await fault.end({ redis, record })
      }
      expect([usual[request], 503], answer.text).toContain(answer.status)
      if (answer.status === 503) {
        expect(answer.body.retryable).toBe(true)
        expect(answer.text).not.toMatch(/edis|127\.0|ECONN|OOM|READONLY|NOAUTH|word-of/)
      }
      // A read-only Redis still tells how far an upload is.
      if (fault.readable && request === 'progress') expect(answer.status).toBe(200)
      await eventually(async () => expect([200, 410]).toContain((await native.progress(id)).status))
      const { status, body } = await native.progress(id)
      if (request === 'abort' && status === 410) {
        expect((await native.complete(id)).status).toBe(410)
      } else {
        expect([status, body.uploadedChunks >= 2]).toEqual([200, true])
        await finish()
      }
      expect(server.errors.every((error) => !String((error as Error).stack).includes(secret))).toBe(true)
      survived('redis', `${kind}: ${request} while ${fault.name}`)
    },
  )

  it('FLUSHALL under every request: 404 as for an unknown id, and never a file with a hole [G06, G01]', async () => {
    for (const request of requests) {
      const { native, id, storage } = await bench(redis.port)
      await redis.command('FLUSHALL')
      const answer = await ask[request](native, id)
      expect(answer.status).toBe(request === 'init' ? 200 : 404)
      expect((await native.complete(id)).status).toBe(404)
      expect([...storage.keys()]).toEqual([])
      survived('redis', `${kind}: ${request} after FLUSHALL`)
    }
  })

  it('a connection that breaks inside a script: what was done is found out [G09]', async () => {
    for (const request of requests) {
      for (const which of [1, 2, 3]) {
        const proxy = await losingProxy(redis.port)
        const { native, id, finish } = await bench(proxy.port)
        let left = which
        const arm = () => proxy.loseNextAnswer(async () => void (--left > 0 && arm()))
        arm()
        const answer = await ask[request](native, id)
        expect([usual[request], 503, 200], `${request} ${answer.text}`).toContain(answer.status)
        await eventually(async () => expect([200, 410]).toContain((await native.progress(id)).status))
        if (request !== 'abort') await finish()
        else expect((await patiently(() => native.abort(id))).status).toBe(204)
        survived('redis', `${kind}: ${request}, ${which} answers lost`)
      }
    }
  })
})
