/** The part of the session-store suite that is about records which outlive the store. */
import assert from 'node:assert/strict'
import {
  asUpload,
  type Check,
  changed,
  collect,
  counts,
  increment,
  newRecord,
  reopened,
} from './session-store-conformance-support.ts'

export function testRestart(check: Check): void {
  check('has the same records after a restart', async (store, fixture) => {
    const [kept, replaced, deleted] = [newRecord({ owner: 'ann' }), newRecord({ expiresAt: 1 }), newRecord()]
    for (const record of [kept, replaced, deleted]) await store.create(record)
    await store.replace({ ...changed(replaced), open: false }, 1)
    await store.delete(deleted.id)
    const other = await reopened(fixture)
    assert.deepEqual(await other.get(kept.id), kept)
    assert.deepEqual(await other.get(replaced.id), { ...changed(replaced), open: false })
    assert.equal(await other.get(deleted.id), null)
    assert.deepEqual(await collect(other.listExpired(1)), [replaced.id])
    assert.deepEqual(await counts(other), { all: 1, ann: 1, bob: 0, eve: 0 })
    await other.close?.()
  })
  check('shares every change with another store over the same records', async (store, fixture) => {
    const other = await reopened(fixture)
    const record = newRecord({ totalSize: 0 })
    await store.create(record)
    assert.equal(await other.create(record), false)
    for (let n = 0; n < 200; n++) await increment(n % 2 === 0 ? store : other, record.id)
    assert.equal(asUpload(await store.get(record.id)).totalSize, 200)
    await other.delete(record.id)
    assert.equal(await store.get(record.id), null)
    assert.equal(await store.create(record), true)
    assert.deepEqual(await other.get(record.id), record)
    await other.close?.()
  })
}
