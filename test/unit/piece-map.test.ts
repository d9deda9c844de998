import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Chunk, trueOffset } from '../../src/engine/chunk-map.ts'
import { partRange } from '../../src/engine/part-plan.ts'
import {
  allPieces,
  directPart,
  holdsPart,
  otherParts,
  piecesIn,
  placed,
  sendsParts,
  withoutParts,
  withPart,
} from '../../src/engine/piece-map.ts'
import { addToSpans, countSpans, spansInclude } from '../../src/engine/ranges.ts'
import type { ChunkRun, MultipartStorage, Span, UploadSession } from '../../src/types.ts'
import { runsOf, uploadRecord } from '../support/records.ts'

const storage = {} as MultipartStorage

/** A piece: the generation is its name. */
function piece(index: number, offset: number | null, size: number, loose = index + 1): Chunk {
  return { index, size, offset, loose }
}

/** A chunk whose bytes are in parts. */
function sent(index: number, offset: number, size: number): Chunk {
  return { index, size, offset, loose: 0 }
}

function upload(chunks: readonly Chunk[], fields: Partial<UploadSession> = {}): UploadSession {
  return uploadRecord({ staged: 'storage', chunks: runsOf(chunks), ...fields })
}

function numbersIn(spans: readonly Span[], most = 20): number[] {
  return Array.from({ length: most }, (_, i) => i + 1).filter((number) => spansInclude(spans, number))
}

/** Chunks of the sizes, one behind the other. */
function inRow(sizes: readonly number[]): Chunk[] {
  let offset = 0
  return sizes.map((size, index) => {
    const chunk = piece(index, offset, size)
    offset += size
    return chunk
  })
}

const rows = fc.array(fc.integer({ min: 1, max: 14 }), { maxLength: 8 })

describe('places that become known', () => {
  it('are those of the pieces, also where they had another before, or are not known any more', () => {
    const sizes = fc.array(fc.record({ index: fc.nat(6), size: fc.integer({ min: 1, max: 3 }), known: fc.boolean() }))
    fc.assert(
      fc.property(sizes, fc.boolean(), (inputs, declared) => {
        const byIndex = new Map(inputs.map((one) => [one.index, one]))
        const chunks = [...byIndex.values()].map(({ index, size, known }) => {
          const offset = known ? (declared ? index * 3 : 100 + index) : null
          return piece(index, offset, declared ? 3 : size)
        })
        const session = upload(chunks, { chunkSize: declared ? 3 : null })
        const expected = session.chunks.map((run) => ({ ...run, offset: trueOffset(session, run.index) }))
        expect(placed(session).chunks).toEqual(expected)
      }),
      { numRuns: 500 },
    )
  })

  it('are not those of bytes that have left', () => {
    const conflict = expect.objectContaining({ code: 'CHUNK_CONFLICT', status: 409 })
    const first = piece(0, 0, 5)
    expect(() => placed(upload([first, sent(1, 10, 10)]))).toThrow(conflict)
    // The first part, or the last, that the piece had bytes in.
    for (const sentParts of [[[2, 2]], [[3, 3]]] satisfies Span[][]) {
      expect(() => placed(upload([first, piece(1, 15, 10)], { sentParts }))).toThrow(conflict)
      const unknown = upload([piece(1, 15, 10)], { sentParts })
      expect(placed(unknown)).toBe(unknown)
    }
    const others = upload([first, piece(1, 15, 10)], {
      sentParts: [
        [1, 1],
        [4, 4],
      ],
    })
    expect(placed(others).chunks).toMatchObject([{ offset: 0 }, { offset: 5 }])
  })

  it('leave a record alone that has them all, or that none is known for', () => {
    const known = upload([piece(0, 0, 5), piece(1, 5, 5)])
    expect(placed(known)).toBe(known)
    const unknown = upload([piece(2, null, 5)])
    expect(placed(unknown)).toBe(unknown)
  })
})

describe('the pieces of a range', () => {
  it('are exactly its bytes in order, or none when some are not in pieces', () => {
    const gaps = fc.array(fc.record({ size: fc.nat(6), kind: fc.constantFrom('piece', 'piece', 'sent', 'hole') }), {
      maxLength: 8,
    })
    fc.assert(
      fc.property(gaps, fc.nat(25), fc.integer({ min: 1, max: 12 }), (row, start, length) => {
        let offset = 0
        const chunks: Chunk[] = []
        const owner: (Chunk | null)[] = []
        row.forEach(({ size, kind }, index) => {
          const chunk = kind === 'sent' ? sent(index, offset, size) : piece(index, offset, size)
          if (kind !== 'hole') chunks.push(chunk)
          for (let i = 0; i < size; i++) owner.push(kind === 'piece' ? chunk : null)
          offset += size
        })
        const end = start + length
        const session = upload([...chunks, piece(20, null, 4)])
        const found = piecesIn(session, { start, end })
        const wanted = Array.from({ length }, (_, i) => owner[start + i] ?? null)
        if (wanted.includes(null)) expect(found).toBeNull()
        else {
          const bytes = found?.flatMap((ref) =>
            Array.from({ length: ref.size }, (_, i) => [ref.generation, ref.start + i]),
          )
          expect(bytes).toEqual(wanted.map((chunk, i) => [chunk?.loose, start + i - (chunk?.offset ?? 0)]))
          expect(found?.every(({ uploadId, size }) => uploadId === session.id && size > 0)).toBe(true)
        }
      }),
      { numRuns: 1_000 },
    )
  })

  it('of a part tell whether it still lies in pieces', () => {
    const session = upload([piece(0, 0, 10), piece(1, 10, 5), sent(2, 20, 5)], { totalSize: 25 })
    expect([1, 2, 3].map((part) => holdsPart(session, part))).toEqual([true, false, false])
  })

  it('are named by their generations', () => {
    expect(allPieces(upload([piece(0, 0, 4, 7), sent(1, 4, 4), piece(2, null, 4, 9)]))).toEqual([7, 9])
  })
})

describe('parts', () => {
  it('leave before the end unless a checksum is verified first, or the upload is a partial one', () => {
    expect(sendsParts(storage, upload([], { totalSize: 11 }))).toBe(true)
    expect(sendsParts(storage, upload([], { totalSize: 10 }))).toBe(false)
    expect(sendsParts(storage, upload([]))).toBe(true)
    expect(sendsParts(undefined, upload([], { totalSize: 11 }))).toBe(false)
    expect(sendsParts(storage, upload([], { totalSize: 11, checksum: 'md5:x' }))).toBe(false)
    expect(sendsParts(storage, upload([], { totalSize: 11, partial: true }))).toBe(false)
  })

  it('are sent as chunks that are exactly one, and not as longer ones', () => {
    const direct = (session: UploadSession, index: number, size: number) =>
      directPart(storage, session, { index, size })
    const ten = upload([], { totalSize: 35, chunkSize: 10 })
    expect(direct(ten, 0, 10)).toBe(1)
    expect(direct(ten, 1, 20)).toBeNull()
    expect(direct(ten, 3, 5)).toBe(4)
    expect(direct(ten, 2, 15)).toBeNull()
    expect(direct(ten, 3, 4)).toBeNull()
    expect(direct(ten, 1, 9)).toBeNull()
    expect(direct(ten, 1, 0)).toBeNull()
    expect(direct(upload([], { totalSize: 20, chunkSize: 10 }), 2, 0)).toBeNull()
    expect(direct(upload([], { totalSize: 35, chunkSize: 5 }), 1, 10)).toBeNull()
    expect(direct(upload([], { totalSize: 35, chunkSize: 5 }), 1, 5)).toBeNull()
    expect(direct(upload([], { totalSize: 35 }), 1, 10)).toBeNull()
    expect(direct(upload([], { totalSize: 35 }), 0, 10)).toBe(1)
    expect(direct(upload([], { chunkSize: 10 }), 0, 10)).toBeNull()
    expect(direct({ ...ten, checksum: 'md5:x' }, 0, 10)).toBeNull()
    expect(directPart(undefined, ten, { index: 0, size: 10 })).toBeNull()
  })

  it('that are counted free the pieces that lie in sent parts altogether, and only those', () => {
    const numbers = fc.array(fc.integer({ min: 1, max: 8 }), { maxLength: 6 })
    fc.assert(
      fc.property(rows, numbers, fc.integer({ min: 1, max: 8 }), (sizes, before, added) => {
        const chunks = inRow(sizes)
        const session = upload(chunks, {
          sentParts: before.reduce<Span[]>((spans, number) => addToSpans(spans, number), []),
        })
        const { session: next, freed } = withPart(session, added)
        const all = new Set([...before, added])
        expect(numbersIn(next.sentParts)).toEqual([...all].sort((a, b) => a - b))
        const isGone = ({ offset, size }: Chunk) =>
          Array.from({ length: size }, (_, i) => Math.floor(((offset ?? 0) + i) / 10) + 1).every((part) =>
            all.has(part),
          )
        expect(freed).toEqual(chunks.filter(isGone).map(({ loose }) => loose))
        expect(next.chunks).toEqual(runsOf(chunks.map((chunk) => (isGone(chunk) ? { ...chunk, loose: 0 } : chunk))))
      }),
      { numRuns: 500 },
    )
  })

  it('that are counted free nothing of a piece whose place is not known, or that is empty', () => {
    expect(withPart(upload([piece(1, null, 5)]), 1).freed).toEqual([])
    expect(withPart(upload([piece(0, 0, 0)]), 1).freed).toEqual([])
    expect(withPart(upload([sent(0, 0, 5)]), 1).freed).toEqual([])
  })

  it('make one chunk of what was appended and has left, and the pieces behind it follow', () => {
    const appended = (chunks: readonly Chunk[], part: number, before: readonly Span[] = []) =>
      withPart(upload(chunks, { appended: true, sentParts: [...before] }), part)
    const row = inRow([4, 6, 5, 5, 3])
    expect(appended(row, 1)).toMatchObject({
      freed: [1, 2],
      session: {
        chunks: [
          { index: 0, count: 1, size: 10, offset: 0, loose: 0 },
          { index: 1, count: 1, size: 5, offset: 10, loose: 3 },
          { index: 2, count: 1, size: 5, offset: 15, loose: 4 },
          { index: 3, count: 1, size: 3, offset: 20, loose: 5 },
        ],
      },
    })
    expect(appended(row, 3, [[1, 2]]).session.chunks).toEqual([{ index: 0, count: 1, size: 23, offset: 0, loose: 0 }])
    expect(appended(inRow([5, 6]), 2).session.chunks).toEqual(runsOf(inRow([5, 6])))
    const later = upload([sent(0, 0, 10), piece(1, 10, 10), piece(2, 20, 4)], { appended: true, sentParts: [[1, 1]] })
    expect(withPart(later, 2).session.chunks).toEqual([
      { index: 0, count: 1, size: 20, offset: 0, loose: 0 },
      { index: 1, count: 1, size: 4, offset: 20, loose: 3 },
    ])
  })
})

describe('parts that must be sent again', () => {
  it('take every chunk with them that has bytes in them, and so the other sent parts of those', () => {
    const numbers = fc.array(fc.integer({ min: 1, max: 8 }), { maxLength: 4 })
    const kinds = fc.array(fc.boolean(), { minLength: 8, maxLength: 8 })
    fc.assert(
      fc.property(rows, kinds, numbers, numbers, (sizes, inParts, before, asked) => {
        const chunks = inRow(sizes).map((chunk, i) => (inParts[i] ? { ...chunk, loose: 0 } : chunk))
        const session = upload(chunks, {
          sentParts: before.reduce<Span[]>((spans, number) => addToSpans(spans, number), []),
        })
        const partsOf = ({ offset, size }: Chunk) =>
          new Set(Array.from({ length: size }, (_, i) => Math.floor(((offset ?? 0) + i) / 10) + 1))
        const gone = new Set(asked)
        let kept = chunks
        for (let changed = true; changed; ) {
          changed = false
          for (const chunk of kept) {
            const parts = [...partsOf(chunk)]
            if (!parts.some((part) => gone.has(part))) continue
            kept = kept.filter((other) => other !== chunk)
            for (const part of parts) if (before.includes(part)) gone.add(part)
            changed = true
          }
        }
        const { session: next, freed } = withoutParts(session, asked)
        const isBehindGap = ({ index }: Chunk) => kept.filter((other) => other.index < index).length < index
        const hasLeft = (chunk: Chunk) =>
          chunk.loose === 0 || [...partsOf(chunk)].some((part) => before.includes(part) && !gone.has(part))
        const placeless = kept.map((chunk) =>
          isBehindGap(chunk) && !hasLeft(chunk) ? { ...chunk, offset: null } : chunk,
        )
        expect(next.chunks).toEqual(runsOf(placeless))
        expect(numbersIn(next.sentParts)).toEqual(
          [...new Set(before)].filter((part) => !gone.has(part)).sort((a, b) => a - b),
        )
        expect(countSpans(next.sentParts)).toBe(numbersIn(next.sentParts).length)
        const dropped = chunks.filter((chunk) => !kept.includes(chunk) && chunk.loose > 0)
        expect([...freed].sort((a, b) => a - b)).toEqual(dropped.map(({ loose }) => loose))
      }),
      { numRuns: 1_000 },
    )
  })

  it('leave chunks alone whose place is not known, and chunks of a run one by one', () => {
    const run: ChunkRun = { index: 0, count: 3, size: 10, offset: 0, loose: 0 }
    const session = uploadRecord({
      chunks: [run, { index: 5, count: 1, size: 4, offset: null, loose: 2 }],
      sentParts: [[1, 3]],
    })
    expect(withoutParts(session, [2])).toEqual({
      session: {
        ...session,
        chunks: [
          { index: 0, count: 1, size: 10, offset: 0, loose: 0 },
          { index: 2, count: 1, size: 10, offset: 20, loose: 0 },
          { index: 5, count: 1, size: 4, offset: null, loose: 2 },
        ],
        sentParts: [
          [1, 1],
          [3, 3],
        ],
      },
      freed: [],
    })
    const loose = uploadRecord({ chunks: [{ index: 1, count: 2, size: 4, offset: null, loose: 1 }] })
    expect(withoutParts(loose, [1]).session.chunks).toEqual(loose.chunks)
  })
})

describe('a part with another CRC-32 than its chunks', () => {
  const listed = (sums: Readonly<Record<number, number | undefined>>) =>
    Object.entries(sums).map(([part, crc32]) => ({
      partNumber: Number(part),
      size: 10,
      etag: '',
      ...(crc32 !== undefined && { crc32 }),
    }))
  const session = uploadRecord({
    totalSize: 35,
    chunks: [
      { index: 0, count: 3, size: 10, offset: 0, loose: 0 },
      { index: 3, count: 1, size: 5, offset: 30, loose: 0 },
    ],
  })

  it('is found wherever it is, also in the middle of a run', () => {
    expect(otherParts(session, listed({ 1: 0, 2: 10, 3: 20, 4: 30 }), (index) => index * 10)).toEqual([])
    expect(otherParts(session, listed({ 1: 1, 2: 10, 3: 21, 4: 31 }), (index) => index * 10)).toEqual([1, 3, 4])
    expect(otherParts(session, listed({ 1: 1 }), (_, size) => size)).toEqual([1])
    expect(otherParts(session, listed({ 1: 10, 4: 10 }), (_, size) => size)).toEqual([4])
  })

  it('is found where the part is several chunks', () => {
    const size = fc.integer({ min: 1, max: 12 })
    fc.assert(
      fc.property(fc.array(size, { maxLength: 12 }), fc.nat(40), fc.nat(20), (sizes, broken, unknown) => {
        const chunks = inRow(sizes).map((chunk) => ({ ...chunk, loose: 0 }))
        const totalSize = sizes.reduce((sum, one) => sum + one, 0)
        const file = Buffer.from(Array.from({ length: totalSize }, (_, i) => (i * 7) % 256))
        const held = Buffer.from(file)
        if (broken < totalSize) held[broken] = 255 - (held[broken] ?? 0)
        const whole = upload(chunks, { totalSize })
        const ranges = Array.from({ length: Math.ceil(totalSize / 10) }, (_, i) => partRange(whole, i + 1))
        const parts = listed(
          Object.fromEntries(ranges.map(({ start, end }, i) => [i + 1, crc32(held.subarray(start, end))])),
        )
        const crcOf = (index: number, of: number) => {
          const { offset } = chunks[index] ?? {}
          return index === unknown ? null : crc32(file.subarray(offset ?? 0, (offset ?? 0) + of))
        }
        // Of the part that differs all is known, and no chunk lies across its edges.
        const isTold = ranges.map(({ start, end }) => {
          const inside = chunks.filter(({ offset, size: of }) => (offset ?? 0) < end && (offset ?? 0) + of > start)
          const isWhole = inside.every(({ offset, size: of }) => (offset ?? 0) >= start && (offset ?? 0) + of <= end)
          return isWhole && start <= broken && broken < end && !inside.some(({ index }) => index === unknown)
        })
        expect(otherParts(whole, parts, crcOf)).toEqual(isTold.flatMap((told, i) => (told ? [i + 1] : [])))
      }),
      { numRuns: 1_000 },
    )
  })

  it('is not told where one of the two is not known, or the chunks are not the whole part', () => {
    expect(otherParts(session, listed({ 1: undefined }), () => 5)).toEqual([])
    expect(otherParts(session, [], () => 5)).toEqual([])
    expect(otherParts(session, listed({ 1: 1 }), () => null)).toEqual([])
    const within = { ...session, chunks: runsOf([sent(0, 0, 8), sent(1, 9, 1)]) }
    expect(otherParts(within, listed({ 1: 1 }), () => 5)).toEqual([])
    const behind = { ...session, chunks: runsOf([sent(0, 5, 10)]) }
    expect(otherParts(behind, listed({ 1: 1 }), () => 5)).toEqual([])
    const across = { ...session, chunks: runsOf([sent(0, 0, 20)]) }
    expect(otherParts(across, listed({ 1: 1, 2: 1 }), () => 5)).toEqual([])
    const nowhere = { ...session, totalSize: 0, chunks: runsOf([piece(0, null, 10), sent(1, 0, 0)]) }
    expect(otherParts(nowhere, listed({ 1: 1 }), () => 5)).toEqual([])
  })
})

it('every part of a record lies in pieces before any has left', () => {
  fc.assert(
    fc.property(rows, (sizes) => {
      const totalSize = sizes.reduce((sum, size) => sum + size, 0)
      const session = upload(inRow(sizes), { totalSize })
      for (let part = 1; partRange(session, part).start < totalSize; part++) expect(holdsPart(session, part)).toBe(true)
    }),
  )
})
