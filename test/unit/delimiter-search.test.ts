/** The search for the delimiter of a form, beside `Buffer.indexOf`. */
import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
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
