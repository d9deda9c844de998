import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { partCount, partRange, planPartSize } from '../../src/engine/part-plan.ts'
import { addToSpans, countSpans, gapsBelow, spansInclude } from '../../src/engine/ranges.ts'
import { FileSizeExceededError } from '../../src/errors.ts'
import type { MultipartStorage, Span, UploadSession } from '../../src/types.ts'

const MiB = 1024 * 1024
const s3 = {
  minPartSize: 5 * MiB,
  maxPartSize: 5 * 1024 * MiB,
  maxParts: 10_000,
  partSize: 5 * MiB,
} as MultipartStorage

describe('a part size', () => {
  it('fits the rules of S3 for every size and chunk size, or the upload is refused before it begins [F07]', () => {
    const sizes = fc.oneof(fc.integer({ min: 0, max: 60 * 1024 * MiB }), fc.integer({ min: 0, max: 2 ** 46 }))
    fc.assert(
      fc.property(sizes, fc.option(fc.integer({ min: 1, max: 64 * MiB })), (totalSize, chunkSize) => {
        const plan = () => planPartSize(s3, { totalSize, chunkSize, maxFileSize: 2 ** 47 })
        if (totalSize > s3.maxPartSize * s3.maxParts) {
          expect(plan).toThrow(FileSizeExceededError)
          return
        }
        const partSize = plan()
        expect(partSize).toBeGreaterThanOrEqual(s3.minPartSize)
        expect(partSize).toBeLessThanOrEqual(s3.maxPartSize)
        expect(Math.ceil(totalSize / partSize)).toBeLessThanOrEqual(s3.maxParts)
        // A chunk lies across two parts only where parts of whole chunks would be too large.
        const aligned = Math.ceil(s3.minPartSize / (chunkSize ?? 1)) * (chunkSize ?? 1)
        if (totalSize < 5 * MiB * s3.maxParts && aligned <= s3.maxPartSize) expect(partSize % (chunkSize ?? 1)).toBe(0)
      }),
      { numRuns: 2_000 },
    )
  })

  it('is the whole file for a storage without parts', () => {
    expect(planPartSize(undefined, { totalSize: 7, chunkSize: null, maxFileSize: 9 })).toBe(7)
    expect(planPartSize(undefined, { totalSize: null, chunkSize: null, maxFileSize: 9 })).toBe(9)
    expect(planPartSize(undefined, { totalSize: 0, chunkSize: null, maxFileSize: 9 })).toBe(1)
  })

  it('cuts the file without gap or overlap', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 10_000 }), fc.integer({ min: 1, max: 1_000 }), (totalSize, partSize) => {
        const session = { totalSize, partSize, chunks: [] } as unknown as UploadSession
        let at = 0
        for (let part = 1; part <= partCount(session); part++) {
          const { start, end } = partRange(session, part)
          expect(start).toBe(at)
          expect(end).toBeGreaterThan(start)
          at = end
        }
        expect(at).toBe(totalSize)
      }),
    )
  })
})

it('spans are what a set of numbers would be', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 60 }), (numbers) => {
      const spans = numbers.reduce<readonly Span[]>((all, number) => addToSpans(all, number), [])
      const set = new Set(numbers)
      expect(countSpans(spans)).toBe(set.size)
      for (let number = 0; number <= 41; number++) expect(spansInclude(spans, number)).toBe(set.has(number))
      for (const [i, [first, last]] of spans.entries()) {
        expect(first).toBeLessThanOrEqual(last)
        // Neighbours are one span.
        if (i > 0) expect(first).toBeGreaterThan((spans[i - 1]?.[1] ?? 0) + 1)
      }
      const missing = gapsBelow(spans, 41).flatMap(([first, last]) =>
        Array.from({ length: last - first + 1 }, (_, i) => first + i),
      )
      expect(missing).toEqual(Array.from({ length: 41 }, (_, i) => i).filter((number) => !set.has(number)))
    }),
  )
})
