/** The search for the delimiter of a form, beside `Buffer.indexOf`. */
import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { expect, test, vi } from 'vitest'
import { findDelimiter } from '../../src/protocols/delimiter-search.ts'

const boundaries = ['a', 'aa', 'aaaaaaaa', 'x--x', 'B0undary1234567890', `--------------------------${'1'.repeat(44)}`]

test('a delimiter is found where Buffer.indexOf finds it, among what is like it', () => {
  const word = (delimiter: string) =>
    fc.oneof(
      fc.tuple(fc.nat(delimiter.length), fc.nat(delimiter.length)).map(([a, b]) => delimiter.slice(a, b)),
      fc.constantFrom('\r', '\r\n', '--', 'a', delimiter, delimiter.slice(1), delimiter.slice(0, -1)),
      fc.string({ maxLength: 5 }),
    )
  for (const boundary of boundaries) {
    const delimiter = `\r\n--${boundary}`
    fc.assert(
      fc.property(fc.nat(3000), fc.array(word(delimiter), { maxLength: 60 }), fc.nat(3000), (before, words, after) => {
        const bytes = Buffer.from('.'.repeat(before) + words.join('') + delimiter[2]?.repeat(after), 'latin1')
        expect(findDelimiter(bytes, Buffer.from(delimiter))).toBe(bytes.indexOf(delimiter))
      }),
      { numRuns: 300 },
    )
  }
})

test('a delimiter is found at every place of many bytes', () => {
  const data = randomBytes(5000)
  for (const boundary of boundaries) {
    const delimiter = Buffer.from(`\r\n--${boundary}`)
    for (let place = 0; place <= data.length - delimiter.length; place++) {
      const bytes = Buffer.from(data)
      delimiter.copy(bytes, place)
      expect(findDelimiter(bytes, delimiter)).toBe(place)
    }
    expect(findDelimiter(data, delimiter)).toBe(-1)
    expect(findDelimiter(Buffer.concat([data, delimiter.subarray(0, -1)]), delimiter)).toBe(-1)
  }
})

test.each(['a'.repeat(70), `${'a'.repeat(69)}b`, '-', '00'])(
  'bytes made for the boundary %s are left to Buffer.indexOf',
  (boundary) => {
    const delimiter = Buffer.from(`\r\n--${boundary}`)
    const run = Buffer.alloc(65_536, boundary[0])
    for (const [end, place] of [
      [Buffer.alloc(0), -1],
      [delimiter, run.length + 1],
    ] as const) {
      const bytes = Buffer.concat([Buffer.from('\r'), run, end])
      const native = vi.spyOn(bytes, 'indexOf')
      expect(findDelimiter(bytes, delimiter)).toBe(place)
      // After few short steps.
      expect(native.mock.calls.at(-1)?.[0]).toBe(delimiter)
      expect(native.mock.calls.at(-1)?.[1]).toBeLessThan(run.length / 8)
    }
  },
)

test('random bytes are not', () => {
  const bytes = randomBytes(65_536)
  const native = vi.spyOn(bytes, 'indexOf')
  expect(findDelimiter(bytes, Buffer.from('\r\n--B0undary1234567890'))).toBe(-1)
  expect(native).toHaveBeenCalledTimes(1)
})
