/** Going on: after a reload, after a pause, and not after an abort. */
import { utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { openInBrowser } from '../../src/client/sources.ts'
import { sendByFetch } from '../../src/client/transport.ts'
import type { UploadOptions, UploadSource } from '../../src/client/types.ts'
import { createUpload as createBrowserUpload } from '../../src/client/upload.ts'
import { createUpload, uploadFile } from '../../src/client-node.ts'
import { tempFolder } from '../support/temp-folder.ts'
import { data, fileOf, KiB, pause, slowLine, stage, until } from './support.ts'

const chunk = 64 * KiB
const size = 40 * chunk

afterEach(() => vi.unstubAllGlobals())

/** Uploads until half of it has come to the front, as the client tells of bytes only now and then; then the page is closed. */
async function halfWay(source: UploadSource, options: UploadOptions, front: { readonly chunkBytes: number }) {
  const before = front.chunkBytes
  const closing = new AbortController()
  const upload = createUpload(source, { ...options, signal: closing.signal })
  const result = upload.start().catch((error) => error)
  await until(() => front.chunkBytes - before >= size / 2)
  closing.abort()
  expect(await result).toMatchObject({ name: 'AbortError' })
  expect(upload.progress.state).toBe('aborted')
  // What was under way at that moment still arrives at the front.
  await pause(60)
}

describe('after a reload half way', () => {
  it('the same file goes on, and less than a fifth is sent twice', async () => {
    const { to, front, expectStored, stored } = await stage({}, slowLine)
    const file = data(size)
    await halfWay(fileOf(file), to, front)
    const sent = front.chunkBytes
    expect(sent).toBeLessThan(0.8 * size)
    const upload = createUpload(fileOf(file), to)
    const first = new Promise<number>((resolve) => {
      upload.subscribe(({ totalBytes, sentBytes }) => totalBytes > 0 && sentBytes > 0 && resolve(sentBytes))
    })
    await expectStored(await upload.start(), file)
    expect(await first).toBeGreaterThanOrEqual(0.4 * size)
    expect(front.chunkBytes).toBeLessThan(1.2 * size)
    expect(await stored()).toHaveLength(1)
  })

  it('so does the same path, also for another process', async () => {
    const { to, front, expectStored } = await stage({}, slowLine)
    const file = data(size)
    const path = join(tempFolder(), 'film.mp4')
    await writeFile(path, file)
    await halfWay(path, to, front)
    await expectStored(await uploadFile(path, to), file)
    expect(front.chunkBytes).toBeLessThan(1.2 * size)
  })

  it('so do bytes with a resumeKey, in smaller chunks than were asked for', async () => {
    const { to, front, expectStored } = await stage({ maxChunkSize: 50_000 }, slowLine)
    const file = data(size)
    await halfWay(file, { ...to, resumeKey: 'a-long-random-key' }, front)
    await expectStored(await uploadFile(file, { ...to, resumeKey: 'a-long-random-key' }), file)
    expect(front.chunkBytes).toBeLessThan(1.2 * size)
  })

  it('a file that was edited and kept its size is a new upload', async () => {
    const file = data(size)
    const cases: [string, Buffer, number][] = [
      ['its time', data(size, 2), 1_700_000_001_000],
      ['its first bytes', Buffer.concat([Buffer.from('new'), file.subarray(3)]), 1_700_000_000_000],
      ['its last bytes', Buffer.concat([file.subarray(0, -3), Buffer.from('new')]), 1_700_000_000_000],
    ]
    for (const [what, edited, time] of cases) {
      const { to, front, expectStored } = await stage({}, slowLine)
      await halfWay(fileOf(file), to, front)
      const result = await uploadFile(fileOf(edited, 'film.mp4', time), to)
      await expectStored(result, edited)
      const own = front.exchanges.filter(({ url }) => url.searchParams.get('uploadId') === result.uploadId)
      expect(own.length, what).toBe(size / chunk)
    }
  })

  it('a path whose file was edited is a new upload', async () => {
    const { to, front, expectStored } = await stage({}, slowLine)
    const path = join(tempFolder(), 'film.mp4')
    await writeFile(path, data(size))
    await halfWay(path, to, front)
    const edited = data(size)
    edited.fill(1, 12 * chunk, 14 * chunk)
    await writeFile(path, edited)
    await utimes(path, 1_700_000_000, 1_700_000_000)
    await expectStored(await uploadFile(path, to), edited)
  })

  it.each([204, 404])(
    'a file whose chunks contradict what is there is a new upload (abort answers %i)',
    async (status) => {
      const { to, front, expectStored } = await stage(
        {},
        {
          intervene: ({ route, url }) => {
            if (route === 'abort') return { status }
            const isFirst = url.searchParams.get('uploadId') === front.exchanges[1]?.url.searchParams.get('uploadId')
            if (route !== 'chunk' || !isFirst || url.searchParams.get('chunkIndex') !== '2') return undefined
            return { status: 409, body: { code: 'CHUNK_CONFLICT', message: 'Other bytes.', retryable: false } }
          },
        },
      )
      const file = data(size)
      await expectStored(await uploadFile(fileOf(file), to), file)
      expect([front.count('init'), front.count('abort'), front.count('complete')]).toEqual([2, 1, 1])
    },
  )

  it('without a key, bytes and streams are new uploads', async () => {
    const { to, front, expectStored } = await stage({}, slowLine)
    const file = data(size)
    await halfWay(file, to, front)
    await expectStored(await uploadFile(file, to), file)
    expect(front.chunkBytes).toBeGreaterThan(1.4 * size)
    await halfWay(fileOf(file), { ...to, resumeKey: false }, front)
    const before = front.chunkBytes
    await expectStored(await uploadFile(fileOf(file), { ...to, resumeKey: false }), file)
    expect(front.chunkBytes - before).toBe(size)
  })
})

describe('the key of a file', () => {
  const platform = { send: sendByFetch, open: openInBrowser }

  async function keysOf(storages: object[]): Promise<unknown[]> {
    const keys: unknown[] = []
    for (const localStorage of storages) {
      vi.stubGlobal('localStorage', localStorage)
      const send: typeof sendByFetch = async ({ body }) => {
        keys.push(JSON.parse(body as string).resumeKey)
        return { status: 403, text: '', retryAfter: null }
      }
      await createBrowserUpload(fileOf(data(10)), { endpoint: 'http://a' }, { ...platform, send })
        .start()
        .catch(() => {})
    }
    return keys
  }
  const storage = (items = new Map<string, string>()) => ({
    getItem: (key: string) => items.get(key) ?? null,
    setItem: (key: string, value: string) => items.set(key, value),
  })

  it('is the same in one browser, another in another, and hard to guess', async () => {
    const mine = storage()
    const [a, b, c] = await keysOf([mine, mine, storage()])
    expect(a).toBe(b)
    expect(String(a).length).toBeGreaterThan(40)
    // The page's own word is kept when another browser's storage is empty; a real browser has one storage.
    expect(typeof c).toBe('string')
    const other = storage(new Map([['nexus-uploader', 'somebody else']]))
    expect((await keysOf([other]))[0]).not.toBe(a)
  })

  it('lasts as long as the page where storage is forbidden', async () => {
    const forbidden = {
      getItem() {
        throw new Error('SecurityError')
      },
    }
    const [a, b] = await keysOf([forbidden, forbidden])
    expect(a).toBe(b)
    expect(String(a).length).toBeGreaterThan(40)
  })
})

describe('pause', () => {
  it('stops at once, and resume sends what is left', async () => {
    const { to, front, expectStored } = await stage({}, slowLine)
    const file = data(size)
    const upload = createUpload(fileOf(file), to)
    const result = upload.start()
    for (const share of [0.2, 0.5, 0.8]) {
      await until(() => front.chunkBytes >= share * size)
      upload.pause()
      expect(upload.progress.state).toBe('paused')
      await pause(50)
      const { length } = front.exchanges
      await pause(100)
      expect(front.exchanges.length).toBe(length)
      upload.resume()
      upload.resume()
    }
    await expectStored(await result, file)
    expect(front.count('init')).toBe(1)
    expect(front.chunkBytes).toBeLessThan(1.5 * size)
  })

  it('and resume in one breath, in every phase, do no harm', async () => {
    const { to, expectStored, stored, front } = await stage()
    const file = data(size)
    const upload = createUpload(Readable.from(cut(file), { objectMode: false }), { ...to, size })
    const result = upload.start()
    for (let times = 0; times < 60 && upload.progress.state !== 'completed'; times++) {
      upload.pause()
      await new Promise((resolve) => setTimeout(resolve, times % 4))
      upload.resume()
      await new Promise((resolve) => setTimeout(resolve, times % 7))
    }
    await expectStored(await result, file)
    expect(await stored()).toHaveLength(1)
    expect(front.count('init')).toBe(1)
  })

  it('does not wait for a stream that brings nothing', async () => {
    const { to, expectStored } = await stage()
    const file = data(2 * chunk)
    let go = () => {}
    const gate = new Promise<void>((resolve) => {
      go = resolve
    })
    async function* slow() {
      yield file.subarray(0, chunk + 5)
      await gate
      yield file.subarray(chunk + 5)
    }
    const upload = createUpload({ [Symbol.asyncIterator]: slow }, { ...to, size: file.length })
    const result = upload.start()
    await until(() => upload.progress.sentBytes === chunk)
    upload.pause()
    upload.resume()
    go()
    await expectStored(await result, file)
  })

  it('and abort come to an end while a stream brings nothing', async () => {
    const { to, front } = await stage()
    const stuck = { [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => {}) }) }
    const upload = createUpload(stuck, { ...to, size })
    upload.start().catch(() => {})
    await until(() => upload.progress.totalBytes === size && front.exchanges.at(-1)?.status === 200)
    upload.pause()
    upload.resume()
    await pause(20)
    await Promise.race([upload.abort(), pause(2000).then(() => Promise.reject(new Error('it waits')))])
    expect(front.exchanges.at(-1)).toMatchObject({ route: 'abort', status: 204 })
  })
})

function cut(file: Buffer): Buffer[] {
  return Array.from({ length: Math.ceil(file.length / 9999) }, (_, i) => file.subarray(i * 9999, (i + 1) * 9999))
}

describe('abort', () => {
  it('removes on the server what has arrived, and rejects start', async () => {
    const { to, front, server, stored } = await stage({}, slowLine)
    const upload = createUpload(fileOf(data(size)), to)
    const result = upload.start().catch((error) => error)
    await until(() => front.chunkBytes >= size / 2)
    await upload.abort()
    expect(await result).toMatchObject({ name: 'UploadError', code: 'ABORTED' })
    expect(upload.progress.state).toBe('aborted')
    const id = front.exchanges.at(-1)?.url.pathname.split('/').at(-1)
    expect(front.exchanges.at(-1)).toMatchObject({ route: 'abort', status: 204 })
    expect((await fetch(`${server.url}/upload/progress/${id}`)).status).toBe(410)
    expect(await stored()).toEqual([])
  })

  it('and start in one breath is a new upload', async () => {
    const { to, front, expectStored } = await stage(
      {},
      {
        intervene: async ({ route }) => {
          await pause(route === 'abort' ? 100 : 5)
          return undefined
        },
      },
    )
    const file = data(size)
    const upload = createUpload(fileOf(file), to)
    upload.start().catch(() => {})
    await until(() => front.chunkBytes >= size / 2)
    const aborted = upload.abort()
    await expectStored(await upload.start(), file)
    await aborted
    expect([front.count('init'), front.count('abort')]).toEqual([2, 1])
  })

  it('while init is under way leaves nothing behind either', async () => {
    const { to, front } = await stage(
      {},
      {
        intervene: async ({ route }) => {
          if (route === 'init') await new Promise((resolve) => setTimeout(resolve, 100))
          return undefined
        },
      },
    )
    const upload = createUpload(fileOf(data(size)), to)
    const result = upload.start().catch((error) => error)
    await until(() => front.count('init') === 1)
    await upload.abort()
    expect(await result).toMatchObject({ code: 'ABORTED' })
    expect(front.exchanges.map(({ route, status }) => [route, status])).toEqual([
      ['init', 200],
      ['abort', 204],
    ])
  })

  it('is tried again when it fails, and is no error when the upload has gone', async () => {
    const { to, front } = await stage(
      {},
      {
        intervene: ({ route, before }) =>
          route === 'abort' ? (['cut', { status: 503 }, { status: 404 }] as const)[before] : undefined,
      },
    )
    const upload = createUpload(fileOf(data(size)), to)
    upload.start().catch(() => {})
    await until(() => upload.progress.sentBytes > 0)
    await upload.abort()
    expect(front.count('abort')).toBe(3)
  })

  it('comes too late for a file that is stored, and says so', async () => {
    const { to, expectStored } = await stage()
    const file = data(chunk)
    const upload = createUpload(fileOf(file), to)
    const result = await upload.start()
    await expect(upload.abort()).rejects.toMatchObject({ status: 409, code: 'UPLOAD_CLOSED' })
    expect(upload.progress.state).toBe('completed')
    await expectStored(result, file)
  })

  it('before start needs no server, and start can follow', async () => {
    const { to, front, expectStored } = await stage()
    const file = data(chunk)
    const upload = createUpload(fileOf(file), to)
    await upload.abort()
    expect([front.exchanges.length, upload.progress.state]).toEqual([0, 'aborted'])
    await expectStored(await upload.start(), file)
  })
})

describe('an AbortSignal', () => {
  it('that is aborted already keeps everything from beginning', async () => {
    const { to, front } = await stage()
    const reason = new Error('not now')
    await expect(uploadFile(fileOf(data(10)), { ...to, signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    expect(front.exchanges).toEqual([])
  })

  it('ends also a long wait, at once', async () => {
    const { to, front } = await stage(
      {},
      { intervene: ({ route }) => (route === 'chunk' ? { status: 503, headers: { 'Retry-After': '60' } } : undefined) },
    )
    const leaving = new AbortController()
    const upload = createUpload(fileOf(data(size)), { ...to, signal: leaving.signal })
    const result = upload.start().catch((error) => error)
    await until(() => upload.progress.state === 'waiting')
    const start = performance.now()
    leaving.abort(new Error('the user left'))
    expect(await result).toMatchObject({ message: 'the user left' })
    expect(performance.now() - start).toBeLessThan(500)
    expect(front.count('chunk')).toBe(3)
  })
})
