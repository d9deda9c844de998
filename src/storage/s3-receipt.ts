/** Whether S3 has what was sent to it: a 200 alone may come from something that is no S3, or from one that lost bytes. */
import { kindOf, ReceiptError } from './s3-errors.ts'

/** What answers to UploadPart and PutObject have in common. */
export interface Receipt {
  readonly ETag?: string | undefined
  readonly ServerSideEncryption?: string | undefined
  readonly SSECustomerAlgorithm?: string | undefined
  readonly ChecksumCRC32?: string | undefined
}

/** What S3 says it holds. */
export interface Held {
  readonly size: number | undefined
  readonly etag: string | undefined
}

export class Receipts {
  /** Whether the ETags of this server have been seen to be MD5 sums; there are servers where they never are. */
  #areSums = false
  /** The first ETag that is no sum is taken for a damaged body once; the next one for the way of this server. */
  #hasDoubted = false

  /**
   * Resolves when nothing speaks against S3 having `size` bytes with this MD5: to `true` when the receipt itself says that it
   * has them. `look` asks what it holds.
   * @throws ReceiptError when it does not: send them again
   */
  async check(receipt: Receipt, size: number, md5: string | null, look: () => Promise<Held>): Promise<boolean> {
    if (!receipt.ETag) throw new ReceiptError('the answer has no ETag')
    if (md5 === null || !hasSum(receipt)) return false
    if (isSum(receipt.ETag, md5)) {
      this.#areSums = true
      return true
    }
    const held = await look().catch((error: unknown) => this.#unseen(error))
    if (held === null || isSum(held.etag, md5)) return false
    if (held.size === size && !this.#areSums && this.#hasDoubted) return false
    this.#hasDoubted = true
    throw new ReceiptError(`S3 holds ${held.size} bytes of ${size}, or other ones: the ETag is another`)
  }

  /** Credentials that may only write cannot look. Where ETags are sums, one that is wrong says enough. */
  #unseen(error: unknown): null {
    if (kindOf(error) === 'denied' && !this.#areSums) return null
    throw error
  }
}

function isSum(etag: string | undefined, md5: string): boolean {
  return etag?.replaceAll('"', '').toLowerCase() === md5
}

/** With a key of its own, S3's ETag is no sum of the bytes. */
function hasSum({ ServerSideEncryption, SSECustomerAlgorithm }: Receipt): boolean {
  return SSECustomerAlgorithm === undefined && !ServerSideEncryption?.startsWith('aws:')
}
