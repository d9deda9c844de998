/** What can happen to a Redis that several nodes use, and what they must answer meanwhile. */
import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { ietfClient } from './ietf-client.ts'
import { nativeClient } from './native-client.ts'
import type { Fleet } from './node-fleet.ts'
import { bytes, cut, sha256 } from './random.ts'
import type { RedisServer } from './redis-server.ts'
import { resumableClient } from './resumable-client.ts'
import { eventually, tusClient } from './tus-client.ts'
import { uppyClient } from './uppy-client.ts'

export const password = 'word-of-the-nodes'
const otherPassword = 'word-of-the-operator'

export interface Trouble {
  readonly name: string
  begin(redis: RedisServer): Promise<unknown> | unknown
  end(redis: RedisServer): Promise<unknown> | unknown
}

const config = (name: string, value: string) => (redis: RedisServer) =>
  redis.commandWith(password, 'CONFIG', 'SET', name, value)

export const troubles: readonly Trouble[] = [
  {
    name: 'CLIENT PAUSE',
    begin: (redis) => redis.commandWith(password, 'CLIENT', 'PAUSE', '2500', 'ALL'),
    end: () => pause(2_600),
  },
  {
    name: 'DEBUG SLEEP',
    begin: async (redis) => {
      void redis.commandWith(password, 'DEBUG', 'SLEEP', '2.5').catch(() => {})
      await pause(50)
    },
    end: () => pause(2_600),
  },
  { name: 'SIGSTOP', begin: (redis) => redis.signal('SIGSTOP'), end: (redis) => redis.signal('SIGCONT') },
  { name: 'OOM', begin: config('maxmemory', '1'), end: config('maxmemory', '0') },
  {
    name: 'READONLY',
    begin: (redis) => redis.commandWith(password, 'REPLICAOF', '127.0.0.1', '1'),
    end: (redis) => redis.commandWith(password, 'REPLICAOF', 'NO', 'ONE'),
  },
  {
    name: 'another password',
    begin: async (redis) => {
      await redis.commandWith(password, 'CONFIG', 'SET', 'requirepass', otherPassword)
      for (const type of ['normal', 'pubsub']) {
        await redis.commandWith(otherPassword, 'CLIENT', 'KILL', 'TYPE', type).catch(() => {})
      }
    },
    end: (redis) => redis.commandWith(otherPassword, 'CONFIG', 'SET', 'requirepass', password),
  },
]

interface Reply {
  readonly what: string
  readonly status: number
  readonly retryAfter: number
  readonly text: string
  readonly time: number
}

/** Uploads that are half done, one for each way to say how far, and what their clients ask in a burst. */
export async function halfDone(fleet: Fleet) {
  const size = fleet.partSize
  const file = bytes(6 * size + 77, 5)
  const chunks = cut(file, size)
  const native = await nativeClient(fleet.url(0)).start(file.length, { chunkSize: size })
  const tus = new URL(await tusClient(`${fleet.url(1)}/files`).create(file.length)).pathname
  const ietf = new URL(await ietfClient(`${fleet.url(2)}/files`, 9).create({ 'Upload-Length': file.length })).pathname
  const resumable = { data: file, chunkSize: size, name: `half-${native}.bin` }
  const half = file.subarray(0, 3 * size)
  for (const index of [0, 1, 2]) {
    await nativeClient(fleet.url(index)).raw(native, index, chunks[index] as Buffer)
    await resumableClient(`${fleet.url(index)}/resumable`).send(resumable, index + 1)
  }
  await tusClient('').patch(`${fleet.url(2)}${tus}`, 0, half)
  await ietfClient('', 9).append(`${fleet.url(0)}${ietf}`, 0, half, false)

  const requestsOf = (
    base: string,
  ): Record<string, () => Promise<{ status: number; headers: object; body?: unknown }>> => ({
    'native init': () => nativeClient(base).init({ fileName: 'a', totalSize: 5, mimeType: 'a/b' }),
    'native chunk': () => nativeClient(base).raw(native, 0, chunks[0] as Buffer),
    'native progress': () => nativeClient(base).progress(native),
    'native complete': () => nativeClient(base).complete(native),
    'tus POST': () => tusClient(`${base}/files`).post({ 'Upload-Length': 5 }),
    'tus HEAD': () => tusClient('').head(`${base}${tus}`),
    'tus PATCH': () => tusClient('').patch(`${base}${tus}`, 1, 'x'),
    'IETF HEAD': () => ietfClient('', 9).head(`${base}${ietf}`),
    'IETF PATCH': () => ietfClient('', 9).append(`${base}${ietf}`, 1, 'x', false),
    'Resumable.js GET': () => resumableClient(`${base}/resumable`).test(resumable, 1),
    'Resumable.js POST': () => resumableClient(`${base}/resumable`).send(resumable, 1),
    'Uppy create': () => uppyClient(`${base}/companion`).create(),
  })

  /** Every request, so many times on every node, all at once. */
  async function burst(times: number): Promise<Reply[]> {
    const all = fleet.servers.flatMap(({ url }) =>
      Object.entries(requestsOf(url)).flatMap((entry) => Array.from({ length: times }, () => entry)),
    )
    return Promise.all(
      all.map(async ([what, ask]) => {
        const start = performance.now()
        const { status, headers, ...rest } = await ask()
        const time = performance.now() - start
        const found = headers instanceof Headers ? headers.get('retry-after') : (headers as never)['retry-after']
        return { what, status, retryAfter: Number(found ?? 0), text: JSON.stringify(rest), time }
      }),
    )
  }

  async function finish(): Promise<void> {
    const any = (n: number) => fleet.url(n % fleet.size)
    for (const index of [3, 4, 5, 6]) {
      const data = chunks[index] as Buffer
      expect((await nativeClient(any(index)).raw(native, index, data)).status, `chunk ${index}`).toBe(200)
    }
    const key = (await nativeClient(any(1)).complete(native)).body.key
    expect(sha256(await fleet.read(key))).toBe(sha256(file))
    const patched = await tusClient('').patch(`${any(0)}${tus}`, half.length, file.subarray(half.length))
    expect(patched.status, patched.body).toBe(204)
    const appended = await ietfClient('', 9).append(`${any(1)}${ietf}`, half.length, file.subarray(half.length), true)
    expect(appended.status, appended.body).toBe(200)
    const last = await resumableClient(`${any(2)}/resumable`).run(resumable)
    expect(last.body?.url, last.text).toBeDefined()
    // Those of the burst are another matter: they stay unfinished.
    const files = await fleet.files()
    expect(files).toHaveLength(4)
    for (const name of files) expect(sha256(await fleet.read(name)), name).toBe(sha256(file))
  }
  /** Everything that was acknowledged is known. */
  async function check(): Promise<void> {
    for (let node = 0; node < fleet.size; node++) {
      const base = fleet.url(node)
      await eventually(async () => {
        const { status, body } = await nativeClient(base).progress(native)
        expect([status, body.received]).toEqual([200, [[0, 2]]])
        expect((await tusClient('').head(`${base}${tus}`)).headers['upload-offset']).toBe(`${half.length}`)
        expect((await ietfClient('', 9).head(`${base}${ietf}`)).headers['upload-offset']).toBe(`${half.length}`)
        expect((await resumableClient(`${base}/resumable`).test(resumable, 3)).status).toBe(200)
      }, 10_000)
    }
  }
  return { burst, check, finish }
}

/** In time, with a word on when to come again, and without one on what is wrong. */
export function expectBounded(replies: readonly Reply[], limit: number): void {
  for (const { what, status, retryAfter, text, time } of replies) {
    expect(time, `${what}: ms for a ${status}`).toBeLessThan(limit)
    expect(text, what).not.toMatch(/word-of|edis|127\.0|ECONN|OOM|READONLY|NOAUTH|WRONGPASS/)
    if (status < 300 || status === 409 || status === 204) continue
    expect([423, 503], `${what}: ${text}`).toContain(status)
    expect(retryAfter, `${what}: Retry-After`).toBeGreaterThan(0)
  }
}
