/** Which chunk size the documented routes and their client use when uploads are staged in the storage. */
import { describe, expect, it } from 'vitest'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { nativeClient } from '../support/native-client.ts'
import { testServer } from '../support/server.ts'
import { SharedLocker, SharedSessionStore } from '../support/shared-nodes.ts'

const MiB = 1024 * 1024

async function server(options: object = {}, partSize = 8 * MiB) {
  const storage = new MemoryStorageAdapter({ multipart: { minPartSize: 5 * MiB, partSize } })
  const shared = { sessions: new SharedSessionStore(), locker: new SharedLocker() }
  const { url } = await testServer({ storage, ...shared, ...options })
  return nativeClient(url)
}

const file = { fileName: 'a', totalSize: 100 * MiB, mimeType: 'a/b' }

describe('the chunk size that init names', () => {
  it('makes a chunk a part, where the largest chunk may be one', async () => {
    expect((await (await server()).init(file)).body.chunkSize).toBe(5 * MiB)
    expect((await (await server({ maxChunkSize: 7 * MiB })).init(file)).body.chunkSize).toBe(7 * MiB)
    expect((await (await server({ maxChunkSize: 3 * MiB })).init(file)).body.chunkSize).toBe(2.5 * MiB)
  })

  it('is the declared one, unless the client takes any', async () => {
    const client = await server()
    expect((await client.init({ ...file, chunkSize: 2 * MiB })).body.chunkSize).toBe(2 * MiB)
    expect((await client.init({ ...file, chunkSize: 2 * MiB, anyChunkSize: true })).body.chunkSize).toBe(5 * MiB)
    const disk = await server({ staging: 'disk' })
    expect((await disk.init({ ...file, chunkSize: 2 * MiB, anyChunkSize: true })).body.chunkSize).toBe(2 * MiB)
    expect((await disk.init(file)).body.chunkSize).toBe(5 * MiB)
  })

  it('does not hide an upload that comes back from its resumeKey', async () => {
    let asked = 0
    const hooks = { onCreate: () => void asked++ }
    const client = await server({ hooks, maxSessions: 1 })
    const again = { ...file, chunkSize: 2 * MiB, anyChunkSize: true, resumeKey: 'a key' }
    const first = await client.init(again)
    const second = await client.init(again)
    expect(second.body).toMatchObject({ uploadId: first.body.uploadId, chunkSize: 5 * MiB })
    expect(asked).toBe(1)
  })
})
