/** Medians, ratios and the table. */
import { readFile, statfs } from 'node:fs/promises'
import os from 'node:os'
import type { Measurement } from './measure.ts'

export interface Row {
  readonly workload: string
  readonly server: string
  /** The server of the same workload that this one is compared with. */
  readonly base: string
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

export type Figure = (measurement: Measurement) => number | null

export function baseOf(row: Row, rows: readonly Row[]): Row | undefined {
  return rows.find(({ workload, server }) => workload === row.workload && server === row.base)
}

/** The ratio within each round: what the machine did meanwhile cancels out. */
export function ratioOf(row: Row, base: Row | undefined, figure: Figure): Spread | null {
  return spreadOf(
    row.rounds.map((measurement, round) => {
      const [mine, other] = [figure(measurement), base?.rounds[round] && figure(base.rounds[round])]
      return mine === null || !other ? null : mine / other
    }),
  )
}

export const speedOf: Figure = ({ mbPerSecond }) => mbPerSecond

/** All S3 calls of an upload, those that begin and complete it too, for each part of the object. */
export const s3CallsPerPart: Figure = ({ s3 }) =>
  s3 && Object.values(s3.calls).reduce((sum, count) => sum + count, 0) / s3.parts

/** `folder` is relative to this one. */
export async function versionOf(folder: string): Promise<string> {
  return String(JSON.parse(await readFile(new URL(`${folder}/package.json`, import.meta.url), 'utf8')).version)
}

export async function describeMachine(directory: string): Promise<Record<string, string>> {
  const cpus = os.cpus()
  const { type } = await statfs(directory)
  return {
    date: new Date().toISOString(),
    cpu: `${cpus.length} × ${cpus[0]?.model.trim() ?? 'unknown'}`,
    memory: `${Math.round(os.totalmem() / 1024 ** 3)} GiB`,
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    'file system type': `0x${type.toString(16)}`,
    node: process.version,
    'nexus-uploader': await versionOf('..'),
    express: await versionOf('../node_modules/express'),
    multer: await versionOf('../node_modules/multer'),
    '@aws-sdk/client-s3': await versionOf('../node_modules/@aws-sdk/client-s3'),
  }
}

const columns: readonly (readonly [title: string, figure: Figure, digits: number])[] = [
  ['MB/s', speedOf, 0],
  ['server CPU s/GiB', ({ serverCpuPerGiB }) => serverCpuPerGiB, 2],
  ['client CPU s/GiB', ({ clientCpuPerGiB }) => clientCpuPerGiB, 2],
  ['completion ms', ({ completeMs }) => completeMs, 1],
  ['RSS growth MiB', ({ rssGrowthMiB }) => rssGrowthMiB, 0],
  ['peak RSS MiB', ({ peakRssMiB }) => peakRssMiB, 0],
  ['S3 calls per part', s3CallsPerPart, 2],
]

/** A table for each server that others are compared with. */
export function markdown(rows: readonly Row[], machine: Record<string, string>): string {
  const about = Object.entries(machine).map(([name, value]) => `${name}: ${value}`)
  const tables = [...new Set(rows.map(({ base }) => base))].map((base) =>
    table(
      rows.filter((row) => row.base === base),
      base,
    ),
  )
  const note = 'Median (min–max) of the rounds. Ratios are made within a round.'
  return `${[about.join(' · '), ...tables, note].join('\n\n')}\n`
}

function table(rows: readonly Row[], base: string): string {
  const isKnown = ([, figure]: (typeof columns)[number]) => rows.some((row) => spreadOf(row.rounds.map(figure)))
  const shown = columns.filter(isKnown)
  const titles = ['workload', 'server', ...shown.map(([title]) => title), `MB/s ÷ ${base}`, `CPU ÷ ${base}`]
  const lines = rows.map((row) => {
    if (row.unavailable !== undefined) return [row.workload, row.server, `not available: ${row.unavailable}`]
    const ratio = (figure: Figure) => show(ratioOf(row, baseOf(row, rows), figure), 2)
    return [
      row.workload,
      row.server,
      ...shown.map(([, figure, digits]) => show(spreadOf(row.rounds.map(figure)), digits)),
      ratio(speedOf),
      ratio(({ serverCpuPerGiB }) => serverCpuPerGiB),
    ]
  })
  const rule = titles.map((_, at) => (at < 2 ? '---' : '---:'))
  return [titles, rule, ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

export function show(spread: Spread | null, digits: number): string {
  if (!spread) return '–'
  const [median, min, max] = [spread.median, spread.min, spread.max].map((value) => value.toFixed(digits))
  return min === max ? `${median}` : `${median} (${min}–${max})`
}
