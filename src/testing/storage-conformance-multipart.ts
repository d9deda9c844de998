/** The part of the storage suite that is about `MultipartStorage`. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { tmpdir } from 'node:os'
import type { MultipartRef, MultipartStorage, ObjectInfo, StoredPart } from '../types.ts'
import {
  assertObject,
  bytesOf,
  type FixtureTest,
  fails,
  failsWithin,
  infoFor,
  newKey,
  partBody,
  type StorageConformanceOptions,
  type StorageFixture,
  streamOf,
  withTemporaryFolder,
} from './storage-conformance-support.ts'

/** One multipart upload under test. */
interface Trial {
  readonly fixture: StorageFixture
  readonly storage: MultipartStorage
  readonly key: string
  readonly ref: MultipartRef
  readonly info: ObjectInfo
  /** Uploads the bytes as part `partNumber` of this upload, or of another. */
  send(partNumber: number, bytes: Buffer, ref?: MultipartRef): Promise<void>
}

type TrialTest = (name: string, run: (trial: Trial) => Promise<void>) => void

export function testMultipart(check: FixtureTest, options: StorageConformanceOptions): void {
  const trial: TrialTest = (name, run) =>
    check(`multipart: ${name}`, (fixture) =>
      withTemporaryFolder(tmpdir(), async (folder) => {
        const started = await startTrial(fixture, folder)
        try {
          await run(started)
        } finally {
          // Open uploads cost money in a bucket that outlives the test. What the test found matters more than this.
          await started.storage.abort({ fileKey: started.key, multipartId: null }).catch(() => {})
        }
      }),
    )
  testRules(trial)
  testParts(trial, options)
  testComplete(trial, options)
  testRefusals(trial, options)
  testAbort(trial)
}

function testRules(trial: TrialTest): void {
  trial('the sizes make sense together', async ({ storage }) => {
    const { minPartSize, partSize, maxPartSize, maxParts } = storage
    assert.ok(minPartSize >= 0 && minPartSize <= partSize, 'minPartSize <= partSize')
    assert.ok(partSize >= 1 && partSize <= maxPartSize, 'partSize <= maxPartSize')
    assert.ok(Number.isInteger(maxParts) && maxParts >= 1, 'maxParts is a positive whole number')
  })

  trial('two uploads of one key have ids of their own', async ({ storage, key, ref, info }) => {
    const other = await storage.create(key, info)
    assert.notEqual(other, ref.multipartId)
    await storage.abort({ fileKey: key, multipartId: other })
    assert.deepEqual(await storage.listParts(ref), [])
  })
}

function testParts(trial: TrialTest, { settleTime = 5000 }: StorageConformanceOptions): void {
  trial('parts are listed in order, with their sizes, each once', async ({ storage, ref, send }) => {
    const size = middleSize(storage)
    assert.deepEqual(await storage.listParts(ref), [])
    await send(3, bytesOf(7))
    await send(1, bytesOf(size))
    await send(2, bytesOf(size + 1))
    await send(1, bytesOf(size + 2))
    assert.deepEqual(shapeOf(await listed(storage, ref)), [
      [1, size + 2],
      [2, size + 1],
      [3, 7],
    ])
  })

  trial('a part that is sent again replaces the first', async (given) => {
    const [first, second, last] = [...middleParts(given.storage, 2), bytesOf(7)] as [Buffer, Buffer, Buffer]
    await given.send(1, first)
    await given.send(2, last)
    await given.send(1, second)
    await completeAll(given)
    await assertObject(given.fixture, given.key, Buffer.concat([second, last]))
  })

  trial('a part whose signal is aborted already rejects in time and is not there', async (given) => {
    await withTemporaryFolder(tmpdir(), async (folder) => {
      const body = await partBody(folder, bytesOf(100))
      await failsWithin(settleTime, given.storage.uploadPart(given.ref, 1, body, AbortSignal.abort()))
    })
    assert.deepEqual(await given.storage.listParts(given.ref), [])
  })

  trial('parts of two uploads of one key do not mix', async (given) => {
    const other = { fileKey: given.key, multipartId: await given.storage.create(given.key, given.info) }
    const [mine, foreign] = [bytesOf(100), bytesOf(200)]
    await given.send(1, mine)
    await given.send(1, foreign, other)
    await completeAll(given)
    await assertObject(given.fixture, given.key, mine)
    assert.deepEqual(shapeOf(await listed(given.storage, other)), [[1, 200]])
  })
}

function testComplete(trial: TrialTest, { leavesPartsOut = true }: StorageConformanceOptions): void {
  trial('parts that came in parallel and in any order make the object in their order', async (given) => {
    const parts = [...middleParts(given.storage, 3), bytesOf(11)]
    const order = [2, 0, 3, 1]
    await Promise.all(order.map((at) => given.send(at + 1, parts[at] ?? Buffer.alloc(0))))
    assert.equal(await given.fixture.read(given.key), null, 'the object is visible before it is complete')
    await completeAll(given)
    await assertObject(given.fixture, given.key, Buffer.concat(parts))
  })

  trial('a single part may be smaller than minPartSize', async (given) => {
    await given.send(1, Buffer.from('x'))
    await completeAll(given)
    await assertObject(given.fixture, given.key, Buffer.from('x'))
  })

  trial('complete answers the URL that upload would, also when it is repeated', async (given) => {
    const { fixture, storage, key, ref, info } = given
    const bytes = bytesOf(100)
    const uploaded = await fixture.adapter.upload(key, streamOf(bytesOf(50)), info.mimeType, infoFor(50))
    await given.send(1, bytes)
    const parts = await listed(storage, ref)
    assert.equal(await storage.complete(ref, parts, { ...info, size: 100 }), uploaded)
    assert.equal(await storage.complete(ref, parts, { ...info, size: 100 }), uploaded)
    await assertObject(fixture, key, bytes)
  })

  trial('a completed upload is no longer open', async (given) => {
    await given.send(1, bytesOf(100))
    await completeAll(given)
    assert.equal(await given.storage.listParts(given.ref), null)
  })

  trial('aborting a completed upload leaves the object', async (given) => {
    const bytes = bytesOf(100)
    await given.send(1, bytes)
    await completeAll(given)
    await given.storage.abort(given.ref)
    await given.storage.abort({ fileKey: given.key, multipartId: null })
    await assertObject(given.fixture, given.key, bytes)
  })

  if (leavesPartsOut)
    trial('the object is made of exactly the parts that were named', async (given) => {
      const parts = middleParts(given.storage, 3)
      for (const [at, bytes] of parts.entries()) await given.send(at + 1, bytes)
      const named = (await listed(given.storage, given.ref)).slice(0, 2)
      await given.storage.complete(given.ref, named, { ...given.info, size: sizeOf(named) })
      await assertObject(given.fixture, given.key, Buffer.concat(parts.slice(0, 2)))
    })
}

function testRefusals(trial: TrialTest, options: StorageConformanceOptions): void {
  trial('completing with a part that never came rejects and leaves no object', async (given) => {
    const { storage, ref, key, info } = given
    const [bytes] = middleParts(storage, 1) as [Buffer]
    await given.send(1, bytes)
    const [first] = (await listed(storage, ref)) as [StoredPart]
    const invented = { ...first, partNumber: 2 }
    await fails(storage.complete(ref, [first, invented], { ...info, size: 2 * first.size }))
    assert.equal(await given.fixture.read(key), null)
  })

  if (options.refusesSmallParts ?? true) {
    trial('a small part in the middle is refused and leaves no object', async (given) => {
      const small = given.storage.minPartSize - 1
      assert.ok(small > 0, 'minPartSize allows parts of every size: declare refusesSmallParts: false')
      await given.send(1, bytesOf(small))
      await given.send(2, bytesOf(100))
      await fails(completeAll(given))
      assert.equal(await given.fixture.read(given.key), null)
    })
  }

  if (options.refusesReplacedParts ?? true) {
    trial('completing with a part that was replaced since rejects and leaves no object', async (given) => {
      await given.send(1, bytesOf(100))
      const old = await listed(given.storage, given.ref)
      await given.send(1, bytesOf(100))
      await fails(given.storage.complete(given.ref, old, { ...given.info, size: 100 }))
      assert.equal(await given.fixture.read(given.key), null)
    })
  }
}

function testAbort(trial: TrialTest): void {
  trial('an aborted upload is no longer open, and aborting it again is no error', async ({ storage, ref, send }) => {
    await send(1, bytesOf(100))
    await storage.abort(ref)
    assert.equal(await storage.listParts(ref), null)
    await storage.abort(ref)
    await storage.abort({ fileKey: ref.fileKey, multipartId: null })
  })

  trial('completing or sending after an abort rejects and leaves no object', async (given) => {
    const { storage, ref, info } = given
    await given.send(1, bytesOf(100))
    const parts = await listed(storage, ref)
    await storage.abort(ref)
    await fails(given.send(2, bytesOf(100)))
    await fails(storage.complete(ref, parts, { ...info, size: 100 }))
    assert.equal(await given.fixture.read(given.key), null)
  })

  trial('completing after an abort does not take an older object for its own', async (given) => {
    const { fixture, storage, key, ref, info } = given
    const older = bytesOf(50)
    await fixture.adapter.upload(key, streamOf(older), info.mimeType, infoFor(50))
    await given.send(1, bytesOf(100))
    const parts = await listed(storage, ref)
    await storage.abort(ref)
    await fails(storage.complete(ref, parts, { ...info, size: 100 }))
    await assertObject(fixture, key, older)
  })

  trial('aborting by id leaves the other uploads of the key open', async ({ storage, key, ref, info, send }) => {
    const other = { fileKey: key, multipartId: await storage.create(key, info) }
    await send(1, bytesOf(100), other)
    await storage.abort(ref)
    assert.equal(await storage.listParts(ref), null)
    assert.deepEqual(shapeOf(await listed(storage, other)), [[1, 100]])
    await storage.abort(other)
  })

  trial(
    'aborting without an id discards every upload of exactly this key',
    async ({ storage, key, ref, info, send }) => {
      const second = { fileKey: key, multipartId: await storage.create(key, info) }
      const neighbours: MultipartRef[] = []
      // A storage that looks uploads up by prefix finds these too.
      for (const fileKey of [`${key}-2`, `${key}/below`, key.slice(0, -1)]) {
        neighbours.push({ fileKey, multipartId: await storage.create(fileKey, info) })
      }
      for (const each of [ref, second, ...neighbours]) await send(1, bytesOf(100), each)
      await storage.abort({ fileKey: key, multipartId: null })
      assert.equal(await storage.listParts(ref), null)
      assert.equal(await storage.listParts(second), null)
      for (const each of neighbours) {
        assert.deepEqual(shapeOf(await listed(storage, each)), [[1, 100]])
        await storage.abort(each)
      }
    },
  )

  trial('aborting a key or an id that never was is no error', async ({ storage, ref }) => {
    await storage.abort({ fileKey: newKey(), multipartId: null })
    await storage.abort({ fileKey: newKey(), multipartId: ref.multipartId })
    assert.deepEqual(await storage.listParts(ref), [])
  })
}

async function startTrial(fixture: StorageFixture, folder: string): Promise<Trial> {
  const storage = fixture.adapter.multipart
  assert.ok(storage, 'the adapter has no multipart')
  const key = newKey()
  const info = { ...infoFor(null), uploadId: randomUUID() }
  const ref = { fileKey: key, multipartId: await storage.create(key, info) }
  return {
    fixture,
    storage,
    key,
    ref,
    info,
    send: async (partNumber, bytes, to = ref) => storage.uploadPart(to, partNumber, await partBody(folder, bytes)),
  }
}

async function completeAll({ storage, ref, info }: Trial): Promise<void> {
  const parts = await listed(storage, ref)
  await storage.complete(ref, parts, { ...info, size: sizeOf(parts) })
}

async function listed(storage: MultipartStorage, ref: MultipartRef): Promise<StoredPart[]> {
  const parts = await storage.listParts(ref)
  assert.ok(parts, 'the multipart upload is not open')
  return parts
}

function middleSize(storage: MultipartStorage): number {
  return Math.max(storage.minPartSize, 1)
}

function middleParts(storage: MultipartStorage, count: number): Buffer[] {
  return Array.from({ length: count }, () => bytesOf(middleSize(storage)))
}

function shapeOf(parts: readonly StoredPart[]): (readonly [number, number])[] {
  return parts.map(({ partNumber, size }) => [partNumber, size] as const)
}

function sizeOf(parts: readonly StoredPart[]): number {
  return parts.reduce((sum, part) => sum + part.size, 0)
}
