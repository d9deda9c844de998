/** One file on its way: which chunks are acknowledged, how many bytes were sent for it. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Client, CutError, RefusedError } from './client.ts'
import { CHUNK_SIZE } from './layout.ts'
import { readRange, type SourceFile } from './source-file.ts'

const attempts = 5
const firstDelay = 200

export class Upload {
  readonly id: string
  readonly file: SourceFile
  readonly client: Client
  /** Indexes of the chunks that the server has answered with 200. */
  readonly acknowledged = new Set<number>()
  /** Bytes of the file that were handed to a connection, also in vain. */
  sent = 0
  readonly #underWay = new Map<number, number>()
  readonly #onProgress: (bytes: number) => void
  #acknowledgedBytes = 0

  constructor(id: string, file: SourceFile, client: Client, onProgress: (bytes: number) => void) {
    this.id = id
    this.file = file
    this.client = client
    this.#onProgress = onProgress
  }

  get chunkCount(): number {
    return Math.ceil(this.file.size / CHUNK_SIZE)
  }

  get acknowledgedBytes(): number {
    return this.#acknowledgedBytes
  }

  sizeOf(index: number): number {
    return Math.min(CHUNK_SIZE, this.file.size - index * CHUNK_SIZE)
  }

  /** Sends one chunk; repeats it after failures that pass, unless `halt` says that there is no point. */
  async send(index: number, halt: AbortSignal): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#sendOnce(index)
        this.assume(index)
        return
      } catch (error) {
        if (halt.aborted || attempt === attempts || !isPassing(error)) throw error
        await sleep(firstDelay * 2 ** (attempt - 1), undefined, { signal: halt })
      }
    }
  }

  /** The chunk is there. */
  assume(index: number): void {
    if (this.acknowledged.has(index)) return
    this.acknowledged.add(index)
    this.#acknowledgedBytes += this.sizeOf(index)
    this.#report()
  }

  /** Sends the first half of a chunk and cuts the connection. */
  async sendHalf(index: number): Promise<void> {
    try {
      await this.#sendOnce(index, this.sizeOf(index) / 2)
    } catch (error) {
      if (!(error instanceof CutError)) throw error
    }
  }

  async #sendOnce(index: number, cutAfter?: number): Promise<void> {
    const bytes = await readRange(this.file, index * CHUNK_SIZE, this.sizeOf(index))
    const onSent = (size: number) => {
      this.sent += size
      this.#underWay.set(index, (this.#underWay.get(index) ?? 0) + size)
      this.#report()
    }
    try {
      const cut = cutAfter === undefined ? {} : { cutAfter }
      await this.client.sendChunk({ uploadId: this.id, index, bytes, onSent, ...cut })
    } finally {
      this.#underWay.delete(index)
    }
  }

  #report(): void {
    let underWay = 0
    for (const bytes of this.#underWay.values()) underWay += bytes
    this.#onProgress(this.#acknowledgedBytes + underWay)
  }
}

/** Runs the task for every item, `width` at a time. After a failure no more are begun; the first one is thrown. */
export async function inParallel<Item>(
  width: number,
  items: readonly Item[],
  task: (item: Item) => Promise<void>,
): Promise<void> {
  const queue = items.values()
  let failed = false
  const worker = async () => {
    for (const item of queue) {
      if (failed) return
      try {
        await task(item)
      } catch (error) {
        failed = true
        throw error
      }
    }
  }
  const results = await Promise.allSettled(Array.from({ length: width }, worker))
  for (const result of results) if (result.status === 'rejected') throw result.reason
}

function isPassing(error: unknown): boolean {
  if (error instanceof RefusedError) return error.status >= 500 || [408, 423, 429].includes(error.status)
  return typeof (error as { code?: unknown }).code === 'string' && (error as Error).name !== 'AbortError'
}
