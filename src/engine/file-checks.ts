/** Whether files have the checksums that were given for them. */
import { StorageUnavailableError } from '../errors.ts'
import { type SumThread, sumThread } from '../sums/sum-thread.ts'
import { type Checksum, RunningChecksum, requireDigest } from './body.ts'
import { type FilePiece, readPieces } from './staged-files.ts'

/** Up to this many bytes are read here: nobody is held up by them. */
const atOnce = 1024 * 1024

/** What the thread cannot make. */
const ownAlgorithms = ['crc32c']

const forever = new AbortController().signal

export class FileChecks {
  readonly #thread: SumThread

  constructor(thread = sumThread) {
    this.#thread = thread
  }

  /**
   * The checksums are those of the pieces, one after the other. Large ones are read away from the event loop.
   * @throws ChecksumMismatchError, StorageUnavailableError when a piece is shorter than it must be, what reading throws, or the
   * reason of `signal`
   */
  async verify(
    pieces: readonly FilePiece[],
    expected: readonly Checksum[],
    { signal = forever, ...options }: { signal?: AbortSignal; wholeFile?: boolean } = {},
  ): Promise<void> {
    if (expected.length === 0) return
    const size = pieces.reduce((sum, piece) => sum + piece.size, 0)
    const isOwn = size <= atOnce || expected.some(({ algorithm }) => ownAlgorithms.includes(algorithm))
    const algorithms = expected.map(({ algorithm }) => algorithm)
    const found = isOwn ? null : await this.#thread.digestsOf({ pieces, algorithms }, signal)
    if (found && found.read < size) throw new StorageUnavailableError(undefined, { code: 'STAGING_LOST' })
    if (!found) return this.#verifyHere(pieces, expected, signal, options)
    for (const [i, checksum] of expected.entries()) requireDigest(checksum, found.digests[i], options)
  }

  async #verifyHere(
    pieces: readonly FilePiece[],
    expected: readonly Checksum[],
    signal: AbortSignal,
    options: { wholeFile?: boolean },
  ): Promise<void> {
    const running = expected.map((checksum) => new RunningChecksum(checksum))
    for await (const data of readPieces(pieces)) {
      signal.throwIfAborted()
      for (const each of running) each.update(data)
    }
    for (const each of running) each.verify(options)
  }
}
