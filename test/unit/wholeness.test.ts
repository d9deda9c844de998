import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { requireWhole } from '../../src/engine/wholeness.ts'
import { UploadClosedError, UploadIncompleteError } from '../../src/errors.ts'
import type { UploadSession } from '../../src/types.ts'
import { runsOf, uploadRecord } from '../support/records.ts'

/** Chunks by index and size; where they lie does not matter here. */
function having(sizes: Readonly<Record<number, number>>): UploadSession['chunks'] {
  return runsOf(Object.entries(sizes).map(([index, size]) => ({ index: Number(index), size, offset: null, loose: 1 })))
}

function errorOf(session: UploadSession): UploadIncompleteError | UploadClosedError | null {
  try {
    requireWhole(session)
    return null
  } catch (error) {
    if (error instanceof UploadIncompleteError || error instanceof UploadClosedError) return error
    throw error
  }
}

describe('an upload', () => {
  it('of no bytes is whole without chunks and with an empty one', () => {
    expect(errorOf(uploadRecord({ totalSize: 0 }))).toBeNull()
    expect(errorOf(uploadRecord({ totalSize: 0, chunks: having({ 0: 0 }) }))).toBeNull()
  })

  it('is whole exactly when its chunks are 0 to n-1 and add up to its size', () => {
    const sizes = fc.uniqueArray(fc.record({ index: fc.nat(5), size: fc.integer({ min: 1, max: 3 }) }), {
      selector: ({ index }) => index,
      maxLength: 6,
    })
    fc.assert(
      fc.property(sizes, fc.nat(12), (chunks, guess) => {
        const sum = chunks.reduce((total, { size }) => total + size, 0)
        const totalSize = guess % 2 === 0 ? sum : guess
        const hasGap = chunks.some(({ index }) => index >= chunks.length)
        const record = uploadRecord({
          totalSize,
          chunks: having(Object.fromEntries(chunks.map(({ index, size }) => [index, size]))),
        })
        const error = errorOf(record)
        if (sum === totalSize && !hasGap) expect(error).toBeNull()
        else if (sum > totalSize) {
          expect(error).toMatchObject({ code: 'SIZE_MISMATCH', details: { receivedBytes: sum, totalSize } })
        } else expect(error).toMatchObject({ code: 'UPLOAD_INCOMPLETE', details: { receivedBytes: sum, totalSize } })
      }),
      { numRuns: 500 },
    )
  })

  it('is told the chunks between those that have arrived, and those that the size says must follow', () => {
    const missing = (fields: Partial<UploadSession>) => {
      const error = errorOf(uploadRecord(fields))
      return error instanceof UploadIncompleteError ? error.missing : error
    }
    expect(missing({ totalSize: 30, chunkSize: 10 })).toEqual([[0, 2]])
    expect(missing({ totalSize: 31, chunkSize: 10, chunks: having({ 0: 10 }) })).toEqual([[1, 3]])
    expect(missing({ totalSize: 31, stride: 10, chunks: having({ 0: 10 }) })).toEqual([[1, 3]])
    expect(missing({ totalSize: 40, chunkSize: 10, chunks: having({ 1: 10 }) })).toEqual([
      [0, 0],
      [2, 3],
    ])
    // The last one may carry the rest as well.
    expect(missing({ totalSize: 35, chunkSize: 10, chunks: having({ 0: 10, 2: 15 }) })).toEqual([[1, 1]])
    expect(missing({ totalSize: 35, chunkSize: 10, chunks: having({ 2: 15 }) })).toEqual([[0, 1]])
    // Nobody knows how many there are.
    expect(missing({ totalSize: 30, chunks: having({ 0: 7 }) })).toEqual([])
    expect(missing({ totalSize: 30, chunks: having({ 0: 7, 3: 7 }) })).toEqual([[1, 2]])
    expect(missing({ totalSize: 30, chunkSize: 10, chunks: having({ 0: 10, 1: 10, 2: 9 }) })).toEqual([])
  })

  it('is told how much has arrived', () => {
    expect(errorOf(uploadRecord({ totalSize: 30, chunks: having({ 0: 7, 3: 8 }) }))?.message).toContain(
      '2 chunks with 15 of 30 bytes',
    )
  })

  it('with all its bytes in chunks of other sizes than the declared one is closed', () => {
    const declared = (sizes: Readonly<Record<number, number>>) => {
      const totalSize = Object.values(sizes).reduce((sum, size) => sum + size, 0)
      return errorOf(uploadRecord({ totalSize, chunkSize: 10, chunks: having(sizes) }))
    }
    expect(declared({ 0: 10, 1: 10, 2: 3 })).toBeNull()
    expect(declared({ 0: 10, 1: 15 })).toBeNull()
    expect(declared({ 0: 7 })).toBeNull()
    expect(declared({ 0: 7, 1: 10 })).toMatchObject({ code: 'SIZE_MISMATCH' })
    expect(declared({ 0: 10, 1: 5, 2: 5 })).toMatchObject({ code: 'SIZE_MISMATCH' })
    expect(declared({ 0: 5, 1: 5 })).toBeInstanceOf(UploadClosedError)
  })
})
