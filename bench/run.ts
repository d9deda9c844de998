/**
 * `npm run bench -- [options]`: what an upload costs here, against a bare pipe, multer with concatenation and @tus/server.
 * The rounds are interleaved, every server runs in a fresh process, every stored file is checked by SHA-256. Numbers
 * of two machines cannot be compared; ratios within one run can.
 */
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { GiB, type Measurement, MiB, measure, Unavailable } from './measure.ts'
import { installPeers, peerVersions } from './peers.ts'
import { describeMachine, markdown, type Row, ratioOf, show } from './report.ts'
import { serverNames, verdicts, type Workload, type WorkloadKind, workload, workloadKinds } from './workloads.ts'

const usage = `npm run bench -- [options]
  --rounds 3                     interleaved rounds
  --workloads W1,W5,W6           W1 throughput · W5 completion time · W6 memory
                                 T1 tus, one PATCH · T2 tus, a PATCH per chunk · T3, T4 the same on S3
  --servers pipe,multer,form,raw,tus,tus-server,tus-s3,tus-server-s3
                                 W: pipe: bare node:http · multer: disk storage and concatenation
                                 form, raw: this package, chunks as multipart/form-data or raw bodies
                                 T: tus, tus-s3: this package · tus-server, tus-server-s3: @tus/server
  --size 1G                      W1, T1 to T4: size of the file
  --completion-sizes 64M,4G      W5: sizes of the files
  --memory-size 2G               W6: size of the file
  --chunk-size 5M                sizes need a unit: K, M or G (powers of 1024)
  --dir <folder>                 where the servers store (default: the system's temporary folder)
  --json <file>                  every single measurement`

function options() {
  const text = { type: 'string' } as const
  const { values } = parseArgs({
    options: {
      rounds: { ...text, default: '3' },
      workloads: { ...text, default: 'W1,W5,W6' },
      servers: { ...text, default: serverNames.join() },
      size: { ...text, default: '1G' },
      'completion-sizes': { ...text, default: '64M,4G' },
      'memory-size': { ...text, default: '2G' },
      'chunk-size': { ...text, default: '5M' },
      dir: { ...text, default: tmpdir() },
      json: text,
      help: { type: 'boolean', default: false },
    },
  })
  return {
    help: values.help,
    rounds: wholeNumber(values.rounds),
    workloads: workloadsOf(list(values.workloads, workloadKinds), values),
    servers: list(values.servers, serverNames),
    chunkSize: bytes(values['chunk-size']),
    directory: resolve(values.dir),
    json: values.json,
  }
}

function workloadsOf(
  kinds: readonly WorkloadKind[],
  values: { size: string; 'completion-sizes': string; 'memory-size': string },
): Workload[] {
  const sizes: Partial<Record<WorkloadKind, string>> = { W5: values['completion-sizes'], W6: values['memory-size'] }
  return kinds.flatMap((kind) =>
    (sizes[kind] ?? values.size).split(',').map((size) => workload(kind, `${kind} ${size}`, bytes(size))),
  )
}

function list<Name extends string>(text: string, known: readonly Name[]): Name[] {
  return text.split(',').map((name) => {
    const found = known.find((candidate) => candidate === name)
    if (found === undefined) throw new TypeError(`"${name}" is none of ${known.join(', ')}`)
    return found
  })
}

function wholeNumber(text: string): number {
  const number = Number(text)
  if (!Number.isInteger(number) || number < 1) throw new TypeError(`"${text}" is not a positive whole number`)
  return number
}

function bytes(text: string): number {
  const [, digits, unit] = /^(\d+)([KMG])$/.exec(text) ?? []
  if (digits === undefined) throw new TypeError(`"${text}" is not a size like 64M or 1G`)
  return wholeNumber(digits) * ({ K: 1024, M: MiB, G: GiB }[unit ?? 'K'] ?? 1)
}

async function main(): Promise<void> {
  const chosen = options()
  if (chosen.help) return console.log(usage)
  const plan = chosen.workloads.map((workload) => ({
    workload,
    names: chosen.servers.filter((server) => server in workload.servers),
  }))
  const needsPeers = plan.some(({ names }) => names.some((name) => name.startsWith('tus-server')))
  if (needsPeers) await installPeers()
  const results = new Map<string, Measurement[]>()
  const unavailable = new Map<string, string>()
  for (let round = 0; round < chosen.rounds; round++) {
    for (const { workload, names } of plan) {
      for (const server of rotated(names, round)) {
        if (unavailable.has(server)) continue
        await measureOne(server, workload, chosen, results, unavailable)
      }
    }
  }
  const rows = plan.flatMap(({ workload: { name, base }, names }) =>
    names.map((server): Row => {
      const reason = unavailable.get(server)
      const rounds = results.get(`${name}/${server}`) ?? []
      return { workload: name, server, base, rounds, ...(reason !== undefined && { unavailable: reason }) }
    }),
  )
  const machine = { ...(await describeMachine(chosen.directory)), ...(needsPeers && (await peerVersions())) }
  const targets = verdicts(chosen.workloads, rows)
  console.log(`\n${markdown(rows, machine)}${growthOfCompletion(rows)}${s3Calls(rows)}`)
  for (const { workload, measure, target, measured, reached } of targets) {
    console.log(`- ${workload}: ${measure}: ${measured}, target ${target}: ${reached ? 'reached' : 'missed'}`)
  }
  if (chosen.json !== undefined)
    await writeFile(chosen.json, `${JSON.stringify({ machine, rows, targets }, null, 2)}\n`)
}

/** Another server begins each round: none always runs on the disk that the same neighbour left. */
function rotated(names: readonly string[], round: number): string[] {
  const by = round % names.length
  return [...names.slice(by), ...names.slice(0, by)]
}

async function measureOne(
  server: string,
  { name, size, servers }: Workload,
  { chunkSize, directory }: { chunkSize: number; directory: string },
  results: Map<string, Measurement[]>,
  unavailable: Map<string, string>,
): Promise<void> {
  const [kind, client] = servers[server] ?? ['pipe', 'whole']
  try {
    const measured = await measure(kind, client, { size, chunkSize, directory })
    results.set(`${name}/${server}`, [...(results.get(`${name}/${server}`) ?? []), measured])
    const speed = `${measured.mbPerSecond.toFixed(0)} MB/s, completion ${measured.completeMs.toFixed(1)} ms`
    console.error(`${name} ${server}: ${speed}`)
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error
    unavailable.set(server, error.message)
    console.error(`${server}: not available: ${error.message}`)
  }
}

/** Of the last round: what the sum in the table is made of. */
function s3Calls(rows: readonly Row[]): string {
  const lines = rows.flatMap(({ workload, server, rounds }) => {
    const s3 = rounds.at(-1)?.s3
    if (!s3) return []
    const calls = Object.entries(s3.calls).map(([name, count]) => `${name} ${count}`)
    return [`- ${workload} ${server}, ${s3.parts} parts: ${calls.join(' · ')}`]
  })
  return lines.length === 0 ? '' : `\nS3 calls:\n\n${lines.join('\n')}\n\n`
}

/** Completion must not cost more for a larger file. */
function growthOfCompletion(rows: readonly Row[]): string {
  const sizes = [...new Set(rows.map(({ workload }) => workload).filter((name) => name.startsWith('W5')))]
  const [small, large] = [sizes[0], sizes.at(-1)]
  if (small === undefined || large === undefined || small === large) return ''
  const lines = rows
    .filter((row) => row.workload === large && row.unavailable === undefined)
    .map((row) => {
      const base = rows.find(({ workload, server }) => workload === small && server === row.server)
      return `- ${row.server}: ${show(
        ratioOf(row, base, ({ completeMs }) => completeMs),
        2,
      )}`
    })
  return `\nCompletion, ${large} ÷ ${small}:\n\n${lines.join('\n')}\n`
}

await main()
