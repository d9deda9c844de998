/**
 * Copies a byte range of the file together, in a new file. The slow way, taken only when a process that does not answer
 * still holds a claim on the staging: its late writes then go to a file that nobody looks at any more.
 */
import type { UploadSession } from '../types.ts'
import type { ByteRange } from './chunk-map.ts'
import type { EngineParts } from './engine-options.ts'

export async function assemble(parts: EngineParts, session: UploadSession, range: ByteRange): Promise<string> {
  const { staging } = parts
  await staging.createFolder(session.id)
  const target = await staging.openTemporary(session.id)
  try {
    for (const piece of piecesOf(parts, session, range)) {
      await staging.copy(piece.path, piece.start, piece.size, target, piece.position)
    }
    await target.sync()
    return target.path
  } finally {
    await target.close()
  }
}

/** Where the bytes of the range lie, chunk by chunk, in the order of the file. */
function* piecesOf(parts: EngineParts, session: UploadSession, range: ByteRange) {
  const { staging } = parts
  let offset = 0
  for (const run of session.chunks) {
    for (let i = 0; i < run.count; i++, offset += run.size) {
      const start = Math.max(offset, range.start)
      const end = Math.min(offset + run.size, range.end)
      if (start >= end) continue
      const position = start - range.start
      const inner = start - offset
      if (run.offset === null) {
        const path = staging.loosePath(session.id, run.index + i, run.loose)
        yield { path, start: inner, size: end - start, position }
        continue
      }
      let at = position
      const staged = run.offset + i * run.size + inner
      for (const piece of staging.segments(session.id, session.partSize, staged, end - start)) {
        yield { ...piece, position: at }
        at += piece.size
      }
    }
  }
}
