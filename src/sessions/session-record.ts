/** From JSON to a record and back, and what an id looks like. */
import { StorageUnavailableError } from '../errors.ts'
import type { SessionRecord } from '../types.ts'
import { JournalDamage } from './session-journal.ts'

const id = /^[A-Za-z0-9_-]{22,64}$/

/** Whether it can be the id of a record; nothing else ever becomes part of a path. */
export function isSessionId(value: unknown): value is string {
  return typeof value === 'string' && id.test(value)
}

/** @throws TypeError when `next` cannot follow on `expectedVersion` */
export function checkNextVersion(next: SessionRecord, expectedVersion: number): void {
  if (next.version === expectedVersion + 1) return
  throw new TypeError(`The record after version ${expectedVersion} cannot have version ${next.version}.`)
}

/** The record, frozen through and through. */
export function parseFrozen(json: string): SessionRecord {
  return freezeDeep(JSON.parse(json)) as SessionRecord
}

/** @throws JournalDamage when it is not the record of this id and version */
export function parseRecord(
  id: string,
  path: string,
  { json, version }: { readonly json: string; readonly version: number | null },
): SessionRecord {
  const record = tryParse(json)
  if (record === null || record.id !== id || record.version !== version || !hasFormat(record)) {
    const error = new JournalDamage('not the record of this id and version')
    error.path = path
    throw error
  }
  return record
}

/** Whether its format is one that there has been. @throws StorageUnavailableError `STATE_NEWER` */
export function hasFormat({ format }: { readonly format?: unknown }): boolean {
  if (Number.isSafeInteger(format) && Number(format) > 1)
    throw newerState(new Error(`The record has format ${format}.`))
  return format === 1
}

/** 503 `STATE_NEWER`: written by a newer release. It stays as it is. */
export function newerState(cause: unknown): StorageUnavailableError {
  const message = 'The state of this upload is from a newer release of the server. Try again later.'
  return new StorageUnavailableError(message, { code: 'STATE_NEWER', cause })
}

/** 503 `STATE_UNREADABLE`: damaged. It stays as it is. */
export function unreadableState(cause: unknown): StorageUnavailableError {
  const message = 'The state of this upload cannot be read right now. Try again later.'
  return new StorageUnavailableError(message, { code: 'STATE_UNREADABLE', cause })
}

function tryParse(json: string): SessionRecord | null {
  try {
    const record = parseFrozen(json)
    return typeof record === 'object' ? record : null
  } catch {
    return null
  }
}

/** Frozen through and through. What is frozen already is taken to be so. */
export function freezeDeep(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value
  for (const inner of Object.values(value)) freezeDeep(inner)
  return Object.freeze(value)
}
