/**
 * The time that idle uploads are measured by: the wall clock, less what it has lately jumped forward. A machine whose
 * clock is set, or that was asleep, has seen nobody for years as far as the wall clock can tell; its clients get one
 * whole `sessionTtl` to show themselves. A clock that is set back makes idle uploads stay for that much longer.
 */

/** Setting a clock in small steps is no jump, ms. */
const tolerance = 1_000

export class SweepClock {
  readonly #wall: () => number
  readonly #uptime: () => number
  readonly #hold: number
  /** What the wall clock was ahead of the monotonic one when last looked at, ms. */
  #lead: number
  #behind = 0
  #heldUntil = Number.NEGATIVE_INFINITY

  /** @param hold for how long after a jump the old time goes on, ms */
  constructor(wall: () => number, uptime: () => number, hold: number) {
    this.#wall = wall
    this.#uptime = uptime
    this.#hold = hold
    this.#lead = wall() - uptime()
  }

  /** What this time is behind the wall clock at the moment, ms; `jump` is what was added to it since the last look. */
  look(): { now: number; behind: number; jump: number } {
    const [wall, uptime] = [this.#wall(), this.#uptime()]
    const gain = wall - uptime - this.#lead
    const jump = gain > tolerance ? gain : 0
    this.#lead = wall - uptime
    if (jump > 0) {
      this.#behind += jump
      this.#heldUntil = uptime + this.#hold
    } else if (uptime >= this.#heldUntil) this.#behind = 0
    // Set back to where it was: nothing is left to be made up for.
    if (gain < -tolerance) this.#behind = Math.max(0, this.#behind + gain)
    return { now: wall - this.#behind, behind: this.#behind, jump }
  }
}
