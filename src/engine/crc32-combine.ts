/**
 * The CRC-32 of bytes that lie one behind the other, from the CRC-32s of both: combination over GF(2), as zlib's
 * `crc32_combine` does it. A CRC-32 is the remainder of a polynomial, and each byte that follows multiplies it by x⁸.
 */

/** Of Ethernet, gzip and S3. The highest bit is the coefficient of x⁰, the lowest that of x³¹; x³² is left out. */
const generator = 0xedb88320
const x0 = 0x80000000
const x8 = 0x00800000

/** `second` is the sum of the last `secondSize` bytes. */
export function crc32Combine(first: number, second: number, secondSize: number): number {
  let shift = x0
  let power = x8
  for (let rest = secondSize; rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) shift = product(shift, power)
    power = product(power, power)
  }
  return (product(shift, first) ^ second) >>> 0
}

/** Modulo the generator. */
function product(a: number, b: number): number {
  let sum = 0
  let shifted = b
  for (let bit = 31; bit >= 0; bit--) {
    if ((a >>> bit) & 1) sum ^= shifted
    shifted = shifted & 1 ? (shifted >>> 1) ^ generator : shifted >>> 1
  }
  return sum >>> 0
}
