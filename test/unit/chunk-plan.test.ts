import { describe, expect, it } from 'vitest'
import type { Chunk } from '../../src/engine/chunk-map.ts'
import { addChunk, checkSize, otherSize, planChunk, planSizedChunk } from '../../src/engine/chunk-plan.ts'
import { isNexusUploaderError, type NexusUploaderError } from '../../src/errors.ts'
import type { UploadLimits, UploadSession, WriteChunk } from '../../src/types.ts'
import { runsOf, uploadRecord } from '../support/records.ts'

const limits = { maxChunks: 20, maxChunkSize: 50, maxFileSize: 200 } as UploadLimits

function at(index: number, offset: number | null, size: number): Chunk {
  return { index, size, offset, loose: offset === null ? 1 : 0 }
}

function declared(totalSize: number | null, chunks: readonly Chunk[] = []): UploadSession {
  return uploadRecord({ totalSize, chunkSize: 10, chunks: runsOf(chunks) })
}

function undeclared(totalSize: number | null, stride: number | null, chunks: readonly Chunk[] = []): UploadSession {
  return uploadRecord({ totalSize, stride, chunks: runsOf(chunks) })
}

function errorOf(action: () => unknown): NexusUploaderError {
  try {
    action()
  } catch (error) {
    if (isNexusUploaderError(error)) return error
    throw error
  }
  throw new Error('nothing was refused')
}

describe('the index of a chunk', () => {
  it('is a whole number from 0, below the limit', () => {
    for (const index of [-1, 0.5, 20, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
      const error = errorOf(() => planChunk(undeclared(null, null), index, limits))
      expect(error).toMatchObject({ code: 'INVALID_CHUNK_INDEX', status: 400, details: { limit: 20 } })
      expect(error.message).toContain('from 0 to 19')
    }
    expect(planChunk(undeclared(null, null), 0, limits).maxSize).toBe(50)
    expect(planChunk(undeclared(null, null), 19, limits).maxSize).toBe(50)
  })

  it('of an upload with a declared chunk size ends with the file', () => {
    const error = errorOf(() => planChunk(declared(30), 3, limits))
    expect(error).toMatchObject({ code: 'CHUNK_OUT_OF_RANGE', status: 400, details: { totalSize: 30, chunkSize: 10 } })
    expect(error.message).toContain('after the end of the file')
    expect(errorOf(() => planChunk(declared(0), 1, limits)).code).toBe('CHUNK_OUT_OF_RANGE')
    expect(planChunk(declared(0), 0, limits).maxSize).toBe(0)
    expect(planChunk(declared(null), 19, limits).maxSize).toBe(10)
    const small = { ...limits, maxFileSize: 25 }
    expect(planChunk(declared(null), 2, small).maxSize).toBe(5)
    expect(errorOf(() => planChunk(declared(null), 3, small))).toMatchObject({ details: { totalSize: 25 } })
  })
})

describe('the size of a chunk', () => {
  it('is the declared one; the last chunk may have what is left beyond it as well', () => {
    expect([0, 1, 2].map((index) => planChunk(declared(35), index, limits).maxSize)).toEqual([10, 10, 15])
    expect(planChunk(declared(35), 3, limits).maxSize).toBe(5)
    expect([0, 1].map((index) => planChunk(declared(20), index, limits).maxSize)).toEqual([10, 10])
    expect(planChunk(declared(19), 0, limits).maxSize).toBe(19)
    expect(planChunk(declared(35), 2, limits).tooLarge()).toMatchObject({ code: 'CHUNK_SIZE_EXCEEDED', status: 413 })
    expect(planChunk(declared(35), 2, limits).tooLarge()).toMatchObject({ details: { limit: 15 } })
  })

  it('of an undeclared upload is limited by the setting, by the caller, and by what is left of the file', () => {
    expect(planChunk(undeclared(100, null), 0, limits).maxSize).toBe(50)
    expect(planChunk(undeclared(100, null), 0, limits, 7).maxSize).toBe(7)
    expect(planChunk(undeclared(100, 40, [at(0, 0, 40), at(1, 40, 40)]), 2, limits).maxSize).toBe(20)
    // The one that it replaces makes room.
    expect(planChunk(undeclared(100, 40, [at(0, 0, 40), at(1, 40, 40)]), 1, limits).maxSize).toBe(50)
    expect(planChunk(undeclared(70, 40, [at(0, 0, 40), at(1, 40, 30)]), 1, limits).maxSize).toBe(30)
    expect(planChunk(undeclared(null, null, [at(0, 0, 180)]), 1, limits).maxSize).toBe(20)
  })

  it('that is too large is told as the chunk’s, or as the file’s when that is what it is too large for', () => {
    const chunk = planChunk(undeclared(100, null), 0, limits).tooLarge()
    expect(chunk).toMatchObject({ code: 'CHUNK_SIZE_EXCEEDED', status: 413, details: { limit: 50 } })
    const file = planChunk(undeclared(50, null), 0, limits).tooLarge()
    expect(file).toMatchObject({ code: 'FILE_SIZE_EXCEEDED', status: 413, details: { limit: 50 } })
    expect(file.message).toContain('declared')
    const unknown = planChunk(undeclared(null, null, [at(0, 0, 180)]), 1, limits).tooLarge()
    expect(unknown).toMatchObject({ code: 'FILE_SIZE_EXCEEDED', details: { limit: 200 } })
    expect(unknown.message).not.toContain('declared')
  })

  it('that the request tells is checked before its bytes', () => {
    const plan = (session: UploadSession, request: Partial<WriteChunk>) =>
      planSizedChunk(session, { index: 0, ...request } as WriteChunk, limits)
    expect(errorOf(() => plan(undeclared(100, null), { size: 51 })).code).toBe('CHUNK_SIZE_EXCEEDED')
    expect(plan(undeclared(100, null), { size: 50 }).maxSize).toBe(50)
    expect(errorOf(() => plan(undeclared(100, null), { size: 8, maxSize: 7 })).code).toBe('CHUNK_SIZE_EXCEEDED')
    expect(errorOf(() => plan(declared(35), { size: 9 })).code).toBe('CHUNK_SIZE_MISMATCH')
    expect(errorOf(() => plan(declared(35), { size: 0 })).code).toBe('EMPTY_CHUNK')
    expect(plan(declared(35), {}).maxSize).toBe(10)
  })

  it('is not 0, but for a file of no bytes, or the first chunk of one that may become it', () => {
    expect(errorOf(() => checkSize(undeclared(5, null), 0, 0, limits))).toMatchObject({
      code: 'EMPTY_CHUNK',
      status: 400,
      message: 'The chunk is empty.',
    })
    expect(errorOf(() => checkSize(undeclared(null, null), 1, 0, limits)).code).toBe('EMPTY_CHUNK')
    expect(() => checkSize(undeclared(null, null), 0, 0, limits)).not.toThrow()
    expect(() => checkSize(undeclared(0, null), 1, 0, limits)).not.toThrow()
    const stored = undeclared(5, null, [at(0, 0, 0)])
    expect(() => checkSize(stored, 0, 0, limits)).not.toThrow()
    expect(errorOf(() => checkSize(stored, 1, 0, limits)).code).toBe('EMPTY_CHUNK')
    expect(() => checkSize(declared(0), 0, 0, limits)).not.toThrow()
  })

  it('is the declared one, or all that is left; a file without an end may end anywhere', () => {
    for (const size of [10, 15]) expect(() => checkSize(declared(35), 2, size, limits)).not.toThrow()
    expect(() => checkSize(declared(35), 3, 5, limits)).not.toThrow()
    expect(() => checkSize(declared(null), 1, 3, limits)).not.toThrow()
    expect(() => checkSize(undeclared(35, null), 1, 3, limits)).not.toThrow()
    const middle = errorOf(() => checkSize(declared(35), 1, 7, limits))
    expect(middle).toMatchObject({ code: 'CHUNK_SIZE_MISMATCH', status: 400, details: { expected: 10, received: 7 } })
    expect(middle.message).toContain('Chunk 1 has 7 bytes')
    expect(errorOf(() => checkSize(declared(35), 3, 4, limits))).toMatchObject({ details: { expected: 5 } })
    expect(errorOf(() => checkSize(declared(35), 2, 14, limits))).toMatchObject({ details: { expected: 10 } })
  })

  it('that turns out otherwise is told with both', () => {
    const error = otherSize(10, 7)
    expect(error).toMatchObject({ code: 'CHUNK_SIZE_MISMATCH', status: 400, details: { expected: 10, received: 7 } })
    expect(error.message).toContain('7 bytes instead of 10')
  })
})

describe('the place of a chunk', () => {
  it('of a declared size is its own, unless it is there already or another one lies in it', () => {
    expect(planChunk(declared(35), 1, limits).inPlace).toEqual({ start: 10, end: 20 })
    expect(planChunk(declared(35), 2, limits).inPlace).toEqual({ start: 20, end: 35 })
    const again = planChunk(declared(35, [at(1, 10, 10)]), 1, limits)
    expect(again.inPlace).toBeNull()
    expect(again.existing).toEqual(at(1, 10, 10))
    expect(planChunk(declared(35, [at(3, 30, 5)]), 2, limits).inPlace).toBeNull()
    expect(planChunk(declared(35, [at(3, 30, 5)]), 1, limits).inPlace).toEqual({ start: 10, end: 20 })
    expect(planChunk(declared(35, [at(0, 0, 10)]), 1, limits).existing).toBeNull()
  })

  it('is right behind all lower ones, or guessed from the size of the first', () => {
    expect(planChunk(undeclared(100, null), 0, limits).inPlace).toEqual({ start: 0, end: 50 })
    expect(planChunk(undeclared(100, null), 1, limits).inPlace).toBeNull()
    expect(planChunk(undeclared(100, 10, [at(0, 0, 12)]), 1, limits).inPlace).toEqual({ start: 12, end: 22 })
    expect(planChunk(undeclared(100, 10, [at(0, 0, 10)]), 3, limits).inPlace).toEqual({ start: 30, end: 40 })
    expect(planChunk(undeclared(100, 10, [at(0, 0, 10)]), 0, limits).inPlace).toBeNull()
  })

  it('that is guessed goes as far as the next chunk’s place, or to the end when that is nearer than two', () => {
    expect(planChunk(undeclared(100, 10, [at(0, 0, 10)]), 8, limits).inPlace).toEqual({ start: 80, end: 90 })
    expect(planChunk(undeclared(99, 10, [at(0, 0, 10)]), 8, limits).inPlace).toEqual({ start: 80, end: 130 })
    expect(planChunk(undeclared(100, 10, [at(0, 0, 10)]), 10, limits).inPlace).toBeNull()
    expect(planChunk(undeclared(100, 10, [at(0, 0, 10)]), 9, limits).inPlace).toEqual({ start: 90, end: 140 })
    expect(planChunk(undeclared(100, 10, [at(0, 0, 10)]), 3, limits, 4).inPlace).toEqual({ start: 30, end: 34 })
  })

  it('ends where another chunk lies, and is none when that is at once', () => {
    const taken = [at(0, 0, 10), at(4, 35, 10)]
    expect(planChunk(undeclared(100, 10, taken), 3, limits).inPlace).toEqual({ start: 30, end: 35 })
    expect(planChunk(undeclared(100, 10, [at(0, 0, 10), at(4, 30, 10)]), 3, limits).inPlace).toBeNull()
  })
})

describe('a chunk that is counted', () => {
  it('is there once, in the place of what its index held', () => {
    const once = addChunk(declared(35), at(1, 10, 10), limits)
    expect(once.chunks).toEqual([{ index: 1, count: 1, size: 10, offset: 10, loose: 0 }])
    expect(addChunk(once, at(1, null, 10), limits).chunks).toEqual([
      { index: 1, count: 1, size: 10, offset: null, loose: 1 },
    ])
  })

  it('must fit the file', () => {
    expect(errorOf(() => addChunk(undeclared(20, null, [at(0, 0, 15)]), at(1, 15, 6), limits)).code).toBe(
      'FILE_SIZE_EXCEEDED',
    )
    expect(addChunk(undeclared(20, null, [at(0, 0, 15)]), at(1, 15, 5), limits).chunks).toHaveLength(2)
    // What was received may be larger than chunks may be by now.
    expect(addChunk(undeclared(100, null), at(0, 0, 60), limits).chunks).toHaveLength(1)
    expect(errorOf(() => addChunk(undeclared(100, null), at(0, 0, 0), limits)).code).toBe('EMPTY_CHUNK')
  })

  it('must not lie where another one does', () => {
    const error = errorOf(() => addChunk(declared(35, [at(3, 30, 5)]), at(2, 20, 15), limits))
    expect(error).toMatchObject({ code: 'CHUNK_OVERLAP', status: 409 })
    expect(error.message).toContain('overlaps another one')
    // Nor must its place, as long as it waits elsewhere.
    expect(errorOf(() => addChunk(declared(35, [at(3, 30, 5)]), at(2, null, 15), limits)).code).toBe('CHUNK_OVERLAP')
    expect(addChunk(declared(35, [at(3, 30, 5)]), at(2, null, 10), limits).chunks).toHaveLength(2)
    expect(errorOf(() => addChunk(undeclared(100, null, [at(2, 20, 10)]), at(1, 15, 6), limits)).code).toBe(
      'CHUNK_OVERLAP',
    )
    expect(addChunk(undeclared(100, null, [at(2, 20, 10)]), at(1, 15, 5), limits).chunks).toHaveLength(2)
    expect(addChunk(undeclared(100, null, [at(2, 20, 10)]), at(1, null, 50), limits).chunks).toHaveLength(2)
  })

  it('tells the size of all when it is the first, or the second of one size', () => {
    expect(addChunk(undeclared(100, null), at(0, 0, 10), limits).stride).toBe(10)
    expect(addChunk(undeclared(100, null), at(2, null, 10), limits).stride).toBeNull()
    expect(addChunk(undeclared(100, null, [at(2, null, 10)]), at(4, null, 10), limits).stride).toBe(10)
    expect(addChunk(undeclared(100, null, [at(2, null, 10)]), at(4, null, 9), limits).stride).toBeNull()
    expect(addChunk(undeclared(100, null, [at(2, null, 10)]), at(2, null, 10), limits).stride).toBeNull()
    expect(addChunk(undeclared(100, 7, [at(2, null, 10)]), at(0, 0, 10), limits).stride).toBe(7)
    expect(addChunk(undeclared(null, null), at(0, 0, 0), limits).stride).toBeNull()
    expect(addChunk(declared(35), at(0, 0, 10), limits).stride).toBeNull()
  })
})
