import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { crc32Combine } from '../../src/engine/crc32-combine.ts'
import { bytes } from '../support/random.ts'

it('the sum of bytes one behind the other is that of all of them, wherever they are cut', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(300), (data, cut) => {
      const [first, second] = [data.subarray(0, cut), data.subarray(cut)]
      expect(crc32Combine(crc32(first), crc32(second), second.length)).toBe(crc32(data))
    }),
    { numRuns: 1_000 },
  )
})

it('also of large ones, and of many', () => {
  const file = bytes(3_000_001)
  let sum = 0
  for (let at = 0; at < file.length; at += 70_001) {
    const chunk = file.subarray(at, at + 70_001)
    sum = crc32Combine(sum, crc32(chunk), chunk.length)
  }
  expect(sum).toBe(crc32(file))
})

it('of a size that no 32 bits hold', () => {
  const mebibyte = crc32(Buffer.alloc(2 ** 20))
  let doubled = mebibyte
  for (let size = 2 ** 20; size < 2 ** 33; size *= 2) doubled = crc32Combine(doubled, doubled, size)
  let added = 0
  for (let i = 0; i < 2 ** 13; i++) added = crc32Combine(added, mebibyte, 2 ** 20)
  expect(doubled).toBe(added)
})
