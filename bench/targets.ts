/** What this package should reach: the floor in every build, the goal one day. Ratios within one run, but for times and memory. */
import { type FigureName, figureOf, figures, type Row, ratioOf, rowBeside, show, tableOf } from './report.ts'
import type { ServerName, WorkloadKind } from './workloads.ts'

interface Target {
  readonly in: WorkloadKind
  readonly of: ServerName
  readonly figure: FigureName
  /** What it is divided by: the same figure of another server, or of the same one with the smallest load. */
  readonly per?: ServerName | 'smallest'
  /** Only with this latency of S3, ms. */
  readonly latency?: number
  readonly atLeast?: readonly [floor: number, goal: number]
  readonly atMost?: readonly [floor: number, goal: number]
}

const targets: readonly Target[] = [
  { in: 'W1', of: 'form', figure: 'speed', per: 'pipe', atLeast: [1.2, 1.7] },
  { in: 'W1', of: 'form', figure: 'cpu', per: 'pipe', atMost: [0.8, 0.56] },
  { in: 'W1', of: 'raw', figure: 'speed', per: 'pipe', atLeast: [1.3, 1.9] },
  { in: 'W1', of: 'form', figure: 'speed', per: 'uploadx', atLeast: [1.8, 2.5] },
  { in: 'W1', of: 'form', figure: 'speed', per: 'tus-server', atLeast: [2.5, 4] },
  { in: 'W1', of: 'form', figure: 'speed', per: 'multer', atLeast: [3, 4.5] },
  { in: 'W1', of: 'form-crc32', figure: 'speed', per: 'pipe', atLeast: [1, 1.4] },
  { in: 'W1', of: 'form-sha256', figure: 'speed', per: 'pipe', atLeast: [0.8, 1.1] },
  { in: 'W1', of: 'form-power', figure: 'speed', per: 'pipe', atLeast: [0.6, 0.9] },
  { in: 'W2', of: 'form', figure: 'speed', per: 'chunk-files', atLeast: [1, 1.25] },
  { in: 'W2', of: 'raw', figure: 'speed', per: 'chunk-files', atLeast: [1.2, 1.6] },
  { in: 'W3', of: 'form', figure: 'speed', per: 'chunk-files', atLeast: [1, 1.4] },
  { in: 'W3', of: 'form', figure: 'chunkP99', per: 'chunk-files', atMost: [0.8, 0.5] },
  { in: 'W3', of: 'form', figure: 'peakRss', atMost: [300, 200] },
  { in: 'W4', of: 'form', figure: 'files', per: 'pipe', atLeast: [0.4, 0.55] },
  { in: 'W5', of: 'form', figure: 'completion', atMost: [10, 2] },
  { in: 'W5', of: 'form', figure: 'completion', per: 'smallest', atMost: [3, 1.5] },
  { in: 'W5S', of: 'form-sparse', figure: 'completion', atMost: [10, 2] },
  { in: 'W5S', of: 'form-sparse', figure: 'completion', per: 'smallest', atMost: [3, 1.5] },
  { in: 'W6', of: 'form', figure: 'rssGrowth', atMost: [40, 22] },
  { in: 'W6B', of: 'form', figure: 'heap', atMost: [2, 0.7] },
  { in: 'W7', of: 'form', figure: 'sent', atMost: [1.16, 1.02] },
  { in: 'W9', of: 'form', figure: 'chunkP50', per: 'smallest', atMost: [1.25, 1.1] },
  { in: 'W9', of: 'form', figure: 'cpuPerChunk', per: 'smallest', atMost: [1.25, 1.1] },
  { in: 'T1', of: 'tus-one', figure: 'speed', per: 'tus-server-one', atLeast: [3, 3] },
  { in: 'T2', of: 'tus', figure: 'speed', per: 'tus-server', atLeast: [3, 3] },
  { in: 'T3', of: 'tus-s3-one', figure: 'speed', per: 'tus-server-s3-one', atLeast: [2.5, 2.5] },
  { in: 'T3', of: 'tus-s3-one', figure: 's3Calls', atMost: [1.3, 1.3] },
  { in: 'T4', of: 'tus-s3', figure: 'speed', per: 'tus-server-s3', atLeast: [2.5, 2.5] },
  { in: 'T4', of: 'tus-s3', figure: 's3Calls', atMost: [1.3, 1.3] },
  { in: 'S1', of: 'form-s3', figure: 'speed', per: 'relay-s3', latency: 0, atLeast: [0.8, 1] },
  { in: 'S1', of: 'form-s3', figure: 'speed', per: 'relay-s3', latency: 30, atLeast: [1, 2] },
  { in: 'S1', of: 'form-s3', figure: 'speed', per: 'tus-server-s3', latency: 0, atLeast: [2, 3] },
  { in: 'S1', of: 'form-s3', figure: 'completion', latency: 0, atMost: [50, 20] },
  // Four round trips, and one round trip and 10 ms.
  { in: 'S1', of: 'form-s3', figure: 'completion', latency: 30, atMost: [120, 40] },
  { in: 'S3', of: 'form-s3', figure: 'speed', per: 'tus-server-s3', latency: 0, atLeast: [2.5, 4] },
  { in: 'S4', of: 'form-s3', figure: 'files', per: 'tus-server-s3', latency: 0, atLeast: [2.5, 4.5] },
]

export interface Verdict {
  readonly workload: string
  readonly measure: string
  readonly measured: string
  readonly floor: string
  readonly goal: string
  readonly reached: 'goal' | 'floor' | 'nothing'
}

/** Of every target whose servers were measured. */
export function verdictsOf(rows: readonly Row[]): Verdict[] {
  return targets.flatMap((target) =>
    rows.filter((row) => isMeant(target, row)).flatMap((row) => verdictOf(target, row, rows) ?? []),
  )
}

function isMeant({ in: kind, of, latency }: Target, { workload, server }: Row): boolean {
  const isThisLatency = latency === undefined || latency === workload.variant.latency
  return workload.kind === kind && server === of && isThisLatency
}

function verdictOf({ figure, per, atLeast, atMost }: Target, row: Row, rows: readonly Row[]): Verdict | null {
  const base = per === 'smallest' ? smallestOf(row, rows) : rowBeside(row, per, rows)
  if (base === row) return null
  const spread = per === undefined ? figureOf(row, figure) : ratioOf(row, base, figure)
  if (!spread) return null
  const [floor, goal] = atLeast ?? atMost ?? [0, 0]
  const reaches = (limit: number) => (atLeast ? spread.median >= limit : spread.median <= limit)
  const sign = atLeast ? '≥' : '≤'
  const { title, digits } = figures[figure]
  const divisor = per === 'smallest' ? base?.workload.variant.label : per
  return {
    workload: `${row.workload.kind} ${row.workload.variant.label}`,
    measure: `${row.server}${divisor === undefined ? '' : ` ÷ ${divisor}`}, ${title}`,
    measured: show(spread, per === undefined ? digits : 2),
    floor: `${sign} ${floor}`,
    goal: `${sign} ${goal}`,
    reached: reaches(goal) ? 'goal' : reaches(floor) ? 'floor' : 'nothing',
  }
}

function smallestOf({ workload, server }: Row, rows: readonly Row[]): Row | undefined {
  return rows.find((other) => other.workload.kind === workload.kind && other.server === server)
}

export function verdictTable(verdicts: readonly Verdict[]): string {
  if (verdicts.length === 0) return ''
  const titles = ['load', 'measure', 'measured', 'floor', 'goal', 'reached']
  const lines = verdicts.map(({ workload, measure, measured, floor, goal, reached }) => {
    return [workload, measure, measured, floor, goal, reached === 'nothing' ? '**missed**' : reached]
  })
  return `### Targets\n\n${tableOf([titles, ...lines], 2)}`
}
