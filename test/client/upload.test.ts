/** What arrives, from which sources, and in which form. */
import { appendFile, rename, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import type { UploadProgress, UploadSource } from '../../src/client/types.ts'
import { createUpload, createUploadGroup, uploadFile } from '../../src/client-node.ts'
import { tempFolder } from '../support/temp-folder.ts'
import { data, fileOf, KiB, MiB, slowLine, stage, until } from './support.ts'

const chunk = 64 * KiB

describe('a file arrives whole', () => {
  it.each([0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 20 * chunk + 7])('with %i bytes', async (size) => {
    const { to, front, expectStored } = await stage()
    const file = data(size)
    const result = await uploadFile(fileOf(file), to)
    await expectStored(result, file)
    expect(front.count('chunk')).toBe(Math.ceil(size / chunk))
    expect(front.chunkBytes).toBe(size)
    expect(result.url).toContain('film.mp4')
  })

  it('in chunks of the default size, which the documented server takes at once', async () => {
    const { to, front, expectStored } = await stage({ maxChunkSize: 2 * MiB })
    const { chunkSize, ...rest } = to
    const file = data(5 * MiB)
    await expectStored(await uploadFile(fileOf(file), rest), file)
    expect([front.count('init'), front.count('chunk')]).toEqual([1, 3])
  })

  it.each([true, false])(
    'in smaller chunks where the server takes no larger ones (error handler: %s)',
    async (errorHandler) => {
      const { to, front, expectStored } = await stage({ maxChunkSize: 50_000, errorHandler })
      const file = data(220_000)
      await expectStored(await uploadFile(fileOf(file), to), file)
      expect([front.count('init'), front.count('chunk')]).toEqual([2, 5])
    },
  )

  it('in smaller chunks where a proxy takes no larger ones', async () => {
    const { to, front, expectStored } = await stage(
      {},
      {
        intervene: ({ route, headers }) =>
          route === 'chunk' && Number(headers['content-length']) > 150 * KiB
            ? { status: 413, body: '<h1>Too large</h1>' }
            : undefined,
      },
    )
    const file = data(1 * MiB)
    await expectStored(await uploadFile(fileOf(file), { ...to, chunkSize: 512 * KiB }), file)
    expect(front.count('abort')).toBe(2)
  })

  it('as a form, with everything the server has to know', async () => {
    const { to, front, expectStored } = await stage()
    const file = data(200_000)
    await expectStored(await uploadFile(fileOf(file), { ...to, chunkFormat: 'form' }), file)
    expect(front.exchanges.find(({ route }) => route === 'chunk')?.headers['content-type']).toContain(
      'multipart/form-data',
    )
    expect(front.exchanges.find(({ route }) => route === 'chunk')?.url.search).toBe('')
  })

  it('without a chunk of it being held by more than a Content-Length', async () => {
    const { to, front } = await stage()
    await uploadFile(fileOf(data(chunk)), to)
    expect(front.exchanges.find(({ route }) => route === 'chunk')?.headers).toMatchObject({
      'content-length': String(chunk),
      'content-type': 'application/octet-stream',
    })
  })
})

describe('the source', () => {
  const size = 5 * chunk + 100
  const file = data(size)
  const half = Math.floor(size / 2)

  async function* pieces() {
    for (let at = 0; at < size; at += 10_007) yield file.subarray(at, at + 10_007)
  }
  const sources: [string, () => UploadSource, object?][] = [
    ['a File', () => fileOf(file)],
    ['a Blob', () => new Blob([new Uint8Array(file)])],
    ['an ArrayBuffer', () => new Uint8Array(file).buffer],
    ['a Buffer', () => file],
    ['a view of a larger buffer', () => new Uint8Array(new Uint8Array([...data(9), ...file]).buffer, 9)],
    ['a Node stream', () => Readable.from(pieces(), { objectMode: false }), { size }],
    ['a ReadableStream', () => new Blob([new Uint8Array(file)]).stream() as never, { size }],
    ['an async iterable', () => ({ [Symbol.asyncIterator]: pieces }), { size }],
  ]

  it.each(sources)('may be %s', async (_name, source, more) => {
    const { to, expectStored } = await stage()
    await expectStored(await uploadFile(source(), { ...to, ...more }), file)
  })

  it('may be the path of a file', async () => {
    const { to, expectStored } = await stage()
    const path = join(tempFolder(), 'a file.bin')
    await writeFile(path, file)
    const result = await uploadFile(path, to)
    await expectStored(result, file)
    expect(result.key).toMatch(/-a file\.bin$|-a_file\.bin$/)
  })

  it('may be a stream whose chunks have to be sent again', async () => {
    const { to, front, expectStored } = await stage(
      {},
      {
        intervene: ({ route, before }) => (route === 'chunk' && before % 2 === 0 ? 'cut' : undefined),
      },
    )
    const result = await uploadFile(Readable.from(pieces(), { objectMode: false }), { ...to, size })
    await expectStored(result, file)
    expect(front.count('chunk')).toBeGreaterThan(6)
  })

  it('is never read further ahead than chunks can be under way, however many fail', async () => {
    const { to } = await stage(
      {},
      {
        intervene: ({ route, before }) => (route === 'chunk' && before % 3 > 0 ? 'cut' : undefined),
      },
    )
    let read = 0
    let most = 0
    async function* counted() {
      for (let at = 0; at < 60 * chunk; at += chunk / 4) {
        read += chunk / 4
        most = Math.max(most, read - sent)
        yield data(chunk / 4)
      }
    }
    let sent = 0
    const onProgress = ({ sentBytes }: UploadProgress) => {
      sent = sentBytes
    }
    const upload = createUpload({ [Symbol.asyncIterator]: counted }, { ...to, size: 60 * chunk, onProgress })
    const ticking = setInterval(() => {
      sent = Math.max(sent, upload.progress.sentBytes)
    }, 1)
    await upload.start()
    clearInterval(ticking)
    // Progress is told with a delay of 100 ms; what is read ahead by then has been sent.
    expect(most).toBeLessThan(30 * chunk)
  })

  it.each([
    ['ends early', size + 1, /ended at byte/],
    ['goes on', half, /goes on after byte/],
  ])('fails when a stream %s, and nothing is stored', async (_name, told, message) => {
    const { to, stored } = await stage()
    const upload = uploadFile(Readable.from(pieces(), { objectMode: false }), { ...to, size: told })
    await expect(upload).rejects.toThrow(message)
    expect(await stored()).toEqual([])
  })

  it('fails when a file is changed while it is uploaded, and nothing is stored', async () => {
    const path = join(tempFolder(), 'log.txt')
    await writeFile(path, file)
    const { to, stored } = await stage(
      {},
      {
        intervene: async ({ route, before }) => {
          if (route === 'chunk' && before === 2) await writeFile(path, data(size, 2))
          return undefined
        },
      },
    )
    const failure = await uploadFile(path, { ...to, parallel: 1 }).catch((error) => error)
    expect(failure).toMatchObject({ name: 'UploadError', code: 'SOURCE_UNREADABLE', retryable: false })
    expect(await stored()).toEqual([])
  })

  it('fails when another file of the same time and size has its path after a failure', async () => {
    const path = join(tempFolder(), 'build.bin')
    const put = async (bytes: Buffer) => {
      await writeFile(`${path}.new`, bytes)
      await utimes(`${path}.new`, 1_700_000_000, 1_700_000_000)
      await rename(`${path}.new`, path)
    }
    let refuses = true
    const { to, stored } = await stage(
      {},
      {
        intervene: ({ route, before }) =>
          refuses && route === 'chunk' && before === 2 ? { status: 403, body: {} } : undefined,
      },
    )
    await put(file)
    const upload = createUpload(path, { ...to, parallel: 1 })
    await expect(upload.start()).rejects.toMatchObject({ status: 403 })
    refuses = false
    await put(data(size, 2))
    await expect(upload.start()).rejects.toMatchObject({ code: 'SOURCE_UNREADABLE' })
    expect(await stored()).toEqual([])
  })

  it('must be one, and a stream must have a size', async () => {
    await expect(uploadFile({} as never, { endpoint: 'http://127.0.0.1:1' })).rejects.toThrow(TypeError)
    await expect(uploadFile(Readable.from([]), { endpoint: 'http://127.0.0.1:1' })).rejects.toThrow('size')
    await expect(uploadFile('/no/such/file', { endpoint: 'http://127.0.0.1:1' })).rejects.toThrow('ENOENT')
    expect(() => createUpload(file, { endpoint: '/upload' })).toThrow('Invalid URL')
    expect(() => createUpload(file, { endpoint: 'http://127.0.0.1:1', chunkSize: 0 })).toThrow('chunkSize')
  })

  it('needs no more memory than the chunks under way', async () => {
    const { to, front } = await stage()
    const path = join(tempFolder(), 'large.bin')
    for (let part = 0; part < 24; part++) await appendFile(path, data(8 * MiB, part))
    const { arrayBuffers } = process.memoryUsage()
    let most = 0
    const timer = setInterval(() => {
      most = Math.max(most, process.memoryUsage().arrayBuffers - arrayBuffers)
    }, 2)
    await uploadFile(path, { ...to, chunkSize: 2 * MiB })
    clearInterval(timer)
    expect(front.chunkBytes).toBe(192 * MiB)
    expect(most).toBeLessThan(96 * MiB)
  })
})

describe('the checksum of a chunk', () => {
  const file = data(3 * chunk + 5)

  it.each([
    ['sha256', undefined],
    ['sha256', 'sha256'],
    ['crc32c', 'crc32c'],
  ] as const)('is a %s, and right, when asked for %s', async (algorithm, checksum) => {
    const { to, front, expectStored } = await stage()
    await expectStored(await uploadFile(fileOf(file), { ...to, ...(checksum && { checksum }) }), file)
    const sums = front.exchanges
      .filter(({ route }) => route === 'chunk')
      .map(({ url }) => url.searchParams.get('checksum'))
    expect(sums.filter((sum) => sum?.startsWith(`${algorithm}:`))).toHaveLength(4)
  })

  it('is left out on request', async () => {
    const { to, front, expectStored } = await stage()
    await expectStored(await uploadFile(fileOf(file), { ...to, checksum: false }), file)
    expect(front.exchanges.some(({ url }) => url.searchParams.has('checksum'))).toBe(false)
  })

  it('of the whole file is verified by the server', async () => {
    const { to, stored } = await stage()
    const digest = await crypto.subtle.digest('SHA-256', new Uint8Array(file))
    const fileChecksum = `sha256:${Buffer.from(digest).toString('base64')}`
    expect(await uploadFile(fileOf(file), { ...to, fileChecksum })).toMatchObject({ checksum: fileChecksum })
    const wrong = uploadFile(fileOf(data(3 * chunk + 5, 2)), { ...to, fileChecksum })
    await expect(wrong).rejects.toMatchObject({ status: 422, code: 'CHECKSUM_MISMATCH' })
    expect(await stored()).toHaveLength(1)
  })
})

describe('the progress', () => {
  it('goes from nothing to the whole file, in the states there are', async () => {
    const { to } = await stage()
    const seen: UploadProgress[] = []
    const file = data(20 * chunk)
    const upload = createUpload(fileOf(file), { ...to, onProgress: (progress) => seen.push(progress) })
    expect(upload.progress).toMatchObject({ state: 'idle', sentBytes: 0 })
    const { url } = await upload.start()
    expect([...new Set(seen.map(({ state }) => state))]).toEqual(['uploading', 'completing', 'completed'])
    expect(seen.every(({ sentBytes, totalBytes }) => sentBytes <= totalBytes)).toBe(true)
    expect(upload.progress).toEqual({
      state: 'completed',
      sentBytes: file.length,
      totalBytes: file.length,
      speed: 0,
      secondsLeft: null,
      url,
      error: null,
    })
    expect(upload.start()).toBe(upload.start())
  })

  it('tells speed and time left while chunks are under way, and no more often than ten times a second', async () => {
    const { to } = await stage({
      hooks: { authorize: () => new Promise((resolve) => setTimeout(() => resolve(true), 100)) },
    })
    const seen: UploadProgress[] = []
    const start = performance.now()
    await uploadFile(fileOf(data(40 * chunk)), { ...to, parallel: 3, onProgress: (progress) => seen.push(progress) })
    const seconds = (performance.now() - start) / 1000
    const last = seen.filter(({ speed }) => speed > 0).at(-1)
    const real = (40 * chunk) / seconds
    expect(last?.speed).toBeGreaterThan(real / 3)
    expect(last?.speed).toBeLessThan(real * 3)
    expect(last?.secondsLeft).toBeLessThan(seconds)
    expect(seen.length).toBeLessThan(seconds * 10 + 8)
  })

  it('survives a listener that throws', async () => {
    const { to } = await stage()
    const others = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    const thrown = new Promise((resolve) => process.once('uncaughtException', resolve))
    const upload = createUpload(fileOf(data(10)), to)
    const end = upload.subscribe(() => {
      throw new Error('a mistake of the page')
    })
    const result = upload.start()
    end()
    await expect(result).resolves.toHaveProperty('url')
    expect(await thrown).toMatchObject({ message: 'a mistake of the page' })
    for (const listener of others) process.on('uncaughtException', listener)
  })
})

describe('a group', () => {
  it('uploads many files, a few at a time, and adds up', async () => {
    const { to, expectStored, stored } = await stage()
    const files = Array.from({ length: 6 }, (_, i) => data(3 * chunk + i, i))
    let most = 0
    const group = createUploadGroup({
      ...to,
      parallelFiles: 2,
      onProgress() {
        const busy = group?.uploads.filter(({ progress }) => /uploading|completing|waiting/.test(progress.state)) ?? []
        most = Math.max(most, busy.length)
      },
    })
    const uploads = files.map((file, i) => group.add(fileOf(file, `${i}.bin`)))
    expect(uploads.map(({ progress }) => progress.state)).toEqual([
      'uploading',
      'uploading',
      'idle',
      'idle',
      'idle',
      'idle',
    ])
    expect(await group.done()).toEqual(uploads)
    expect(most).toBe(2)
    const total = files.reduce((sum, file) => sum + file.length, 0)
    expect(group.progress).toMatchObject({ sentBytes: total, totalBytes: total, files: 6, completed: 6, failed: 0 })
    expect(await stored()).toHaveLength(6)
    for (const [i, upload] of uploads.entries()) await expectStored(await upload.start(), files[i] as Buffer)
  })

  it('goes on when one of them fails, pauses, resumes and aborts', async () => {
    const { to, stored } = await stage({ maxFileSize: 60 * chunk }, slowLine)
    const group = createUploadGroup({ ...to, parallelFiles: 1 })
    group.pause()
    const tooLarge = group.add(fileOf(data(61 * chunk)))
    const good = group.add(fileOf(data(chunk)))
    expect(group.uploads.map(({ progress }) => progress.state)).toEqual(['idle', 'idle'])
    group.resume()
    await group.done()
    expect([tooLarge.progress.state, good.progress.state]).toEqual(['failed', 'completed'])
    expect(tooLarge.progress.error).toMatchObject({ code: 'FILE_SIZE_EXCEEDED' })
    const left = group.add(fileOf(data(59 * chunk)))
    left.start().catch(() => {})
    await until(() => left.progress.sentBytes > 0)
    group.pause()
    expect(left.progress.state).toBe('paused')
    await group.abort()
    expect(left.progress.state).toBe('aborted')
    expect(group.progress).toMatchObject({ files: 3, completed: 1 })
    expect(await stored()).toHaveLength(1)
  })
})
