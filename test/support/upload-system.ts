/** The engine under a model: on folders of its own, with a clock to move, a storage to disturb, and restarts. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import fs from 'fs-extra'
import { expect } from 'vitest'
import { createUploadEngine } from '../../src/create-upload-engine.ts'
import { MemorySessionStore } from '../../src/sessions/memory-session-store.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { SessionStore, StorageAdapter, UploadEngine } from '../../src/types.ts'
import { engineClient } from './engine.ts'
import { flaky, type Trouble } from './flaky-storage.ts'
import { SharedLocker, SharedSessionStore } from './shared-nodes.ts'
import { filesBelow, makeFolder } from './temp-folder.ts'
import { hour, limits } from './upload-model.ts'

/** Of `memory alone` nothing waits on a disk: several machines share storage, sessions and locks. */
export const systemKinds = ['local disk', 'memory in parts', 'memory alone'] as const
export type SystemKind = (typeof systemKinds)[number]

const sessionsOf = (kind: SystemKind) =>
  kind === 'local disk' ? null : kind === 'memory alone' ? new SharedSessionStore() : new MemorySessionStore()

export class UploadSystem {
  readonly kind: SystemKind
  readonly trouble: Trouble = { when: 'never' }
  readonly #folder = makeFolder()
  #tempDir = join(this.#folder.path, 'temp')
  readonly #objects = join(this.#folder.path, 'objects')
  readonly #memory = new MemoryStorageAdapter({ multipart: { minPartSize: 100, partSize: 100 } })
  readonly #storage: StorageAdapter
  readonly #sessions: SessionStore | null
  readonly #locker = new SharedLocker()
  readonly #engines: UploadEngine[] = []
  engine: UploadEngine
  client: ReturnType<typeof engineClient>
  #ahead = 0
  readonly now = () => Date.now() + this.#ahead

  constructor(kind: SystemKind) {
    this.kind = kind
    const storage = kind === 'local disk' ? new LocalStorageAdapter({ directory: this.#objects }) : this.#memory
    this.#storage = flaky(storage, this.trouble)
    this.#sessions = sessionsOf(kind)
    this.engine = this.#open()
    this.client = engineClient(this.engine)
  }

  #open(): UploadEngine {
    const engine = createUploadEngine({
      ...limits,
      storage: this.#storage,
      ...(this.#sessions && { sessions: this.#sessions }),
      ...(this.kind === 'memory alone' && { locker: this.#locker, staging: 'storage' as const }),
      tempDir: this.#tempDir,
      cleanupInterval: hour,
      clock: this.now,
    })
    this.#engines.push(engine)
    return engine
  }

  advance(milliseconds: number): void {
    this.#ahead += milliseconds
  }

  /** Without an end of the old one, another process goes on with what it has begun; in `memory alone`, another machine. */
  async restart(how: 'close' | 'leave'): Promise<void> {
    if (how === 'close') await this.engine.close({ timeout: 5_000 })
    if (this.kind === 'memory alone') this.#tempDir = join(this.#folder.path, `temp-${this.#engines.length}`)
    this.engine = this.#open()
    this.client = engineClient(this.engine)
  }

  /** The keys of all objects with their bytes. */
  async objects(): Promise<Map<string, Buffer>> {
    if (this.kind !== 'local disk') {
      return new Map(this.#memory.keys().map((key) => [key, this.#memory.read(key) ?? Buffer.alloc(0)]))
    }
    const keys = (await filesBelow(this.#objects)).filter((name) => name.startsWith('uploads/'))
    return new Map(await Promise.all(keys.map(async (key) => [key, await readFile(join(this.#objects, key))] as const)))
  }

  /** Once everything has been idle for long: nothing is left but the objects. */
  async requireClean(): Promise<void> {
    this.trouble.when = 'never'
    // Whoever is still moving chunks to their places keeps their upload from being swept.
    for (const engine of this.#engines) await engine.close({ timeout: 5_000 })
    await this.restart('leave')
    for (let round = 0; round < 3; round++) {
      this.advance(1.1 * hour)
      expect(await this.engine.sweep()).toMatchObject({ failed: 0 })
    }
    expect(this.#memory.stagedKeys()).toEqual([])
    const left = await readdir(join(this.#tempDir, 'staging'), { recursive: true })
    expect(left, left.join(' ')).toEqual([])
    expect(await filesBelow(join(this.#tempDir, 'sessions'))).toEqual([])
    expect(await filesBelow(join(this.#tempDir, 'spool'))).toEqual([])
    expect(this.#memory.openMultipartUploads()).toEqual([])
  }

  async end(): Promise<void> {
    for (const engine of this.#engines) await engine.close({ timeout: 1_000 })
    await fs.remove(this.#folder.path)
  }
}
