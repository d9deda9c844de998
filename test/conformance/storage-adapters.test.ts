import { mkdtemp, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import fs from 'fs-extra'
import { describe, test } from 'vitest'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter, type MemoryStorageOptions } from '../../src/storage/memory-storage.ts'
import { type StorageFixture, storageAdapterConformance } from '../../src/testing.ts'
import type { StorageAdapter } from '../../src/types.ts'

const baseUrl = 'https://files.example/public'

for (const durability of ['process', 'power'] as const) {
  describe(`LocalStorageAdapter, durability ${durability}`, () => {
    storageAdapterConformance(
      test,
      async () => {
        const folder = await mkdtemp(join(tmpdir(), 'local-storage-'))
        const directory = join(folder, 'made', 'when', 'missing')
        return {
          adapter: new LocalStorageAdapter({ directory, baseUrl, durability }),
          read: (key) => readFile(join(directory, key)).catch(() => null),
          urlToKey: (url) => decodeURIComponent(new URL(url).pathname.slice('/public/'.length)),
          cleanup: () => fs.remove(folder),
        }
      },
      { remove: true, adoptFile: true, multipart: false },
    )
  })
}

function memoryFixture(options?: MemoryStorageOptions): StorageFixture {
  const adapter = new MemoryStorageAdapter(options)
  return {
    adapter,
    read: async (key) => adapter.read(key) ?? null,
    urlToKey: (url) => decodeURIComponent(url.slice('memory://'.length)),
  }
}

describe('MemoryStorageAdapter', () => {
  storageAdapterConformance(test, () => memoryFixture(), {
    remove: true,
    adoptFile: false,
    multipart: true,
    staging: true,
  })
})

describe('MemoryStorageAdapter without multipart', () => {
  storageAdapterConformance(test, () => memoryFixture({ multipart: false }), {
    remove: true,
    adoptFile: false,
    multipart: false,
    staging: true,
  })
})

describe('a custom adapter that has only upload()', () => {
  storageAdapterConformance(
    test,
    () => {
      const objects = new Map<string, Buffer>()
      const adapter: StorageAdapter = {
        async upload(fileKey, stream) {
          objects.set(fileKey, await buffer(stream))
          return `/custom/${encodeURIComponent(fileKey)}`
        },
      }
      return {
        adapter,
        read: async (key) => objects.get(key) ?? null,
        urlToKey: (url) => decodeURIComponent(url.slice('/custom/'.length)),
      }
    },
    { remove: false, adoptFile: false, multipart: false, checksSize: false, honoursSignal: false },
  )
})
