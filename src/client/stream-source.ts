/** A stream as a source: read once, from first to last, never more than is asked for. */
import type { Source } from './platform.ts'
import { namesOf } from './source-names.ts'
import type { ByteStream, UploadOptions } from './types.ts'

type Stream = ByteStream | AsyncIterable<Uint8Array>

export function isStream(source: unknown): source is Stream {
  return typeof source === 'object' && source !== null && ('getReader' in source || Symbol.asyncIterator in source)
}

/** @throws TypeError without `size` */
export function streamSource(stream: Stream, options: UploadOptions): Source {
  const { size } = options
  if (size === undefined) throw new TypeError('A stream needs the option size.')
  const pieces = piecesOf(stream)
  let rest = new Uint8Array()
  let position = 0
  /** One range after the other, as they were asked for. */
  let turn: Promise<unknown> = Promise.resolve()

  const hasMore = async (): Promise<boolean> => {
    while (rest.length === 0) {
      const { done, value } = await pieces.next()
      if (done) return false
      rest = value as Uint8Array<ArrayBuffer>
    }
    return true
  }
  const take = async (start: number, end: number): Promise<Uint8Array> => {
    if (start !== position) throw new Error('A stream can be read only once.')
    const chunk = new Uint8Array(end - start)
    while (position < end) {
      if (!(await hasMore())) throw new Error(`The stream ended at byte ${position}.`)
      const taken = rest.subarray(0, end - position)
      chunk.set(taken, position - start)
      position += taken.length
      rest = rest.subarray(taken.length)
    }
    if (end === size && (await hasMore())) throw new Error(`The stream goes on after byte ${size}.`)
    return chunk
  }
  return {
    ...namesOf(options),
    size,
    identity: null,
    isRereadable: false,
    read(start, end) {
      const chunk = turn.then(() => take(start, end))
      turn = chunk.catch(() => {})
      return chunk
    },
    close: pieces.cancel,
  }
}

/** Readers and iterators answer in the same form. `cancel` works also while a piece is being waited for. */
function piecesOf(stream: Stream) {
  if ('getReader' in stream) {
    const reader = stream.getReader()
    return { next: () => reader.read(), cancel: () => void reader.cancel().catch(() => {}) }
  }
  const iterator = stream[Symbol.asyncIterator]()
  const { destroy } = stream as { destroy?: () => void }
  return {
    next: () => iterator.next(),
    // The iterator of a Node stream would first wait for the piece that was asked for.
    cancel: () => (destroy ? destroy.call(stream) : void iterator.return?.().catch(() => {})),
  }
}
