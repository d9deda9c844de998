import { createHash } from 'node:crypto'

/** A small seeded generator (mulberry32): the seed in a failed test's name repeats it. */
export function seeded(seed: number) {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const integer = (from: number, to: number) => from + Math.floor(next() * (to - from + 1))
  const shuffle = <Item>(items: readonly Item[]): Item[] => {
    const result = [...items]
    for (let i = result.length - 1; i > 0; i--) {
      const j = integer(0, i)
      const item = result[i] as Item
      result[i] = result[j] as Item
      result[j] = item
    }
    return result
  }
  return { next, integer, shuffle }
}

/** Bytes that differ everywhere, cheap to make. */
export function bytes(size: number, seed = 1): Buffer {
  const random = seeded(seed)
  const block = Buffer.alloc(Math.min(size, 65_521))
  for (let i = 0; i < block.length; i++) block[i] = random.integer(0, 255)
  const buffer = Buffer.alloc(size)
  for (let at = 0; at < size; at += block.length) {
    block.copy(buffer, at)
    if (at + 4 <= size) buffer.writeUInt32LE(at ^ seed, at)
  }
  return buffer
}

export function sha256(data: Buffer | string): string {
  return createHash('sha256').update(data).digest('hex')
}

/** The file in pieces of these sizes; the last size repeats. */
export function cut(data: Buffer, ...sizes: number[]): Buffer[] {
  const pieces: Buffer[] = []
  for (let at = 0, i = 0; at < data.length; i++) {
    const size = sizes[Math.min(i, sizes.length - 1)] ?? data.length
    pieces.push(data.subarray(at, at + size))
    at += size
  }
  return pieces
}
