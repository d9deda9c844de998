/** The part of the session-store suite that is about `chunkSums`. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import type { ChunkSumStore, SessionStore } from '../types.ts'
import { type Check, changed, newRecord, numbers } from './session-store-conformance-support.ts'

export function testChunkSums(check: Check): void {
  check('sums: are stored with the record, and read one by one or all', async (store) => {
    const sums = sumsOf(store)
    const record = newRecord()
    await store.create(record)
    const given = [
      { index: 0, crc32: 0 },
      { index: 7, crc32: 0xffffffff },
    ]
    assert.equal(await sums.replace(changed(record), 1, given), true)
    assert.deepEqual(await store.get(record.id), changed(record))
    assert.deepEqual([...(await sums.read(record.id, 7))], [[7, 0xffffffff]])
    assert.deepEqual([...(await sums.read(record.id, 1))], [])
    const all = await sums.read(record.id)
    assert.deepEqual([all.size, all.get(0), all.get(7)], [2, 0, 0xffffffff])
  })
  check('sums: of a swap that is refused are not stored', async (store) => {
    const sums = sumsOf(store)
    const record = newRecord()
    await store.create(record)
    await sums.replace(changed(record), 1, [{ index: 0, crc32: 1 }])
    assert.equal(
      await sums.replace(changed(record), 1, [
        { index: 0, crc32: 2 },
        { index: 1, crc32: 2 },
      ]),
      false,
    )
    assert.deepEqual([...(await sums.read(record.id))], [[0, 1]])
  })
  check('sums: stay through changes of the record, and a later one replaces an earlier', async (store) => {
    const sums = sumsOf(store)
    let record = newRecord()
    await store.create(record)
    for (const n of numbers(20)) {
      const next = { ...changed(record), fileName: `${n}` }
      const own =
        n % 2 === 0
          ? []
          : [
              { index: n, crc32: n },
              { index: 0, crc32: n },
            ]
      assert.equal(
        await (own.length > 0 ? sums.replace(next, record.version, own) : store.replace(next, record.version)),
        true,
      )
      record = next
    }
    const all = await sums.read(record.id)
    assert.deepEqual([all.size, all.get(0), all.get(13)], [11, 19, 13])
    assert.deepEqual(await store.get(record.id), record)
  })
  check('sums: of one record are not those of another, and go with their record', async (store) => {
    const sums = sumsOf(store)
    const [one, other] = [newRecord(), newRecord()]
    for (const record of [one, other]) await store.create(record)
    await sums.replace(changed(one), 1, [{ index: 0, crc32: 1 }])
    assert.equal((await sums.read(other.id)).size, 0)
    await store.delete(other.id)
    assert.equal((await sums.read(one.id)).size, 1)
    await store.delete(one.id)
    assert.equal((await sums.read(one.id)).size, 0)
    await store.create(one)
    assert.equal((await sums.read(one.id)).size, 0)
    assert.equal((await sums.read(randomUUID())).size, 0)
  })
  check('sums: of parallel swaps are those of the ones that won', async (store) => {
    const sums = sumsOf(store)
    const record = newRecord()
    await store.create(record)
    const rivals = numbers(20).map((n) => ({ ...changed(record), fileName: `${n}` }))
    const won = await Promise.all(rivals.map((next, n) => sums.replace(next, 1, [{ index: 3, crc32: n }])))
    assert.equal(won.filter(Boolean).length, 1)
    assert.equal((await sums.read(record.id, 3)).get(3), won.indexOf(true))
  })
}

function sumsOf(store: SessionStore): ChunkSumStore {
  assert.ok(store.chunkSums, 'the store has no chunkSums')
  return store.chunkSums
}
