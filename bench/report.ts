/** Medians, ratios and the table. */
import { readFile, statfs } from 'node:fs/promises'
import os from 'node:os'
import type { Measurement } from './measure.ts'

export interface Row {
  readonly workload: string
  readonly server: string
  /** One per round. */
  readonly rounds: readonly Measurement[]
  readonly unavailable?: string
}

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

export function spreadOf(values: readonly (number | null)[]): Spread | null {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b)
  const [min, max] = [sorted[0], sorted.at(-1)]
  if (min === undefined || max === undefined) return null
  const lower = sorted[Math.floor((sorted.length - 1) / 2)] ?? min
  const upper = sorted[Math.ceil((sorted.length - 1) / 2)] ?? max
  return { median: (lower + upper) / 2, min, max }
}

type Figure = (measurement: Measurement) => number | null

/** The ratio within each round: what the machine did meanwhile cancels out. */
export function ratioOf(row: Row, base: Row | undefined, figure: Figure): Spread | null {
  return spreadOf(
    row.rounds.map((measurement, round) => {
      const [mine, other] = [figure(measurement), base?.rounds[round] && figure(base.rounds[round])]
      return mine === null || !other ? null : mine / other
    }),
  )
}

export async function describeMachine(directory: string): Promise<Record<string, string>> {
  const version = async (name: string) => {
    const path = new URL(`../node_modules/${name}/package.json`, import.meta.url)
    return String(JSON.parse(await readFile(path, 'utf8')).version)
  }
  const cpus = os.cpus()
  const { type } = await statfs(directory)
  return {
    date: new Date().toISOString(),
    cpu: `${cpus.length} × ${cpus[0]?.model.trim() ?? 'unknown'}`,
    memory: `${Math.round(os.totalmem() / 1024 ** 3)} GiB`,
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    'file system type': `0x${type.toString(16)}`,
    node: process.version,
    express: await version('express'),
    multer: await version('multer'),
  }
}

const columns: readonly (readonly [title: string, figure: Figure, digits: number])[] = [
  ['MB/s', ({ mbPerSecond }) => mbPerSecond, 0],
  ['server CPU s/GiB', ({ serverCpuPerGiB }) => serverCpuPerGiB, 2],
  ['client CPU s/GiB', ({ clientCpuPerGiB }) => clientCpuPerGiB, 2],
  ['completion ms', ({ completeMs }) => completeMs, 1],
  ['RSS growth MiB', ({ rssGrowthMiB }) => rssGrowthMiB, 0],
  ['peak RSS MiB', ({ peakRssMiB }) => peakRssMiB, 0],
]

export function markdown(rows: readonly Row[], baseName: string, machine: Record<string, string>): string {
  const titles = ['workload', 'server', ...columns.map(([title]) => title), `MB/s ÷ ${baseName}`, `CPU ÷ ${baseName}`]
  const lines = rows.map((row) => {
    if (row.unavailable !== undefined) return [row.workload, row.server, `not available: ${row.unavailable}`]
    const base = rows.find(({ workload, server }) => workload === row.workload && server === baseName)
    return [
      row.workload,
      row.server,
      ...columns.map(([, figure, digits]) => show(spreadOf(row.rounds.map(figure)), digits)),
      show(
        ratioOf(row, base, ({ mbPerSecond }) => mbPerSecond),
        2,
      ),
      show(
        ratioOf(row, base, ({ serverCpuPerGiB }) => serverCpuPerGiB),
        2,
      ),
    ]
  })
  const about = Object.entries(machine).map(([name, value]) => `${name}: ${value}`)
  const table = [titles, titles.map((_, at) => (at < 2 ? '---' : '---:')), ...lines].map(
    (cells) => `| ${cells.join(' | ')} |`,
  )
  return `${about.join(' · ')}\n\n${table.join('\n')}\n\nMedian (min–max) of the rounds. Ratios are made within a round.\n`
}

export function show(spread: Spread | null, digits: number): string {
  if (!spread) return '–'
  const [median, min, max] = [spread.median, spread.min, spread.max].map((value) => value.toFixed(digits))
  return min === max ? `${median}` : `${median} (${min}–${max})`
}
