/** The checksum of a whole file whose bytes wait in the storage, when not all arrives there as it was verified. */
import { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { bytes, cut, sha256 } from '../support/random.ts'
import { partSize, sharedNodes, sharedStorage } from '../support/shared-nodes.ts'

describe('a checksum of the whole file', () => {
  const file = bytes(3 * partSize)
  const chunks = cut(file, partSize)
  const checksum = `sha256:${Buffer.from(sha256(file), 'hex').toString('base64')}`

  /** All of it is there, and its completion fails after part 2, in whose place the storage may get other bytes. */
  async function verified(part2: Buffer, error?: Error) {
    const { nodes, storage, sessions } = sharedNodes(1, sharedStorage())
    const [{ client }] = nodes as [(typeof nodes)[0]]
    const id = await client.create(file.length, { chunkSize: partSize, checksum })
    for (const [index, chunk] of chunks.entries()) await client.write(id, index, chunk)
    const { multipart } = storage
    if (!multipart) throw new Error('no parts')
    const damaged = { size: partSize, path: null, open: () => Readable.from([part2]) }
    const send = multipart.uploadPart.bind(multipart)
    multipart.uploadPart = async (ref, part, body, signal) => {
      if (part === 3 && error) throw error
      return send(ref, part, part === 2 ? damaged : body, signal)
    }
    const failure = await client.complete(id).catch((reason: unknown) => reason)
    multipart.uploadPart = send
    return { client, storage, sessions, id, failure }
  }

  it.each(['the same', 'other'])(
    'is verified again when a part arrived damaged and %s bytes come for it',
    async (kind) => {
      const { client, storage, id, failure } = await verified(bytes(partSize, 98))
      expect(failure).toMatchObject({ status: 409, missing: [[0, 2]] })
      for (const [index, chunk] of chunks.entries()) {
        await client.write(id, index, kind === 'other' && index === 1 ? bytes(partSize, 99) : chunk)
      }
      if (kind === 'other') {
        await expect(client.complete(id)).rejects.toMatchObject({ status: 422, code: 'CHECKSUM_MISMATCH' })
        expect(storage.keys()).toEqual([])
      } else {
        const object = await client.complete(id)
        expect(object.checksum).toBe(checksum)
        expect(storage.read(object.key)?.equals(file)).toBe(true)
      }
    },
  )

  it('is not believed of parts that left when nobody had verified it', async () => {
    const { client, storage, sessions, id, failure } = await verified(chunks[1] as Buffer, new Error('outage'))
    expect(failure).toMatchObject({ status: 502 })
    const { verified: _, ...record } = await client.get(id)
    expect(record.sentParts).toEqual([[1, 2]])
    await sessions.replace({ ...record, version: record.version + 1 }, record.version)
    await expect(client.complete(id)).rejects.toMatchObject({ status: 400, code: 'CHECKSUM_TOO_LATE' })
    expect(storage.keys()).toEqual([])
  })
})
