/**
 * SHA-256 piece by piece (FIPS 180-4). The browser's own takes only what fits into memory at once.
 */
const blockSize = 64

// Signed: engines count with signed words faster, and the sums are the same.
const primes = firstPrimes(64)
const k = Int32Array.from(primes, (prime) => fractionOf(Math.cbrt(prime)))
const start = Int32Array.from(primes.slice(0, 8), (prime) => fractionOf(Math.sqrt(prime)))

export class Sha256 {
  readonly #state = start.slice()
  readonly #words = new Int32Array(64)
  readonly #rest = new Uint8Array(blockSize)
  #restSize = 0
  #size = 0

  update(bytes: Uint8Array): this {
    this.#size += bytes.length
    let at = 0
    if (this.#restSize > 0) {
      at = Math.min(blockSize - this.#restSize, bytes.length)
      this.#rest.set(bytes.subarray(0, at), this.#restSize)
      this.#restSize += at
      if (this.#restSize < blockSize) return this
      this.#block(this.#rest, 0)
      this.#restSize = 0
    }
    for (; at + blockSize <= bytes.length; at += blockSize) this.#block(bytes, at)
    this.#rest.set(bytes.subarray(at))
    this.#restSize = bytes.length - at
    return this
  }

  /** Hexadecimal. The end: nothing can be added after it. */
  digest(): string {
    const bits = this.#size * 8
    const end = new Uint8Array((this.#restSize < blockSize - 8 ? 1 : 2) * blockSize - this.#restSize)
    const view = new DataView(end.buffer)
    end[0] = 0x80
    view.setUint32(end.length - 8, Math.floor(bits / 2 ** 32))
    view.setUint32(end.length - 4, bits >>> 0)
    this.update(end)
    return Array.from(this.#state, (word) => (word >>> 0).toString(16).padStart(8, '0')).join('')
  }

  #block(bytes: Uint8Array, at: number): void {
    const words = this.#words
    for (let i = 0; i < 16; i++) {
      const j = at + i * 4
      words[i] = (byte(bytes, j) << 24) | (byte(bytes, j + 1) << 16) | (byte(bytes, j + 2) << 8) | byte(bytes, j + 3)
    }
    for (let i = 16; i < 64; i++) {
      const x = word(words, i - 15)
      const y = word(words, i - 2)
      const s0 = rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3)
      const s1 = rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10)
      words[i] = (word(words, i - 16) + s0 + word(words, i - 7) + s1) | 0
    }
    this.#compress(words)
  }

  #compress(words: Int32Array): void {
    const state = this.#state
    let a = word(state, 0)
    let b = word(state, 1)
    let c = word(state, 2)
    let d = word(state, 3)
    let e = word(state, 4)
    let f = word(state, 5)
    let g = word(state, 6)
    let h = word(state, 7)
    for (let i = 0; i < 64; i++) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + word(k, i) + word(words, i)) | 0
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0
      h = g
      g = f
      f = e
      e = (d + t1) | 0
      d = c
      c = b
      b = a
      a = (t1 + t2) | 0
    }
    const more = [a, b, c, d, e, f, g, h]
    for (let i = 0; i < 8; i++) state[i] = word(state, i) + (more[i] as number)
  }
}

function rotate(value: number, by: number): number {
  return (value >>> by) | (value << (32 - by))
}

function byte(bytes: Uint8Array, at: number): number {
  return bytes[at] as number
}

function word(words: Int32Array, at: number): number {
  return words[at] as number
}

/** The first 32 bits after the point. */
function fractionOf(value: number): number {
  return Math.floor((value - Math.floor(value)) * 2 ** 32)
}

function firstPrimes(count: number): number[] {
  const found: number[] = []
  for (let n = 2; found.length < count; n++) if (found.every((prime) => n % prime !== 0)) found.push(n)
  return found
}
