/** Records, and what the session-store tests do with them. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import type { SessionRecord, SessionStore, UploadSession } from '../types.ts'

/** A fresh, empty store. */
export interface SessionStoreFixture {
  readonly store: SessionStore
  /** Another store over the same records, as after a restart. Only of a store that is `durable`. */
  reopen?(): SessionStore | Promise<SessionStore>
  /** Called after the test, after `store.close`. */
  cleanup?(): Promise<unknown>
}

export type Check = (name: string, run: (store: SessionStore, fixture: SessionStoreFixture) => Promise<void>) => void

// None of these is an id, and some are names or paths that a careless store would stumble over.
export const hostileIds = [
  '',
  '.',
  '..',
  '../../../../../../../../etc/passwd',
  'short',
  'a'.repeat(65),
  `${'a'.repeat(30)}/../${'a'.repeat(8)}`,
  `${'a'.repeat(30)}\u0000`,
  `${'a'.repeat(30)}\n`,
  `${'a'.repeat(30)}*`,
  `${'a'.repeat(30)} `,
  'ééééééééééééééééééééééééé',
  '__proto__',
  'constructor',
]

export function newRecord(changes: Partial<UploadSession> = {}): UploadSession {
  return {
    ...{ id: randomUUID(), version: 1, expiresAt: 4_000_000_000_000, open: true, owner: null },
    ...{ format: 1, kind: 'upload', protocol: 'native', state: 'active', key: 'uploads/holiday.mov' },
    ...{ fileName: 'holiday.mov', mimeType: 'video/quicktime', metadata: { album: 'Summer' } },
    ...{ totalSize: 10_000_000, chunkSize: 2_000_000, stride: null, partSize: 8_000_000 },
    ...{ chunks: [{ index: 0, count: 3, size: 2_000_000, offset: 0, loose: 0 }], sentParts: [[1, 2]] },
    ...{ multipartId: null, checksum: null, resumeId: null, completing: null, handedOver: false, object: null },
    ...{ createdAt: 1_700_000_000_000, updatedAt: 1_700_000_000_000 },
    ...changes,
  }
}

export function changed(record: UploadSession): UploadSession {
  return { ...record, version: record.version + 1, updatedAt: record.updatedAt + 1 }
}

/** Adds one to `totalSize` by compare-and-swap; nothing when the record is gone. */
export async function increment(store: SessionStore, id: string): Promise<void> {
  for (;;) {
    const record = await store.get(id)
    if (record === null) return
    const upload = asUpload(record)
    const next = { ...changed(upload), totalSize: (upload.totalSize ?? 0) + 1 }
    if (await store.replace(next, record.version)) return
  }
}

/** Does to a record what it may. Frozen parts refuse. */
export function tamper(record: SessionRecord | null): void {
  const upload = asUpload(record) as { fileName: string; version: number; metadata: object; chunks: readonly object[] }
  const attempts = [
    () => Object.assign(upload.metadata, { album: 'tampered', more: 'tampered' }),
    () => Object.assign(upload.chunks[0] ?? {}, { count: 99 }),
    () => Object.assign(upload, { fileName: 'tampered' }),
    () => Object.assign(upload, { version: 99 }),
  ]
  for (const attempt of attempts) {
    try {
      attempt()
    } catch (error) {
      assert.ok(error instanceof TypeError)
    }
  }
}

export function asUpload(record: SessionRecord | null): UploadSession {
  assert.equal(record?.kind, 'upload')
  return record as UploadSession
}

export async function reopened(fixture: SessionStoreFixture): Promise<SessionStore> {
  const store = await fixture.reopen?.()
  assert.ok(store !== undefined, 'a durable store needs a fixture with `reopen`')
  return store
}

export async function counts(store: SessionStore) {
  const [all, ann, bob, eve] = await Promise.all(
    [undefined, 'ann', 'bob', 'eve'].map((owner) => store.countOpen(owner)),
  )
  return { all, ann, bob, eve }
}

export async function collect(ids: AsyncIterable<string>): Promise<string[]> {
  const collected: string[] = []
  for await (const id of ids) collected.push(id)
  return collected
}

export function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, n) => n)
}
