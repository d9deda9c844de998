import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { StorageError } from '../../src/errors.ts'
import { MemoryStorageAdapter, type MemoryStorageOptions } from '../../src/storage/memory-storage.ts'
import type { MultipartRef, MultipartStorage, PartBody } from '../../src/types.ts'
import { infoOf, mime } from '../support/local-sandbox.ts'

function partOf(bytes: string): PartBody {
  return { size: bytes.length, path: '/nowhere', open: () => Readable.from([Buffer.from(bytes)]) }
}

async function started(options: MemoryStorageOptions = { multipart: { minPartSize: 3, maxParts: 5, maxPartSize: 8 } }) {
  const adapter = new MemoryStorageAdapter(options)
  const parts = adapter.multipart as MultipartStorage
  const ref: MultipartRef = { fileKey: 'a/b c', multipartId: await parts.create('a/b c', infoOf(null)) }
  return { adapter, parts, ref }
}

describe('objects', () => {
  test('what read returns is a copy', async () => {
    const adapter = new MemoryStorageAdapter()
    await adapter.upload('x', Readable.from([Buffer.from('bytes')]), mime)
    adapter.read('x')?.fill(0)
    expect(adapter.read('x')?.toString()).toBe('bytes')
    expect(adapter.read('y')).toBeUndefined()
  })

  test('keys lists them in the order they came, and the URL encodes the key', async () => {
    const adapter = new MemoryStorageAdapter()
    for (const key of ['b/ü?', 'a']) {
      expect(await adapter.upload(key, Readable.from(['text']), mime)).toBe(
        `memory://${encodeURI(key).replace('?', '%3F')}`,
      )
    }
    expect(adapter.keys()).toEqual(['b/ü?', 'a'])
  })
})

describe('multipart', () => {
  test('an upload is listed as open until it is completed or aborted', async () => {
    const { adapter, parts, ref } = await started()
    const second = await parts.create('other', infoOf(null))
    await parts.uploadPart(ref, 2, partOf('last'))
    await parts.uploadPart(ref, 1, partOf('first'))
    expect(adapter.openMultipartUploads()).toMatchObject([
      {
        ...ref,
        parts: [
          { partNumber: 1, size: 5 },
          { partNumber: 2, size: 4 },
        ],
      },
      { fileKey: 'other', multipartId: second, parts: [] },
    ])
    await parts.complete(ref, (await parts.listParts(ref)) ?? [], infoOf(9))
    await parts.abort({ fileKey: 'other', multipartId: second })
    expect(adapter.openMultipartUploads()).toEqual([])
    expect(adapter.keys()).toEqual(['a/b c'])
  })

  test.each([[0], [6], [1.5], [Number.NaN]])('part number %d is refused', async (partNumber) => {
    const { parts, ref } = await started()
    await expect(parts.uploadPart(ref, partNumber, partOf('bytes'))).rejects.toBeInstanceOf(StorageError)
  })

  test('a part above maxPartSize, or of another size than it says, is refused', async () => {
    const { parts, ref } = await started()
    await expect(parts.uploadPart(ref, 1, partOf('nine byte'))).rejects.toThrow(/at most 8/)
    await expect(parts.uploadPart(ref, 1, { ...partOf('bytes'), size: 4 })).rejects.toThrow(/5 bytes/)
    expect(await parts.listParts(ref)).toEqual([])
  })

  test('parts out of order, or none, are refused', async () => {
    const { adapter, parts, ref } = await started()
    await parts.uploadPart(ref, 1, partOf('first'))
    await parts.uploadPart(ref, 2, partOf('second'))
    const [first, second] = (await parts.listParts(ref)) ?? []
    if (!first || !second) throw new Error('the parts are not listed')
    for (const list of [[second, first], [first, first], []]) {
      await expect(parts.complete(ref, list, infoOf(null))).rejects.toBeInstanceOf(StorageError)
    }
    expect(adapter.keys()).toEqual([])
  })

  test('an object of another size than promised is not made', async () => {
    const { adapter, parts, ref } = await started()
    await parts.uploadPart(ref, 1, partOf('bytes'))
    await expect(parts.complete(ref, (await parts.listParts(ref)) ?? [], infoOf(6))).rejects.toThrow(/5 bytes/)
    expect(adapter.keys()).toEqual([])
  })

  test('an id is good for its own key only', async () => {
    const { parts, ref } = await started()
    const foreign = { ...ref, fileKey: 'foreign' }
    expect(await parts.listParts(foreign)).toBeNull()
    await expect(parts.uploadPart(foreign, 1, partOf('bytes'))).rejects.toBeInstanceOf(StorageError)
  })

  test('a part that arrives after the abort is refused', async () => {
    const { parts, ref } = await started()
    const slow = new Readable({ read() {} })
    const sending = parts.uploadPart(ref, 1, { size: 5, path: '/nowhere', open: () => slow })
    await parts.abort(ref)
    slow.push('bytes')
    slow.push(null)
    await expect(sending).rejects.toBeInstanceOf(StorageError)
  })

  test('an abort while a part is read rejects with the reason of the signal', async () => {
    const { parts, ref } = await started()
    const abort = new AbortController()
    const stalled = new Readable({ read() {} })
    const sending = parts.uploadPart(ref, 1, { size: 5, path: '/nowhere', open: () => stalled }, abort.signal)
    const reason = new Error('nobody waits')
    abort.abort(reason)
    await expect(sending).rejects.toBe(reason)
  })

  test('a part that cannot be read is refused', async () => {
    const { parts, ref } = await started()
    const gone = { size: 5, path: '/nowhere', open: () => createReadStream('/nowhere/at/all') }
    await expect(parts.uploadPart(ref, 1, gone)).rejects.toMatchObject({ code: 'ENOENT' })
  })
})

test.each([
  [{ multipart: { minPartSize: 0 } }, /minPartSize.*0/],
  [{ multipart: { maxParts: 1.5 } }, /maxParts.*1\.5/],
  [{ multipart: { partSize: '5' } }, /partSize.*'5'/],
  [{ multipart: { minPartSize: 10, partSize: 9 } }, /partSize.*9/],
  [{ multipart: { maxPartSize: 8, partSize: 9 } }, /partSize.*9/],
  [{ multipart: { minPartSize: 10, maxPartSize: 9 } }, /partSize/],
])('the options %j are refused with the value', (options, message) => {
  expect(() => Reflect.construct(MemoryStorageAdapter, [options])).toThrow(TypeError)
  expect(() => Reflect.construct(MemoryStorageAdapter, [options])).toThrow(message)
})

test('without multipart there is no such capability', () => {
  const adapter = new MemoryStorageAdapter({ multipart: false })
  expect(adapter.multipart).toBeUndefined()
  expect(adapter.openMultipartUploads()).toEqual([])
})
