/** What the client does when the network, a proxy or the server fails, and how many requests that costs. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import type { UploadProgress } from '../../src/client/types.ts'
import { createUpload, UploadError, uploadFile } from '../../src/client-node.ts'
import { NexusUploaderError, ProcessingError } from '../../src/index.ts'
import { cuttingProxy } from '../support/cutting-proxy.ts'
import { startServer } from '../support/process.ts'
import { sha256 } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'
import type { Exchange, Intervention } from './front.ts'
import { data, fast, fileOf, KiB, MiB, pause, stage, until } from './support.ts'

const chunk = 64 * KiB

/** Answers the first `times` requests on a route by itself. */
function first(route: Exchange['route'], times: number, intervention: Intervention) {
  return {
    intervene: (exchange: Exchange) => (exchange.route === route && exchange.before < times ? intervention : undefined),
  }
}

describe('a failure that passes', () => {
  const file = data(6 * chunk + 3)

  it.each([
    ['a request that is cut', 'cut'],
    ['an answer that is lost', 'lose'],
    ['408', { status: 408 }],
    ['423', { status: 423 }],
    ['425', { status: 425 }],
    ['429', { status: 429 }],
    ['a bare 500', { status: 500, body: '<h1>Oops</h1>' }],
    ['502', { status: 502, body: '<h1>Bad gateway</h1>' }],
    ['503', { status: 503 }],
    ['504', { status: 504 }],
    ['507', { status: 507 }],
    ['422 that may be retried', { status: 422, body: { code: 'CHECKSUM_MISMATCH', message: '…', retryable: true } }],
    ['a login page', { status: 200, body: '<h1>Welcome to the hotel</h1>' }],
  ] as [string, Intervention][])('is %s, on every route', async (_name, intervention) => {
    for (const route of ['init', 'chunk', 'complete'] as const) {
      const { to, expectStored, stored } = await stage({}, first(route, 3, intervention))
      await expectStored(await uploadFile(fileOf(file), to), file)
      expect(await stored()).toHaveLength(1)
    }
  })

  it('is waited for as long as the server asks, by all chunks together', async () => {
    const { to, front, expectStored } = await stage(
      {},
      first('chunk', 3, { status: 429, headers: { 'Retry-After': '1' } }),
    )
    await expectStored(await uploadFile(fileOf(file), to), file)
    const chunks = front.exchanges.filter(({ route }) => route === 'chunk')
    const refused = chunks.filter(({ status }) => status === 429)
    expect(refused).toHaveLength(3)
    const next = chunks.find(({ status }) => status === 200)
    expect((next?.at ?? 0) - (refused.at(-1)?.at ?? 0)).toBeGreaterThan(950)
    expect(chunks).toHaveLength(3 + 7)
  })

  it('is told of while it lasts', async () => {
    const { to } = await stage(
      {},
      first('chunk', 3, { status: 503, body: { code: 'CLOSING', message: 'Shutting down.' } }),
    )
    const seen: UploadProgress[] = []
    await uploadFile(fileOf(file), { ...to, retryDelay: 50, onProgress: (progress) => seen.push(progress) })
    const waiting = seen.find(({ state }) => state === 'waiting')
    expect(waiting?.error).toMatchObject({ code: 'CLOSING', message: 'Shutting down.', status: 503 })
    expect(seen.at(-1)).toMatchObject({ state: 'completed', error: null })
  })

  it('of several chunks together is one failure', async () => {
    const { to, expectStored } = await stage(
      {},
      {
        intervene: async ({ route, before }) => {
          if (route !== 'chunk' || before >= 3) return undefined
          await pause(50)
          return 'cut'
        },
      },
    )
    await expectStored(await uploadFile(fileOf(file), { ...to, retries: 1 }), file)
  })

  it('is not a line that is only slow', async () => {
    const { to, front, expectStored } = await stage(
      { maxChunkSize: 24 * MiB },
      {
        intervene: ({ route }) => (route === 'chunk' ? 'slow' : undefined),
      },
    )
    const large = data(24 * MiB)
    const start = performance.now()
    await expectStored(await uploadFile(fileOf(large), { ...to, chunkSize: 24 * MiB, stallTimeout: 1500 }), large)
    expect(performance.now() - start).toBeGreaterThan(1600)
    expect(front.count('chunk')).toBe(1)
  })

  it('is a line that has fallen silent', async () => {
    const { to, expectStored } = await stage(
      {},
      {
        intervene: ({ route, before }) =>
          (route === 'chunk' && before === 1) || (route === 'init' && before === 0) ? 'hang' : undefined,
      },
    )
    const start = performance.now()
    await expectStored(await uploadFile(fileOf(file), { ...to, stallTimeout: 200 }), file)
    expect(performance.now() - start).toBeGreaterThan(400)
  })

  it('may come again and again, as long as something gets through', async () => {
    const { to, expectStored, front } = await stage(
      {},
      {
        intervene: ({ route, before }) => (route === 'chunk' && before % 3 !== 2 ? 'cut' : undefined),
      },
    )
    const large = data(40 * chunk)
    await expectStored(await uploadFile(fileOf(large), { ...to, retries: 4, parallel: 1 }), large)
    expect(front.count('chunk')).toBe(120)
  })
})

describe('a failure that stays', () => {
  it('is given up after so many tries in a row, with the last error, and can be started again', async () => {
    let isDown = true
    const { to, front, expectStored } = await stage(
      {},
      {
        intervene: ({ route, before }) => (isDown && route === 'chunk' && before >= 4 ? 'cut' : undefined),
      },
    )
    const file = data(10 * chunk)
    const upload = createUpload(fileOf(file), { ...to, retries: 3, parallel: 1 })
    await expect(upload.start()).rejects.toMatchObject({
      name: 'UploadError',
      code: 'NETWORK_ERROR',
      status: 0,
      retryable: true,
    })
    expect(upload.progress).toMatchObject({ state: 'failed', sentBytes: 4 * chunk })
    expect(front.count('chunk')).toBe(4 + 4)
    isDown = false
    await expectStored(await upload.start(), file)
    expect([front.count('init'), front.count('chunk')]).toEqual([1, 8 + 6])
  })

  it('of the whole network costs few requests, however many chunks are under way', async () => {
    const { to, front } = await stage({}, { intervene: ({ route }) => (route === 'chunk' ? 'cut' : undefined) })
    await uploadFile(fileOf(data(40 * chunk)), { ...to, retries: 5 }).catch(() => {})
    expect(front.count('chunk')).toBeLessThanOrEqual(3 + 5)
  })

  it.each([
    ['size', { maxFileSize: 1000 }, { code: 'FILE_SIZE_EXCEEDED', status: 413, details: { limit: 1000 } }, 1],
    [
      'type',
      { allowedMimeTypes: ['image/*'] },
      { code: 'INVALID_FILE_TYPE', status: 415, message: 'Files of type video/mp4 are not accepted.' },
      1,
    ],
    [
      'anything, by a hook',
      { hooks: { onCreate: () => Promise.reject(new ProcessingError('No.', { code: 'NOT_TODAY' })) } },
      { code: 'NOT_TODAY', status: 422, message: 'No.' },
      1,
    ],
    [
      'a form of init, in a way it does not explain',
      { hooks: { onCreate: () => Promise.reject(new NexusUploaderError('ODD', 400, 'Odd.')) } },
      { code: 'ODD', status: 400 },
      2,
    ],
    [
      'the finished file, by a hook',
      { hooks: { onComplete: () => Promise.reject(new ProcessingError('It has a virus.')) } },
      { code: 'PROCESSING_FAILED', status: 422, message: 'It has a virus.' },
      3,
    ],
    [
      'chunks, by a hook',
      {
        hooks: {
          authorize: (action: string) => {
            if (action === 'write') throw new NexusUploaderError('FORBIDDEN', 403, 'Not you.')
          },
        },
      },
      { code: 'FORBIDDEN', status: 403 },
      4,
    ],
  ])(
    'is a refused %s: the server is not asked again, and its words are told',
    async (_name, config, error, requests) => {
      const { to, front, stored } = await stage(config as object)
      const failure = await uploadFile(fileOf(data(chunk)), to).catch((error) => error)
      expect(failure).toBeInstanceOf(UploadError)
      expect(failure).toMatchObject({ ...error, retryable: false })
      expect(front.exchanges.length).toBeLessThanOrEqual(requests)
      expect(await stored()).toEqual([])
    },
  )

  it('is a route that is not there', async () => {
    const { to, front } = await stage()
    await expect(uploadFile(fileOf(data(10)), { ...to, endpoint: `${to.endpoint}s` })).rejects.toMatchObject({
      code: 'HTTP_404',
      status: 404,
    })
    expect(front.exchanges).toHaveLength(1)
  })
})

describe('an upload that the server has lost', () => {
  const file = data(8 * chunk)

  it.each(['chunk', 'complete'] as const)('is begun anew, once, when %s finds it gone', async (route) => {
    const { to, front, server, expectStored, stored } = await stage(
      {},
      {
        intervene: async (exchange) => {
          if (exchange.route !== route || exchange.before > 0) return undefined
          await server.middleware.engine.abort({ uploadId: await openUpload(), protocol: 'native', owner: null })
          return undefined
        },
      },
    )
    const openUpload = async () => {
      const { uploadId } = (await (
        await fetch(`${server.url}/upload/init`, {
          method: 'POST',
          headers: { 'Content-Type': 'application/json' },
          body: JSON.stringify({
            fileName: 'film.mp4',
            totalSize: file.length,
            chunkSize: chunk,
            resumeKey: `k.${chunk}.0`,
          }),
        })
      ).json()) as { uploadId: string }
      return uploadId
    }
    await expectStored(await uploadFile(fileOf(file), { ...to, resumeKey: 'k' }), file)
    expect(front.count('init')).toBe(2)
    expect(await stored()).toHaveLength(1)
  })

  it('is no success when it is lost again', async () => {
    const { to, front, stored } = await stage(
      {},
      {
        intervene: ({ route }) =>
          route === 'complete' ? { status: 410, body: { code: 'UPLOAD_EXPIRED', message: 'Gone.' } } : undefined,
      },
    )
    await expect(uploadFile(fileOf(file), to)).rejects.toMatchObject({ status: 410, code: 'UPLOAD_EXPIRED' })
    expect([front.count('init'), front.count('complete')]).toEqual([2, 2])
    expect(await stored()).toEqual([])
  })

  it.each([true, false])('in part gets the missing chunks again (error handler: %s)', async (errorHandler) => {
    // The front acknowledges chunks that the server never sees.
    const { to, front, expectStored } = await stage(
      { errorHandler },
      {
        intervene: ({ route, before }) =>
          route === 'chunk' && (before === 2 || before === 4) ? { status: 200, body: { success: true } } : undefined,
      },
    )
    await expectStored(await uploadFile(fileOf(file), { ...to, parallel: 1 }), file)
    expect([front.count('chunk'), front.count('complete'), front.count('progress')]).toEqual([
      10,
      2,
      errorHandler ? 0 : 1,
    ])
  })

  it('is no success when chunks are missing again and again', async () => {
    const { to, front, stored } = await stage(
      {},
      {
        intervene: ({ route, url }) =>
          route === 'chunk' && url.searchParams.get('chunkIndex') === '3'
            ? { status: 200, body: { success: true } }
            : undefined,
      },
    )
    await expect(uploadFile(fileOf(file), to)).rejects.toMatchObject({ code: 'UPLOAD_INCOMPLETE' })
    expect(front.count('complete')).toBeLessThan(6)
    expect(await stored()).toEqual([])
  })

  it('is another matter than one that somebody else completes', async () => {
    const { to, front, expectStored } = await stage()
    const [a, b] = await Promise.all([
      uploadFile(fileOf(file), { ...to, parallel: 1 }),
      uploadFile(fileOf(file), { ...to, parallel: 1 }),
    ])
    expect(a.url).toBe(b.url)
    await expectStored(a, file)
    expect(front.count('init')).toBe(2)
  })
})

describe('a server that is killed', () => {
  it('twice in the middle of an upload gets the rest when it is back', async () => {
    const settings = { tempDir: tempFolder(), directory: tempFolder() }
    let server = await startServer(settings)
    const { port } = server
    const file = data(12 * MiB)
    const upload = createUpload(fileOf(file), {
      endpoint: `http://127.0.0.1:${port}/upload`,
      chunkSize: 256 * KiB,
      retryDelay: 20,
      maxRetryDelay: 200,
    })
    const result = upload.start()
    for (const share of [0.2, 0.6]) {
      await until(() => upload.progress.sentBytes > share * file.length)
      await server.kill()
      await pause(100)
      expect(upload.progress.state).not.toBe('failed')
      server = await startServer({ ...settings, port })
    }
    const { key } = await result
    expect(sha256(await readFile(join(settings.directory, key ?? '')))).toBe(sha256(file))
    expect((await filesBelow(settings.directory)).filter((name) => name.startsWith('uploads/'))).toEqual([key])
  })
})

describe('a line that breaks at random', () => {
  it.each([1, 2, 3, 4])('brings every byte to its place (seed %i) [B16]', async (seed) => {
    const { server, expectStored, stored } = await stage()
    const proxy = await cuttingProxy(server.port, { seed, cutAfter: (random) => random.integer(20_000, 900_000) })
    const file = data(4 * MiB + seed, seed)
    const result = await uploadFile(fileOf(file), {
      endpoint: `http://127.0.0.1:${proxy.port}/upload`,
      chunkSize: 128 * KiB,
      ...fast,
      retries: 50,
    })
    await expectStored(result, file)
    expect(await stored()).toHaveLength(1)
    expect(proxy.cuts).toBeGreaterThan(3)
  })
})

describe('while the browser is offline', () => {
  it('nothing is sent after a failure, nothing is given up, and it goes on when the line is back', async () => {
    const navigator = { onLine: true }
    vi.stubGlobal('navigator', navigator)
    const events = new EventTarget()
    vi.stubGlobal('addEventListener', events.addEventListener.bind(events))
    try {
      let isDown = false
      const { to, front, expectStored } = await stage(
        {},
        {
          async intervene() {
            await pause(10)
            return isDown ? 'cut' : undefined
          },
        },
      )
      const file = data(30 * chunk)
      const upload = createUpload(fileOf(file), { ...to, retries: 2, parallel: 2 })
      const result = upload.start()
      await until(() => upload.progress.sentBytes > 4 * chunk)
      isDown = true
      navigator.onLine = false
      await until(() => upload.progress.state === 'waiting')
      // A chunk that got through at the last moment lets one more try.
      await pause(100)
      const before = front.exchanges.length
      await pause(300)
      expect([front.exchanges.length, upload.progress.state]).toEqual([before, 'waiting'])
      upload.pause()
      upload.resume()
      await pause(100)
      expect(front.exchanges.length).toBe(before)
      isDown = false
      navigator.onLine = true
      events.dispatchEvent(new Event('online'))
      await expectStored(await result, file)
    } finally {
      vi.unstubAllGlobals()
    }
  })
})
