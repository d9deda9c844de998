import { describe, expect, it } from 'vitest'
import { isLeased, leaseTime } from '../../src/engine/lease.ts'
import { SweepClock } from '../../src/engine/sweep-clock.ts'
import { uploadRecord } from '../support/records.ts'

describe('a lease', () => {
  const until = (time: number) => isLeased(uploadRecord({ completing: { by: 'a', until: time } }), 1_000_000)

  it('holds until its time, and not at it', () => {
    expect(until(1_000_001)).toBe(true)
    expect(until(1_000_000)).toBe(false)
    expect(isLeased(uploadRecord(), 1_000_000)).toBe(false)
  })

  it('that ends later than clocks can differ is of a clock that was set back', () => {
    const longest = 1_000_000 + leaseTime + 10 * 60_000
    expect(until(longest)).toBe(true)
    expect(until(longest + 1)).toBe(false)
    expect(leaseTime).toBe(30_000)
  })
})

describe('the time that idle uploads are measured by', () => {
  const hold = 5_000
  const start = 1_000_000

  function machine() {
    const now = { wall: start, uptime: 100 }
    const clock = new SweepClock(
      () => now.wall,
      () => now.uptime,
      hold,
    )
    const pass = (ms: number, jump = 0) => {
      now.uptime += ms
      now.wall += ms + jump
      return clock.look()
    }
    return { pass }
  }

  it('is the wall clock as long as nobody sets it', () => {
    const { pass } = machine()
    expect(pass(700)).toEqual({ now: start + 700, behind: 0, jump: 0 })
    expect(pass(100_000)).toEqual({ now: start + 100_700, behind: 0, jump: 0 })
  })

  it('does not take a small step for a jump', () => {
    const { pass } = machine()
    expect(pass(10, 1_000)).toEqual({ now: start + 1_010, behind: 0, jump: 0 })
    expect(pass(10, 1_001)).toEqual({ now: start + 1_020, behind: 1_001, jump: 1_001 })
  })

  it('stays behind after a jump for as long as it is held, and then goes with the wall clock', () => {
    const { pass } = machine()
    expect(pass(10, 50_000)).toEqual({ now: start + 10, behind: 50_000, jump: 50_000 })
    expect(pass(4_999)).toEqual({ now: start + 5_009, behind: 50_000, jump: 0 })
    expect(pass(1)).toEqual({ now: start + 5_010 + 50_000, behind: 0, jump: 0 })
  })

  it('adds up jumps, and is held anew by each', () => {
    const { pass } = machine()
    pass(10, 50_000)
    expect(pass(4_000, 20_000)).toEqual({ now: start + 4_010, behind: 70_000, jump: 20_000 })
    expect(pass(4_999).behind).toBe(70_000)
    expect(pass(1).behind).toBe(0)
  })

  it('loses from what it is behind what the clock is set back by, and is never ahead', () => {
    const { pass } = machine()
    pass(10, 50_000)
    expect(pass(10, -20_000)).toEqual({ now: start + 20, behind: 30_000, jump: 0 })
    expect(pass(10, -40_000)).toEqual({ now: start + 30 - 10_000, behind: 0, jump: 0 })
    const other = machine()
    other.pass(10, 50_000)
    expect(other.pass(10, -1_000)).toEqual({ now: start + 20 - 1_000, behind: 50_000, jump: 0 })
    expect(other.pass(10, -1_001)).toEqual({ now: start + 30 - 1_000, behind: 48_999, jump: 0 })
  })
})
