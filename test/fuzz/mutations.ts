/** What a hostile client does to a valid input: small changes, many of them, repeatable by their seed. */
import type { seeded } from '../support/random.ts'

export type Random = ReturnType<typeof seeded>

type Mutation = (data: Buffer, random: Random, words: readonly Buffer[]) => Buffer

/** Bytes that parsers trip over. */
const evil = ['\0', '\r', '\n', '\r\n', '\r\n\r\n', '"', '\\', ';', ',', '=', ':', '%', '-', '--', '__proto__', '\xff']
  .concat(['constructor', '../', '?1', '9007199254740993', '1e309', '-0', "UTF-8''", ' ', '\t', '()', '::', '*'])
  .map((text) => Buffer.from(text, 'latin1'))

const mutations: readonly Mutation[] = [
  function flip(data, random) {
    const copy = Buffer.from(data)
    const at = random.integer(0, copy.length - 1)
    copy[at] = (copy[at] ?? 0) ^ (1 << random.integer(0, 7))
    return copy
  },
  function remove(data, random) {
    const [start, end] = span(data, random)
    return Buffer.concat([data.subarray(0, start), data.subarray(end)])
  },
  function repeat(data, random) {
    const [start, end] = span(data, random)
    const times = random.next() < 0.1 ? random.integer(2, 200) : 2
    const piece = data.subarray(start, end)
    return Buffer.concat([data.subarray(0, start), ...Array.from({ length: times }, () => piece), data.subarray(end)])
  },
  function move(data, random) {
    const [start, end] = span(data, random)
    const rest = Buffer.concat([data.subarray(0, start), data.subarray(end)])
    return insert(rest, data.subarray(start, end), random)
  },
  function plant(data, random, words) {
    const from = random.next() < 0.5 ? evil : words
    return insert(data, from[random.integer(0, from.length - 1)] ?? Buffer.from('\0'), random)
  },
  function truncate(data, random) {
    return data.subarray(0, random.integer(0, data.length))
  },
]

/** `words`: pieces of the language, to be planted in wrong places. Never longer than `maxSize`. */
export function mutate(data: Buffer, random: Random, words: readonly Buffer[], maxSize: number): Buffer {
  let mutated = data
  for (let n = random.integer(1, 6); n > 0; n--) {
    const mutation = mutations[random.integer(0, mutations.length - 1)]
    if (mutation && mutated.length > 0) mutated = mutation(mutated, random, words)
  }
  return mutated.subarray(0, maxSize)
}

function span(data: Buffer, random: Random): [start: number, end: number] {
  const start = random.integer(0, data.length - 1)
  const length = random.next() < 0.8 ? random.integer(1, 12) : random.integer(1, data.length)
  return [start, Math.min(start + length, data.length)]
}

function insert(data: Buffer, piece: Buffer, random: Random): Buffer {
  const at = random.integer(0, data.length)
  return Buffer.concat([data.subarray(0, at), piece, data.subarray(at)])
}
