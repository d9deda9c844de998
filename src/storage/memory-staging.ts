/** Private objects in memory. */
import { Readable } from 'node:stream'
import { StorageError } from '../errors.ts'
import type { OpenStaged, PartBody, StagedObject, StagingStorage } from '../types.ts'

interface Staged {
  readonly bytes: Buffer
  readonly modifiedAt: number
}

export class MemoryStaging implements StagingStorage {
  readonly #objects = new Map<string, Staged>()

  async put(key: string, body: PartBody, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    const buffers: Buffer[] = []
    for await (const data of body.open()) buffers.push(data as Buffer)
    signal?.throwIfAborted()
    const bytes = Buffer.concat(buffers)
    if (bytes.length !== body.size) throw new StorageError(`${bytes.length} bytes came instead of ${body.size}.`)
    this.#objects.set(key, { bytes, modifiedAt: Date.now() })
  }

  async open(key: string, { range, signal }: OpenStaged = {}): Promise<Readable> {
    signal?.throwIfAborted()
    const object = this.#objects.get(key)
    if (!object) throw new StorageError(`There is no ${key}.`)
    const { start, end } = range ?? { start: 0, end: object.bytes.length }
    if (end > object.bytes.length) throw new StorageError(`${key} has only ${object.bytes.length} bytes.`)
    return Readable.from([Buffer.from(object.bytes.subarray(start, end))], { objectMode: false })
  }

  async remove(keys: readonly string[]): Promise<void> {
    for (const key of keys) this.#objects.delete(key)
  }

  async *list(prefix = ''): AsyncGenerator<StagedObject, void, undefined> {
    for (const [key, { modifiedAt }] of this.#objects) if (key.startsWith(prefix)) yield { key, modifiedAt }
  }

  keys(): string[] {
    return [...this.#objects.keys()]
  }
}
