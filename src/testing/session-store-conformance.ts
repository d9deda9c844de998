/**
 * What every session store must do, as tests. The test function comes from the caller, so the suite runs under
 * vitest, jest and `node:test`.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import type { SessionRecord } from '../types.ts'
import { testRestart } from './session-store-conformance-restart.ts'
import { testChunkSums } from './session-store-conformance-sums.ts'
import {
  asUpload,
  type Check,
  changed,
  collect,
  counts,
  hostileIds,
  increment,
  newRecord,
  numbers,
  type SessionStoreFixture,
  tamper,
} from './session-store-conformance-support.ts'
import type { ConformanceTest } from './storage-conformance-support.ts'

export interface SessionStoreConformanceOptions {
  /** Whether records survive a restart; the fixtures must have `reopen` then. Default: `false`. */
  durable?: boolean
  /** Changes of one record in the test of many changes. Default: 5000. */
  changes?: number
  /** Whether the store has `chunkSums`. Default: `false`. */
  chunkSums?: boolean
}

export type { SessionStoreFixture }

/**
 * Registers the tests.
 *
 * @param test `test` of vitest, jest or `node:test`
 * @param createStore makes a fresh store for every test
 */
export function sessionStoreConformance(
  test: ConformanceTest,
  createStore: () => SessionStoreFixture | Promise<SessionStoreFixture>,
  { durable = false, changes = 5000, chunkSums = false }: SessionStoreConformanceOptions = {},
): void {
  const check: Check = (name, run) => {
    test(name, async () => {
      const fixture = await createStore()
      try {
        await run(fixture.store, fixture)
      } finally {
        await fixture.store.close?.()
        await fixture.cleanup?.()
      }
    })
  }
  testCreateAndGet(check)
  testIsolation(check)
  testReplace(check)
  testRivals(check)
  testDelete(check)
  testListings(check)
  testUnusualRecords(check, changes)
  check('has exactly the capabilities that are declared', async (store) => {
    assert.equal(store.chunkSums !== undefined, chunkSums)
  })
  if (chunkSums) testChunkSums(check)
  if (durable) testRestart(check)
}

function testCreateAndGet(check: Check): void {
  check('says whether other machines see its records', async (store) => {
    assert.equal(typeof store.shared, 'boolean')
  })
  check('gives back what was created', async (store) => {
    const record = newRecord()
    assert.equal(await store.create(record), true)
    assert.deepEqual(await store.get(record.id), record)
  })
  check('gives null for an unknown id', async (store) => {
    assert.equal(await store.get(randomUUID()), null)
  })
  check('takes every id of 22 to 64 letters, digits, - and _', async (store) => {
    for (const id of ['A'.repeat(22), 'z'.repeat(64), '-'.repeat(22), '_'.repeat(30), `0123456789-_${randomUUID()}`]) {
      assert.equal(await store.create(newRecord({ id })), true)
      assert.equal((await store.get(id))?.id, id)
    }
  })
  check('knows nothing under a text that is no id', async (store) => {
    await store.create(newRecord())
    for (const id of hostileIds) {
      assert.equal(await store.get(id), null)
      assert.equal(await store.replace(newRecord({ id, version: 2 }), 1), false)
      await store.delete(id)
    }
    assert.equal(await store.countOpen(), 1)
  })
  check('does not create over a record', async (store) => {
    const record = newRecord()
    await store.create(record)
    assert.equal(await store.create({ ...record, fileName: 'other.bin' }), false)
    assert.deepEqual(await store.get(record.id), record)
  })
  check('does not create over a record that has changed', async (store) => {
    const record = newRecord()
    await store.create(record)
    await store.replace(changed(record), 1)
    assert.equal(await store.create(record), false)
    assert.equal((await store.get(record.id))?.version, 2)
  })
  check('lets one of 50 concurrent creates win', async (store) => {
    const rivals = numbers(50).map((n) => newRecord({ id: 'x'.repeat(22), fileName: `${n}` }))
    const created = await Promise.all(rivals.map((record) => store.create(record)))
    assert.equal(created.filter(Boolean).length, 1)
    assert.deepEqual(await store.get('x'.repeat(22)), rivals[created.indexOf(true)])
  })
  check('keeps the two kinds of records', async (store) => {
    const resume: SessionRecord = {
      ...{ id: randomUUID(), version: 1, expiresAt: 1, open: false, owner: null },
      ...{ format: 1, kind: 'resume', uploadId: randomUUID() },
    }
    assert.equal(await store.create(resume), true)
    assert.deepEqual(await store.get(resume.id), resume)
  })
}

function testIsolation(check: Check): void {
  check('is not changed by changing what was created', async (store) => {
    const record = newRecord()
    const before = structuredClone(record)
    const creating = store.create(record)
    tamper(record)
    await creating
    assert.deepEqual(await store.get(before.id), before)
  })
  check('is not changed by changing what was got', async (store) => {
    const record = newRecord()
    await store.create(record)
    tamper(await store.get(record.id))
    assert.deepEqual(await store.get(record.id), record)
  })
  check('is not changed by changing what was replaced', async (store) => {
    const record = newRecord()
    await store.create(record)
    const next = changed(record)
    const before = structuredClone(next)
    const replacing = store.replace(next, 1)
    tamper(next)
    await replacing
    tamper(await store.get(record.id))
    assert.deepEqual(await store.get(record.id), before)
  })
  check('does not change what it gave when the record changes', async (store) => {
    const record = newRecord()
    await store.create(record)
    const got = await store.get(record.id)
    await store.replace(changed(record), 1)
    assert.deepEqual(got, record)
  })
}

function testReplace(check: Check): void {
  check('replaces the expected version', async (store) => {
    const record = newRecord()
    await store.create(record)
    const next = changed(record)
    assert.equal(await store.replace(next, 1), true)
    assert.deepEqual(await store.get(record.id), next)
  })
  check('does not replace an older or a newer version than the expected one', async (store) => {
    const first = newRecord()
    const second = changed(first)
    await store.create(first)
    await store.replace(second, 1)
    assert.equal(await store.replace({ ...second, fileName: 'stale' }, 1), false)
    assert.equal(await store.replace({ ...second, version: 4 }, 3), false)
    assert.deepEqual(await store.get(first.id), second)
  })
  check('does not replace a record that is not there', async (store) => {
    const record = newRecord({ version: 2 })
    assert.equal(await store.replace(record, 1), false)
    assert.equal(await store.get(record.id), null)
  })
}

function testRivals(check: Check): void {
  check('lets one of 50 concurrent replaces of one version win', async (store) => {
    const record = newRecord()
    await store.create(record)
    const rivals = numbers(50).map((n) => ({ ...changed(record), fileName: `${n}` }))
    const replaced = await Promise.all(rivals.map((rival) => store.replace(rival, 1)))
    assert.equal(replaced.filter(Boolean).length, 1)
    assert.deepEqual(await store.get(record.id), rivals[replaced.indexOf(true)])
  })
  check('loses none of 500 increments by 8 concurrent loops', async (store) => {
    const record = newRecord({ totalSize: 0 })
    await store.create(record)
    let left = 500
    const loop = async () => {
      while (left-- > 0) await increment(store, record.id)
    }
    await Promise.all(numbers(8).map(loop))
    assert.equal(asUpload(await store.get(record.id)).totalSize, 500)
  })
  check('keeps concurrent changes of many records apart', async (store) => {
    const records = numbers(40).map((n) => newRecord({ fileName: `${n}` }))
    await Promise.all(records.map((record) => store.create(record)))
    await Promise.all(records.flatMap(({ id }) => numbers(5).map(() => increment(store, id))))
    for (const record of records) {
      const { fileName, version } = asUpload(await store.get(record.id))
      assert.deepEqual({ fileName, version }, { fileName: record.fileName, version: 6 })
    }
  })
}

function testDelete(check: Check): void {
  check('forgets a deleted record', async (store) => {
    const record = newRecord()
    await store.create(record)
    await store.delete(record.id)
    assert.equal(await store.get(record.id), null)
    assert.equal(await store.countOpen(), 0)
  })
  check('deletes what is not there without an error', async (store) => {
    await store.delete(randomUUID())
  })
  check('does not replace a deleted record', async (store) => {
    const record = newRecord()
    await store.create(record)
    await store.delete(record.id)
    assert.equal(await store.replace(changed(record), 1), false)
    assert.equal(await store.get(record.id), null)
  })
  check('creates again after a delete', async (store) => {
    const record = newRecord()
    await store.create(record)
    await store.replace(changed(record), 1)
    await store.delete(record.id)
    assert.equal(await store.create(record), true)
    assert.deepEqual(await store.get(record.id), record)
  })
  check('deletes a record while it is being replaced', async (store) => {
    const record = newRecord()
    await store.create(record)
    await Promise.all([...numbers(10).map(() => increment(store, record.id)), store.delete(record.id)])
    assert.equal(await store.get(record.id), null)
  })
}

function testListings(check: Check): void {
  check('lists the records that have expired', async (store) => {
    const [past, present, future] = [999, 1000, 1001].map((expiresAt) => newRecord({ expiresAt }))
    for (const record of [past, present, future]) if (record) await store.create(record)
    assert.deepEqual((await collect(store.listExpired(1000))).sort(), [past?.id, present?.id].sort())
  })
  check('lists by the expiry of the newest version', async (store) => {
    const [prolonged, shortened] = [newRecord({ expiresAt: 1000 }), newRecord({ expiresAt: 5000 })]
    await store.create(prolonged)
    await store.create(shortened)
    await store.replace({ ...changed(prolonged), expiresAt: 5000 }, 1)
    await store.replace({ ...changed(shortened), expiresAt: 1000 }, 1)
    assert.deepEqual(await collect(store.listExpired(1000)), [shortened.id])
  })
  check('goes on listing while what it listed is deleted', async (store) => {
    const ids = numbers(100).map(() => randomUUID())
    await Promise.all(ids.map((id) => store.create(newRecord({ id, expiresAt: 1 }))))
    const listed: string[] = []
    for await (const id of store.listExpired(1)) {
      listed.push(id)
      await store.delete(id)
    }
    assert.deepEqual(listed.sort(), ids.sort())
    assert.deepEqual(await collect(store.listExpired(1)), [])
  })
  check('counts the open records, all of them and those of an owner', async (store) => {
    assert.equal(await store.countOpen(), 0)
    for (const owner of ['ann', 'ann', 'bob', null]) await store.create(newRecord({ owner }))
    await store.create(newRecord({ owner: 'ann', open: false }))
    assert.deepEqual(await counts(store), { all: 4, ann: 2, bob: 1, eve: 0 })
  })
  check('counts what was opened, closed and deleted since', async (store) => {
    const [first, second, third] = [newRecord({ owner: 'ann' }), newRecord({ owner: 'bob' }), newRecord()] as const
    for (const record of [first, second, third]) await store.create(record)
    assert.deepEqual(await counts(store), { all: 3, ann: 1, bob: 1, eve: 0 })
    await store.replace({ ...changed(first), open: false }, 1)
    await store.delete(third.id)
    assert.deepEqual(await counts(store), { all: 1, ann: 0, bob: 1, eve: 0 })
    await store.replace({ ...changed(changed(first)), open: true, owner: 'eve' }, 2)
    assert.deepEqual(await counts(store), { all: 2, ann: 0, bob: 1, eve: 1 })
  })
}

function testUnusualRecords(check: Check, changes: number): void {
  check('keeps every character and key', async (store) => {
    const metadata: Record<string, string> = JSON.parse(
      '{"__proto__":"p","constructor":"c","":"empty","žluťoučký 🎉":"\\u0000\\u001e\\n\\r\\u2028\\ud800","toString":"t"}',
    )
    const record = newRecord({ metadata, fileName: '\u0000\n\u001e"\\\u{1F600}\ud800', owner: '__proto__' })
    await store.create(record)
    const got = asUpload(await store.get(record.id))
    assert.equal(JSON.stringify(got), JSON.stringify(record))
    assert.equal(Object.getPrototypeOf(got.metadata), Object.prototype)
    assert.equal(await store.countOpen('__proto__'), 1)
  })
  check('keeps a record of 200 KB through changes', async (store) => {
    let record = newRecord({ metadata: { large: 'ü'.repeat(100_000) } })
    await store.create(record)
    for (const n of numbers(12)) {
      const next = { ...changed(record), fileName: `${n}` }
      assert.equal(await store.replace(next, record.version), true)
      record = next
    }
    assert.deepEqual(await store.get(record.id), record)
  })
  check(`stays right through ${changes} changes of one record`, async (store) => {
    let record = newRecord({ totalSize: 0 })
    await store.create(record)
    for (let n = 1; n <= changes; n++) {
      const next = { ...changed(record), totalSize: n }
      assert.equal(await store.replace(next, record.version), true)
      record = next
      if (n % 97 === 0) assert.deepEqual(await store.get(record.id), record)
    }
    assert.deepEqual(await store.get(record.id), record)
  })
}
