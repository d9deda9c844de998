/**
 * `npm run bench -- [options]`: what an upload costs here, against a bare pipe and against multer with concatenation.
 * The rounds are interleaved, every server runs in a fresh process, every stored file is checked by SHA-256. Numbers
 * of two machines cannot be compared; ratios within one run can.
 */
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { GiB, type Measurement, MiB, measure, Unavailable } from './measure.ts'
import type { ClientKind, ServerKind } from './messages.ts'
import { describeMachine, markdown, type Row, ratioOf, show } from './report.ts'

const usage = `npm run bench -- [options]
  --rounds 3                     interleaved rounds
  --workloads W1,W5,W6           W1 throughput · W5 completion time · W6 memory
  --servers pipe,multer,form,raw pipe: bare node:http · multer: disk storage and concatenation
                                 form, raw: this package, chunks as multipart/form-data or raw bodies
  --size 1G                      W1: size of the file
  --completion-sizes 64M,4G      W5: sizes of the files
  --memory-size 2G               W6: size of the file
  --chunk-size 5M                sizes need a unit: K, M or G (powers of 1024)
  --dir <folder>                 where the servers store (default: the system's temporary folder)
  --json <file>                  every single measurement`

const servers: Record<string, readonly [ServerKind, ClientKind]> = {
  pipe: ['pipe', 'whole'],
  multer: ['multer', 'form'],
  form: ['ours', 'form'],
  raw: ['ours', 'raw'],
}
const workloadNames = ['W1', 'W5', 'W6']

interface Workload {
  readonly name: string
  readonly size: number
}

function options() {
  const text = { type: 'string' } as const
  const { values } = parseArgs({
    options: {
      rounds: { ...text, default: '3' },
      workloads: { ...text, default: workloadNames.join() },
      servers: { ...text, default: Object.keys(servers).join() },
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
    workloads: workloadsOf(list(values.workloads, workloadNames), values),
    servers: list(values.servers, Object.keys(servers)),
    chunkSize: bytes(values['chunk-size']),
    directory: resolve(values.dir),
    json: values.json,
  }
}

function workloadsOf(
  names: readonly string[],
  values: { size: string; 'completion-sizes': string; 'memory-size': string },
): Workload[] {
  const sizes: Record<string, string[]> = {
    W1: [values.size],
    W5: values['completion-sizes'].split(','),
    W6: [values['memory-size']],
  }
  return names.flatMap((name) => (sizes[name] ?? []).map((size) => ({ name: `${name} ${size}`, size: bytes(size) })))
}

function list(text: string, known: readonly string[]): string[] {
  const names = text.split(',')
  const unknown = names.find((name) => !known.includes(name))
  if (unknown !== undefined) throw new TypeError(`"${unknown}" is none of ${known.join(', ')}`)
  return names
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
  const results = new Map<string, Measurement[]>()
  const unavailable = new Map<string, string>()
  for (let round = 0; round < chosen.rounds; round++) {
    for (const workload of chosen.workloads) {
      for (const server of rotated(chosen.servers, round)) {
        if (unavailable.has(server)) continue
        await measureOne(server, workload, chosen, results, unavailable)
      }
    }
  }
  const rows = chosen.workloads.flatMap(({ name }) =>
    chosen.servers.map((server): Row => {
      const reason = unavailable.get(server)
      const rounds = results.get(`${name}/${server}`) ?? []
      return { workload: name, server, rounds, ...(reason !== undefined && { unavailable: reason }) }
    }),
  )
  const machine = await describeMachine(chosen.directory)
  console.log(`\n${markdown(rows, 'pipe', machine)}${growthOfCompletion(rows)}`)
  if (chosen.json !== undefined) await writeFile(chosen.json, `${JSON.stringify({ machine, rows }, null, 2)}\n`)
}

/** Another server begins each round: none always runs on the disk that the same neighbour left. */
function rotated(names: readonly string[], round: number): string[] {
  const by = round % names.length
  return [...names.slice(by), ...names.slice(0, by)]
}

async function measureOne(
  server: string,
  { name, size }: Workload,
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
