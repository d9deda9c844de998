/** What is measured: which servers a workload compares, with which of them, and what this package should reach. */
import type { ClientKind, ServerKind } from './messages.ts'
import { baseOf, type Row, ratioOf, s3CallsPerPart, show, speedOf, spreadOf } from './report.ts'

interface Comparison {
  /** By the name that the user gives and sees. */
  readonly servers: Readonly<Record<string, readonly [ServerKind, ClientKind]>>
  readonly base: string
  readonly targets?: Targets
}

/** What the first of the servers should reach, as median of the rounds. */
interface Targets {
  /** MB/s ÷ those of the base, at least. */
  readonly speed: number
  /** At most. */
  readonly s3CallsPerPart?: number
}

const uploads: Comparison = {
  servers: { pipe: ['pipe', 'whole'], multer: ['multer', 'form'], form: ['ours', 'form'], raw: ['ours', 'raw'] },
  base: 'pipe',
}

function tus(client: ClientKind): Comparison {
  return {
    servers: { tus: ['tus', client], 'tus-server': ['tus-server', client] },
    base: 'tus-server',
    targets: { speed: 3 },
  }
}

function tusOnS3(client: ClientKind): Comparison {
  return {
    servers: { 'tus-s3': ['tus-s3', client], 'tus-server-s3': ['tus-server-s3', client] },
    base: 'tus-server-s3',
    targets: { speed: 2.5, s3CallsPerPart: 1.3 },
  }
}

const comparisons = {
  W1: uploads,
  W5: uploads,
  W6: uploads,
  T1: tus('tus-one-patch'),
  T2: tus('tus-patches'),
  T3: tusOnS3('tus-one-patch'),
  T4: tusOnS3('tus-patches'),
} satisfies Record<string, Comparison>

export type WorkloadKind = keyof typeof comparisons
export const workloadKinds = Object.keys(comparisons) as WorkloadKind[]
export const serverNames = [...new Set(Object.values(comparisons).flatMap(({ servers }) => Object.keys(servers)))]

export interface Workload extends Comparison {
  /** The kind and the size: `T1 1G`. */
  readonly name: string
  /** Bytes. */
  readonly size: number
}

export function workload(kind: WorkloadKind, name: string, size: number): Workload {
  return { ...comparisons[kind], name, size }
}

export interface Verdict {
  readonly workload: string
  readonly measure: string
  readonly target: string
  readonly measured: string
  readonly reached: boolean
}

export function verdicts(workloads: readonly Workload[], rows: readonly Row[]): Verdict[] {
  return workloads.flatMap(({ name, servers, base, targets }) => {
    const [ours] = Object.keys(servers)
    const row = rows.find(({ workload, server }) => workload === name && server === ours)
    if (!targets || !row) return []
    const speed = ratioOf(row, baseOf(row, rows), speedOf)
    const calls = spreadOf(row.rounds.map(s3CallsPerPart))
    const found: Verdict[] = []
    const add = (measure: string, target: string, measured: string, reached: boolean) =>
      found.push({ workload: name, measure, target, measured, reached })
    if (speed) add(`${ours} ÷ ${base}, MB/s`, `≥ ${targets.speed}`, show(speed, 2), speed.median >= targets.speed)
    const most = targets.s3CallsPerPart
    if (calls && most) add(`${ours}, S3 calls per part`, `≤ ${most}`, show(calls, 2), calls.median <= most)
    return found
  })
}
