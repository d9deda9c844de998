import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  holdsBytes,
  isSent,
  keepsSums,
  partCount,
  partNumberAt,
  partRange,
  planPartSize,
  planSharedPartSize,
  readyParts,
  usesParts,
} from '../../src/engine/part-plan.ts'
import { addToSpans, gapsBelow } from '../../src/engine/ranges.ts'
import { FileSizeExceededError } from '../../src/errors.ts'
import type { MultipartStorage, Span } from '../../src/types.ts'
import { runsOf, uploadRecord } from '../support/records.ts'

const storage = { minPartSize: 5, maxPartSize: 50, maxParts: 10, partSize: 8 } as MultipartStorage

function spansOf(numbers: readonly number[]): Span[] {
  return numbers.reduce<Span[]>((spans, number) => addToSpans(spans, number), [])
}

/** `size` bytes from `offset`, as one chunk. */
function at(index: number, offset: number | null, size: number) {
  return { index, size, offset, loose: offset === null ? 1 : 0 }
}

describe('the part size', () => {
  const plan = (totalSize: number | null, chunkSize: number | null, maxFileSize = 100) =>
    planPartSize(storage, { totalSize, chunkSize, maxFileSize })

  it('is the usual one, in whole chunks where that is allowed, and larger when there would be too many parts', () => {
    expect(plan(80, null)).toBe(8)
    expect(plan(81, null)).toBe(9)
    expect(plan(null, null, 81)).toBe(9)
    expect(plan(80, 3)).toBe(9)
    expect(plan(80, 8)).toBe(8)
    expect(plan(80, 20)).toBe(20)
    expect(plan(80, 50)).toBe(50)
    expect(plan(80, 51)).toBe(8)
  })

  it('of a file that just fits is the largest one, and one byte more is refused with the size that would fit', () => {
    expect(plan(500, null)).toBe(50)
    const error = (() => {
      try {
        return plan(501, null)
      } catch (caught) {
        return caught
      }
    })()
    expect(error).toBeInstanceOf(FileSizeExceededError)
    expect(error).toMatchObject({ details: { limit: 500 } })
  })

  it('of bytes that wait in the storage is the declared chunk size where parts may be so small or large', () => {
    const shared = (totalSize: number | null, chunkSize: number | null, maxChunkSize = 100) =>
      planSharedPartSize(storage, { totalSize, chunkSize, maxChunkSize, maxFileSize: 90 })
    expect(shared(40, 5)).toBe(5)
    expect(shared(40, 6)).toBe(6)
    expect(shared(40, 50)).toBe(50)
    // Too small, too large, or too many of them: the usual one, in whole chunks.
    expect(shared(40, 4)).toBe(8)
    expect(shared(40, 51)).toBe(8)
    expect(shared(61, 6)).toBe(12)
    expect(shared(60, 6)).toBe(6)
    expect(shared(40, null)).toBe(8)
    expect(shared(40, null, 6)).toBe(6)
    expect(shared(40, null, 2)).toBe(5)
    expect(shared(null, null)).toBe(9)
  })
})

describe('an upload', () => {
  it('goes in parts when it is larger than one, or one has left already', () => {
    expect(usesParts(undefined, uploadRecord({ totalSize: 100 }))).toBe(false)
    expect(usesParts(storage, uploadRecord({ totalSize: 10 }))).toBe(false)
    expect(usesParts(storage, uploadRecord({ totalSize: 11 }))).toBe(true)
    expect(usesParts(storage, uploadRecord({ totalSize: 10, sentParts: [[1, 1]] }))).toBe(true)
    expect(usesParts(storage, uploadRecord({ chunks: runsOf([at(0, 0, 10)]) }))).toBe(false)
    expect(usesParts(storage, uploadRecord({ chunks: runsOf([at(0, 0, 11)]) }))).toBe(true)
  })

  it('keeps the sums of its chunks when they may leave before its end, or are to be recognised later', () => {
    expect(keepsSums(undefined, uploadRecord({ totalSize: 100 }))).toBe(false)
    expect(keepsSums(undefined, uploadRecord())).toBe(false)
    expect(keepsSums(undefined, uploadRecord({ recognizable: true }))).toBe(true)
    expect(keepsSums(storage, uploadRecord())).toBe(true)
    expect(keepsSums(storage, uploadRecord({ totalSize: 10 }))).toBe(false)
    expect(keepsSums(storage, uploadRecord({ totalSize: 11 }))).toBe(true)
  })

  it('has one part at least; of an unknown size, as many as are whole', () => {
    expect(partCount(uploadRecord({ totalSize: 0 }))).toBe(1)
    expect(partCount(uploadRecord({ totalSize: 10 }))).toBe(1)
    expect(partCount(uploadRecord({ totalSize: 11 }))).toBe(2)
    expect(partCount(uploadRecord({ chunks: runsOf([at(0, 0, 9)]) }))).toBe(0)
    expect(partCount(uploadRecord({ chunks: runsOf([at(0, 0, 20)]) }))).toBe(2)
  })

  it('has every byte in the part of its number', () => {
    const session = uploadRecord({ totalSize: 25 })
    for (let byte = 0; byte < 25; byte++) {
      const { start, end } = partRange(session, partNumberAt(session, byte))
      expect(start <= byte && byte < end).toBe(true)
    }
    expect(partRange(session, 3)).toEqual({ start: 20, end: 25 })
    expect(partRange(uploadRecord(), 3)).toEqual({ start: 20, end: 30 })
  })
})

describe('a part', () => {
  const chunksOf = fc.array(fc.record({ index: fc.nat(5), offset: fc.option(fc.nat(40)), size: fc.nat(12) }))

  it('holds bytes when a chunk has one in it', () => {
    fc.assert(
      fc.property(chunksOf, fc.integer({ min: 1, max: 6 }), (inputs, part) => {
        const byIndex = new Map(inputs.map((one) => [one.index, at(one.index, one.offset, one.size)]))
        const session = uploadRecord({ chunks: runsOf(byIndex.values()) })
        const { start, end } = partRange(session, part)
        const expected = [...byIndex.values()].some(
          ({ offset, size }) => offset !== null && size > 0 && offset < end && offset + size > start,
        )
        expect(holdsBytes(session, part)).toBe(expected)
      }),
      { numRuns: 500 },
    )
    const run = { index: 0, count: 3, size: 10, offset: 0, loose: 0 }
    expect([1, 2, 3, 4].map((part) => holdsBytes(uploadRecord({ chunks: [run] }), part))).toEqual([
      true,
      true,
      true,
      false,
    ])
  })

  it('has been sent with each of its bytes', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 5 })), fc.nat(55), fc.nat(25), (numbers, start, length) => {
        const session = uploadRecord({ sentParts: spansOf(numbers) })
        const bytes = Array.from({ length }, (_, i) => start + i)
        const expected = bytes.some((byte) => numbers.includes(Math.floor(byte / 10) + 1))
        expect(isSent(session, { start, end: start + length })).toBe(expected)
      }),
      { numRuns: 500 },
    )
  })

  it('is ready when all of it is settled and it has not been sent', () => {
    const bits = fc.array(fc.boolean(), { minLength: 34, maxLength: 34 })
    fc.assert(
      fc.property(bits, fc.array(fc.integer({ min: 1, max: 4 })), fc.boolean(), (settled, numbers, mostly) => {
        const have = settled.map((one, i) => one || (mostly && i % 17 !== 0))
        const missing = spansOf(have.flatMap((one, i) => (one ? [] : [i])))
        const ranges = gapsBelow(missing, 34).map(([first, last]) => ({ start: first, end: last + 1 }))
        const session = uploadRecord({ totalSize: 34, sentParts: spansOf(numbers) })
        const expected = [1, 2, 3, 4].filter((part) => {
          const { start, end } = partRange(session, part)
          return !numbers.includes(part) && have.slice(start, end).every(Boolean)
        })
        expect(readyParts(session, ranges)).toEqual(expected)
      }),
      { numRuns: 500 },
    )
    const open = uploadRecord({ chunks: runsOf([at(0, 0, 25)]) })
    expect(readyParts(open, [{ start: 0, end: 25 }])).toEqual([1, 2])
    expect(readyParts({ ...open, sentParts: [[1, 1]] }, [{ start: 0, end: 25 }])).toEqual([2])
    expect(readyParts({ ...open, sentParts: [[1, 2]] }, [{ start: 0, end: 25 }])).toEqual([])
  })
})
