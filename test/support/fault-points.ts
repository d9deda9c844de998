/** What a sweep provoked and survived, counted by the run: `npm run test:faults` adds it up. */
import { appendFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'

/**
 * What was provoked: `fs` a file-system call that fails, `crash` a process that ends at a call, `power` a power cut,
 * `s3` and `redis` a server that lies, fails or hangs, `attack` hostile input, `kill` an acknowledged chunk that had to outlive a
 * SIGKILL, `race` an order of concurrent calls.
 */
export type FaultKind = 'fs' | 'crash' | 'power' | 's3' | 'redis' | 'attack' | 'kill' | 'race'

const folder = process.env.FAULT_POINTS

/** Call it after the checks that prove it. Points with one name are one point, however often they come. */
export function survived(kind: FaultKind, point: string, count = 1): void {
  if (!folder) return
  mkdirSync(folder, { recursive: true })
  appendFileSync(join(folder, `${process.pid}.jsonl`), `${JSON.stringify({ kind, point, count })}\n`)
}

/** A figure for the report: a percentile, a growth, a rate. */
export function measured(name: string, value: number, unit: string): void {
  console.log(`${name}: ${value} ${unit}`)
  if (!folder) return
  mkdirSync(folder, { recursive: true })
  appendFileSync(join(folder, `${process.pid}.jsonl`), `${JSON.stringify({ figure: name, value, unit })}\n`)
}
