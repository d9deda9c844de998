/** Shorter spans are not measured, ms. */
const span = 500
/** How much the latest span counts against all before. */
const weight = 0.3

/** Told how many bytes have gone, it tells how many per second, lately. */
export function createSpeedMeter(): (bytes: number) => number {
  let at = performance.now()
  let before = 0
  let speed = 0
  return (bytes) => {
    const now = performance.now()
    if (now - at < span) return speed
    const latest = (Math.max(0, bytes - before) / (now - at)) * 1000
    speed = speed === 0 ? latest : speed + weight * (latest - speed)
    at = now
    before = bytes
    return speed
  }
}
