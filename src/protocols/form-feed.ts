/**
 * Feeds a form to busboy, all but the bytes of the file: these go straight to whoever takes the file. busboy looks at
 * every byte for the boundary by itself, at a third of the cost of a whole chunk; here it is looked for in long steps.
 */
import type { IncomingMessage } from 'node:http'
import { Readable, type Writable } from 'node:stream'
import { findDelimiter } from './delimiter-search.ts'

const carriageReturn = 13
const lineEnd = Buffer.from('\r\n')
const headEnd = Buffer.from('\r\n\r\n')
/** busboy may as well get a part as a whole that is not longer than this, bytes. */
const smallPart = 1024

/**
 * What stands before each boundary but the first. Only for boundaries that can be read in one way: for others busboy
 * gets every byte. Browsers have the word itself in theirs (`----WebKitFormBoundary…`).
 */
export function delimiterOf(contentType: string | undefined): Buffer | null {
  // As for busboy, the first parameter of this name counts; a quoted one before it may look like it.
  const first = /^[^"]*?;[ \t]*boundary=(.*)/is.exec(contentType ?? '')?.[1]
  const value = /^("?)([A-Za-z0-9'+_.-]{1,70})\1[ \t]*(?:;|$)/.exec(first ?? '')?.[2]
  return value ? Buffer.from(`\r\n--${value}`) : null
}

interface OpenFile {
  /** busboy's stream of it. */
  readonly parsed: Readable
  /** The one that its taker reads. */
  readonly file: Readable
  /** Bytes that the taker has got already when busboy pushes them. */
  stale: number
}

export class FormFeed {
  readonly #request: IncomingMessage
  readonly #busboy: Writable
  readonly #delimiter: Buffer
  readonly #onData: (data: Buffer) => void
  /** The last bytes, while they may be the beginning of a delimiter. The first one comes without its line end, so busboy begins with that. */
  #held: Buffer = lineEnd
  /** How many of them busboy has, and holds back as well. */
  #given = lineEnd.length
  #head = new PartHead({ isOver: true })
  #open: OpenFile | null = null
  /** How many delimiters may still come. */
  #left: number
  #stopped = false

  /**
   * @param mostDelimiters after which the form has ended or has been refused: what comes then is for nobody
   * @param onData called with all that comes, before anything is made of it
   */
  constructor(
    request: IncomingMessage,
    busboy: Writable,
    delimiter: Buffer,
    mostDelimiters: number,
    onData: (data: Buffer) => void,
  ) {
    this.#request = request
    this.#busboy = busboy
    this.#delimiter = delimiter
    this.#left = mostDelimiters
    this.#onData = onData
  }

  start(): void {
    // After multer's own listener, which has had the file diverted or does not want it.
    this.#busboy.on('file', (_name: unknown, parsed: Readable) => {
      if (this.#open?.parsed !== parsed) parsed.resume()
    })
    this.#request.on('data', this.#take).on('end', this.#end).resume()
  }

  /** Reads no further. What is left of the request is for others. */
  stop(): void {
    this.#stopped = true
    this.#request.off('data', this.#take).off('end', this.#end).pause()
  }

  /**
   * Makes what the taker of a file reads. To be called when busboy tells of the file, before it pushes the first bytes:
   * it does so within one write.
   */
  divert(parsed: Readable): Readable {
    // Nothing is asked for while its taker pauses: the request holds enough.
    const file = new Readable({ highWaterMark: 0, read: this.#resume })
    // Its taker may be looking elsewhere yet, or have refused it; then nobody else hears that it broke off.
    file.on('error', () => {})
    // What breaks the form off breaks busboy's stream, and so this one.
    parsed.on('error', (error) => file.destroy(error))
    parsed.on('close', () => {
      if (!parsed.readableEnded) file.destroy()
    })
    this.#open = { parsed, file, stale: 0 }
    return file
  }

  readonly #resume = () => {
    if (!this.#stopped && this.#request.isPaused()) this.#request.resume()
  }

  readonly #take = (data: Buffer) => {
    this.#onData(data)
    let bytes = this.#held.length > 0 ? Buffer.concat([this.#held, data]) : data
    // Each costs more than many bytes.
    while (this.#left > 0 && !this.#stopped) {
      const found = findDelimiter(bytes, this.#delimiter)
      if (found < 0) return this.#undelimited(this.#behindHead(bytes))
      this.#left -= 1
      const next = bytes.subarray(found + this.#delimiter.length)
      this.#delimited(this.#behindHead(bytes.subarray(0, found)))
      bytes = next
    }
  }

  /** Gives busboy the head of a part by itself, so that it has seen little of a file when it tells of it. */
  #behindHead(bytes: Buffer): Buffer {
    if (this.#open || bytes.length < smallPart) return bytes
    const end = this.#head.endIn(bytes)
    // It holds back what may begin a delimiter.
    const cut = end + this.#delimiter.length
    if (end < 0 || cut >= bytes.length) return bytes
    this.#undelimited(bytes.subarray(0, cut))
    return bytes.subarray(cut - this.#held.length)
  }

  readonly #end = () => {
    this.#busboy.end()
  }

  /** No delimiter in these; one may begin at their end. */
  #undelimited(bytes: Buffer): void {
    const held = beginningAtEnd(bytes, this.#delimiter)
    this.#held = bytes.subarray(bytes.length - held)
    const free = bytes.subarray(0, bytes.length - held)
    if (this.#open) {
      this.#pass(this.#open, free)
    } else {
      this.#head.look(free)
      if (bytes.length > this.#given) this.#busboy.write(bytes.subarray(this.#given))
      this.#given = held
      this.#pour()
    }
  }

  /** A delimiter comes after these. */
  #delimited(bytes: Buffer): void {
    const open = this.#open
    if (open) this.#pass(open, bytes)
    else this.#head.look(bytes)
    // busboy would go on with the head behind the delimiter, and then take the file's first bytes for the end of one.
    if (this.#head.isTorn) this.#busboy.destroy(new Error('A part ends in its head.'))
    this.#head = new PartHead({ isOver: false })
    const rest = open ? this.#delimiter : Buffer.concat([bytes, this.#delimiter])
    this.#busboy.write(rest.subarray(this.#given))
    this.#given = 0
    // A small file has come as a whole in this write.
    if (!open) this.#pour()
    this.#close()
  }

  /** Bytes of the file, past busboy. If it holds some of them back, it will push them when the delimiter comes. */
  #pass(open: OpenFile, bytes: Buffer): void {
    if (bytes.length === 0) return
    open.stale += this.#given
    this.#given = 0
    this.#push(open.file, bytes)
  }

  /** What busboy found of a file in the write that brought its head. */
  #pour(): void {
    const open = this.#open
    if (!open) return
    for (let bytes = open.parsed.read(); bytes !== null; bytes = open.parsed.read()) this.#push(open.file, bytes)
  }

  #close(): void {
    const open = this.#open
    if (!open) return
    this.#open = null
    const stale = open.parsed.read()?.length ?? 0
    // A head with a delimiter in it makes busboy see other parts than there are.
    if (stale !== open.stale) open.file.destroy(new Error('The form is malformed.'))
    open.parsed.once('end', () => open.file.push(null)).resume()
    // A stream that has ended asks for no more, but the form goes on.
    this.#resume()
  }

  #push(file: Readable, bytes: Buffer): void {
    if (!file.push(bytes) || file.isPaused()) this.#request.pause()
  }
}

/** Whether what follows a delimiter has the whole head of a part. */
class PartHead {
  /** Nothing to look for: it is over, or there is none. */
  #isOver: boolean
  #hasBegun = false
  /** The last bytes of it. */
  #seen: Buffer = Buffer.alloc(0)

  constructor({ isOver }: { isOver: boolean }) {
    this.#isOver = isOver
  }

  get isTorn(): boolean {
    return this.#hasBegun && !this.#isOver
  }

  /** Where it ends in these bytes; -1 when it does not, or not to see by these alone. */
  endIn(bytes: Buffer): number {
    const at = this.#isOver ? -1 : bytes.indexOf(headEnd)
    return at < 0 ? -1 : at + headEnd.length
  }

  look(bytes: Buffer): void {
    if (this.#isOver) return
    const seen = Buffer.concat([this.#seen, bytes])
    // What does not begin with a line end is the end of the form, or busboy throws it away.
    const isNone = !this.#hasBegun && !seen.subarray(0, lineEnd.length).equals(lineEnd.subarray(0, seen.length))
    this.#isOver = isNone || seen.includes(headEnd)
    this.#hasBegun ||= seen.length >= lineEnd.length
    this.#seen = seen.subarray(1 - headEnd.length)
  }
}

/** How many bytes at the end may be the first ones of a delimiter. As there is one carriage return in it, only the last can begin it. */
function beginningAtEnd(bytes: Buffer, delimiter: Buffer): number {
  const end = bytes.subarray(Math.max(0, bytes.length - delimiter.length + 1))
  const at = end.lastIndexOf(carriageReturn)
  return at >= 0 && end.subarray(at).equals(delimiter.subarray(0, end.length - at)) ? end.length - at : 0
}
