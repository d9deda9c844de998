/**
 * `npm run bench -- [options]`: what uploads cost here, against bare servers that show the limit and against others. The
 * rounds are interleaved, every server runs in a fresh process, every stored file is checked by SHA-256. Numbers of two
 * machines cannot be compared; ratios within one run can.
 */
import { writeFile } from 'node:fs/promises'
import { describeMachine } from './machine.ts'
import { type Contender, type Measurement, measure } from './measure.ts'
import { type Options, readOptions, usage } from './options.ts'
import { installPeers, peerVersions } from './peers.ts'
import { type Row, s3Calls, summaryOf, workloadTables } from './report.ts'
import { Unavailable } from './serving.ts'
import { verdictsOf, verdictTable } from './targets.ts'
import { contenders, type ServerName, type Workload, workloadsOf } from './workloads.ts'

interface Entry {
  readonly workload: Workload
  readonly servers: readonly ServerName[]
}

async function main(): Promise<void> {
  const options = readOptions()
  if (options.help) return console.log(usage)
  if (options.sources) process.env.BENCH_SOURCES = '1'
  const plan = options.workloads
    .flatMap((kind) => workloadsOf(kind, options.sizes))
    .map((workload) => ({
      workload,
      servers: workload.comparison.servers.filter((server) => options.servers.includes(server)),
    }))
  const needsPeers = plan.some(({ servers }) => servers.some((name) => /^(uploadx|multer-s3|tus-server)/.test(name)))
  if (needsPeers) await installPeers()
  const machine = { ...(await describeMachine(options.directory)), ...(needsPeers && (await peerVersions())) }
  const rows = await measureAll(plan, options)
  const targets = verdictsOf(rows)
  const report = reportOf(rows, machine, verdictTable(targets))
  console.log(`\n${report}`)
  if (options.markdown !== undefined) await writeFile(options.markdown, report)
  if (options.json !== undefined) await writeFile(options.json, asJson(machine, rows, targets))
}

async function measureAll(plan: readonly Entry[], options: Options): Promise<Row[]> {
  const results = new Map<string, Measurement[]>()
  const unavailable = new Map<ServerName, string>()
  const nameOf = ({ kind, variant }: Workload, server: ServerName) => `${kind} ${variant.label} ${server}`
  for (let round = 0; round < options.rounds; round++) {
    for (const { workload, servers } of plan) {
      if (round > 0 && workload.comparison.once) continue
      for (const server of rotated(servers, round)) {
        if (unavailable.has(server)) continue
        const name = nameOf(workload, server)
        try {
          const measured = await measure(contenders[server] as Contender, workload.variant, options)
          results.set(name, [...(results.get(name) ?? []), measured])
          console.error(`${name}: ${summaryOf(measured, workload.comparison.figures)}`)
        } catch (error) {
          if (!(error instanceof Unavailable)) throw new Error(`${name}: ${(error as Error).message}`, { cause: error })
          unavailable.set(server, error.message)
          console.error(`${server} is left out: ${error.message}`)
        }
      }
    }
  }
  return plan.flatMap(({ workload, servers }) =>
    servers.map((server): Row => {
      const reason = unavailable.get(server)
      const rounds = results.get(nameOf(workload, server)) ?? []
      return { workload, server, rounds, ...(reason !== undefined && { unavailable: reason }) }
    }),
  )
}

/** Another server begins each round: none always runs on the disk that the same neighbour left. */
function rotated<Item>(items: readonly Item[], round: number): Item[] {
  const by = items.length === 0 ? 0 : round % items.length
  return [...items.slice(by), ...items.slice(0, by)]
}

function reportOf(rows: readonly Row[], machine: Record<string, string>, targets: string): string {
  const about = Object.entries(machine).map(([name, value]) => `${name}: ${value}`)
  const note = 'Median (min–max) of the rounds. Ratios are made within a round.'
  const sections = [about.join(' · '), note, targets, workloadTables(rows), s3Calls(rows)]
  return `${sections.filter((section) => section !== '').join('\n\n')}\n`
}

function asJson(machine: Record<string, string>, rows: readonly Row[], targets: unknown): string {
  const plain = rows.map(({ workload: { kind, variant }, ...row }) => ({ workload: kind, load: variant.label, ...row }))
  return `${JSON.stringify({ machine, rows: plain, targets }, null, 2)}\n`
}

main().catch((error: Error) => {
  console.error(error.message)
  process.exitCode = 1
})
