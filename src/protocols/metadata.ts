/** What clients tell about their files besides the bytes, as the engine keeps it: short texts under short names. Pure. */
import { InvalidRequestError } from '../errors.ts'

const maxKeys = 64
const maxBytes = 8 * 1024

/** What a browser makes of a missing value when it has to send text. */
const absent = new Set(['null', 'undefined'])

/**
 * The values as text: text stays, numbers and booleans are written out, lists and objects become JSON. Missing values
 * are left out, and so are the words that browsers write for them in forms and queries.
 * @throws InvalidRequestError for more than 64 values or 8 KiB
 */
export function metadataOf(values: Iterable<readonly [string, unknown]>): Record<string, string> {
  const metadata: Record<string, string> = {}
  let bytes = 0
  for (const [name, value] of values) {
    const text = typeof value === 'string' ? value : textOf(value)
    if (text === undefined || absent.has(text)) continue
    bytes += Buffer.byteLength(name) + Buffer.byteLength(text)
    if (bytes > maxBytes) throw new InvalidRequestError(`The metadata has more than ${maxBytes} bytes.`)
    // Not an assignment: a key called `__proto__` is a key like any other.
    Object.defineProperty(metadata, name, { value: text, enumerable: true, writable: true, configurable: true })
  }
  const keys = Object.keys(metadata).length
  if (keys > maxKeys) throw new InvalidRequestError(`The metadata has more than ${maxKeys} values.`)
  return metadata
}

function textOf(value: unknown): string | undefined {
  return value === null || value === undefined ? undefined : JSON.stringify(value)
}
