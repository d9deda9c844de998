/** A Redis that is replaced by one that knows less, and things that speak to us in its place. */
import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { RedisSessionStore } from '../../src/redis.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { survived } from '../support/fault-points.ts'
import { losingProxy } from '../support/losing-proxy.ts'
import { nativeClient } from '../support/native-client.ts'
import { bytes, cut, seeded, sha256 } from '../support/random.ts'
import { clientKinds, describeRedis, newPrefix, openClient, startRedis } from '../support/redis-server.ts'
import { testServer } from '../support/server.ts'
import { eventually, failureOf } from './redis-support.ts'
import { someId } from './session-store-support.ts'

const chunkSize = 20_000
const file = bytes(5 * chunkSize + 1, 12)
const chunks = cut(file, chunkSize)

describeRedis.each(clientKinds)('with the client %s', (kind) => {
  test('a promoted replica that missed acknowledged chunks: they are asked for again, and no file has a hole [G04]', async () => {
    const [first, second] = [await startRedis(), await startRedis()]
    try {
      await second.command('REPLICAOF', '127.0.0.1', `${first.port}`)
      await eventually(async () =>
        expect(String(await second.command('INFO', 'replication'))).toContain('link_status:up'),
      )
      // Where the application's Redis address leads to.
      let target = first.port
      const address = await forwarder(() => target)
      const storage = new MemoryStorageAdapter({ multipart: false })
      const sessions = new RedisSessionStore(await openClient(kind, { port: address.port }), {
        ...{ prefix: newPrefix(), commandTimeout: 1_500 },
      })
      const server = await testServer({ storage, sessions })
      const client = nativeClient(server.url)
      const id = await client.start(file.length, { chunkSize })
      for (const index of [0, 1]) expect((await client.raw(id, index, chunks[index] as Buffer)).status).toBe(200)
      expect(await first.command('WAIT', '1', '2000')).toBe(1)
      // From here on the replica hears nothing more, and is made the master.
      await second.command('REPLICAOF', 'NO', 'ONE')
      for (const index of [2, 3, 4, 5]) expect((await client.raw(id, index, chunks[index] as Buffer)).status).toBe(200)
      await first.kill()
      target = second.port
      address.cut()
      await eventually(async () => expect((await client.progress(id)).status).toBe(200))
      expect((await client.progress(id)).body).toMatchObject({ uploadedChunks: 2, received: [[0, 1]] })
      const refused = await client.complete(id)
      expect([refused.status, refused.body.code]).toEqual([409, 'UPLOAD_INCOMPLETE'])
      expect(storage.keys()).toEqual([])
      for (const index of [5, 2, 4, 3]) expect((await client.raw(id, index, chunks[index] as Buffer)).status).toBe(200)
      const done = await client.complete(id)
      expect(done.status, done.text).toBe(200)
      expect(sha256(storage.read(done.body.key) as Buffer)).toBe(sha256(file))
      survived('redis', `${kind}: failover that loses acknowledged writes`)
    } finally {
      await first.stop()
      await second.stop()
    }
  })

  test('an id with characters that mean something to Redis is an unknown upload, and asks Redis for nothing [G08]', async () => {
    const redis = await startRedis()
    const proxy = await losingProxy(redis.port)
    try {
      const store = new RedisSessionStore(await openClient(kind, proxy), { prefix: newPrefix() })
      await store.get(someId)
      await redis.command('CONFIG', 'RESETSTAT')
      const server = await testServer({ sessions: store })
      const client = nativeClient(server.url)
      for (const id of ['*', `${someId}:x`, `{${someId}}`, `${someId}\r\nFLUSHALL\r\n`, '../x', '[a-z]*', '\0']) {
        expect(await store.get(id)).toBeNull()
        expect((await client.progress(encodeURIComponent(id))).status).toBe(404)
        expect((await client.complete(id)).status).toBe(404)
      }
      expect(String(await redis.command('INFO', 'commandstats'))).not.toContain('evalsha')
      survived('redis', `${kind}: ids that mean something to Redis`)
    } finally {
      await redis.stop()
    }
  })
})

describe.each(clientKinds)('something that is no Redis, with the client %s,', (kind) => {
  const answers: readonly (readonly [name: string, answer: (random: ReturnType<typeof seeded>) => Buffer | string])[] =
    [
      ['a web page', () => 'HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html></html>'],
      ['nothing', () => ''],
      ['OK to everything', () => '+OK\r\n'],
      ['numbers', () => ':7\r\n'],
      ['null', () => '$-1\r\n'],
      ['an endless string', () => `$900000000\r\n${'x'.repeat(100_000)}`],
      ['a list that never ends', () => '*1000000\r\n:1\r\n'],
      ['deep lists', () => '*1\r\n'.repeat(5_000)],
      ['wrong lengths', () => '$3\r\nabcdef\r\n*-5\r\n$-7\r\n'],
      ['random bytes', (random) => Buffer.from(Array.from({ length: 200 }, () => random.integer(0, 255)))],
      ['errors with secrets', () => '-ERR user very-secret@10.0.0.1 has no power\r\n'],
    ]

  test.each(answers)('that answers %s: 503 in time, and never "no such upload" [A14]', async (name, answerWith) => {
    const random = seeded(5)
    const fake = await serve((socket) => socket.on('data', () => socket.write(answerWith(random))))
    // Some clients must have seen something sensible first, or they never become ready.
    let isSane = false
    const sane = await serve((socket) =>
      socket.on('data', (data) => {
        if (isSane) return void socket.write(answerWith(random))
        // One answer for each command: to INFO a text, to the rest OK.
        for (const word of String(data).match(/^\*\d+$/gm) ?? []) socket.write(word ? '$5\r\nredis\r\n' : '')
      }),
    )
    for (const [port, begin] of [
      [fake.port, () => {}],
      [sane.port, () => (isSane = true)],
    ] as const) {
      const client = await Promise.race([
        openClient(kind, { port }),
        new Promise<null>((resolve) => setTimeout(resolve, 500, null).unref()),
      ])
      if (!client) continue
      begin()
      const store = new RedisSessionStore(client, { commandTimeout: 300 })
      const server = await testServer({ sessions: store })
      const native = nativeClient(server.url)
      const start = performance.now()
      const seen = await Promise.all([
        native.progress(someId),
        native.complete(someId),
        native.init({ fileName: 'a', totalSize: 3, mimeType: 'a/b' }),
      ])
      expect(performance.now() - start).toBeLessThan(5_000)
      for (const { status, text } of seen) {
        expect(text).not.toMatch(/secret|10\.0\.0|edis/)
        // A plain null is what Redis answers when there is nothing: it can only be believed.
        if (name === 'null') expect([404, 503]).toContain(status)
        else expect([502, 503], `${name} ${text}`).toContain(status)
      }
      if (name !== 'null') expect(await failureOf(store.get(someId))).toMatchObject({ status: 503 })
    }
    survived('redis', `${kind}: ${name} for an answer`)
  })
})

const servers = new Set<() => void>()
afterEach(() => {
  for (const close of servers) close()
  servers.clear()
})

async function serve(talk: (socket: Socket) => void): Promise<{ port: number; cut(): void }> {
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
    talk(socket)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = () => {
    for (const socket of sockets) socket.destroy()
  }
  servers.add(() => {
    server.close()
    cut()
  })
  return { port: (server.address() as AddressInfo).port, cut }
}

async function forwarder(target: () => number) {
  const { connect } = await import('node:net')
  return serve((socket) => {
    const upstream = connect(target(), '127.0.0.1')
    upstream.on('error', () => socket.destroy()).on('close', () => socket.destroy())
    socket.on('close', () => upstream.destroy())
    socket.pipe(upstream).pipe(socket)
  })
}
