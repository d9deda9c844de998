/** Engines that share sessions, locks and storage, and nothing else: each has a `tempDir` of its own. */
import { rmSync } from 'node:fs'
import type { UploadEngineOptions } from '../../src/create-upload-engine.ts'
import { MemoryLocker } from '../../src/locks/memory-locker.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type {
  ChunkSum,
  ChunkSumStore,
  Locker,
  LockRequest,
  SessionRecord,
  SessionStore,
  StorageAdapter,
} from '../../src/types.ts'
import { testEngine } from './engine.ts'

/** What all machines would see. Closing it for one engine closes it for none. */
export class SharedSessionStore implements SessionStore {
  readonly shared = true
  /** Called before every swap; may throw or wait. */
  beforeReplace: (next: SessionRecord) => unknown = () => {}
  readonly #store = new MemorySessionStore()
  readonly #sums = new Map<string, Map<number, number>>()
  readonly chunkSums: ChunkSumStore = {
    replace: (next, expectedVersion, sums) => this.#replace(next, expectedVersion, sums),
    read: async (id, index) => {
      const all = this.#sums.get(id) ?? new Map<number, number>()
      return new Map([...all].filter(([at]) => index === undefined || at === index))
    },
  }

  create(record: SessionRecord) {
    return this.#store.create(record)
  }

  get(id: string) {
    return this.#store.get(id)
  }

  replace(next: SessionRecord, expectedVersion: number) {
    return this.#replace(next, expectedVersion, [])
  }

  async #replace(next: SessionRecord, expectedVersion: number, sums: readonly ChunkSum[]): Promise<boolean> {
    await this.beforeReplace(next)
    if (!(await this.#store.replace(next, expectedVersion))) return false
    const all = this.#sums.get(next.id) ?? new Map<number, number>()
    for (const { index, crc32 } of sums) all.set(index, crc32)
    this.#sums.set(next.id, all)
    return true
  }

  async delete(id: string) {
    await this.#store.delete(id)
    this.#sums.delete(id)
  }

  listExpired(now: number) {
    return this.#store.listExpired(now)
  }

  countOpen(owner?: string) {
    return this.#store.countOpen(owner)
  }

  /** Of how many records there are sums. */
  get summed(): number {
    return this.#sums.size
  }
}

export class SharedLocker implements Locker {
  readonly shared = true
  readonly #locker = new MemoryLocker()

  acquire(key: string, request: LockRequest) {
    return this.#locker.acquire(key, request)
  }
}

/** Small numbers, so that a test of many parts is fast. */
export const partSize = 8 * 1024

export function sharedStorage(): MemoryStorageAdapter {
  return new MemoryStorageAdapter({ multipart: { minPartSize: 4096, partSize } })
}

export interface Nodes {
  readonly storage?: StorageAdapter
  readonly options?: Partial<UploadEngineOptions>
}

/** So many nodes, and what they share. */
export function sharedNodes<Storage extends StorageAdapter = MemoryStorageAdapter>(
  count: number,
  storage: Storage,
  options: Partial<UploadEngineOptions> = {},
) {
  const sessions = new SharedSessionStore()
  const locker = new SharedLocker()
  const add = () => testEngine({ sessions, locker, storage, maxChunkSize: 256 * 1024, ...options })
  const nodes = Array.from({ length: count }, add)
  return { nodes, sessions, locker, storage, add }
}

/** The node dies: nothing of it comes back, and its disk is gone. */
export async function lose(node: ReturnType<typeof testEngine>): Promise<void> {
  await node.engine.close({ timeout: 1 })
  rmSync(node.tempDir, { recursive: true, force: true })
}
