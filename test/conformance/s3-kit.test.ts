/** The suite for storage adapters, on the S3 adapter against `s3Target()`. */
import { afterAll, beforeAll, test } from 'vitest'
import { storageAdapterConformance } from '../../src/testing.ts'
import { S3Fixture } from '../support/s3-fixture.ts'

let fx: S3Fixture

beforeAll(async () => {
  fx = await S3Fixture.start()
})
afterAll(() => fx?.close())

storageAdapterConformance(
  test,
  () => ({
    adapter: fx.adapter(),
    read: async (key) => ((await fx.exists(key)) ? fx.read(key) : null),
    urlToKey: (url) => decodeURIComponent(new URL(url).pathname.slice(`/${fx.bucket}/`.length)),
  }),
  {
    uploadBody: true,
    remove: true,
    adoptFile: false,
    multipart: true,
    staging: true,
    // Ceph wants all.
    leavesPartsOut: process.env.S3_ENDPOINT === undefined,
  },
)
