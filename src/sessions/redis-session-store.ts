import { randomBytes } from 'node:crypto'
import { StorageUnavailableError } from '../errors.ts'
import { connectionOf, type RedisClient } from '../redis/redis-client.ts'
import type { RedisCommands, Script } from '../redis/redis-commands.ts'
import { isWrongType, RedisTrouble } from '../redis/redis-errors.ts'
import { commandsOf, keyspaceOf, type RedisOptions } from '../redis/redis-options.ts'
import type { ChunkSum, ChunkSumStore, SessionRecord, SessionStore } from '../types.ts'
import { checkRedis } from './redis-checks.ts'
import {
  type FieldChange,
  nextRecord,
  RecordDamage,
  readRecord,
  type StoredSession,
  wholeRecord,
} from './redis-record.ts'
import {
  changeScript,
  countScript,
  deleteScript,
  expiredScript,
  getScript,
  outcomes,
  sumsScript,
} from './redis-session-scripts.ts'
import { SessionCache } from './session-cache.ts'
import { checkNextVersion, isSessionId, unreadableState } from './session-record.ts'

export interface RedisSessionStoreOptions extends RedisOptions {}

const pageSize = 256
// So many records that expire in one and the same millisecond are more than a sweep has to see.
const maxTies = 10_000

/**
 * Keeps session records in Redis 7 or newer, or Valkey, for any number of machines. A chunk costs the same number of bytes
 * however many the upload has.
 *
 * Every method fails with `StorageUnavailableError` (503) when Redis is away, full, read-only or slow, with the code
 * `STATE_UNREADABLE` when a record is damaged or its key holds something else (it stays as it is) and `STATE_NEWER` when a
 * newer release wrote it. A change that failed may have been stored or not, never by half.
 */
export class RedisSessionStore implements SessionStore {
  readonly shared = true
  readonly chunkSums: ChunkSumStore = {
    replace: (next, expectedVersion, sums) => this.#replace(next, expectedVersion, sums),
    read: (id, index) => this.#readSums(id, index),
  }
  readonly #commands: RedisCommands
  readonly #keyspace: string
  readonly #cache = new SessionCache<StoredSession>()

  /**
   * @param client of the package `redis` or `ioredis`, connected; it stays the caller's: `close` leaves it open
   * @throws TypeError when the client or an option is not usable
   */
  constructor(client: RedisClient, options: RedisSessionStoreOptions = {}) {
    const connection = connectionOf(client)
    this.#keyspace = keyspaceOf(options)
    this.#commands = commandsOf(connection, options)
    this.#commands.whenReady(() => void checkRedis(client, connection, this.#keyspace))
  }

  /** @throws TypeError when the record's id is no session id */
  async create(record: SessionRecord): Promise<boolean> {
    if (!isSessionId(record.id)) throw new TypeError(`No session id: ${JSON.stringify(record.id)}`)
    const change = wholeRecord(record, newWriter())
    return (await this.#change(change, -1, '')) === outcomes.stored
  }

  async get(id: string): Promise<SessionRecord | null> {
    if (!isSessionId(id)) return null
    return (await this.#look(id))?.record ?? null
  }

  /** @throws TypeError when `next.version` is not `expectedVersion + 1` */
  replace(next: SessionRecord, expectedVersion: number): Promise<boolean> {
    return this.#replace(next, expectedVersion, [])
  }

  async #replace(next: SessionRecord, expectedVersion: number, sums: readonly ChunkSum[]): Promise<boolean> {
    checkNextVersion(next, expectedVersion)
    if (!isSessionId(next.id)) return false
    const writer = newWriter()
    const before = this.#cache.get(next.id)
    const isBase = before?.exact && before.record.version === expectedVersion
    const change = isBase ? nextRecord(before, next, writer) : wholeRecord(next, writer)
    let outcome = await this.#change(change, expectedVersion, isBase ? before.writer : '', sums)
    if (outcome === outcomes.otherBase) {
      outcome = await this.#change(wholeRecord(change.stored.record, writer), expectedVersion, '', sums)
    }
    return outcome === outcomes.stored
  }

  async #readSums(id: string, index?: number): Promise<ReadonlyMap<number, number>> {
    if (!isSessionId(id)) return new Map()
    const args = [index === undefined ? '' : `${index}`]
    const { reply } = await this.#run(sumsScript, [this.#keysOf(id)[4]], args)
    return new Map(pairsOf(reply).map(([at, sum]) => [Number(at), Number(sum)]))
  }

  async delete(id: string): Promise<void> {
    if (!isSessionId(id)) return
    // What cannot be read, or is not ours, throws here and stays.
    const found = await this.#look(id)
    this.#cache.delete(id)
    if (found !== null) await this.#run(deleteScript, this.#keysOf(id), [id])
  }

  /** By `expiresAt`, in pages; what expired first comes first. */
  async *listExpired(now: number): AsyncGenerator<string, void, undefined> {
    let from = '-inf'
    // Those of the time `from` that were given already.
    const given = new Set<string>()
    while (given.size < maxTies) {
      const args = [from, `${now}`, `${pageSize + given.size}`]
      const { reply } = await this.#run(expiredScript, [this.#keysOf('')[1]], args)
      const fresh = pairsOf(reply).filter(([id]) => !given.has(id))
      if (fresh.length === 0) return
      for (const [id, score] of fresh) {
        if (score !== from) given.clear()
        from = score
        given.add(id)
        if (isSessionId(id)) yield id
      }
    }
  }

  /** Exact, whoever changes what. */
  async countOpen(owner?: string): Promise<number> {
    const [, , open, owners] = this.#keysOf('')
    const { reply } = await this.#run(countScript, [open, owners], [owner === undefined ? '' : JSON.stringify(owner)])
    return Number(reply)
  }

  /** Gives up its listeners on the client, and leaves the client open. */
  async close(): Promise<void> {
    this.#commands.close()
    this.#cache.clear()
  }

  #keysOf(id: string): [record: string, expiry: string, open: string, owners: string, sums: string] {
    const keyspace = this.#keyspace
    return [`${keyspace}s:${id}`, `${keyspace}expiry`, `${keyspace}open`, `${keyspace}owners`, `${keyspace}c:${id}`]
  }

  /** The record as it is now. One that is still what we know is not sent again. */
  async #look(id: string): Promise<StoredSession | null> {
    const known = this.#cache.get(id)
    const args = [id, known ? `${known.record.version}` : '', known?.writer ?? '']
    const { reply } = await this.#run(getScript, this.#keysOf(id), args)
    if (known && reply === 1) return known
    this.#cache.delete(id)
    if (reply === null) return null
    try {
      const found = readRecord(id, new Map(pairsOf(reply)))
      this.#cache.set(id, found, found.length)
      return found
    } catch (error) {
      throw error instanceof RecordDamage ? unreadableState(error) : error
    }
  }

  /** `base`: the writer of the version that the change is the difference to; empty when it is everything. */
  async #change(
    { set, remove, stored }: FieldChange,
    expected: number,
    base: string,
    sums: readonly ChunkSum[] = [],
  ): Promise<number> {
    const { record, writer, length } = stored
    const { id, version, expiresAt, open, owner } = record
    const args = [id, `${expected}`, `${version}`, writer, base, `${expiresAt}`, open ? JSON.stringify(owner) : '']
    args.push(`${set.length}`, `${sums.length}`, ...set.flat())
    args.push(...sums.flatMap(({ index, crc32 }) => [`${index}`, `${crc32}`]), ...remove)
    try {
      const { reply, repeated } = await this.#run(changeScript, this.#keysOf(id), args)
      if (reply === outcomes.stored) this.#cache.set(id, stored, length)
      else this.#cache.delete(id)
      if (reply === outcomes.foreign) throw unreadableState(new RecordDamage('not a record'))
      // The first run may have stored it, and others may have gone on from there: nobody can say.
      if (reply === outcomes.unknown && repeated) throw new StorageUnavailableError(undefined, { cause: lostAnswer() })
      return Number(reply)
    } catch (error) {
      this.#cache.delete(id)
      throw error
    }
  }

  async #run(script: Script, keys: string[], args: readonly string[]) {
    try {
      return await this.#commands.run(script, keys, args)
    } catch (error) {
      const { cause } = error as { cause?: unknown }
      throw isWrongType(cause) ? unreadableState(cause) : error
    }
  }
}

function newWriter(): string {
  return randomBytes(6).toString('base64url')
}

function lostAnswer(): RedisTrouble {
  return new RedisTrouble('LOST_ANSWER', 'The connection broke, and whether the change was stored cannot be seen.')
}

/** `[a, 1, b, 2]` as pairs. */
function pairsOf(reply: unknown): [string, string][] {
  const flat = Array.isArray(reply) ? reply : []
  return Array.from({ length: flat.length / 2 }, (_, n) => [String(flat[2 * n]), String(flat[2 * n + 1])])
}
