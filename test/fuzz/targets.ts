/**
 * What is fuzzed: each target takes bytes and tells what its parser made of them. It throws when the parser does what no
 * input may bring it to: an error that is no 400, a hang, a verdict that depends on how the bytes were split.
 */
import { createHash } from 'node:crypto'
import { type IncomingMessage, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { receiveBody } from '../../src/engine/body.ts'
import { InvalidRequestError, isNexusUploaderError } from '../../src/errors.ts'
import { readForm } from '../../src/protocols/chunk-body.ts'
import { booleanOf, dictionaryOf, integerOf } from '../../src/protocols/ietf/fields.ts'
import { checksumOf, concatOf, metadataOf, numberHeader } from '../../src/protocols/tus/headers.ts'
import { chunkForm } from '../support/raw-http.ts'
import type { Random } from './mutations.ts'

export interface Target {
  readonly name: string
  /** Valid inputs to begin with. */
  readonly seeds: readonly Buffer[]
  readonly words: readonly Buffer[]
  /** What came of it, short: an input with a new outcome is kept and mutated further. */
  run(data: Buffer, random: Random): Promise<string>
}

const maxParse = 100
/** Longest form, bytes, and longest time to read one, ms. */
const maxForm = 16 * 1024
const formPatience = 5_000
const boundary = 'xxBOUNDARYxx'

const multipart: Target = {
  name: 'multipart',
  seeds: [
    chunkForm('0b4e4ab6-9f0c-4b1c-8a1f-3f1d2c4b5a69', 3, Buffer.from('the bytes of a chunk')),
    chunkForm('x', 0, Buffer.alloc(0)),
    form('name="chunk"; filename*=UTF-8\'\'%e2%82%ac%20rates', 'data'),
    form('name="chunk"; filename="a\\"b.txt"', `\r\n--${boundary.slice(0, -1)}\r\n--`),
  ],
  words: words([
    `\r\n--${boundary}`,
    `--${boundary}--`,
    'Content-Disposition: form-data; name="uploadId"\r\n\r\n',
    'Content-Disposition: form-data; name="chunk"; filename="blob"\r\n\r\n',
    'Content-Transfer-Encoding: base64\r\n',
    'Content-Type: text/plain; charset=utf-7\r\n',
    'name="a[b][c][__proto__]"',
  ]),
  async run(data, random) {
    const whole = await readPieces([data])
    const pieces = await readPieces(split(data, random))
    // Whether busboy refuses a malformed form may depend on how it was split; what it accepts may not.
    const isAccepted = whole.startsWith('form') && pieces.startsWith('form')
    if (whole !== pieces && isAccepted) throw new Error(`in one piece: ${whole}\nin small pieces: ${pieces}`)
    return whole.replace(/^form (\d+ fields) .*/s, '$1')
  },
}

const uploadMetadata: Target = {
  name: 'upload-metadata',
  seeds: words(['filename d29ybGQ=,is_confidential', 'a ,b Yg==, c', '__proto__ eA==,constructor eA==', '']),
  words: words([',', ' ', '=', '==', 'eA==', '__proto__']),
  run: async (data) =>
    judged(() => {
      const metadata = metadataOf(header('upload-metadata', data))
      if (Object.getPrototypeOf(metadata?.values ?? {}) !== Object.prototype) throw new Error('another prototype')
      return `${Math.min(Object.keys(metadata?.values ?? {}).length, 4)} keys`
    }),
}

const tusNumbers: Target = {
  name: 'tus-headers',
  seeds: words(['0', '9007199254740991', 'sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=', 'partial', 'final;/files/a /files/b']),
  words: words(['+1', '0x10', '1e3', 'final;', 'http://x/files/0b4e4ab6-9f0c-4b1c-8a1f-3f1d2c4b5a69', ' ']),
  async run(data) {
    const number = judged(() => {
      const value = numberHeader(header('upload-offset', data), 'upload-offset')
      if (value !== undefined && !(Number.isSafeInteger(value) && value >= 0)) throw new Error(`let ${value} through`)
      return 'number'
    })
    const checksum = judged(() => checksumOf(textOf(data))?.replace(/:.*/s, ''))
    const concat = judged(() => concatOf(header('upload-concat', data))?.kind)
    return [number, checksum, concat].join()
  },
}

const structuredFields: Target = {
  name: 'structured-fields',
  seeds: words(['5;a=1', '?1', '?0;x="y"', 'max-size=100, min-size=0;q=1.5, b=:aGVsbG8=:', '"a\\"b"', '(1 2);p']),
  words: words(['?', '?1', '-0', '1.0', '999999999999999', '1000000000000000', '@1', '%"%e2"', ':', '*']),
  run: async (data) =>
    judged(() => {
      const text = textOf(data)
      const integer = integerOf(text)
      if (integer !== undefined && !(Number.isSafeInteger(integer) && integer >= 0)) throw new Error(`${integer}`)
      return [typeof integer, booleanOf(text), Math.min(dictionaryOf(text)?.size ?? 0, 3)].join()
    }),
}

export const targets: readonly Target[] = [multipart, uploadMetadata, tusNumbers, structuredFields]

function form(disposition: string, data: string): Buffer {
  return Buffer.from(
    `--${boundary}\r\nContent-Disposition: form-data; ${disposition}\r\n\r\n${data}\r\n--${boundary}--\r\n`,
  )
}

function words(texts: readonly string[]): Buffer[] {
  return texts.map((text) => Buffer.from(text, 'latin1'))
}

/** As Node hands header values over. */
function textOf(data: Buffer): string {
  return data.toString('latin1')
}

function header(name: string, data: Buffer): Record<string, string> {
  return { [name]: textOf(data) }
}

/** Errors must be the client's, and time must not depend on what it says: the quickest of a few tries counts. */
function judged(parse: () => string | undefined): string {
  for (let attempt = 1; ; attempt++) {
    const started = performance.now()
    const outcome = errorsOf(parse)
    const took = performance.now() - started
    if (took <= maxParse) return outcome
    if (attempt === 3) throw new Error(`took ${Math.round(took)} ms`)
  }
}

function errorsOf(parse: () => string | undefined): string {
  try {
    return parse() ?? 'nothing'
  } catch (error) {
    return refusal(error)
  }
}

function refusal(error: unknown): string {
  if (isNexusUploaderError(error) && [400, 404, 408].includes(error.status)) return error.code
  throw error
}

function split(data: Buffer, random: Random): Buffer[] {
  const pieces: Buffer[] = []
  for (let at = 0; at < data.length; ) {
    const size = random.integer(1, random.next() < 0.9 ? 7 : 60)
    pieces.push(data.subarray(at, at + size))
    at += size
  }
  return pieces
}

/** Reads a form that comes in these pieces; what it held, or why it was refused. */
export async function readPieces(pieces: readonly Buffer[]): Promise<string> {
  const request = Object.assign(Readable.from(pieces, { objectMode: false }), {
    headers: { 'content-type': `multipart/form-data; boundary=${boundary}`, 'transfer-encoding': 'chunked' },
  }) as unknown as IncomingMessage
  const reading = readForm(
    request,
    new ServerResponse(request),
    { fieldName: 'chunk', maxBytes: 64 * 1024, idleTimeout: 500 },
    async ({ stream, fileName }, _fields, stop) => {
      const hash = createHash('sha256')
      const take = async (buffers: Buffer[]) => {
        for (const data of buffers) hash.update(data)
      }
      const tooLarge = () => new InvalidRequestError('too large')
      const options = { maxSize: maxForm, tooLarge, idleTimeout: 500, signal: stop, crc: false }
      const { size } = await receiveBody(stream, take, options)
      return { fileName, size, sha256: hash.digest('hex') }
    },
  )
  let timer: NodeJS.Timeout | undefined
  const hang = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('the form was never read to its end')), formPatience)
  })
  try {
    const { fields, file } = await Promise.race([reading, hang])
    // The routes refuse it as they do a malformed one.
    if (file === null) return 'INVALID_FORM'
    return `form ${Object.keys(fields).length} fields ${JSON.stringify([fields, file])}`
  } catch (error) {
    return refusal(error)
  } finally {
    clearTimeout(timer)
    request.destroy()
  }
}
