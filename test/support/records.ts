import { type Chunk, withChunk } from '../../src/engine/chunk-map.ts'
import type { ChunkRun, UploadSession } from '../../src/types.ts'

/** A record as the engine makes it, with nothing received yet. */
export function uploadRecord(fields: Partial<UploadSession> = {}): UploadSession {
  return {
    format: 1,
    kind: 'upload',
    id: 'u'.repeat(22),
    version: 1,
    expiresAt: 0,
    open: true,
    owner: null,
    protocol: 'native',
    state: 'active',
    key: 'key',
    fileName: 'file',
    mimeType: 'application/octet-stream',
    metadata: {},
    totalSize: null,
    chunkSize: null,
    stride: null,
    partSize: 10,
    chunks: [],
    sentParts: [],
    multipartId: null,
    checksum: null,
    resumeId: null,
    completing: null,
    handedOver: false,
    object: null,
    createdAt: 0,
    updatedAt: 0,
    ...fields,
  }
}

export function runsOf(chunks: Iterable<Chunk>): ChunkRun[] {
  let runs: ChunkRun[] = []
  for (const chunk of chunks) runs = withChunk(runs, chunk)
  return runs
}
