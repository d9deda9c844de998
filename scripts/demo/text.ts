/** Numbers as people read them. Pure. */
import { MiB } from './layout.ts'

export function mebibytes(bytes: number): string {
  return `${(bytes / MiB).toFixed(1)} MiB`
}

export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '--'
  if (seconds < 10) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`
}

export function count(number: number, noun: string, plural = `${noun}s`): string {
  return `${number} ${number === 1 ? noun : plural}`
}
