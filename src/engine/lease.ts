/** For how long nobody else may complete an upload. */
import type { UploadSession } from '../types.ts'

/** A completer that is not known to be dead, but has not renewed its lease for this long, is taken for dead, ms. */
export const leaseTime = 30_000
/** Clocks of several machines may differ by this much; a lease that ends later is of a clock that was set back since, ms. */
const clockDifference = 10 * 60_000

export function isLeased({ completing }: UploadSession, now: number): boolean {
  return completing !== null && completing.until > now && completing.until <= now + leaseTime + clockDifference
}
