import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type Chunk,
  countChunks,
  findChunk,
  firstOccupied,
  prefix,
  receivedBytes,
  receivedIndexes,
  withChunk,
} from '../../src/engine/chunk-map.ts'
import { addToSpans, countSpans, gapsBelow, spansInclude } from '../../src/engine/ranges.ts'
import type { ChunkRun, Span } from '../../src/types.ts'

const chunkOf = fc.record({
  index: fc.integer({ min: 0, max: 30 }),
  size: fc.integer({ min: 1, max: 3 }),
  place: fc.integer({ min: 0, max: 2 }),
})

function place({ index, size, place }: { index: number; size: number; place: number }): Chunk {
  return place === 0 ? { index, size, offset: null, loose: size } : { index, size, offset: index * size, loose: 0 }
}

describe('withChunk', () => {
  it('agrees with a plain map, whatever the order and however often a chunk comes', () => {
    fc.assert(
      fc.property(fc.array(chunkOf, { maxLength: 60 }), (inputs) => {
        const plain = new Map<number, Chunk>()
        let runs: ChunkRun[] = []
        for (const input of inputs) {
          const chunk = place(input)
          plain.set(chunk.index, chunk)
          runs = withChunk(runs, chunk)
        }
        for (let index = 0; index <= 31; index++) expect(findChunk(runs, index)).toEqual(plain.get(index) ?? null)
        expect(countChunks(runs)).toBe(plain.size)
        expect(receivedBytes(runs)).toBe([...plain.values()].reduce((sum, chunk) => sum + chunk.size, 0))
        const sorted = [...plain.keys()].sort((a, b) => a - b)
        expect(receivedIndexes(runs).flatMap(([first, last]) => range(first, last))).toEqual(sorted)
        let next = 0
        while (plain.has(next)) next++
        expect(prefix(runs).chunks).toBe(next)
      }),
    )
  })

  it('keeps one run for ten thousand equal chunks, in order or not', () => {
    let runs: ChunkRun[] = []
    for (let i = 0; i < 10_000; i++) runs = withChunk(runs, { index: i, size: 5, offset: i * 5, loose: 0 })
    expect(runs).toEqual([{ index: 0, count: 10_000, size: 5, offset: 0, loose: 0 }])
    let backwards: ChunkRun[] = []
    for (let i = 999; i >= 0; i--) backwards = withChunk(backwards, { index: i, size: 5, offset: i * 5, loose: 0 })
    expect(backwards).toEqual([{ index: 0, count: 1000, size: 5, offset: 0, loose: 0 }])
  })
})

describe('firstOccupied', () => {
  it('finds the first byte of another chunk in the range', () => {
    fc.assert(
      fc.property(fc.array(chunkOf), fc.nat(60), fc.nat(60), fc.nat(30), (inputs, start, length, except) => {
        let runs: ChunkRun[] = []
        for (const input of inputs) runs = withChunk(runs, place({ ...input, size: 2 }))
        const end = start + length
        let expected = end
        for (let at = start; at < end; at++) {
          const owner = findChunk(runs, Math.floor(at / 2))
          if (owner && owner.offset !== null && owner.index !== except) {
            expected = at
            break
          }
        }
        expect(firstOccupied(runs, { start, end }, except)).toBe(expected)
      }),
    )
  })
})

describe('spans', () => {
  it('agree with a plain set', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(40)), fc.nat(45), (values, end) => {
        let spans: Span[] = []
        for (const value of values) spans = addToSpans(spans, value)
        const set = new Set(values)
        expect(countSpans(spans)).toBe(set.size)
        for (let value = 0; value <= 41; value++) expect(spansInclude(spans, value)).toBe(set.has(value))
        const gaps = gapsBelow(spans, end).flatMap(([first, last]) => range(first, last))
        expect(gaps).toEqual(range(0, end - 1).filter((value) => !set.has(value)))
      }),
    )
  })
})

function range(first: number, last: number): number[] {
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i)
}
