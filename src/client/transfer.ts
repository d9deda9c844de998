/** One file on its way to the server: begun, sent, completed; begun anew when the server has lost it. */
import { checksumOf } from './checksum.ts'
import type { Pace } from './pace.ts'
import type { Platform, Source } from './platform.ts'
import { bytesOf, resumeKeyOf } from './resume-key.ts'
import { type OpenUpload, type Span, serverApi } from './server-api.ts'
import type { UploadOptions, UploadResult, UploadSource } from './types.ts'
import { UploadError } from './upload-error.ts'
import { orAborted, within } from './waiting.ts'

/** Taken by every server that has the documented settings. */
const usualChunkSize = 2 * 1024 * 1024
/** Smaller chunks are not tried when a proxy refuses them. */
const smallestChunk = 64 * 1024
/** The server's default of `maxChunks`. */
const usualMaxChunks = 10_000
/** Nobody stops this. */
const never = new AbortController().signal

export function createTransfer(
  from: UploadSource,
  options: UploadOptions,
  platform: Platform,
  pace: Pace,
  onChange: () => void,
) {
  const { parallel = 6, checksum: algorithm = 'sha256', fileChecksum } = options
  const api = serverApi(options, platform)
  let opened: Source | undefined
  let uploadId = ''
  let chunkSize = options.chunkSize ?? usualChunkSize
  let restarts = 0
  let isCompleting = false
  /** Indexes that are still to be sent, the next one first. */
  let todo: number[] = []
  /** Bytes that the server has. */
  let acknowledged = 0
  /** Of those, what was there before. */
  let found = 0
  /** How much of the chunks under way has gone, bytes. */
  const underWay = new Map<number, number>()
  /** Chunks that have been read and not been acknowledged: a stream brings them only once. */
  const held = new Map<number, ReturnType<typeof prepare>>()

  const sizeOf = ({ size }: Source, index: number) => Math.min(chunkSize, size - index * chunkSize)

  function plan(source: Source, isThere: (index: number) => boolean): void {
    const all = Array.from({ length: Math.ceil(source.size / chunkSize) }, (_, index) => index)
    todo = all.filter((index) => !isThere(index))
    acknowledged = todo.reduce((bytes, index) => bytes - sizeOf(source, index), source.size)
    found = acknowledged
  }

  /** Comes to terms with the server about the size of chunks. */
  async function init(about: object, key: string | null | false): Promise<OpenUpload> {
    for (let declared: number | undefined = chunkSize; ; ) {
      // With another size of chunks it is another upload.
      const resumeKey = key ? `${key}.${declared}.${restarts}` : undefined
      // The server may name a size that suits its storage, unless the app did, or one turned out to be too large.
      const anyChunkSize = (declared !== undefined && !options.chunkSize && restarts === 0) || undefined
      try {
        // Not stopped by a signal: the answer would leave an upload that nobody knows.
        const upload = await api.init({ ...about, chunkSize: declared, anyChunkSize, resumeKey }, never)
        const named = upload.chunkSize || chunkSize
        chunkSize = anyChunkSize ? named : Math.min(named, chunkSize)
        return upload
      } catch (error) {
        if (!(error instanceof UploadError && error.status === 400 && declared)) throw error
        const limit = Number(error.details.limit)
        // Where it does not say why, an upload without a declared size tells the largest.
        declared = limit < declared ? limit : undefined
      }
    }
  }

  async function begin(source: Source, signal: AbortSignal): Promise<void> {
    const { name: fileName, size: totalSize, type: mimeType } = source
    if (!options.chunkSize && !restarts) chunkSize = Math.max(chunkSize, Math.ceil(totalSize / usualMaxChunks))
    const { resumeKey = await resumeKeyOf(source) } = options
    const about = { fileName, totalSize, mimeType, checksum: fileChecksum }
    const upload = await pace.repeat(() => init(about, resumeKey), signal)
    uploadId = upload.uploadId
    held.clear()
    plan(source, isIn(upload.received))
  }

  async function prepare(source: Source, index: number) {
    const start = index * chunkSize
    try {
      const data = await source.read(start, start + sizeOf(source, index))
      if (!algorithm) return { body: data }
      // The bytes that are sent are the bytes that were summed up.
      const body = await bytesOf(data)
      return { body, checksum: await checksumOf(algorithm, body) }
    } catch (cause) {
      held.delete(index)
      throw new UploadError(`The file cannot be read: ${cause}`, { code: 'SOURCE_UNREADABLE', cause })
    }
  }

  async function sendNext(source: Source, signal: AbortSignal): Promise<void> {
    const index = todo.shift()
    if (index === undefined) return
    const size = sizeOf(source, index)
    try {
      const prepared = held.get(index) ?? prepare(source, index)
      held.set(index, prepared)
      await api.chunk({ uploadId, index, size, ...(await orAborted(prepared, signal)) }, signal, (bytes) => {
        underWay.set(index, Math.min(bytes, size))
        onChange()
      })
      held.delete(index)
      acknowledged += size
      pace.arrived(size)
    } catch (error) {
      // First again, since its bytes are held.
      todo.unshift(index)
      throw error
    } finally {
      underWay.delete(index)
    }
  }

  /** Ends when all requests have, also when one of them failed. */
  function sendAll(source: Source, signal: AbortSignal): Promise<void> {
    return within(signal, async (own) => {
      const worker = async () => {
        while (todo.length > 0) await pace.repeat(() => sendNext(source, own.signal), own.signal)
      }
      await Promise.all(Array.from({ length: parallel }, () => worker().catch((error) => own.abort(error))))
      own.signal.throwIfAborted()
    })
  }

  async function finish(source: Source, signal: AbortSignal): Promise<UploadResult> {
    for (let rounds = 1; ; rounds++) {
      await sendAll(source, signal).catch((error) => {
        // Somebody else completes it: another tab, with the same file.
        if (!isOf(error, 'UPLOAD_CLOSED')) throw error
      })
      isCompleting = true
      try {
        return await pace.repeat(() => api.complete(uploadId, signal), signal)
      } catch (error) {
        if (!isOf(error, 'UPLOAD_INCOMPLETE', 'HTTP_409') || rounds > 3) throw error
        const missing = error.details.missing as Span[] | undefined
        const isMissing = isIn(missing)
        const isThere = isIn(missing ?? (await pace.repeat(() => api.received(uploadId, signal), signal)))
        plan(source, missing ? (index) => !isMissing(index) : isThere)
        if (todo.length === 0) throw error
      } finally {
        isCompleting = false
      }
    }
  }

  /** Whether another upload may succeed where this one cannot go on; the first time only, if that is not a smaller one. */
  function mayRestart(error: UploadError, isFirst: boolean): boolean {
    if (!isOf(error, 'CHUNK_SIZE_EXCEEDED', 'HTTP_413')) {
      return isFirst && (isGone(error) || isOf(error, 'CHUNK_CONFLICT', 'CHUNK_OVERLAP', 'SIZE_MISMATCH'))
    }
    const limit = Number(error.details.limit)
    chunkSize = limit < chunkSize ? limit : chunkSize >> 1
    return chunkSize >= smallestChunk
  }

  return {
    get status() {
      return { isCompleting, sentBytes: [...underWay.values()].reduce((a, b) => a + b, acknowledged), found, opened }
    },

    /** Goes on from wherever it was left. @throws UploadError; the signal's reason */
    async run(signal: AbortSignal): Promise<UploadResult> {
      opened ??= await platform.open(from, options)
      for (let isFirst = true; ; isFirst = false) {
        if (!uploadId) await begin(opened, signal)
        try {
          return await finish(opened, signal)
        } catch (error) {
          if (!(error instanceof UploadError && opened.isRereadable && mayRestart(error, isFirst))) throw error
        }
        // What it has is of no use any more. If that fails, it expires.
        await api.abort(uploadId, signal).catch(() => {})
        uploadId = ''
        restarts += 1
      }
    },

    /** Removes from the server what it has of this upload. @throws UploadError when it has been stored already */
    async remove(): Promise<void> {
      try {
        if (uploadId) await pace.repeat(() => api.abort(uploadId, never), never)
      } catch (error) {
        if (!isGone(error)) throw error
      }
      uploadId = ''
    },
  }
}

function isIn(spans: readonly Span[] = []): (index: number) => boolean {
  return (index) => spans.some(([first, last]) => first <= index && index <= last)
}

function isOf(error: unknown, ...codes: string[]): error is UploadError {
  return error instanceof UploadError && codes.includes(error.code)
}

function isGone(error: unknown): boolean {
  return error instanceof UploadError && [404, 410].includes(error.status)
}
