import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fs from 'fs-extra'
import { describe, test } from 'vitest'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { sessionStoreConformance } from '../../src/testing.ts'

describe('MemorySessionStore', () => {
  sessionStoreConformance(test, () => ({ store: new MemorySessionStore() }))
})

for (const durability of ['process', 'power'] as const) {
  describe(`FileSessionStore, durability ${durability}`, () => {
    sessionStoreConformance(
      test,
      async () => {
        const folder = await mkdtemp(join(tmpdir(), 'session-store-'))
        const open = () => new FileSessionStore({ directory: join(folder, 'made', 'when', 'missing'), durability })
        return { store: open(), reopen: open, cleanup: () => fs.remove(folder) }
      },
      // A flush takes a while, and a few hundred changes begin the journal anew as well.
      { durable: true, changes: durability === 'power' ? 400 : 5000 },
    )
  })
}
