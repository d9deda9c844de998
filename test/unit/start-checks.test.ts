/** What is looked at once when the server starts, and told by a process warning. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { checkRedis } from '../../src/sessions/redis-checks.ts'
import { S3Fixture } from '../support/s3-fixture.ts'

const warnings: string[] = []
const listener = (warning: Error & { code?: string }) => {
  // The SDK has news of its own.
  if (warning.code?.startsWith('NEXUS_')) warnings.push(`${warning.code} ${warning.message}`)
}

beforeEach(() => {
  warnings.length = 0
  process.on('warning', listener)
})

afterEach(() => {
  process.off('warning', listener)
})

const soon = () => new Promise((resolve) => setTimeout(resolve, 50))
const minutes =
  '<AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload>'

it.each([
  ['no rules', null, 1],
  ['a rule for something else', '<Rule><Status>Enabled</Status><Expiration><Days>9</Days></Expiration></Rule>', 1],
  ['a rule that is switched off', `<Rule><Status>Disabled</Status>${minutes}</Rule>`, 1],
  ['the rule', `<Rule><Status>Enabled</Status>${minutes}</Rule>`, 0],
  ['a server that does not tell', 'AccessDenied', 0],
] as const)('a bucket with %s', async (_, lifecycle, count) => {
  const fixture = await S3Fixture.start()
  try {
    if (lifecycle === 'AccessDenied') fixture.double.fail('GetBucketLifecycleConfiguration', { status: lifecycle })
    else fixture.double.lifecycle = lifecycle
    const info = { size: 1, fileName: 'a', mimeType: 'a/b', uploadId: 'u', metadata: {} }
    for (const key of ['a', 'b']) await fixture.storage.multipart.create(key, info)
    await vi.waitFor(() => expect(fixture.double.log('GetBucketLifecycleConfiguration')[0]?.status).toBeDefined())
    await soon()
    expect(fixture.double.log('GetBucketLifecycleConfiguration')).toHaveLength(1)
    expect(warnings.map((warning) => warning.split(' ')[0])).toEqual(count ? ['NEXUS_S3_LIFECYCLE'] : [])
  } finally {
    await fixture.close()
  }
})

// A Redis with a wrong clock cannot be had without changing the machine's.
it.each([
  [60_000, /behind/],
  [-60_000, /60 s ahead of/],
  [3_000, null],
  [0, null],
])('a Redis whose clock is %i ms ahead', async (ahead, text) => {
  const connection = {
    send: async ([command]: string[]) => {
      if (command !== 'TIME') throw new Error('NOPERM')
      const time = Date.now() + ahead
      return [String(Math.floor(time / 1000)), String((time % 1000) * 1000)]
    },
  }
  const client = {} as never
  await checkRedis(client, connection as never, 'key')
  await checkRedis(client, connection as never, 'key')
  await soon()
  if (text === null) return expect(warnings).toEqual([])
  expect(warnings).toEqual([expect.stringMatching(/^NEXUS_CLOCK_SKEW /)])
  expect(warnings[0]).toMatch(text)
})
