/**
 * The journal of one session record: lines that are only ever appended, in a file whose order is the truth. Folding
 * the lines in that order gives the record, and gives every process the same answer about who won.
 *
 * A line is `RS <crc32> <kind> <number> <nonce> <bytes> <json> LF`. RS begins every line and LF ends it, and neither
 * occurs inside, so a line that was cut off (no LF) cannot be taken for one that was damaged later (LF, but wrong). Nor
 * does NUL: that is read where a file system has kept the new length of the file over a power cut and not the bytes.
 */
import { crc32 } from 'node:zlib'

/**
 * - `r` record: counts if its number, the version, is one above the current version (or it is the first line).
 * - `s` seal: the file takes no more records; the next generation goes on from here.
 * - `n` next, only in a sealed first file: names generation `number`; counts if that is one above the current.
 * - `d` dead: the record is deleted. After the seal of a first file it counts only if `number` is the current
 *   generation.
 */
export type LineKind = 'r' | 's' | 'n' | 'd'

export interface Line {
  readonly kind: LineKind
  readonly number: number
  /** Tells a writer's own line from a rival's with the same number. */
  readonly nonce: string
  readonly json: string
}

/** The bytes are not what was once written. */
export class JournalDamage extends Error {
  /** The damaged file, once it is known. */
  path: string | undefined
}

/** The bytes are fine, but a newer release of this library wrote them. */
export class JournalNewer extends Error {}

const RS = 0x1e
const LF = 0x0a
const NUL = 0x00
const beforeBlank = Buffer.from([LF, NUL])
/** Disks write no less at once, bytes. */
const sector = 512
const header = /^([0-9a-f]{8}) ([a-z]) (\d{1,15}) ([0-9a-z]{1,32}) (\d{1,10}) /
const longestHeader = 8 + 1 + 1 + 1 + 15 + 1 + 32 + 1 + 10 + 1

export function encodeLine({ kind, number, nonce, json }: Line): Buffer {
  const content = `${kind} ${number} ${nonce} ${Buffer.byteLength(json)} ${json}`
  return Buffer.from(`\x1e${crc32(content).toString(16).padStart(8, '0')} ${content}\n`)
}

interface DecodedLine extends Omit<Line, 'json'> {
  readonly json: Buffer
}

/** The line in the bytes between one RS and the next; `null` when its end was never written. */
function decodeLine(bytes: Buffer): DecodedLine | null {
  const ended = bytes[bytes.length - 1] === LF
  const match = header.exec(bytes.toString('latin1', 0, longestHeader))
  if (match === null) {
    if (ended || bytes.length > longestHeader) throw new JournalDamage('a line has no header')
    return null
  }
  const [head = '', crc = '', kind = '', number, nonce = '', size] = match
  const end = head.length + Number(size)
  if (bytes.length < end && !ended) return null
  if (bytes.length !== (ended ? end + 1 : end)) throw new JournalDamage('a line has the wrong length')
  if (crc32(bytes.subarray(crc.length + 1, end)) !== Number.parseInt(crc, 16)) {
    throw new JournalDamage('a line has the wrong checksum')
  }
  if (!isLineKind(kind)) throw new JournalNewer(`lines of kind ${kind} are not known here`)
  return { kind, number: Number(number), nonce, json: bytes.subarray(head.length, end) }
}

/**
 * Whether sectors of the line never came to the disk: it was not flushed, so nobody was told of it. A single byte that
 * became NUL is damage.
 */
function isTorn(line: Buffer, position: number): boolean {
  let torn = false
  for (let at = line.indexOf(NUL); at !== -1; at = line.indexOf(NUL, at)) {
    if (at > 0 && (position + at) % sector !== 0) return false
    while (at < line.length && line[at] === NUL) at++
    if (at < line.length && (position + at) % sector !== 0) return false
    torn = true
  }
  return torn
}

function isLineKind(kind: string): kind is LineKind {
  return kind === 'r' || kind === 's' || kind === 'n' || kind === 'd'
}

/** What the lines of one file add up to so far. */
export class Journal {
  /** `sealed`: another file goes on. `dead`: deleted. Neither ever becomes `live` again. */
  status: 'live' | 'sealed' | 'dead' = 'live'
  /** Version of the record; `null` before the first one. */
  version: number | null = null
  /** Length of the first line, bytes. */
  baseLength = 0
  /** The newest generation that this file names, and the nonce in that file's name. */
  successor = { generation: 0, nonce: '' }
  /** Where to go on folding: everything before it is decided. */
  offset = 0
  /** Size of the file when it was last looked at. */
  seen = 0
  #json = ''
  // A line counts once its last byte before LF is there; then its LF may still come.
  #awaitsEnd = false

  /** The record as JSON. */
  get json(): string {
    return this.#json
  }

  /**
   * Takes in the bytes from `offset` to the end of the file.
   * @returns whether the line with this nonce was among them and counts
   * @throws JournalDamage, JournalNewer; the journal must not be used any more then
   */
  fold(bytes: Buffer, nonce?: string): boolean {
    const from = this.offset
    let counts = false
    let newest: DecodedLine | null = null
    let at = this.#awaitsEnd && bytes[0] === LF ? 1 : 0
    while (at < bytes.length) {
      const next = bytes.indexOf(RS, at + 1)
      const whole = bytes.subarray(at, next === -1 ? bytes.length : next)
      const blank = whole.indexOf(beforeBlank)
      const end = at + (blank === -1 ? whole.length : blank + 1)
      const isLast = end === bytes.length
      if (isTorn(bytes.subarray(at, end), from + at)) {
        if (isLast) break
        this.#awaitsEnd = false
        at = end
        continue
      }
      if (bytes[at] !== RS) throw new JournalDamage('bytes between two lines')
      const line = decodeLine(bytes.subarray(at + 1, end))
      // Without an end and with nothing behind it, it may still be growing; with something behind it, it is torn.
      if (line === null && isLast) break
      if (line !== null && this.#apply(line, end - at)) {
        if (line.kind === 'r') newest = line
        if (line.nonce === nonce) counts = true
      }
      this.#awaitsEnd = line !== null && bytes[end - 1] !== LF
      at = end
    }
    if (newest !== null) this.#json = newest.json.toString()
    this.offset = from + at
    this.seen = from + bytes.length
    return counts
  }

  /** Takes in our own line of this length, known to be the very next thing in the file after `seen`. */
  foldOwn(line: Line, length: number): boolean {
    const counts = this.#apply(line, length)
    if (counts && line.kind === 'r') this.#json = line.json
    this.seen += length
    this.offset = this.seen
    this.#awaitsEnd = false
    return counts
  }

  #apply({ kind, number, nonce }: Omit<Line, 'json'>, length: number): boolean {
    if (this.status === 'dead') return false
    if (this.status === 'sealed') return this.#applyAfterSeal(kind, number, nonce)
    if (kind === 'r') return this.#applyRecord(number, length)
    if (this.version === null) throw new JournalDamage('the first line is no record')
    if (kind === 'n') throw new JournalDamage('a successor without a seal')
    this.status = kind === 's' ? 'sealed' : 'dead'
    return true
  }

  #applyRecord(version: number, length: number): boolean {
    // Writers append one above what they have folded, so nothing can be further ahead.
    if (this.version !== null && version > this.version + 1) throw new JournalDamage('a version is missing')
    if (this.version !== null && version !== this.version + 1) return false
    if (this.version === null) this.baseLength = length
    this.version = version
    return true
  }

  #applyAfterSeal(kind: LineKind, number: number, nonce: string): boolean {
    if (kind === 'd' && number === this.successor.generation) {
      this.status = 'dead'
      return true
    }
    if (kind !== 'n' || number !== this.successor.generation + 1) return false
    this.successor = { generation: number, nonce }
    return true
  }
}
