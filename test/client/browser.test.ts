/** The client as a browser runs it: with XMLHttpRequest, without Node. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { UploadProgress } from '../../src/client/types.ts'
import { createUpload, createUploadGroup, uploadFile } from '../../src/client.ts'
import { data, fileOf, KiB, pause, slowLine, stage, until } from './support.ts'
import { NodeXhr } from './xhr.ts'

const chunk = 64 * KiB

describe('with XMLHttpRequest', () => {
  beforeEach(() => {
    NodeXhr.made.length = 0
    NodeXhr.delay = 0
    vi.stubGlobal('XMLHttpRequest', NodeXhr)
  })
  afterEach(() => vi.unstubAllGlobals())

  it('chunks go by it, the rest by fetch', async () => {
    const { to, front, expectStored } = await stage()
    const file = data(5 * chunk + 9)
    await expectStored(await uploadFile(fileOf(file), to), file)
    expect(NodeXhr.made.length).toBe(front.count('chunk'))
    expect(NodeXhr.made.some(({ wasAborted, withCredentials }) => wasAborted || withCredentials)).toBe(false)
  })

  it('so do the files of a group', async () => {
    const { to, stored } = await stage()
    const group = createUploadGroup(to)
    for (const name of ['a', 'b', 'c']) group.add(fileOf(data(chunk), name))
    await group.done()
    expect(await stored()).toHaveLength(3)
    expect(NodeXhr.made).toHaveLength(3)
  })

  it('bytes count while their chunk is under way', async () => {
    const { to } = await stage({}, slowLine)
    const seen: UploadProgress[] = []
    const upload = createUpload(fileOf(data(40 * 1024 * KiB)), {
      ...to,
      chunkSize: 5 * 1024 * KiB,
      onProgress: (progress) => seen.push(progress),
    })
    await upload.start()
    expect(
      seen.filter(({ sentBytes }) => sentBytes % chunk !== 0 || sentBytes % (5 * 1024 * KiB) !== 0).length,
    ).toBeGreaterThan(0)
    expect(seen.every(({ sentBytes, totalBytes }) => sentBytes <= totalBytes)).toBe(true)
  })

  it('what failed, by the network, by an answer or by silence, is sent again', async () => {
    const { to, front, expectStored } = await stage(
      {},
      {
        intervene: ({ route, before }) =>
          route === 'chunk'
            ? (['cut', { status: 503, headers: { 'Retry-After': '1' } }, 'hang', 'lose'] as const)[before]
            : undefined,
      },
    )
    const file = data(3 * chunk)
    const start = performance.now()
    await expectStored(await uploadFile(fileOf(file), { ...to, parallel: 1, stallTimeout: 300 }), file)
    expect(front.count('chunk')).toBe(3 + 4)
    expect(performance.now() - start).toBeGreaterThan(1250)
    expect(NodeXhr.made.filter(({ wasAborted }) => wasAborted)).toHaveLength(1)
  })

  it('a line that is only slow is not given up', async () => {
    const { to, front, expectStored } = await stage()
    NodeXhr.delay = 60
    const file = data(2 * chunk)
    await expectStored(await uploadFile(fileOf(file), { ...to, stallTimeout: 150 }), file)
    expect(front.count('chunk')).toBe(2)
  })

  it('pause and abort end what is under way', async () => {
    const { to, front } = await stage({}, { intervene: ({ route }) => (route === 'chunk' ? 'hang' : undefined) })
    const upload = createUpload(fileOf(data(10 * chunk)), to)
    upload.start().catch(() => {})
    await until(() => front.count('chunk') === 3)
    upload.pause()
    await pause(20)
    expect(NodeXhr.made.map(({ wasAborted }) => wasAborted)).toEqual([true, true, true])
    upload.resume()
    await until(() => front.count('chunk') === 6)
    await upload.abort()
    expect(NodeXhr.made.every(({ wasAborted }) => wasAborted)).toBe(true)
    expect(front.count('abort')).toBe(1)
  })

  it('cookies are sent across origins only on request, and left out by fetch', async () => {
    const { to } = await stage()
    await uploadFile(fileOf(data(10)), { ...to, credentials: 'include' })
    expect(NodeXhr.made.map(({ withCredentials }) => withCredentials)).toEqual([true])
    await uploadFile(fileOf(data(10)), { ...to, credentials: 'omit' })
    expect(NodeXhr.made).toHaveLength(1)
  })
})

describe('without XMLHttpRequest, in a worker', () => {
  it('everything goes by fetch', async () => {
    const { to, expectStored } = await stage()
    const file = data(3 * chunk + 1)
    await expectStored(await uploadFile(fileOf(file), to), file)
  })

  it('a path is refused', async () => {
    await expect(uploadFile('/etc/hostname', { endpoint: 'http://127.0.0.1:1' })).rejects.toThrow('in Node only')
  })

  it('a relative endpoint is that of the page', async () => {
    const { to, expectStored } = await stage()
    vi.stubGlobal('location', { href: to.endpoint.replace('/upload', '/some/page.html') })
    const { endpoint, ...rest } = to
    const file = data(10)
    await expectStored(await uploadFile(fileOf(file), rest), file)
    vi.unstubAllGlobals()
  })

  it('where there is no WebCrypto, as in pages without TLS, chunks have a CRC', async () => {
    const { to, front, expectStored } = await stage()
    vi.stubGlobal('crypto', { getRandomValues: crypto.getRandomValues.bind(crypto) })
    const file = data(2 * chunk)
    const { key, size } = await uploadFile(fileOf(file), to)
    vi.unstubAllGlobals()
    await expectStored({ url: '', uploadId: '', ...(key && { key }), ...(size && { size }) }, file)
    const sums = front.exchanges
      .filter(({ route }) => route === 'chunk')
      .map(({ url }) => url.searchParams.get('checksum'))
    expect(sums.every((sum) => sum?.startsWith('crc32c:'))).toBe(true)
  })
})
