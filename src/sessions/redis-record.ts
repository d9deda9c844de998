/**
 * A record as fields of a hash, so that a change writes only what has changed, however many chunks the upload has.
 *
 * - `h`: what rarely changes, as JSON; with zeros in the places of what is elsewhere
 * - `t`: what changes with every chunk, as JSON
 * - `c<index>`: one run of chunks, by its first index, as JSON
 * - `v`: the version
 * - `w`: who wrote the last versions, newest first: one random word for each
 * - `x`: `<layout> <checksum>`; the checksum is the sum of the CRC-32s of all `h`, `t` and `c…`
 */
import { crc32 } from 'node:zlib'
import type { ChunkRun, SessionRecord } from '../types.ts'
import { freezeDeep, hasFormat, newerState, parseFrozen } from './session-record.ts'

/** How the fields are laid out. A newer one is refused, never touched. */
const layout = 1
const oftenChanged = ['version', 'expiresAt', 'updatedAt', 'sentParts']
const elsewhere = 0

/** A record as it is stored, and what is needed to store its successor. */
export interface StoredSession {
  readonly record: SessionRecord
  readonly head: string
  readonly tail: string
  readonly runs: readonly ChunkRun[]
  readonly sum: number
  /** The word of whoever wrote this version. */
  readonly writer: string
  /** Characters. */
  readonly length: number
  /** Whether its fields are what this code would write; if not, the next version is written whole. */
  readonly exact: boolean
}

/** From one version to the next. */
export interface FieldChange {
  readonly set: readonly [field: string, value: string][]
  readonly remove: readonly string[]
  readonly stored: StoredSession
}

/** The bytes are not what was once written. */
export class RecordDamage extends Error {}

/** The whole record, for a hash that is empty. */
export function wholeRecord(record: SessionRecord, writer: string): FieldChange {
  const { head, tail, runs } = split(record)
  const nothing = { head: null, tail: null, runs: [], sum: 0 }
  return change(nothing, { head, tail, runs }, writer)
}

/** The difference between two versions. */
export function nextRecord(before: StoredSession, record: SessionRecord, writer: string): FieldChange {
  return change(before, split(record), writer)
}

interface Parts {
  readonly head: string
  readonly tail: string
  readonly runs: readonly ChunkRun[]
}

interface Before {
  readonly head: string | null
  readonly tail: string | null
  readonly runs: readonly ChunkRun[]
  readonly sum: number
}

function change(before: Before, { head, tail, runs }: Parts, writer: string): FieldChange {
  const set: [string, string][] = []
  const remove: string[] = []
  let { sum } = before
  const update = (field: string, from: string | null, to: string | null) => {
    if (from === to) return
    if (from !== null) sum -= checksum(field, from)
    if (to !== null) sum += checksum(field, to)
    if (to === null) remove.push(field)
    else set.push([field, to])
  }
  update('h', before.head, head)
  update('t', before.tail, tail)
  const kept = changeRuns(before.runs, runs, update)
  sum >>>= 0
  set.push(['x', `${layout} ${sum.toString(16)}`])
  const record = join(head, tail, kept)
  const length = head.length + tail.length + 60 * kept.length
  return { set, remove, stored: { record, head, tail, runs: kept, sum, writer, length, exact: true } }
}

/** Both lists are in order of their indexes. Returns frozen runs, those that did not change as they were. */
function changeRuns(
  before: readonly ChunkRun[],
  after: readonly ChunkRun[],
  update: (field: string, from: string | null, to: string | null) => void,
): ChunkRun[] {
  let at = 0
  const drop = (below: number) => {
    for (let old = before[at]; old && old.index < below; old = before[++at])
      update(nameOf(old), JSON.stringify(old), null)
  }
  const kept = after.map((run) => {
    drop(run.index)
    const old = before[at]?.index === run.index ? before[at++] : undefined
    if (old === run) return run
    const json = JSON.stringify(run)
    const from = old ? JSON.stringify(old) : null
    update(nameOf(run), from, json)
    return from === json && old ? old : (parseFrozen(json) as unknown as ChunkRun)
  })
  drop(Number.POSITIVE_INFINITY)
  return kept
}

function split(record: SessionRecord): Parts {
  const head: Record<string, unknown> = { ...record }
  const tail: Record<string, unknown> = {}
  for (const name of oftenChanged) {
    if (!Object.hasOwn(head, name)) continue
    tail[name] = head[name]
    head[name] = elsewhere
  }
  const runs = 'chunks' in record && areRuns(record.chunks) ? record.chunks : []
  if (runs.length > 0) head.chunks = elsewhere
  return { head: JSON.stringify(head), tail: JSON.stringify(tail), runs }
}

/** Whether each can be a field of its own: by index, each index once, in order. */
function areRuns(chunks: readonly ChunkRun[]): boolean {
  let last = -1
  for (const { index } of chunks) {
    if (!Number.isSafeInteger(index) || index <= last) return false
    last = index
  }
  return true
}

function nameOf({ index }: ChunkRun): string {
  return `c${index}`
}

/** The record of a hash's fields. @throws RecordDamage; StorageUnavailableError `STATE_NEWER` */
export function readRecord(id: string, fields: ReadonlyMap<string, string>): StoredSession {
  const [found, stated] = /^(\d{1,6}) ([0-9a-f]{1,8})$/.exec(fields.get('x') ?? '')?.slice(1) ?? []
  if (found === undefined || stated === undefined) throw new RecordDamage('no checksum')
  if (Number(found) > layout) throw newerState(new Error(`The record has layout ${found}.`))
  if (Number(found) < layout) throw new RecordDamage('a layout that never was')
  const [head, tail] = [fields.get('h'), fields.get('t')]
  if (head === undefined || tail === undefined) throw new RecordDamage('fields are missing')
  let sum = 0
  let exact = true
  const runs: ChunkRun[] = []
  let length = 0
  for (const [field, value] of fields) {
    if (field !== 'h' && field !== 't' && !field.startsWith('c')) continue
    sum += checksum(field, value)
    length += value.length
    if (!field.startsWith('c')) continue
    const run = parse(value) as unknown as ChunkRun
    if (nameOf(run) !== field) throw new RecordDamage('a run in the wrong field')
    exact &&= JSON.stringify(run) === value
    runs.push(run)
  }
  if (sum >>> 0 !== Number.parseInt(stated, 16)) throw new RecordDamage('wrong checksum')
  runs.sort((a, b) => a.index - b.index)
  const record = join(head, tail, runs)
  if (record.id !== id || String(record.version) !== fields.get('v')) throw new RecordDamage('another record')
  if (!hasFormat(record)) throw new RecordDamage('a format that never was')
  const writer = fields.get('w')?.split(' ')[0] ?? ''
  return { record, head, tail, runs, sum: sum >>> 0, writer, length, exact: exact && writer !== '' }
}

function join(head: string, tail: string, runs: readonly ChunkRun[]): SessionRecord {
  const record = { ...parse(head) }
  const changing = parse(tail)
  for (const name of oftenChanged) if (Object.hasOwn(changing, name)) record[name] = changing[name]
  if (record.chunks === elsewhere) record.chunks = freezeDeep([...runs])
  return Object.freeze(record) as unknown as SessionRecord
}

function parse(json: string): Record<string, unknown> {
  try {
    const value: unknown = parseFrozen(json)
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
  } catch {
    // Reported below.
  }
  throw new RecordDamage('no JSON')
}

function checksum(field: string, value: string): number {
  return crc32(`${field} ${value}`)
}
