/** Private pieces in S3: what every staging does, and what only S3 has to mind. */
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { afterEach, beforeEach, describe, expect, it, test } from 'vitest'
import { testStaging } from '../../src/testing/storage-conformance-staging.ts'
import type { FixtureTest } from '../../src/testing/storage-conformance-support.ts'
import { bytes } from '../support/random.ts'
import type { DoubleBucket, DoubleObject } from '../support/s3-bucket.ts'
import { failureOf, objectInfo, S3Fixture } from '../support/s3-fixture.ts'
import { doubleTarget } from '../support/s3-target.ts'

let fixture: S3Fixture

afterEach(() => fixture.close())

describe('S3 as a staging', () => {
  beforeEach(async () => {
    fixture = await S3Fixture.start()
  })

  const check: FixtureTest = (name, run) => {
    test(name, () =>
      run({ adapter: fixture.storage, read: async (key) => ((await fixture.exists(key)) ? fixture.read(key) : null) }),
    )
  }
  testStaging(check)
})

describe('S3 as a staging, and its ways', () => {
  beforeEach(async () => {
    fixture = await S3Fixture.start(await doubleTarget())
  })

  const keysOf = async (prefix = '', storage = fixture.storage) => {
    const keys: string[] = []
    for await (const { key } of storage.staging.list(prefix)) keys.push(key)
    return keys
  }

  it('lies under a prefix of its own, private, where no file may be', async () => {
    const storage = fixture.adapter({ prefix: 'app', acl: 'public-read', stagingPrefix: 'on their way' })
    await storage.staging.put('id/a', await fixture.part(bytes(10)))
    const [request] = fixture.double.log('PutObject')
    expect(request?.key).toBe('app/on their way/id/a')
    expect(request?.headers['x-amz-acl']).toBeUndefined()
    expect(await keysOf('', storage)).toEqual(['id/a'])
    await fixture.storage.staging.put('id/b', await fixture.part(bytes(10)))
    expect(fixture.double.log('PutObject')[1]?.key).toBe('.nexus-staging/id/b')
    await failureOf(storage.upload('on their way/id/a', Readable.from([]), 'a/b'))
    await failureOf(storage.multipart.create('on their way/id/a', objectInfo()))
    expect(fixture.double.requests.filter(({ op }) => op === 'PutObject')).toHaveLength(2)
  })

  it('lists page by page, and removes a thousand at a time', async () => {
    await fixture.storage.staging.put('id/0000', await fixture.part(bytes(1)))
    const { objects } = fixture.double.buckets.get(fixture.bucket) as DoubleBucket
    const [first] = objects.values()
    const keys = Array.from({ length: 1203 }, (_, n) => `id/${String(n).padStart(4, '0')}`)
    for (const name of keys) {
      const key = `.nexus-staging/${name}`
      objects.set(key, { ...(first as DoubleObject), key })
    }
    fixture.double.pageSize = 100
    expect(await keysOf()).toEqual(keys)
    expect(fixture.double.log('ListObjectsV2')).toHaveLength(13)
    await fixture.storage.staging.remove(keys.slice(0, 1201))
    expect(await keysOf()).toEqual(keys.slice(1201))
    expect(fixture.double.log('DeleteObjects')).toHaveLength(2)
  })

  it('removes one by one where a server will not delete many', async () => {
    for (const key of ['a', 'b', 'c']) await fixture.storage.staging.put(`id/${key}`, await fixture.part(bytes(1)))
    fixture.double.fail('DeleteObjects', { status: 'NotImplemented' })
    await fixture.storage.staging.remove(['id/a', 'id/b'])
    expect(await keysOf()).toEqual(['id/c'])
    fixture.double.fail('DeleteObject', { status: 'AccessDenied' })
    await failureOf(fixture.storage.staging.remove(['id/c']))
  })

  it.each(['reset', 'SlowDown', 'lost-response'] as const)(
    'a %s while a piece is stored is repeated',
    async (status) => {
      fixture.double.fail('PutObject', { status, times: 2 })
      const content = bytes(300_000)
      await fixture.storage.staging.put('id/a', await fixture.part(content))
      fixture.double.fail('GetObject', { status: status === 'lost-response' ? 'reset' : status, times: 2 })
      expect(await buffer(await fixture.storage.staging.open('id/a'))).toEqual(content)
    },
  )

  it('a server that hangs is given up', async () => {
    const storage = fixture.adapter({ attemptTimeout: 100, maxAttempts: 1 })
    fixture.double.fail('GetObject', { status: 'hang' })
    expect(await failureOf(storage.staging.open('id/a'))).toMatchObject({ status: 504 })
    const body = await fixture.part(bytes(10))
    fixture.double.fail('PutObject', { status: 'hang' })
    const short = AbortSignal.timeout(100)
    await failureOf(storage.staging.put('id/a', body, short))
  })

  it('a reader that stops early gives its connection back', async () => {
    await fixture.storage.staging.put('id/a', await fixture.part(bytes(3_000_000)))
    const storage = fixture.adapter({ maxSockets: 2 })
    for (let i = 0; i < 10; i++) {
      const stream = await storage.staging.open('id/a')
      for await (const data of stream) {
        expect(data.length).toBeGreaterThan(0)
        break
      }
    }
    expect((await buffer(await storage.staging.open('id/a'))).length).toBe(3_000_000)
  })
})
