/** Medians, ratios and the tables. */
import type { Measurement } from './measure.ts'
import type { ServerName, Workload } from './workloads.ts'

export interface Row {
  readonly workload: Workload
  readonly server: ServerName
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

/** All S3 calls of an upload, those that begin and complete it too, for each part of the object. */
function s3CallsPerPart({ s3 }: Measurement): number | null {
  const counts = Object.values(s3?.calls ?? {})
  return s3 && counts.length > 0 ? counts.reduce((sum, count) => sum + count, 0) / s3.parts : null
}

interface Figure {
  readonly title: string
  readonly digits: number
  of(measurement: Measurement): number | null
}

export const figures = {
  speed: { title: 'MB/s', digits: 0, of: ({ mbPerSecond }) => mbPerSecond },
  files: { title: 'files/s', digits: 0, of: ({ filesPerSecond }) => filesPerSecond },
  cpu: { title: 'CPU s/GiB', digits: 2, of: ({ serverCpuPerGiB }) => serverCpuPerGiB },
  cpuPerChunk: { title: 'CPU ms/chunk', digits: 2, of: ({ serverCpuMsPerChunk }) => serverCpuMsPerChunk },
  clientCpu: { title: 'client CPU s/GiB', digits: 2, of: ({ clientCpuPerGiB }) => clientCpuPerGiB },
  chunkP50: { title: 'chunk p50 ms', digits: 2, of: ({ chunkP50 }) => chunkP50 },
  chunkP99: { title: 'chunk p99 ms', digits: 2, of: ({ chunkP99 }) => chunkP99 },
  quietP99: { title: 'chunk p99 before, ms', digits: 2, of: ({ quietP99 }) => quietP99 },
  completion: { title: 'completion ms', digits: 1, of: ({ completeMs }) => completeMs },
  rssGrowth: { title: 'RSS growth MiB', digits: 0, of: ({ rssGrowthMiB }) => rssGrowthMiB },
  peakRss: { title: 'peak RSS MiB', digits: 0, of: ({ peakRssMiB }) => peakRssMiB },
  heap: { title: 'heap KiB/session', digits: 2, of: ({ heapKiBPerFile }) => heapKiBPerFile },
  sent: { title: 'bytes sent ÷ size', digits: 3, of: ({ sentRatio }) => sentRatio },
  s3Calls: { title: 'S3 calls/part', digits: 2, of: s3CallsPerPart },
} satisfies Record<string, Figure>

export type FigureName = keyof typeof figures

export function figureOf(row: Row, name: FigureName): Spread | null {
  return spreadOf(row.rounds.map((measurement) => figures[name].of(measurement)))
}

/** The first two figures, in a line. */
export function summaryOf(measurement: Measurement, names: readonly FigureName[]): string {
  const texts = names.slice(0, 2).map((name) => {
    const { title, digits, of } = figures[name]
    return `${title} ${of(measurement)?.toFixed(digits) ?? '–'}`
  })
  return texts.join(', ')
}

/** The ratio within each round: what the machine did meanwhile cancels out. */
export function ratioOf(row: Row, base: Row | undefined, name: FigureName): Spread | null {
  const { of } = figures[name]
  return spreadOf(
    row.rounds.map((measurement, round) => {
      const [mine, other] = [of(measurement), base?.rounds[round] && of(base.rounds[round])]
      return mine === null || !other ? null : mine / other
    }),
  )
}

/** The row of another server, with all else the same. */
export function rowBeside(row: Row, server: ServerName | undefined, rows: readonly Row[]): Row | undefined {
  return rows.find((other) => other.workload === row.workload && other.server === server)
}

export function tableOf(cells: readonly (readonly string[])[], texts: number): string {
  const [titles = [], ...lines] = cells
  const rule = titles.map((_, at) => (at < texts ? '---' : '---:'))
  return [titles, rule, ...lines].map((line) => `| ${line.join(' | ')} |`).join('\n')
}

/** A table for each kind of workload. */
export function workloadTables(rows: readonly Row[]): string {
  const kinds = [...new Set(rows.map(({ workload }) => workload.kind))]
  return kinds
    .map((kind) => {
      const own = rows.filter(({ workload }) => workload.kind === kind)
      return `### ${kind}: ${own[0]?.workload.comparison.is}\n\n${workloadTable(own, rows)}`
    })
    .join('\n\n')
}

function workloadTable(own: readonly Row[], rows: readonly Row[]): string {
  const { figures: wanted, base, ratios = [] } = own[0]?.workload.comparison ?? { figures: [] }
  const shown = wanted.filter((name) => own.some((row) => figureOf(row, name)))
  const compared = own.some(({ server, rounds }) => server === base && rounds.length > 0) ? ratios : []
  const titles = [
    ...['load', 'server', ...shown.map((name) => figures[name].title)],
    ...compared.map((name) => `${figures[name].title} ÷ ${base}`),
  ]
  const lines = own.map((row) => {
    const names = [row.workload.variant.label, row.server]
    if (row.unavailable !== undefined) return [...names, `left out: ${row.unavailable}`]
    return [
      ...names,
      ...shown.map((name) => show(figureOf(row, name), figures[name].digits)),
      ...compared.map((name) => show(ratioOf(row, rowBeside(row, base, rows), name), 2)),
    ]
  })
  return tableOf([titles, ...lines.map((line) => titles.map((_, at) => line[at] ?? ''))], 2)
}

/** Of the last round, without latency: what the calls for each part are made of. */
export function s3Calls(rows: readonly Row[]): string {
  const lines = rows.flatMap(({ workload: { kind, variant }, server, rounds }) => {
    const s3 = rounds.at(-1)?.s3
    if (!s3 || variant.latency || Object.keys(s3.calls).length === 0) return []
    const calls = Object.entries(s3.calls).map(([name, count]) => `${name} ${count}`)
    return [`- ${kind} ${variant.label} ${server}, ${s3.parts} parts: ${calls.join(' · ')}`]
  })
  return lines.length === 0 ? '' : `### Calls to S3\n\n${lines.join('\n')}`
}

export function show(spread: Spread | null, digits: number): string {
  if (!spread) return '–'
  const [median, min, max] = [spread.median, spread.min, spread.max].map((value) => value.toFixed(digits))
  return min === max ? `${median}` : `${median} (${min}–${max})`
}
