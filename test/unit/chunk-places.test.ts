import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  allChunks,
  type ByteRange,
  type Chunk,
  findChunk,
  firstOccupied,
  firstUnsettled,
  isSettled,
  merged,
  partSizedChunk,
  prefix,
  receivedIndexes,
  settledRanges,
  trueOffset,
  withChunk,
} from '../../src/engine/chunk-map.ts'
import type { UploadSession } from '../../src/types.ts'
import { runsOf, uploadRecord } from '../support/records.ts'

type Place = 'right' | 'wrong' | 'loose'

const input = fc.record({
  index: fc.integer({ min: 0, max: 7 }),
  size: fc.integer({ min: 1, max: 3 }),
  place: fc.constantFrom<Place>('right', 'right', 'right', 'wrong', 'loose'),
})

/** The chunks by index, each with the place it should have, or `null` while nobody can know that. */
interface Plain {
  readonly session: UploadSession
  readonly chunks: readonly { readonly chunk: Chunk; readonly right: number | null }[]
}

const declaredSize = 3

function plainUpload(inputs: readonly { index: number; size: number; place: Place }[], declared: boolean): Plain {
  const byIndex = new Map(inputs.map((one) => [one.index, declared ? { ...one, size: declaredSize } : one]))
  const placeOf = (index: number) => {
    if (declared) return index * declaredSize
    let offset = 0
    for (let i = 0; i < index; i++) {
      const lower = byIndex.get(i)
      if (!lower) return null
      offset += lower.size
    }
    return offset
  }
  const chunks = [...byIndex.values()]
    .sort((a, b) => a.index - b.index)
    .map(({ index, size, place }) => {
      const right = placeOf(index)
      const offset = place === 'loose' ? null : place === 'wrong' ? 1_000 + index * 10 : (right ?? 500 + index * 10)
      return { chunk: { index, size, offset, loose: offset === null ? index + 1 : 0 }, right }
    })
  const runs = runsOf(chunks.map(({ chunk }) => chunk))
  return { session: uploadRecord({ chunkSize: declared ? declaredSize : null, chunks: runs }), chunks }
}

const uploads = fc
  .tuple(fc.array(input, { maxLength: 8 }), fc.boolean())
  .map(([inputs, declared]) => plainUpload(inputs, declared))

function bytesOf(ranges: readonly ByteRange[]): number[] {
  return ranges.flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i))
}

describe('the place of a chunk', () => {
  it('is its index times the declared size, or the sum of all lower chunks when they are there', () => {
    fc.assert(
      fc.property(uploads, ({ session, chunks }) => {
        for (let index = 0; index <= 8; index++) {
          const known = chunks.find(({ chunk }) => chunk.index === index)
          const lower = chunks.filter(({ chunk }) => chunk.index < index)
          const sum = lower.reduce((total, { chunk }) => total + chunk.size, 0)
          const expected = session.chunkSize !== null ? index * declaredSize : lower.length === index ? sum : null
          expect(trueOffset(session, index)).toBe(expected)
          if (known) expect(known.right).toBe(expected)
        }
      }),
    )
  })

  it('is settled when its bytes lie there, and the settled ranges are exactly those bytes, merged', () => {
    fc.assert(
      fc.property(uploads, fc.nat(24), fc.nat(6), ({ session, chunks }, start, length) => {
        const settled = chunks
          .filter(({ chunk, right }) => right !== null && chunk.offset === right)
          .map(({ chunk, right }) => ({ start: right ?? 0, end: (right ?? 0) + chunk.size }))
        const ranges = settledRanges(session)
        expect(bytesOf(ranges)).toEqual(bytesOf(settled))
        for (const [i, range] of ranges.entries()) {
          expect(range.end).toBeGreaterThan(range.start)
          if (i > 0) expect(range.start).toBeGreaterThan(ranges[i - 1]?.end ?? 0)
        }
        const held = new Set(bytesOf(settled))
        const all = bytesOf([{ start, end: start + length }])
        expect(isSettled(session, { start, end: start + length })).toBe(all.every((byte) => held.has(byte)))
      }),
      { numRuns: 500 },
    )
  })

  it('is told for the first chunk that does not lie there, but for those that are skipped', () => {
    fc.assert(
      fc.property(uploads, fc.option(fc.array(fc.nat(7)), { nil: undefined }), ({ session, chunks }, skipped) => {
        const skip = skipped && new Set(skipped)
        const expected = chunks.find(
          ({ chunk, right }) => right !== null && chunk.offset !== right && !skip?.has(chunk.index),
        )
        expect(firstUnsettled(session, skip)).toEqual(
          expected ? { chunk: expected.chunk, offset: expected.right } : null,
        )
      }),
      { numRuns: 500 },
    )
  })

  it('of a whole concatenation is settled from the beginning to the end, once its length is known', () => {
    const sources = ['a'.repeat(22)]
    expect(settledRanges(uploadRecord({ sources, totalSize: 12 }))).toEqual([{ start: 0, end: 12 }])
    expect(settledRanges(uploadRecord({ sources }))).toEqual([])
    expect(isSettled(uploadRecord({ sources, totalSize: 12 }), { start: 3, end: 12 })).toBe(true)
    expect(isSettled(uploadRecord({ sources, totalSize: 12 }), { start: 3, end: 13 })).toBe(false)
    expect(isSettled(uploadRecord(), { start: 5, end: 5 })).toBe(true)
  })
})

describe('runs of chunks', () => {
  it('tell the same chunks one by one, with their places, and are merged where neighbours belong together', () => {
    fc.assert(
      fc.property(fc.array(input, { maxLength: 8 }), fc.boolean(), (inputs, declared) => {
        const { session, chunks } = plainUpload(inputs, declared)
        expect(allChunks(session.chunks)).toEqual(chunks.map(({ chunk }) => chunk))
        const singles = chunks.map(({ chunk }) => ({ ...chunk, count: 1 }))
        expect(merged(singles)).toEqual(session.chunks)
        const followed = chunks.filter(({ chunk }, i) => {
          const before = chunks[i - 1]?.chunk
          if (!before || before.index + 1 !== chunk.index) return true
          if (before.size !== chunk.size || before.loose !== chunk.loose) return true
          if (before.offset === null || chunk.offset === null) return before.offset !== chunk.offset
          return before.offset + before.size !== chunk.offset
        })
        expect(merged(singles)).toHaveLength(followed.length)
      }),
      { numRuns: 500 },
    )
  })

  it('of one size and no place are one run only with the same generation', () => {
    const loose = (index: number, generation: number) => ({ index, size: 4, offset: null, loose: generation })
    expect(runsOf([loose(0, 1), loose(1, 1), loose(2, 2)])).toEqual([
      { index: 0, count: 2, size: 4, offset: null, loose: 1 },
      { index: 2, count: 1, size: 4, offset: null, loose: 2 },
    ])
    expect(findChunk(runsOf([loose(0, 1), loose(1, 1)]), 1)).toEqual(loose(1, 1))
    expect(runsOf([loose(0, 1), { ...loose(1, 1), offset: 4 }])).toHaveLength(2)
    expect(runsOf([{ ...loose(0, 1), offset: 0 }, loose(1, 1)])).toHaveLength(2)
  })

  it('are cut in three by a chunk that replaces one in the middle, and stay in order', () => {
    const whole = runsOf([0, 1, 2, 3, 4].map((index) => ({ index, size: 2, offset: index * 2, loose: 0 })))
    expect(withChunk(whole, { index: 2, size: 5, offset: null, loose: 1 })).toEqual([
      { index: 0, count: 2, size: 2, offset: 0, loose: 0 },
      { index: 2, count: 1, size: 5, offset: null, loose: 1 },
      { index: 3, count: 2, size: 2, offset: 6, loose: 0 },
    ])
    const loose = [{ index: 4, count: 3, size: 2, offset: null, loose: 1 }]
    expect(withChunk(loose, { index: 4, size: 2, offset: 8, loose: 0 })).toEqual([
      { index: 4, count: 1, size: 2, offset: 8, loose: 0 },
      { index: 5, count: 2, size: 2, offset: null, loose: 1 },
    ])
    expect(withChunk(loose, { index: 6, size: 2, offset: 8, loose: 0 })).toEqual([
      { index: 4, count: 2, size: 2, offset: null, loose: 1 },
      { index: 6, count: 1, size: 2, offset: 8, loose: 0 },
    ])
  })

  it('are one span of indexes where they touch, whatever their sizes and places', () => {
    const runs = [
      { index: 0, count: 2, size: 4, offset: 0, loose: 0 },
      { index: 2, count: 3, size: 5, offset: null, loose: 1 },
      { index: 6, count: 1, size: 5, offset: null, loose: 1 },
    ]
    expect(receivedIndexes(runs)).toEqual([
      [0, 4],
      [6, 6],
    ])
    expect(prefix(runs)).toEqual({ chunks: 5, bytes: 23 })
    expect(prefix(runs.slice(1))).toEqual({ chunks: 0, bytes: 0 })
  })
})

it('the first occupied byte of a range is that of any other chunk, however sizes and places are mixed', () => {
  const anywhere = fc.record({ index: fc.nat(9), size: fc.nat(3), offset: fc.option(fc.nat(30)) })
  fc.assert(
    fc.property(
      fc.array(anywhere),
      fc.nat(34),
      fc.nat(12),
      fc.nat(9),
      fc.boolean(),
      (inputs, start, length, except, even) => {
        const byIndex = new Map(
          inputs.map(({ index, size, offset }) => {
            const place = even ? index * 3 : offset
            return [index, { index, size: even ? 3 : size, offset: place, loose: place === null ? 1 : 0 }]
          }),
        )
        const end = start + length
        const taken = [...byIndex.values()]
          .filter(({ index, offset }) => index !== except && offset !== null)
          .flatMap(({ offset, size }) => bytesOf([{ start: offset ?? 0, end: (offset ?? 0) + size }]))
          .filter((byte) => byte >= start && byte < end)
        expect(firstOccupied(runsOf(byIndex.values()), { start, end }, except)).toBe(Math.min(end, ...taken))
      },
    ),
    { numRuns: 1_000 },
  )
})

it('chunks that fit parts are a part, or the largest equal fraction of one that is allowed', () => {
  expect(partSizedChunk(10, 10)).toBe(10)
  expect(partSizedChunk(10, 100)).toBe(10)
  expect(partSizedChunk(10, 9)).toBe(5)
  expect(partSizedChunk(10, 4)).toBe(3)
  expect(partSizedChunk(10, 1)).toBe(1)
})
