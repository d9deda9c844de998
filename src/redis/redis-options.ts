/** Options that the session store and the locker have in common. */

import type { RedisConnection } from './redis-client.ts'
import { RedisCommands } from './redis-commands.ts'

export interface RedisOptions {
  /**
   * Begins the name of every key, in braces: `{prefix}:…`, so that in a cluster all keys are in one slot. The same on all
   * nodes of one application, another for every other application. Default `nexus-uploader`.
   */
  prefix?: string
  /** Longest wait for Redis, ms; then it is 503. Default 5000. */
  commandTimeout?: number
  /** Most commands that wait for an answer at once; beyond, it is 503 at once. Default 2000. */
  maxPendingCommands?: number
}

/** @throws TypeError when the prefix is not usable */
export function keyspaceOf({ prefix = 'nexus-uploader' }: RedisOptions): string {
  if (typeof prefix !== 'string' || !/^[^{}\s\p{C}]{1,100}$/u.test(prefix)) {
    throw new TypeError(`prefix must be 1 to 100 characters without spaces and braces, not ${JSON.stringify(prefix)}`)
  }
  return `{${prefix}}:`
}

/** @throws TypeError when an option is not usable */
export function commandsOf(connection: RedisConnection, options: RedisOptions): RedisCommands {
  const timeout = wholeNumber('commandTimeout', options.commandTimeout ?? 5_000, 1)
  const maxPending = wholeNumber('maxPendingCommands', options.maxPendingCommands ?? 2_000, 1)
  return new RedisCommands(connection, { timeout, maxPending })
}

/** @throws TypeError */
export function wholeNumber(name: string, value: number, from: number): number {
  if (Number.isSafeInteger(value) && value >= from && value < 2 ** 31) return value
  throw new TypeError(`${name} must be a whole number from ${from} to 2147483647, not ${JSON.stringify(value)}`)
}
