/** Headers, endpoints, and how many requests at a time. */
import { describe, expect, it } from 'vitest'
import { uploadFile } from '../../src/client-node.ts'
import { StorageUnavailableError } from '../../src/index.ts'
import { data, fast, fileOf, KiB, pause, stage } from './support.ts'

const chunk = 64 * KiB
const file = data(10 * chunk)

describe('headers', () => {
  it('go with every request', async () => {
    const { to, front, expectStored } = await stage()
    await expectStored(await uploadFile(fileOf(file), { ...to, headers: { 'X-Csrf': 'abc' } }), file)
    expect(front.exchanges.length).toBe(12)
    expect(front.exchanges.every(({ headers }) => headers['x-csrf'] === 'abc')).toBe(true)
  })

  it('from a function are asked for anew when they have run out, once for all chunks', async () => {
    let valid = 'old'
    const { to, front, expectStored } = await stage(
      {},
      {
        intervene: async ({ headers, route, before }) => {
          if (route === 'chunk' && before === 3) valid = 'new'
          if (route === 'chunk') await pause(20)
          return headers.authorization === `Bearer ${valid}` ? undefined : { status: 401, body: 'Who are you?' }
        },
      },
    )
    let token = 'old'
    let refreshed = 0
    const headers = async ({ refused }: { refused: boolean }) => {
      if (refused) {
        refreshed += 1
        await pause(30)
        token = valid
      }
      return { Authorization: `Bearer ${token}` }
    }
    await expectStored(await uploadFile(fileOf(file), { ...to, headers }), file)
    expect(refreshed).toBe(1)
    expect(front.exchanges.filter(({ status }) => status === 401).length).toBeLessThanOrEqual(6)
  })

  it('that are refused again are the end', async () => {
    const { to, front } = await stage(
      {},
      { intervene: () => ({ status: 401, body: { code: 'WHO', message: 'Sign in.' } }) },
    )
    const failure = uploadFile(fileOf(file), { ...to, headers: () => ({ Authorization: 'no' }) })
    await expect(failure).rejects.toMatchObject({ status: 401, code: 'WHO', message: 'Sign in.' })
    expect(front.exchanges).toHaveLength(2)
    await expect(uploadFile(fileOf(file), { ...to, headers: { Authorization: 'no' } })).rejects.toMatchObject({
      status: 401,
    })
    expect(front.exchanges).toHaveLength(3)
  })

  it('that cannot be had are told as they are', async () => {
    const { to } = await stage()
    const reason = new Error('the login window was closed')
    await expect(uploadFile(fileOf(file), { ...to, headers: () => Promise.reject(reason) })).rejects.toBe(reason)
  })
})

describe('endpoints', () => {
  it('may be elsewhere, one by one, with queries of their own', async () => {
    const { to, front, expectStored } = await stage()
    const { endpoint, ...rest } = to
    const endpoints = {
      init: `${endpoint}/init?tenant=7`,
      chunk: `${endpoint}/chunk?tenant=7`,
      complete: `${endpoint}/complete?tenant=7`,
      progress: `${endpoint}/progress/:uploadId?tenant=7`,
      abort: `${endpoint}/:uploadId?tenant=7`,
    }
    await expectStored(await uploadFile(fileOf(file), { ...rest, endpoint: 'http://127.0.0.1:1', endpoints }), file)
    expect(front.exchanges.every(({ url }) => url.searchParams.get('tenant') === '7')).toBe(true)
  })
})

describe('chunks at a time', () => {
  it('become more while that makes the upload faster, up to the limit', async () => {
    const { to, front } = await stage(
      {},
      {
        intervene: async ({ route }) => {
          if (route === 'chunk') await pause(60)
          return undefined
        },
      },
    )
    await uploadFile(data(120 * 4 * KiB), { ...to, chunkSize: 4 * KiB, parallel: 5 })
    expect(front.mostChunks).toBe(5)
  })

  it('stay few where the line takes them one after the other', async () => {
    let line = Promise.resolve()
    const { to, front } = await stage(
      {},
      {
        intervene: async ({ route }) => {
          if (route !== 'chunk') return undefined
          line = line.then(() => pause(15))
          await line
          return undefined
        },
      },
    )
    await uploadFile(data(100 * 4 * KiB), { ...to, chunkSize: 4 * KiB, parallel: 10 })
    expect(front.mostChunks).toBeLessThanOrEqual(7)
  })

  it('become fewer when the server is busy, and nothing is lost by that', async () => {
    let underWay = 0
    const { to, front, expectStored } = await stage({
      hooks: {
        async authorize(action) {
          if (action !== 'write') return
          underWay += 1
          await pause(30)
          underWay -= 1
          if (underWay >= 2) throw new StorageUnavailableError('Too many at a time.')
        },
      },
    })
    await expectStored(await uploadFile(fileOf(file), { ...to, parallel: 6, retryDelay: 5 }), file)
    const refused = front.exchanges.filter(({ status }) => status === 503)
    expect(refused.length).toBeGreaterThan(0)
    expect(front.count('chunk')).toBeLessThan(40)
  }, 90_000)

  it('are one on request, in their order', async () => {
    const { to, front } = await stage()
    await uploadFile(fileOf(file), { ...to, ...fast, parallel: 1 })
    expect(front.mostChunks).toBe(1)
    const indexes = front.exchanges
      .filter(({ route }) => route === 'chunk')
      .map(({ url }) => Number(url.searchParams.get('chunkIndex')))
    expect(indexes).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  })
})
